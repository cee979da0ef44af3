package records

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Config says which PostgreSQL keeps the records. One password at most is given, in the URL,
// by itself, or in a file; none where the server asks for none.
type Config struct {
	// URL is postgres://USER[:PASSWORD]@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?KEY=VALUE...]
	// with the keys sslmode, sslrootcert, sslcert and sslkey as psql knows them, and host for
	// the directory of a Unix socket. With several hosts the one is used that can be written
	// to. sslmode is verify-full when it is not given, or disable if all hosts are this machine.
	URL core.Secret
	// Password of the user.
	Password core.Secret
	// PasswordFile holds the password in one line. It is read again for each connection.
	PasswordFile string
	// Log gets a warning when the database can't be reached at the start; nil: none.
	Log *slog.Logger
}

// Postgres is a Store for several nodes: each delivers to it what it has, and one CDR of an
// id stays, whoever was first. It needs PostgreSQL 13 or later, directly or through a
// pooler that gives each client a connection of its own (PgBouncer: pool_mode = session).
// Of what was delivered a failover loses nothing only when the standby is a synchronous one
// (synchronous_standby_names).
type Postgres struct {
	at       place
	password func() (core.Secret, error)
	write    *conns // one for the Writer, one for DeleteTenant
	read     *conns
}

const (
	writingConns = 2
	closingTime  = time.Second
	deleteChunk  = 1000 // rows in one transaction: some 50 ms, for which nobody waits
)

// OpenPostgres connects to the database and brings its schema up to date; ctx limits how
// long. An error says that it would never work as configured: a URL that can't be read, a
// password that is refused, a schema of a later version (ErrNewer). A database that is only
// away is no error, but a warning in the log: it is tried again whenever it is needed, CDRs
// wait in the outbox, and calls don't notice.
func OpenPostgres(ctx context.Context, cfg Config) (*Postgres, error) {
	at, password, err := parseURL(cfg.URL.Reveal())
	if err != nil {
		return nil, fmt.Errorf("records: the PostgreSQL URL can't be used: %w", err)
	}
	s := &Postgres{at: at}
	if s.password, err = passwordOf(cfg, password); err != nil {
		return nil, err
	}
	config := func() (*pgx.ConnConfig, error) {
		password, err := s.password()
		if err != nil {
			return nil, err
		}
		return at.config(password)
	}
	if _, err := config(); err != nil { // also of the files that are named
		return nil, s.explain(err)
	}
	d := &door{config: config, prepare: migrate}
	s.write, s.read = newConns(d, writingConns), newConns(d, readers)
	err = s.write.with(ctx, func(*pgx.Conn) error { return nil })
	switch {
	case err == nil:
	case permanent(err):
		return nil, s.explain(err)
	case cfg.Log != nil:
		cfg.Log.Warn("the records database is away; CDRs wait in the outbox", "err", s.explain(err))
	}
	return s, nil
}

// passwordOf returns what gives the password for the next connection.
func passwordOf(cfg Config, inURL core.Secret) (func() (core.Secret, error), error) {
	given := 0
	for _, one := range []string{inURL.Reveal(), cfg.Password.Reveal(), cfg.PasswordFile} {
		if one != "" {
			given++
		}
	}
	switch {
	case given > 1:
		return nil, errors.New("records: the PostgreSQL password is given more than once; give it in the URL, by itself, or in a file")
	case cfg.PasswordFile != "":
		return func() (core.Secret, error) { return passwordFrom(cfg.PasswordFile) }, nil
	}
	return func() (core.Secret, error) { return cmp.Or(inURL, cfg.Password), nil }, nil
}

// add inserts one batch. A row that is there, of whichever node, stays as it was. The
// statement is its own transaction, so that a batch costs one round trip.
const add = `
INSERT INTO dialtone.cdr (tenant, id, queue, agent, ended_at, record)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[])
ON CONFLICT (tenant, id) DO NOTHING`

// rows is a batch as add takes it: one array for each column.
type rows struct {
	tenant, id, queue, agent []string
	endedAt                  []int64
	record                   []string
}

// rowsOf lays a batch out, ordered by key. Without an order two nodes deadlock:
//
//  1. A inserts x, B inserts y, neither has committed.
//  2. A wants to insert y and waits for B, for only B's outcome says whether y is there.
//  3. B wants to insert x and waits for A.
//
// Of two CDRs of one id the first stays the first.
func rowsOf(cdrs []core.CDR) (*rows, error) {
	order := make([]int, len(cdrs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(cdrs[a].Tenant, cdrs[b].Tenant), cmp.Compare(cdrs[a].ID, cdrs[b].ID))
	})
	r := &rows{}
	for _, i := range order {
		c := &cdrs[i]
		text, err := encode(c)
		if err != nil {
			return nil, err
		}
		for _, s := range []string{string(c.Tenant), string(c.ID), string(c.Queue), string(c.Agent)} {
			if !storable(s) {
				return nil, fmt.Errorf("%w: CDR %.60q of tenant %.60q: %.60q is not UTF-8, or has a NUL in it", ErrInvalid, c.ID, c.Tenant, s)
			}
		}
		r.tenant, r.id = append(r.tenant, string(c.Tenant)), append(r.id, string(c.ID))
		r.queue, r.agent = append(r.queue, string(c.Queue)), append(r.agent, string(c.Agent))
		r.endedAt, r.record = append(r.endedAt, int64(c.EndedAt)), append(r.record, string(text))
	}
	return r, nil
}

