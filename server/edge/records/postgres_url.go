package records

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dialtone-cc/dialtone/server/core"
)

// sslMode is how a connection is protected, by PostgreSQL's own names. "allow" and "prefer"
// are refused: who sits in between decides then whether there is any protection.
type sslMode string

const (
	plain      sslMode = "disable"
	encrypted  sslMode = "require"     // by whom is not asked, unless sslrootcert is given
	verified   sslMode = "verify-ca"   // by a holder of a certificate of that authority
	verifiedAs sslMode = "verify-full" // and for the host that was named
)

// place is where a database is and how it is reached, taken out of its URL. The password is
// kept elsewhere: fmt shows unexported members of any type.
type place struct {
	hosts    []string // names, addresses, or one directory of a Unix socket
	ports    []string
	user     string
	database string
	mode     sslMode
	root     string // files; "": the system's authorities, no certificate of our own
	cert     string
	key      string
}

const (
	defaultPort = "5432"
	connectTime = 9 * time.Second // for all hosts, which is within the Writer's time for a batch
	hostTime    = 3 * time.Second // for each of them at least
)

// parseURL reads postgres://USER[:PASSWORD]@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?KEY=VALUE...].
// No error quotes any part of the text: in one that is malformed any part may be a piece of
// the password. Nothing is taken from the PG... variables or from files in the home
// directory: what a node does is in its own configuration.
func parseURL(text string) (place, core.Secret, error) {
	rest, ok := strings.CutPrefix(text, "postgres://")
	if !ok {
		if rest, ok = strings.CutPrefix(text, "postgresql://"); !ok {
			return place{}, "", errors.New("it must begin with postgres://")
		}
	}
	path := ""
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		rest, path = rest[:i], rest[i:]
	}
	path, query, _ := strings.Cut(path, "?")
	var p place
	at := strings.LastIndexByte(rest, '@')
	if at < 0 {
		return place{}, "", errors.New("it must name a user before an @, and in a password /, ? and % are written as %2F, %3F and %25")
	}
	user, password, _ := strings.Cut(rest[:at], ":")
	var err1, err2, err3 error
	p.user, err1 = url.PathUnescape(user)
	password, err2 = url.PathUnescape(password)
	p.database, err3 = url.PathUnescape(strings.TrimPrefix(path, "/"))
	switch {
	case err1 != nil || err2 != nil || err3 != nil:
		return place{}, "", errors.New("a % that stands for itself is written as %25")
	case strings.Contains(text, "\x00") || strings.ContainsRune(p.user+password+p.database, 0):
		return place{}, "", errors.New("it must not contain NUL")
	case p.user == "":
		return place{}, "", errors.New("it must name a user before the @")
	case p.database == "" || strings.ContainsAny(strings.TrimPrefix(path, "/"), "/@"):
		return place{}, "", errors.New("it must name one database after the host, and in a password /, ? and % are written as %2F, %3F and %25")
	}
	if err := p.parseHosts(rest[at+1:]); err != nil {
		return place{}, "", err
	}
	if err := p.parseQuery(query); err != nil {
		return place{}, "", err
	}
	if err := p.check(); err != nil {
		return place{}, "", err
	}
	return p, core.Secret(password), nil
}

func (p *place) parseHosts(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		host, port := one, ""
		switch bracket := strings.LastIndexByte(one, ']'); {
		case strings.HasPrefix(one, "[") && bracket > 0: // IPv6
			host, port = one[1:bracket], one[bracket+1:]
			if addr, err := netip.ParseAddr(host); err != nil || !addr.Is6() || port != "" && port[0] != ':' {
				return errors.New("what is in brackets must be an IPv6 address")
			}
			port = strings.TrimPrefix(port, ":")
		default:
			host, port, _ = strings.Cut(one, ":")
			for _, r := range host {
				if !strings.ContainsRune("-._", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
					return errors.New("a host is a name, an IPv4 address, or an IPv6 address in brackets")
				}
			}
		}
		if port == "" {
			port = defaultPort
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("a port is a number from 1 to 65535")
		}
		p.hosts, p.ports = append(p.hosts, host), append(p.ports, port)
	}
	return nil
}

