package records

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// TestPostgres runs on one server, which takes some seconds to make.
func TestPostgres(t *testing.T) {
	server := newServer(t)
	t.Run("contract", func(t *testing.T) {
		testStore(t, func(t *testing.T) func() Store {
			database := server.database(t)
			return func() Store { return openPostgres(t, server.at(database)) }
		})
	})
	for name, test := range map[string]func(*testing.T, *postgresServer){
		"several nodes start at once":  testStartTogether,
		"newer schema":                 testNewerPostgres,
		"plans":                        testPostgresPlans,
		"refusals":                     testRefusals,
		"no secret is shown":           testSecrets,
		"away at the start":            testAwayAtStart,
		"values that can't be kept":    testUnstorable,
		"nodes with overlapping CDRs":  testOverlap,
		"tenants are deleted in parts": testDeleteInParts,
		"renewed password":             testRenewedPassword,
		"certificates":                 testCertificates,
		"dead host":                    testDeadHost,
		"standby":                      testStandby,
		"Unix socket":                  testUnixSocket,
		"rest between tries":           testRest,
		"silent server":                testSilence,
		"busy connections":             testBusy,
		"commits are synced":           testSynced,
	} {
		t.Run(name, func(t *testing.T) { test(t, server) })
	}
}

func testStartTogether(t *testing.T, server *postgresServer) {
	database := server.database(t)
	var starting sync.WaitGroup
	for n := range 8 {
		starting.Go(func() {
			s, err := OpenPostgres(t.Context(), Config{URL: server.secretURL(database)})
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := s.Put(t.Context(), []core.CDR{sample("demo", n)}); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	texts, err := migrationTexts()
	must(t, err)
	if n := server.number(t, database, `SELECT count(*) FROM dialtone.schema_version`); n != len(texts) {
		t.Errorf("%d versions of %d", n, len(texts))
	}
	if n := server.number(t, database, `SELECT count(*) FROM dialtone.cdr`); n != 8 {
		t.Errorf("%d CDRs", n)
	}
}

// The number of a migration is its place.
func TestMigrationsAreNumbered(t *testing.T) {
	files, err := postgresMigrations.ReadDir(migrationsFolder)
	must(t, err)
	for i, f := range files {
		if want := fmt.Sprintf("%05d_", i+1); !strings.HasPrefix(f.Name(), want) {
			t.Errorf("%s should begin with %s", f.Name(), want)
		}
	}
	if oldestReader > len(files) {
		t.Errorf("nobody can read this: %d of %d", oldestReader, len(files))
	}
}

// During an upgrade nodes of two versions work side by side, as long as the later one says
// that the earlier one may.
func testNewerPostgres(t *testing.T, server *postgresServer) {
	database := server.database(t)
	must(t, openPostgres(t, server.at(database)).Close())
	server.admin(t, database, `INSERT INTO dialtone.schema_version (version, oldest_reader) VALUES (98, 1)`)
	s := openPostgres(t, server.at(database))
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
	must(t, s.Close())
	server.admin(t, database, `INSERT INTO dialtone.schema_version (version, oldest_reader) VALUES (99, 97)`)
	if _, err := OpenPostgres(t.Context(), Config{URL: server.secretURL(database)}); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "99") {
		t.Errorf("%v", err)
	}
}

func testPostgresPlans(t *testing.T, server *postgresServer) {
	database := server.database(t)
	s := openPostgres(t, server.at(database))
	defer s.Close()
	server.admin(t, database, `
		INSERT INTO dialtone.cdr SELECT 't' || n % 4, 'int_' || lpad(n::text, 22, '0'), 'q' || n % 50, 'a' || n % 200, n * 1000, repeat('x', 500)
		FROM generate_series(1, 40000) n`, `VACUUM ANALYZE dialtone.cdr`)
	for _, c := range []struct {
		filter Filter
		want   string
	}{
		{Filter{}, "cdr_pkey"},
		{Filter{After: "int_0000000000000000030000"}, "cdr_pkey"},
		{Filter{Queue: "q1"}, "cdr_queue"},
		{Filter{After: "int_0000000000000000030000", Queue: "q1"}, "cdr_queue"},
		{Filter{Agent: "a1", From: 5}, "cdr_agent"},
		{Filter{From: 39_900_000}, "cdr_ended"},
		{Filter{From: 1_000_000, To: 5_000_000}, "cdr_ended"}, // a tenth of all, but none of the latest
		{Filter{From: 39_999_999}, "cdr_ended"},               // nothing: going by ids would read all
		{Filter{From: 100_000, To: 200_000, After: "int_0000000000000000030000"}, "cdr_ended"},
	} {
		query, args := c.filter.postgresQuery("t1", 51)
		plan := ""
		must(t, s.read.with(t.Context(), func(conn *pgx.Conn) error {
			rows, err := conn.Query(t.Context(), "EXPLAIN "+query, args...)
			if err != nil {
				return err
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			plan = strings.Join(lines, "\n")
			return err
		}))
		if !strings.Contains(plan, c.want) || strings.Contains(plan, "Seq Scan") {
			t.Errorf("%+v:\n%s", c.filter, plan)
		}
	}
}

// What can never work is said at the start, with what to do.
func testRefusals(t *testing.T, server *postgresServer) {
	database := server.database(t)
	server.admin(t, "postgres", `CREATE DATABASE latin OWNER dialtone TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'`,
		`CREATE DATABASE foreign_one TEMPLATE template0`)
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"wrong password":   {Config{URL: server.at(database), Password: "wrong"}, "pg_hba.conf"},
		"no password":      {Config{URL: server.at(database)}, "password"},
		"no database":      {Config{URL: server.at("absent"), Password: userSecret}, "CREATE DATABASE"},
		"encoding":         {Config{URL: server.at("latin"), Password: userSecret}, "ENCODING 'UTF8'"},
		"no rights":        {Config{URL: server.at("foreign_one"), Password: userSecret}, "OWNER TO"},
		"two passwords":    {Config{URL: server.secretURL(database), Password: userSecret}, "more than once"},
		"no password file": {Config{URL: server.at(database), PasswordFile: "/nowhere"}, "/nowhere"},
		"no authority":     {Config{URL: server.at(database) + "?sslmode=verify-full&sslrootcert=/nowhere", Password: userSecret}, "/nowhere"},
		"URL":              {Config{URL: "postgres://db/d"}, "user"},
	} {
		s, err := OpenPostgres(t.Context(), c.cfg)
		if err == nil {
			s.Close()
			t.Errorf("%s: accepted", name)
		} else if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Neither fmt nor a log nor an unwrapped error shows the password.
func testSecrets(t *testing.T, server *postgresServer) {
	database := server.database(t)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	cfg := Config{URL: server.secretURL(database), Log: logger}
	s, err := OpenPostgres(t.Context(), cfg)
	must(t, err)
	defer s.Close()
	errs := []error{}
	for _, at := range []string{"127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2"} {
		away, err := OpenPostgres(t.Context(), Config{URL: core.Secret(strings.Replace(server.secretURL(database).Reveal(), net.JoinHostPort(server.host, "5432"), at, 1) + "?sslmode=disable"), Log: logger})
		must(t, err)
		defer away.Close()
		errs = append(errs, away.Put(t.Context(), []core.CDR{sample("demo", 1)}))
		_, _, err = away.Get(t.Context(), "demo", "x")
		errs = append(errs, err)
	}
	_, err = OpenPostgres(t.Context(), Config{URL: cfg.URL + "x"})
	errs = append(errs, err, s.explain(fmt.Errorf("made up: %s", userSecret)))
	for _, err := range errs {
		logger.Error("x", "err", err, "cfg", fmt.Sprintf("%v %+v", cfg, cfg), "store", fmt.Sprintf("%v %+v %#v", s, s, s))
		for ; err != nil; err = errors.Unwrap(err) {
			fmt.Fprintf(&log, "%v %+v %#v\n", err, err, err)
			if _, joined := err.(interface{ Unwrap() []error }); joined {
				t.Errorf("an error of several: %#v", err)
			}
		}
	}
	for _, secret := range []string{userSecret, strings.Trim(fmt.Sprintf("%q", userSecret), `"`), escaped(userSecret), "rd:1", "p%40ss"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is shown in\n%s", secret, log.String())
		}
	}
	if !strings.Contains(log.String(), "check that PostgreSQL runs there") {
		t.Errorf("no advice:\n%s", log.String())
	}
}

// A node starts while the records database is away, and delivers when that is there.
func testAwayAtStart(t *testing.T, server *postgresServer) {
	database := server.database(t)
	var log bytes.Buffer
	way := newProxy(t, server)
	way.refusing.Store(true)
	s, err := OpenPostgres(t.Context(), Config{URL: server.at(database, way.addr()), Password: userSecret, Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	defer s.Close()
	if !strings.Contains(log.String(), "away") {
		t.Errorf("log: %s", log.String())
	}
	in := newInbox()
	w := NewWriter(s, in.emit, nil)
	deliver(w, sample("demo", 1))
	in.await(t, 1)
	if len(in.failures()) != 1 {
		t.Errorf("%v", in.events)
	}
	way.refusing.Store(false)
	for deadline := time.Now().Add(20 * time.Second); len(in.failures()) > 0; { // again and again, as the core does
		if time.Now().After(deadline) {
			t.Fatalf("%v", in.failures())
		}
		in.reset()
		deliver(w, sample("demo", 1))
		in.await(t, 1)
		time.Sleep(50 * time.Millisecond)
	}
	must(t, w.Close(t.Context()))
	if ids, _ := list(t, s, "demo", Filter{}); len(ids) != 1 {
		t.Errorf("%v", ids)
	}
}

// One of several hosts is enough.
func testDeadHost(t *testing.T, server *postgresServer) {
	database := server.database(t)
	dead, alive := newProxy(t, server), newProxy(t, server)
	dead.refusing.Store(true)
	s := openPostgres(t, server.at(database, "127.0.0.1:1", dead.addr(), alive.addr()))
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
	if dead.accepted.Load() == 0 || alive.accepted.Load() != 1 {
		t.Errorf("%d connections to the dead one, %d to the other", dead.accepted.Load(), alive.accepted.Load())
	}
}

// One CDR that the database can't hold fails alone, whether we see it or the server does.
func testUnstorable(t *testing.T, server *postgresServer) {
	s := openPostgres(t, server.at(server.database(t)))
	defer s.Close()
	in := newInbox()
	w := NewWriter(s, in.emit, nil)
	const n = 100
	random := make([]byte, 4000) // an index holds 2704 bytes after compression
	_, _ = crand.Read(random)
	for i := range n {
		c := sample("demo", i)
		switch i {
		case 10:
			c.Queue = "a\x00b"
		case 11:
			c.Agent = "\xff"
		case 50:
			c.ID += "\x00"
		case 99:
			c.Queue = core.QueueID(fmt.Sprintf("%x", random))
		}
		deliver(w, c)
	}
	must(t, w.Close(t.Context()))
	failures := in.failures()
	if in.len() != n || len(failures) != 4 || failures[id(10)] == "" || failures[id(11)] == "" || failures[id(50)+"\x00"] == "" || failures[id(99)] == "" {
		t.Errorf("%d events, failures %v", in.len(), failures)
	}
	if ids, _ := list(t, s, "demo", Filter{Limit: MaxLimit}); len(ids) != n-4 {
		t.Errorf("%d CDRs", len(ids))
	}
	for _, f := range []Filter{{Queue: "a\x00b"}, {Agent: "\xff"}, {After: "\xff"}} {
		if ids, more := list(t, s, "demo", f); len(ids) != 0 || more {
			t.Errorf("%+v: %v", f, ids)
		}
	}
	if _, ok, err := s.Get(t.Context(), "demo", "\x00"); ok || err != nil {
		t.Errorf("%v %v", ok, err)
	}
	if err := s.DeleteTenant(t.Context(), "\xff"); err != nil {
		t.Error(err)
	}
}

// Several nodes deliver batches that overlap, in any order, at the same time: nobody gets an
// error (a deadlock would be one), and of each id there is one CDR, whole and from one of them.
func testOverlap(t *testing.T, server *postgresServer) {
	database := server.database(t)
	const nodes = 3
	var stores []*Postgres
	for range nodes {
		s := openPostgres(t, server.at(database))
		defer s.Close()
		stores = append(stores, s)
	}
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		tenant := core.TenantID(fmt.Sprint("t", run))
		batches := make([][][]core.CDR, nodes)
		want := map[core.InteractionID]bool{}
		for node := range nodes {
			for range rapid.IntRange(1, 2).Draw(t, "batches") {
				var batch []core.CDR
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 60), 1, 40).Draw(t, "numbers") {
					c := sample(tenant, n)
					c.Node = core.NodeID(fmt.Sprint("n", node))
					batch, want[c.ID] = append(batch, c), true
				}
				batches[node] = append(batches[node], batch)
			}
		}
		var writing sync.WaitGroup
		errs := make([]error, nodes)
		for node := range nodes {
			writing.Go(func() {
				for _, batch := range batches[node] {
					errs[node] = cmp.Or(errs[node], stores[node].Put(context.Background(), batch))
				}
			})
		}
		writing.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		before, _, err := stores[0].List(context.Background(), tenant, Filter{Limit: MaxLimit})
		must(t, err)
		if len(before) != len(want) {
			t.Fatalf("%d CDRs of %d", len(before), len(want))
		}
		for node, s := range stores { // all comes again, as after a death before the outbox was emptied
			must(t, s.Put(context.Background(), slices.Concat(batches[nodes-1-node]...)))
		}
		after, _, err := stores[0].List(context.Background(), tenant, Filter{Limit: MaxLimit})
		must(t, err)
		for i, c := range after {
			if !want[c.ID] || c.Tenant != tenant || len(after) != len(before) || c.Node != before[i].Node || c.ID != before[i].ID {
				t.Fatalf("%s of %s was %s of %s", c.ID, c.Node, before[i].ID, before[i].Node)
			}
		}
	})
}

func testDeleteInParts(t *testing.T, server *postgresServer) {
	database := server.database(t)
	s := openPostgres(t, server.at(database))
	defer s.Close()
	const n = 2*deleteChunk + 345
	fill := func() {
		server.admin(t, database, fmt.Sprintf(`
			INSERT INTO dialtone.cdr SELECT tenant, 'int_' || n, '', '', n, '{}' FROM generate_series(1, %d) n, unnest(ARRAY['demo', 'acme']) tenant
			ON CONFLICT DO NOTHING`, n))
	}
	count := func(tenant string) int {
		return server.number(t, database, `SELECT count(*) FROM dialtone.cdr WHERE tenant = $1`, tenant)
	}
	fill()
	// A transaction that holds one row of the second chunk lets the first be deleted, and counted.
	holder, err := pgx.Connect(t.Context(), server.adminURL(database))
	must(t, err)
	defer holder.Close(context.Background())
	_, err = holder.Exec(t.Context(), `BEGIN`)
	must(t, err)
	_, err = holder.Exec(t.Context(), `SELECT 1 FROM dialtone.cdr WHERE tenant = 'demo' AND id =
		(SELECT id FROM dialtone.cdr WHERE tenant = 'demo' ORDER BY id OFFSET 1500 LIMIT 1) FOR UPDATE`)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	deleting := make(chan error, 1)
	go func() { deleting <- s.DeleteTenant(ctx, "demo") }()
	for deadline := time.Now().Add(20 * time.Second); count("demo") == n; {
		if time.Now().After(deadline) {
			t.Fatal("nothing was deleted")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if left := count("demo"); left != n-deleteChunk {
		t.Errorf("%d left of %d", left, n)
	}
	cancel()
	if err := <-deleting; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	must(t, holder.Close(t.Context()))
	var both sync.WaitGroup
	other := openPostgres(t, server.at(database))
	defer other.Close()
	for _, store := range []Store{s, other} {
		both.Go(func() {
			if err := store.DeleteTenant(t.Context(), "demo"); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	if demo, acme := count("demo"), count("acme"); demo != 0 || acme != n {
		t.Errorf("demo has %d, acme %d", demo, acme)
	}
}

// A password that is changed in its file and in the database is used from the next connection on.
func testRenewedPassword(t *testing.T, server *postgresServer) {
	database := server.database(t)
	server.admin(t, "postgres", `CREATE ROLE rotating LOGIN PASSWORD 'one' SUPERUSER`)
	file := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(file, []byte("one\n"), 0o600))
	way := newProxy(t, server)
	at := core.Secret(strings.Replace(server.at(database, way.addr()).Reveal(), "dialtone@", "rotating@", 1))
	s, err := OpenPostgres(t.Context(), Config{URL: at, PasswordFile: file})
	must(t, err)
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
	server.admin(t, "postgres", `ALTER ROLE rotating PASSWORD 'two'`)
	must(t, os.WriteFile(file, []byte("two\n"), 0o600))
	way.cutAll()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 2)}))
	if ids, _ := list(t, s, "demo", Filter{}); len(ids) != 2 {
		t.Errorf("%v", ids)
	}
}

// certificate writes a self-signed certificate for an address below dir.
func certificate(t *testing.T, server *postgresServer, name, address string) (cert string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(address)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(crand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	server.file(t, name+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	server.file(t, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	return filepath.Join(server.dir, name+".crt")
}

func testCertificates(t *testing.T, server *postgresServer) {
	database := server.database(t)
	right, wrong := certificate(t, server, "server", server.host), certificate(t, server, "other", server.host)
	try := func(query string) error {
		s, err := OpenPostgres(t.Context(), Config{URL: server.at(database) + core.Secret(query), Password: userSecret})
		if err == nil {
			defer s.Close()
			err = s.Put(t.Context(), []core.CDR{sample("demo", 1)})
		}
		return err
	}
	if err := try("?sslmode=require"); err == nil || !strings.Contains(err.Error(), "turn on ssl") {
		t.Errorf("without TLS at the server: %v", err)
	}
	server.admin(t, "postgres", "ALTER SYSTEM SET ssl_cert_file = '"+right+"'", "ALTER SYSTEM SET ssl_key_file = '"+strings.TrimSuffix(right, "crt")+"key'",
		"ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
	for deadline := time.Now().Add(20 * time.Second); server.number(t, "postgres", "SELECT (current_setting('ssl') = 'on')::int") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the server has no TLS")
		}
		time.Sleep(5 * time.Millisecond)
	}
	for query, fine := range map[string]bool{
		"?sslmode=verify-full&sslrootcert=" + right: true, "?sslmode=verify-ca&sslrootcert=" + right: true, "?sslmode=require": true, "?sslmode=disable": true, "": true,
		"?sslmode=verify-full": false, "?sslmode=verify-full&sslrootcert=" + wrong: false, "?sslmode=verify-ca&sslrootcert=" + wrong: false, "?sslmode=require&sslrootcert=" + wrong: false,
	} {
		err := try(query)
		if (err == nil) != fine || err != nil && !strings.Contains(err.Error(), "sslrootcert") {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// After a failover the host is used that can be written to; while there is none, that is said.
func testStandby(t *testing.T, server *postgresServer) {
	database, other := server.database(t), server.database(t)
	s := openPostgres(t, server.at(database))
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
	server.admin(t, "postgres", "ALTER DATABASE "+other+" SET default_transaction_read_only = on")
	standby, err := OpenPostgres(t.Context(), Config{URL: server.at(other), Password: userSecret})
	must(t, err) // it may be promoted
	defer standby.Close()
	if err := standby.Put(t.Context(), []core.CDR{sample("demo", 1)}); err == nil || !strings.Contains(err.Error(), "primary") {
		t.Errorf("%v", err)
	}
	// Demoted while the connection stays, as behind a proxy: the connection goes, not the CDR.
	must(t, s.write.with(t.Context(), func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), "SET default_transaction_read_only = on")
		return err
	}))
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 2)}))
}

