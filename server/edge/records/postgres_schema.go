package records

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"path"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/postgres/*.sql
var postgresMigrations embed.FS

const migrationsFolder = "migrations/postgres"

// oldestReader is the version of the schema that a program must know at least to work with
// the newest one here. It is kept in the database beside the version: nodes are upgraded
// one after the other, so a program works on when a later one has added something, and
// refuses when it would misread or spoil it.
const oldestReader = 1

// migrationLock is the key of the advisory lock under which the schema is changed: several
// nodes start at once. "dialtone" in ASCII.
const migrationLock int64 = 0x6469616c746f6e65

// versions is the table that says what the schema is. It has its own schema in the
// database, so that search_path and other tables named alike don't matter.
const versions = `
CREATE TABLE IF NOT EXISTS dialtone.schema_version (
    version       bigint      PRIMARY KEY,
    oldest_reader bigint      NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT now()
)`

var errEncoding = errors.New("the database's encoding is not UTF8: make one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0")

// migrate brings the schema up to date. It is one transaction: a node that dies within
// leaves nothing, and its lock is gone with its connection.
func migrate(ctx context.Context, conn *pgx.Conn) error {
	texts, err := migrationTexts()
	if err != nil {
		return err
	}
	// As a rule all is done, and looking needs no lock.
	if done, err := schemaDone(ctx, conn, int64(len(texts))); err != nil || done {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Another node may be at it and take its time; ctx is the limit.
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, migrationLock); err != nil {
			return err
		}
		return migrateLocked(ctx, tx, texts)
	})
}

// migrationTexts returns the migrations in their order; the first makes version 1.
func migrationTexts() ([]string, error) {
	files, err := postgresMigrations.ReadDir(migrationsFolder) // sorted by name
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, f := range files {
		text, err := postgresMigrations.ReadFile(path.Join(migrationsFolder, f.Name()))
		if err != nil {
			return nil, err
		}
		texts = append(texts, string(text))
	}
	return texts, nil
}

func migrateLocked(ctx context.Context, tx pgx.Tx, texts []string) error {
	var encoding string
	var missing bool
	if err := tx.QueryRow(ctx, `SELECT current_setting('server_encoding'), to_regnamespace('dialtone') IS NULL`).Scan(&encoding, &missing); err != nil {
		return err
	}
	if encoding != "UTF8" {
		return errEncoding
	}
	if missing { // IF NOT EXISTS would ask for the right to make it also where it exists
		if _, err := tx.Exec(ctx, `CREATE SCHEMA dialtone`); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, versions); err != nil {
		return err
	}
	has, oldest, err := schemaVersion(ctx, tx)
	if err != nil {
		return err
	}
	knows := int64(len(texts))
	if oldest > knows {
		return newer(has, knows)
	}
	for version := has + 1; version <= knows; version++ {
		if _, err := tx.Exec(ctx, texts[version-1]); err != nil {
			return fmt.Errorf("migration %d: %w", version, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO dialtone.schema_version (version, oldest_reader) VALUES ($1, $2)`, version, oldestReader); err != nil {
			return err
		}
	}
	return nil
}

func newer(has, knows int64) error {
	return fmt.Errorf("%w: its schema is %d, this one knows up to %d; use that version again", ErrNewer, has, knows)
}

// schemaDone says whether nothing need be done for a program that knows so many versions.
func schemaDone(ctx context.Context, conn *pgx.Conn, knows int64) (bool, error) {
	var there bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('dialtone.schema_version') IS NOT NULL`).Scan(&there); err != nil || !there {
		return false, err
	}
	has, oldest, err := schemaVersion(ctx, conn)
	if err == nil && oldest > knows {
		err = newer(has, knows)
	}
	return has >= knows, err
}

func schemaVersion(ctx context.Context, db interface {
	QueryRow(context.Context, string, ...any) pgx.Row
}) (has, oldest int64, err error) {
	err = db.QueryRow(ctx, `SELECT coalesce(max(version), 0), coalesce(max(oldest_reader), 0) FROM dialtone.schema_version`).Scan(&has, &oldest)
	return has, oldest, err
}