// storable says whether PostgreSQL can hold a text.
func storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// Put is Store.Put: one transaction.
func (s *Postgres) Put(ctx context.Context, cdrs []core.CDR) error {
	if len(cdrs) == 0 {
		return nil
	}
	var r *rows
	return s.explain(s.write.with(ctx, func(conn *pgx.Conn) (err error) {
		if r == nil { // not before there is a connection: while there is none, many come and go
			if r, err = rowsOf(cdrs); err != nil {
				return err
			}
		}
		_, err = conn.Exec(ctx, add, r.tenant, r.id, r.queue, r.agent, r.endedAt, r.record)
		if refused(err) {
			err = fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		return err
	}))
}

// Get is Store.Get.
func (s *Postgres) Get(ctx context.Context, tenant core.TenantID, id core.InteractionID) (core.CDR, bool, error) {
	if !storable(string(tenant)) || !storable(string(id)) {
		return core.CDR{}, false, nil
	}
	var text []byte
	err := s.read.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT record FROM dialtone.cdr WHERE tenant = $1 AND id = $2`, string(tenant), string(id)).Scan(&text)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return core.CDR{}, false, nil
	}
	if err != nil {
		return core.CDR{}, false, s.explain(err)
	}
	cdr, err := decode(string(id), text)
	return cdr, err == nil, s.explain(err)
}

// postgresQuery is the statement of a list of at most limit rows.
func (f Filter) postgresQuery(tenant core.TenantID, limit int) (string, []any) {
	where, args := []string{"tenant = $1"}, []any{string(tenant)}
	restrict := func(given bool, clause string, arg any) {
		if given {
			args = append(args, arg)
			where = append(where, fmt.Sprintf("%s $%d", clause, len(args)))
		}
	}
	restrict(f.After != "", "id <", string(f.After))
	restrict(f.Queue != "", "queue =", string(f.Queue))
	restrict(f.Agent != "", "agent =", string(f.Agent))
	restrict(f.From != 0, "ended_at >=", int64(f.From))
	restrict(f.To != 0, "ended_at <", int64(f.To))
	order := "id"
	if f.From != 0 && f.Queue == "" && f.Agent == "" {
		// By the order of ids the planner might go through all of the tenant's past; sorting what
		// ended since From is cheaper. An expression is no index's order.
		order = "(id || '')"
	}
	args = append(args, limit)
	return fmt.Sprintf("SELECT id, record FROM dialtone.cdr WHERE %s ORDER BY %s DESC LIMIT $%d", strings.Join(where, " AND "), order, len(args)), args
}

// List is Store.List. One statement sees one state of the database.
func (s *Postgres) List(ctx context.Context, tenant core.TenantID, filter Filter) ([]core.CDR, bool, error) {
	for _, text := range []string{string(tenant), string(filter.Queue), string(filter.Agent), string(filter.After)} {
		if !storable(text) { // nothing has it, and no list has ended with it
			return nil, false, nil
		}
	}
	limit := filter.limit()
	query, args := filter.postgresQuery(tenant, limit+1)
	var cdrs []core.CDR
	err := s.read.with(ctx, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		cdrs, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (core.CDR, error) {
			var id string
			var text []byte
			if err := row.Scan(&id, &text); err != nil {
				return core.CDR{}, err
			}
			return decode(id, text)
		})
		return err
	})
	if err != nil {
		return nil, false, s.explain(err)
	}
	if len(cdrs) > limit {
		return cdrs[:limit], true, nil
	}
	return cdrs, false, nil
}

// remove deletes the next chunk above an id, in the order of keys for the reason that rowsOf
// gives. It returns the highest id that it deleted, where the next one begins: without that
// each chunk would first go through the remains of all before it.
const remove = `
WITH chunk AS (
    SELECT id FROM dialtone.cdr WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3 FOR UPDATE
), gone AS (
    DELETE FROM dialtone.cdr WHERE tenant = $1 AND id IN (SELECT id FROM chunk) RETURNING id
)
SELECT max(id) FROM gone`

// DeleteTenant is Store.DeleteTenant: chunk by chunk, so that no lock is held for long and
// what was done counts when it is broken off.
func (s *Postgres) DeleteTenant(ctx context.Context, tenant core.TenantID) error {
	if !storable(string(tenant)) {
		return nil
	}
	last := ""
	for {
		var highest *string
		err := s.write.with(ctx, func(conn *pgx.Conn) error {
			return conn.QueryRow(ctx, remove, string(tenant), last, deleteChunk).Scan(&highest)
		})
		if err != nil {
			return s.explain(err)
		}
		if highest == nil {
			return nil
		}
		last = *highest
	}
}

// Close closes the connections.
func (s *Postgres) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closingTime)
	defer cancel()
	s.write.close(ctx)
	s.read.close(ctx)
	return nil
}