func (p *place) parseQuery(text string) error {
	values, err := url.ParseQuery(text)
	if err != nil {
		return errors.New("what follows the ? must be KEY=VALUE, separated by &")
	}
	keys := map[string]*string{"sslmode": (*string)(&p.mode), "sslrootcert": &p.root, "sslcert": &p.cert, "sslkey": &p.key, "host": nil}
	for key, given := range values {
		to, known := keys[key]
		if !known || len(given) != 1 || given[0] == "" || strings.ContainsRune(given[0], 0) {
			return errors.New("after the ? there may be sslmode, sslrootcert, sslcert, sslkey, and host for the directory of a Unix socket, each once and with a value")
		}
		if to != nil {
			*to = given[0]
		}
	}
	if directory := values.Get("host"); directory != "" {
		if len(p.hosts) != 1 || p.hosts[0] != "" || directory[0] != '/' || strings.Contains(directory, ",") {
			return errors.New("host after the ? is the absolute directory of a Unix socket, and no other host may be named")
		}
		p.hosts[0] = directory
	}
	return nil
}

// check also chooses the protection where none was named. Outside this machine that is
// verify-full: CDRs say who called whom, and without a check of the certificate whoever can
// divert the connection reads and answers everything. On this machine a certificate would
// protect from nobody.
func (p *place) check() error {
	if slices.Contains(p.hosts, "") {
		return errors.New("it must name a host")
	}
	if p.mode == "" {
		if p.mode = verifiedAs; p.local() {
			p.mode = plain
		}
	}
	switch {
	case !slices.Contains([]sslMode{plain, encrypted, verified, verifiedAs}, p.mode):
		return errors.New("sslmode must be verify-full (the default outside this machine), verify-ca, require or disable")
	case p.mode == plain && p.root+p.cert+p.key != "":
		return errors.New("certificates need a connection with TLS: sslmode is disable, which is the default on this machine; add sslmode=verify-full")
	case (p.cert == "") != (p.key == ""):
		return errors.New("sslcert and sslkey need each other")
	}
	return nil
}

// local says that all hosts are this machine.
func (p *place) local() bool {
	return !slices.ContainsFunc(p.hosts, func(host string) bool {
		addr, err := netip.ParseAddr(host)
		return host[0] != '/' && host != "localhost" && (err != nil || !addr.IsLoopback())
	})
}

// String is for messages: hosts and database.
func (p *place) String() string {
	var all []string
	for i, host := range p.hosts {
		if host[0] == '/' {
			all = append(all, host)
		} else {
			all = append(all, net.JoinHostPort(host, p.ports[i]))
		}
	}
	return strings.Join(all, ",") + "/" + p.database
}

// config makes the driver's configuration anew for each connection: certificates that were
// renewed are read, as is a password that was changed.
func (p *place) config(password core.Secret) (*pgx.ConnConfig, error) {
	// A client that is asked for it by the server sends its password as it is. Over TLS with a
	// verified server that is as good as any other way; elsewhere it is given to whoever is there.
	auth := ""
	if !p.local() && p.mode != verifiedAs {
		auth = "!password"
	}
	var dsn strings.Builder
	for _, pair := range [][2]string{
		{"host", strings.Join(p.hosts, ",")}, {"port", strings.Join(p.ports, ",")},
		{"user", p.user}, {"dbname", p.database}, {"sslmode", string(p.mode)},
		{"sslrootcert", p.root}, {"sslcert", p.cert}, {"sslkey", p.key},
		{"require_auth", auth},
		// With several hosts the one is taken that can be written to, wherever a failover has put it.
		{"target_session_attrs", "read-write"},
		// Each of these would otherwise be taken from a variable or the home directory.
		{"passfile", ""}, {"sslpassword", ""}, {"sslnegotiation", ""}, {"sslsni", "1"}, {"sslcertmode", "allow"},
		{"channel_binding", "prefer"}, {"min_protocol_version", "3.0"}, {"max_protocol_version", "3.0"},
	} {
		fmt.Fprintf(&dsn, "%s='%s' ", pair[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(pair[1]))
	}
	config, err := pgx.ParseConfig(dsn.String())
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without all that was put together here
		}
		return nil, err
	}
	config.Password = password.Reveal()
	config.RuntimeParams = map[string]string{"application_name": "dialtone", "client_encoding": "UTF8"}
	config.ConnectTimeout = max(hostTime, connectTime/time.Duration(len(p.hosts)))
	// A host that went away without a word is noticed in some 25 s also where nothing is sent.
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}
	return config, nil
}

// passwordFrom reads a password file; a line end after the password does not belong to it.
func passwordFrom(file string) (core.Secret, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" || strings.ContainsAny(password, "\x00\n") {
		return "", fmt.Errorf("password file %s: it must hold one line, the password", file)
	}
	return core.Secret(password), nil
}
