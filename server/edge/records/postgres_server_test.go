package records

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dialtone-cc/dialtone/server/core"
)

// postgresServer is a PostgreSQL of a test's own, on an address of its own. That keeps its port over
// restarts: no other process binds there.
type postgresServer struct {
	bin, dir  string // of the programs, of everything else
	host      string
	as        *syscall.Credential // nil: this user
	process   *os.Process
	ended     chan struct{}
	databases int
	free      []string
}

const (
	serverPort  = 5432
	adminSecret = "admin-of-the-test"
	// What has a meaning in a URL, in the driver's own notation, and in neither.
	userSecret = `p@ss/w?rd:1'\ #%ü`
)

// postgresBin returns the directory with initdb and postgres. A machine without them skips,
// but not one that is to find out whether all is well.
func postgresBin(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	slices.SortFunc(found, func(a, b string) int { // the highest version first
		version := func(s string) int { n, _ := strconv.Atoi(strings.Split(s, "/")[4]); return n }
		return version(b) - version(a)
	})
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			found = append(found, path)
		}
	}
	for _, path := range found {
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "postgres")); err == nil {
			return filepath.Dir(path)
		}
	}
	const missing = "PostgreSQL's initdb and postgres are not on PATH nor in /usr/lib/postgresql/*/bin (Debian: apt install postgresql, or make tools)"
	if os.Getenv("CI") == "true" {
		t.Fatal(missing)
	}
	t.Skip(missing)
	return ""
}

// newServer makes and starts a server; it is gone when the test ends.
func newServer(t testing.TB) *postgresServer {
	t.Helper()
	s := &postgresServer{bin: postgresBin(t), dir: t.TempDir()}
	if os.Geteuid() == 0 { // postgres refuses to be root
		must(t, os.Chmod(filepath.Dir(s.dir), 0o711)) // it must find its own below
		for _, name := range []string{"postgres", "nobody"} {
			if u, err := user.Lookup(name); err == nil {
				uid, _ := strconv.Atoi(u.Uid)
				gid, _ := strconv.Atoi(u.Gid)
				s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
				must(t, os.Chown(s.dir, uid, gid))
				break
			}
		}
	}
	s.file(t, "secret", adminSecret+"\n")
	initdb := s.command("initdb", "-D", s.data(), "-U", "postgres", "-A", "scram-sha-256", "--pwfile", filepath.Join(s.dir, "secret"), "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb as user %v in %s (whose parents it must be able to enter): %v\n%s", s.as, s.dir, err, out)
	}
	s.file(t, "data/pg_hba.conf", "local all all scram-sha-256\nhost all all 127.0.0.0/8 scram-sha-256\n")
	t.Cleanup(func() {
		s.stop(t, syscall.SIGINT)
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Logf("the server's log ends with\n%s", log[max(0, len(log)-4000):])
		}
	})
	for {
		s.host = fmt.Sprintf("127.%d.%d.%d", 64+rand.N(64), rand.N(256), 1+rand.N(254))
		if probe, err := net.Listen("tcp", net.JoinHostPort(s.host, strconv.Itoa(serverPort))); err == nil {
			probe.Close()
			break
		}
	}
	s.file(t, "data/postgresql.auto.conf", fmt.Sprintf(`
listen_addresses = '%s'
port = %d
unix_socket_directories = '%s'
max_connections = 50
shared_buffers = 16MB
fsync = on
`, s.host, serverPort, s.dir))
	s.start(t)
	s.admin(t, "postgres", "CREATE ROLE dialtone LOGIN PASSWORD "+quoted(userSecret))
	return s
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func (s *postgresServer) data() string { return filepath.Join(s.dir, "data") }

func (s *postgresServer) file(t testing.TB, name, content string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	must(t, os.WriteFile(path, []byte(content), 0o600))
	if s.as != nil {
		must(t, os.Chown(path, int(s.as.Uid), int(s.as.Gid)))
	}
}

func (s *postgresServer) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	// Whatever ends the test ends the server, and with it its own processes. SIGQUIT: at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// start starts the server and waits until it answers. After a kill -9 it first refuses,
// while processes of the one before hold the shared memory.
func (s *postgresServer) start(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, err)
		cmd := s.command("postgres", "-D", s.data())
		cmd.Stdout, cmd.Stderr = log, log
		must(t, cmd.Start())
		log.Close()
		ended := make(chan struct{})
		s.process, s.ended = cmd.Process, ended
		go func() { _ = cmd.Wait(); close(ended) }()
		for alive := true; alive; {
			if conn, err := pgx.Connect(context.Background(), s.adminURL("postgres")); err == nil {
				conn.Close(context.Background())
				return
			}
			select {
			case <-ended:
				alive = false
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(deadline) {
				text, _ := os.ReadFile(log.Name())
				t.Fatalf("the server does not start:\n%s", text)
			}
		}
	}
}

