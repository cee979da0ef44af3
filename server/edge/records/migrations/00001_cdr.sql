-- +goose Up
-- Finished interactions: the whole record as JSON, beside it the members that lists filter
-- by. Instants are nanoseconds since the Unix epoch. The tenant leads every index.
CREATE TABLE cdr (
    tenant     TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    queue      TEXT    NOT NULL,
    agent      TEXT    NOT NULL,
    ended_at   INTEGER NOT NULL,
    record     TEXT    NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX cdr_queue ON cdr (tenant, queue, id);
CREATE INDEX cdr_agent ON cdr (tenant, agent, id);
CREATE INDEX cdr_ended ON cdr (tenant, ended_at, id);
