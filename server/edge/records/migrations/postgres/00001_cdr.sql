-- Finished interactions: the whole record as JSON, beside it the members that lists filter
-- by. Instants are nanoseconds since the Unix epoch. The tenant leads every index. Texts
-- are ordered by their bytes ("C"), whatever the database's language is: ids are cursors.
CREATE TABLE dialtone.cdr (
    tenant     text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    queue      text COLLATE "C" NOT NULL,
    agent      text COLLATE "C" NOT NULL,
    ended_at   bigint           NOT NULL,
    record     text             NOT NULL,
    PRIMARY KEY (tenant, id)
);
CREATE INDEX cdr_queue ON dialtone.cdr (tenant, queue, id);
CREATE INDEX cdr_agent ON dialtone.cdr (tenant, agent, id);
CREATE INDEX cdr_ended ON dialtone.cdr (tenant, ended_at, id);