func testUnixSocket(t *testing.T, server *postgresServer) {
	s := openPostgres(t, core.Secret("postgres://dialtone@/"+server.database(t)+"?host="+server.dir))
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
}

// A server that comes back is not overrun, and nobody waits for one that is away.
func testRest(t *testing.T, server *postgresServer) {
	way := newProxy(t, server)
	way.refusing.Store(true)
	s, err := OpenPostgres(t.Context(), Config{URL: server.at(server.database(t), way.addr()), Password: userSecret})
	must(t, err)
	defer s.Close()
	const n = 200
	for range n {
		if err := s.Put(t.Context(), []core.CDR{sample("demo", 1)}); err == nil || !strings.Contains(err.Error(), "PostgreSQL runs") {
			t.Fatalf("%v", err)
		}
		time.Sleep(5 * time.Millisecond) // a second in all
	}
	if tries := way.accepted.Load(); tries > 40 || tries < 2 {
		t.Errorf("%d connections for %d batches", tries, n)
	}
}

// A server that has fallen silent costs one batch its time, and holds up nothing else.
func testSilence(t *testing.T, server *postgresServer) {
	way := newProxy(t, server)
	s := openPostgres(t, server.at(server.database(t), way.addr()))
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
	way.silent.Store(true)
	in := newInbox()
	w := NewWriter(s, in.emit, nil)
	const n = maxQueued + maxBatch + 100
	for i := range n {
		deliver(w, sample("demo", i)) // would hang here
	}
	if g := w.Gauges(); g.Queued > maxQueued || g.Failed < 100 {
		t.Errorf("%+v", g)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Put(short, []core.CDR{sample("demo", 2)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	way.silent.Store(false)
	way.cutAll()
	for i := range 3 { // 100 ms of rest at most were counted, and none for a caller's own deadline
		if err := s.Put(t.Context(), []core.CDR{sample("demo", 2)}); err == nil {
			break
		} else if i == 2 {
			t.Error(err)
		}
		time.Sleep(150 * time.Millisecond)
	}
}

// Who has no more time does not wait for a connection that others have.
func testBusy(t *testing.T, server *postgresServer) {
	s := openPostgres(t, server.at(server.database(t)))
	defer s.Close()
	release := make(chan struct{})
	var holding, held sync.WaitGroup
	for range writingConns {
		held.Add(1)
		holding.Go(func() {
			err := s.write.with(t.Context(), func(*pgx.Conn) error { held.Done(); <-release; return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	held.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Put(ctx, []core.CDR{sample("demo", 1)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if ids, _ := list(t, s, "demo", Filter{}); len(ids) != 0 { // reading has its own
		t.Errorf("%v", ids)
	}
	close(release)
	holding.Wait()
	must(t, s.Close())
	if err := s.Put(t.Context(), []core.CDR{sample("demo", 1)}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}

func testSynced(t *testing.T, server *postgresServer) {
	for setting, want := range map[string]string{"off": "on", "on": "on", "remote_apply": "remote_apply", "local": "local"} {
		database := server.database(t)
		server.admin(t, "postgres", "ALTER DATABASE "+database+" SET synchronous_commit = "+setting)
		s := openPostgres(t, server.at(database))
		var got string
		must(t, s.write.with(t.Context(), func(conn *pgx.Conn) error {
			return conn.QueryRow(t.Context(), "SELECT current_setting('synchronous_commit')").Scan(&got)
		}))
		must(t, s.Close())
		if got != want {
			t.Errorf("%s became %s", setting, got)
		}
	}
}
