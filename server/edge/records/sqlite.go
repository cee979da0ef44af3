package records

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/dialtone-cc/dialtone/server/core"
)

//go:embed migrations/*.sql
var migrations embed.FS

// SQLite is a Store in one file: for a single node.
type SQLite struct {
	path  string
	write *sql.DB // one connection: SQLite has one writer, and waiting here beats SQLITE_BUSY
	read  *sql.DB
	add   *sql.Stmt // of write
}

const (
	readers = 4
	// A file up to this size is checked whole at the start; a larger one would delay it.
	checkWhole = 64 << 20
)

// OpenSQLite opens the database, makes it when it is absent, and brings its schema up to
// date. It refuses a damaged one (ErrDamaged) and one of a later version (ErrNewer).
func OpenSQLite(path string) (*SQLite, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	s := &SQLite{path: path}
	// FULL: Delivered lets the core forget its own copy, so a commit must survive a power cut.
	if s.write, err = open(path, 1, "journal_mode(WAL)", "synchronous(FULL)", "journal_size_limit(67108864)"); err != nil {
		return nil, err
	}
	if s.read, err = open(path, readers, "query_only(1)"); err != nil {
		s.write.Close()
		return nil, err
	}
	err = s.prepare(context.Background())
	if err == nil {
		s.add, err = s.write.Prepare(`INSERT OR IGNORE INTO cdr (tenant, id, queue, agent, ended_at, record) VALUES (?, ?, ?, ?, ?, ?)`)
	}
	if err != nil {
		s.Close()
		return nil, s.explain(err)
	}
	return s, nil
}

func open(path string, conns int, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(5000)"}, pragmas...)}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String())
	if err != nil {
		return nil, fmt.Errorf("records: %w", err)
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// prepare checks the file and migrates it.
func (s *SQLite) prepare(ctx context.Context) error {
	if info, err := os.Stat(s.path); err == nil && info.Size() <= checkWhole {
		var verdict string
		if err := s.write.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
			return err
		}
		if verdict != "ok" {
			return fmt.Errorf("%w: %s", ErrDamaged, verdict)
		}
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, s.write, files, goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	has, knows, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if has > knows {
		return fmt.Errorf("%w: its schema is %d, this one knows up to %d; use that version again or another file", ErrNewer, has, knows)
	}
	_, err = provider.Up(ctx)
	return err
}

// Put is Store.Put: one transaction, synced to the disk.
func (s *SQLite) Put(ctx context.Context, cdrs []core.CDR) error {
	if len(cdrs) == 0 {
		return nil
	}
	return s.explain(s.put(ctx, cdrs))
}

func (s *SQLite) put(ctx context.Context, cdrs []core.CDR) error {
	// The driver and database/sql start a goroutine for each statement whose context can end;
	// for thousands of small ones it is enough to look at it in between.
	calm := context.WithoutCancel(ctx)
	tx, err := s.write.BeginTx(ctx, nil) // may wait for who writes now
	if err != nil {
		return err
	}
	defer tx.Rollback()
	add := tx.StmtContext(calm, s.add)
	defer add.Close()
	for i := range cdrs {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := &cdrs[i]
		text, err := encode(c)
		if err != nil {
			return err
		}
		if _, err := add.ExecContext(calm, string(c.Tenant), string(c.ID), string(c.Queue), string(c.Agent), int64(c.EndedAt), string(text)); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// Get is Store.Get.
func (s *SQLite) Get(ctx context.Context, tenant core.TenantID, id core.InteractionID) (core.CDR, bool, error) {
	var text []byte
	err := s.read.QueryRowContext(ctx, `SELECT record FROM cdr WHERE tenant = ? AND id = ?`, string(tenant), string(id)).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return core.CDR{}, false, nil
	}
	if err != nil {
		return core.CDR{}, false, s.explain(err)
	}
	cdr, err := decode(string(id), text)
	return cdr, err == nil, err
}

// query is the statement of a list of at most limit rows.
func (f Filter) query(tenant core.TenantID, limit int) (string, []any) {
	// Every id is below the one that is all tildes: without a cursor the list begins at the latest.
	where, args := []string{"tenant = ?", "id < ?"}, []any{string(tenant), cmp.Or(string(f.After), "~~~~")}
	restrict := func(given bool, clause string, arg any) {
		if given {
			where, args = append(where, clause), append(args, arg)
		}
	}
	restrict(f.Queue != "", "queue = ?", string(f.Queue))
	restrict(f.Agent != "", "agent = ?", string(f.Agent))
	restrict(f.From != 0, "ended_at >= ?", int64(f.From))
	restrict(f.To != 0, "ended_at < ?", int64(f.To))
	from := "cdr"
	if f.From != 0 && f.Queue == "" && f.Agent == "" {
		// The planner would go through all of the tenant's past in the order of ids;
		// sorting what ended since From is cheaper.
		from += " INDEXED BY cdr_ended"
	}
	return "SELECT id, record FROM " + from + " WHERE " + strings.Join(where, " AND ") + " ORDER BY id DESC LIMIT ?", append(args, limit)
}

// List is Store.List. One statement sees one state of the database.
func (s *SQLite) List(ctx context.Context, tenant core.TenantID, filter Filter) ([]core.CDR, bool, error) {
	limit := filter.limit()
	query, args := filter.query(tenant, limit+1)
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, false, s.explain(err)
	}
	defer rows.Close()
	cdrs := make([]core.CDR, 0, min(limit, DefaultLimit))
	for rows.Next() {
		if len(cdrs) == limit {
			return cdrs, true, nil
		}
		var id string
		var text []byte
		if err := rows.Scan(&id, &text); err != nil {
			return nil, false, s.explain(err)
		}
		cdr, err := decode(id, text)
		if err != nil {
			return nil, false, err
		}
		cdrs = append(cdrs, cdr)
	}
	return cdrs, false, s.explain(rows.Err())
}

// DeleteTenant is Store.DeleteTenant.
func (s *SQLite) DeleteTenant(ctx context.Context, tenant core.TenantID) error {
	_, err := s.write.ExecContext(ctx, `DELETE FROM cdr WHERE tenant = ?`, string(tenant))
	return s.explain(err)
}

// Close closes the file.
func (s *SQLite) Close() error {
	var add error
	if s.add != nil {
		add = s.add.Close()
	}
	return errors.Join(add, s.read.Close(), s.write.Close())
}

// explain says of SQLite's errors what can be done about them.
func (s *SQLite) explain(err error) error {
	if err == nil {
		return nil
	}
	hint := ""
	if known, ok := errors.AsType[*sqlite.Error](err); ok {
		switch known.Code() & 0xff { // the upper bits say where, which is for the text
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			if !errors.Is(err, ErrDamaged) {
				err = fmt.Errorf("%w: %w", ErrDamaged, err)
			}
		case sqlite3.SQLITE_FULL:
			hint = ": the disk is full, free some space"
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			hint = ": another process holds it, end that process"
		case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
			hint = ": check the permissions of the file and its directory"
		}
	}
	if errors.Is(err, ErrDamaged) {
		hint = ": move the file away and restore it from a backup; what was not delivered yet is still in the outbox"
	}
	return fmt.Errorf("records in %s: %w%s", s.path, err, hint)
}