// stop ends the server by a signal and waits for it.
func (s *postgresServer) stop(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if s.process == nil {
		return
	}
	_ = s.process.Signal(signal)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		t.Errorf("the server did not end after %v", signal)
		_ = s.process.Kill()
		<-s.ended
	}
	s.process = nil
}

func (s *postgresServer) adminURL(database string) string {
	return fmt.Sprintf("postgres://postgres:%s@%s:%d/%s?sslmode=disable", adminSecret, s.host, serverPort, database)
}

// admin runs statements as the superuser.
func (s *postgresServer) admin(t testing.TB, database string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), s.adminURL(database))
	must(t, err)
	defer conn.Close(context.Background())
	for _, statement := range statements {
		if _, err := conn.Exec(context.Background(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// number returns the one number that a query gives.
func (s *postgresServer) number(t testing.TB, database, query string, args ...any) (n int) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), s.adminURL(database))
	must(t, err)
	defer conn.Close(context.Background())
	must(t, conn.QueryRow(context.Background(), query, args...).Scan(&n))
	return n
}

// database gives an empty database that the user dialtone owns. Its own order of texts is
// that of a language where the server knows any: the store's must not depend on it.
func (s *postgresServer) database(t testing.TB) (name string) {
	t.Helper()
	t.Cleanup(func() {
		s.admin(t, name, "SET default_transaction_read_only = off", "DROP SCHEMA IF EXISTS dialtone CASCADE", "ALTER DATABASE "+name+" RESET ALL")
		s.free = append(s.free, name)
	})
	if n := len(s.free); n > 0 {
		name, s.free = s.free[n-1], s.free[:n-1]
		return name
	}
	s.databases++
	name = fmt.Sprint("records", s.databases)
	language := " LOCALE_PROVIDER icu ICU_LOCALE 'en'"
	if s.number(t, "postgres", "SELECT current_setting('server_version_num')::int") < 150000 {
		language = ""
	}
	s.admin(t, "postgres", "CREATE DATABASE "+name+" OWNER dialtone TEMPLATE template0"+language)
	return name
}

// at is the URL without a password, of the server itself or of a proxy before it.
func (s *postgresServer) at(database string, hosts ...string) core.Secret {
	if len(hosts) == 0 {
		hosts = []string{net.JoinHostPort(s.host, strconv.Itoa(serverPort))}
	}
	return core.Secret("postgres://dialtone@" + strings.Join(hosts, ",") + "/" + database)
}

// secretURL has the password within.
func (s *postgresServer) secretURL(database string) core.Secret {
	return core.Secret(strings.Replace(s.at(database).Reveal(), "@", ":"+url.PathEscape(userSecret)+"@", 1))
}

func openPostgres(t testing.TB, at core.Secret) *Postgres {
	t.Helper()
	s, err := OpenPostgres(t.Context(), Config{URL: at, Password: userSecret})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// proxy stands between a store and its server, and fails as networks do.
type proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	// Of so many answers to an INSERT (which has been committed then) one is thrown away, and
	// the connection with it. 0: none.
	cutAnswers atomic.Int64
	accepted   atomic.Int64
	cut        atomic.Int64
	silent     atomic.Bool // what arrives goes nowhere
	refusing   atomic.Bool // connections end at once

	mu    sync.Mutex
	conns map[net.Conn]bool
	over  bool
}

func newProxy(t testing.TB, s *postgresServer) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{listener: listener, target: net.JoinHostPort(s.host, strconv.Itoa(serverPort)), conns: map[net.Conn]bool{}}
	p.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			p.accepted.Add(1)
			p.running.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		listener.Close()
		p.cutAll()
		p.running.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		conn.Close()
		return false
	}
	p.conns[conn] = true
	return true
}

// cutAll ends all connections.
func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
	clear(p.conns)
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.keep(client) {
		return
	}
	if p.refusing.Load() {
		return
	}
	upstream, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer upstream.Close()
	if !p.keep(upstream) {
		return
	}
	p.running.Go(func() {
		p.copy(upstream, client, nil)
		client.Close()
		upstream.Close()
	})
	p.copy(client, upstream, []byte("INSERT 0 "))
}

// copy carries bytes; a piece in which watched occurs is where answers are cut.
func (p *proxy) copy(to, from net.Conn, watched []byte) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if p.silent.Load() {
			continue
		}
		if every := p.cutAnswers.Load(); every > 0 && watched != nil && bytes.Contains(buffer[:n], watched) && rand.N(every) == 0 {
			p.cut.Add(1)
			return
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}
