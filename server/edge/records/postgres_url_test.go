package records

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

const inURL = "Tr0ub4dor&3"

func TestURL(t *testing.T) {
	for text, want := range map[string]place{
		"postgres://u:" + inURL + "@db.example.org/d":               {hosts: []string{"db.example.org"}, ports: []string{"5432"}, user: "u", database: "d", mode: verifiedAs},
		"postgresql://u:" + inURL + "@10.0.0.1:5433/d":              {hosts: []string{"10.0.0.1"}, ports: []string{"5433"}, user: "u", database: "d", mode: verifiedAs},
		"postgres://u%40x:" + inURL + "@127.0.0.1/d%20e":            {hosts: []string{"127.0.0.1"}, ports: []string{"5432"}, user: "u@x", database: "d e", mode: plain},
		"postgres://u:" + inURL + "@localhost,[::1]:1/d":            {hosts: []string{"localhost", "::1"}, ports: []string{"5432", "1"}, user: "u", database: "d", mode: plain},
		"postgres://u:" + inURL + "@127.0.0.1,db/d":                 {hosts: []string{"127.0.0.1", "db"}, ports: []string{"5432", "5432"}, user: "u", database: "d", mode: verifiedAs},
		"postgres://u:" + inURL + "@/d?host=/run/postgresql":        {hosts: []string{"/run/postgresql"}, ports: []string{"5432"}, user: "u", database: "d", mode: plain},
		"postgres://u:" + inURL + "@:7/d?host=/tmp/%20x":            {hosts: []string{"/tmp/ x"}, ports: []string{"7"}, user: "u", database: "d", mode: plain},
		"postgres://u:" + inURL + "@db/d?sslmode=disable":           {hosts: []string{"db"}, ports: []string{"5432"}, user: "u", database: "d", mode: plain},
		"postgres://u:" + inURL + "@::1/d":                          {},
		"postgres://u:" + inURL + "@db/d?sslmode=prefer":            {},
		"postgres://u:" + inURL + "@db/d?sslmode=allow":             {},
		"postgres://u:" + inURL + "@db/d?sslmode=":                  {},
		"postgres://u:" + inURL + "@db/d?sslcert=x":                 {},
		"postgres://u:" + inURL + "@localhost/d?sslrootcert=":       {},
		"postgres://u:" + inURL + "@localhost/d?sslcert=a&sslkey=b": {},
		"postgres://u:" + inURL + "@db/d?service=x":                 {},
		"postgres://u:" + inURL + "@db/d?password=x":                {},
		"postgres://u:" + inURL + "@db/d?host=/tmp":                 {},
		"postgres://u:" + inURL + "@/d?host=tmp":                    {},
		"postgres://u:" + inURL + "@/d":                             {},
		"postgres://u:" + inURL + "@db/":                            {},
		"postgres://u:" + inURL + "@db":                             {},
		"postgres://u:" + inURL + "@db/d/e":                         {},
		"postgres://u:" + inURL + "@db:0/d":                         {},
		"postgres://u:" + inURL + "@db:65536/d":                     {},
		"postgres://u:" + inURL + "@db:x/d":                         {},
		"postgres://u:" + inURL + "@d b/d":                          {},
		"postgres://u:" + inURL + "@[db]/d":                         {},
		"postgres://u:" + inURL + "@[::1]5/d":                       {},
		"postgres://u@db:" + inURL + "/d":                           {},
		"postgres://u@" + inURL + "/d":                              {},
		"postgres://:" + inURL + "@db/d":                            {},
		"postgres://u:" + inURL + "%@db/d":                          {},
		"postgres://u:" + inURL + "%00@db/d":                        {},
		"postgres://u:/" + inURL + "@db/d":                          {},
		"postgres://u:12/" + inURL + "@db/d":                        {},
		"postgres://u:12?" + inURL + "@db/d":                        {},
		"postgres://u@db:12/d?" + inURL + "=x":                      {},
		"postgres://db/d?password=" + inURL:                         {},
		"host=db user=u password=" + inURL:                          {},
		inURL:                                                       {},
		"mysql://u:" + inURL + "@db/d":                              {},
	} {
		got, password, err := parseURL(text)
		if want.hosts == nil {
			if err == nil {
				t.Errorf("%s: accepted as %+v", text, got)
			} else if strings.Contains(err.Error(), inURL) {
				t.Errorf("%s: the error shows the password: %v", text, err)
			}
			continue
		}
		if err != nil || password != inURL || !slices.Equal(got.hosts, want.hosts) || !slices.Equal(got.ports, want.ports) ||
			got.user != want.user || got.database != want.database || got.mode != want.mode {
			t.Errorf("%s:\ngot  %+v %v\nwant %+v", text, got, err, want)
		}
	}
}

// What was put together is taken apart again, whatever the password is.
func TestURLRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := place{user: rapid.StringN(1, 20, 60).Draw(t, "user"), database: rapid.StringN(1, 20, 60).Draw(t, "database")}
		password := rapid.StringN(0, 20, 60).Draw(t, "password")
		if strings.ContainsRune(p.user+p.database+password, 0) {
			t.Skip("NUL")
		}
		got, secret, err := parseURL("postgres://" + escaped(p.user) + ":" + escaped(password) + "@db/" + escaped(p.database))
		if err != nil || got.user != p.user || got.database != p.database || secret.Reveal() != password {
			t.Fatalf("%+v %q: %v", got, secret.Reveal(), err)
		}
		config, err := got.config(secret)
		if err != nil || config.User != p.user || config.Database != p.database || config.Password != password {
			t.Fatalf("the driver has %q %q %q: %v", config.User, config.Database, config.Password, err)
		}
	})
}

// escaped escapes every byte.
func escaped(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		b.Write([]byte{'%', digits[s[i]>>4], digits[s[i]&15]})
	}
	return b.String()
}

func FuzzURL(f *testing.F) {
	for _, text := range []string{"postgres://u:|@db/d", "postgres://u:|@[::1]:5,db/d?sslmode=require", "postgres://u:12/|@db/d", "postgres://|", "|", "postgres://u@/d?host=/tmp&|", "postgres://u:%|@h/d", "postgres://u@h:|/d", "postgres://u@|/d"} {
		before, after, _ := strings.Cut(text, "|")
		f.Add(before, after)
	}
	f.Fuzz(func(t *testing.T, before, after string) {
		p, password, err := parseURL(before + inURL + after)
		if err != nil {
			if strings.Contains(err.Error(), inURL) {
				t.Fatalf("the error shows what may be the password: %v", err)
			}
			return
		}
		if strings.Contains(password.Reveal(), inURL) && strings.Contains(p.String(), inURL) && strings.Count(before+after, inURL) == 0 {
			t.Fatalf("shown: %s", p.String())
		}
		if p.root+p.cert+p.key != "" {
			return // files
		}
		config, err := p.config(password)
		if err != nil {
			t.Fatalf("accepted, but the driver says %v", err)
		}
		protected(t, &p, config)
	})
}

// protected checks that no host is reached with less than the mode says.
func protected(t *testing.T, p *place, config *pgx.ConnConfig) {
	t.Helper()
	all := []*tls.Config{config.TLSConfig}
	for _, fallback := range config.Fallbacks {
		all = append(all, fallback.TLSConfig)
	}
	if len(all) != len(p.hosts) {
		t.Fatalf("%d ways to %d hosts", len(all), len(p.hosts))
	}
	for i, c := range all {
		switch {
		case p.hosts[i][0] == '/':
		case p.mode == plain && c == nil:
		case p.mode == verifiedAs && c != nil && !c.InsecureSkipVerify && c.ServerName == p.hosts[i]:
		case p.mode == verified && c != nil && c.VerifyPeerCertificate != nil:
		case p.mode == encrypted && c != nil:
		default:
			t.Fatalf("%s with %s: %+v", p.hosts[i], p.mode, c)
		}
	}
}

// What a node does is in its own configuration, not in the variables of whoever started it.
func TestVariablesOfOthersDontMatter(t *testing.T) {
	for name, value := range map[string]string{"PGHOST": "evil", "PGPORT": "1", "PGDATABASE": "evil", "PGUSER": "evil", "PGPASSWORD": "evil",
		"PGSSLMODE": "disable", "PGSSLROOTCERT": "/evil", "PGSSLCERT": "/evil", "PGSSLKEY": "/evil", "PGOPTIONS": "-c fsync=off", "PGAPPNAME": "evil", "PGTZ": "evil",
		"PGTARGETSESSIONATTRS": "read-only", "PGCONNECT_TIMEOUT": "1000", "PGREQUIREAUTH": "none", "PGCHANNELBINDING": "require", "PGSSLNEGOTIATION": "direct",
		"PGSSLCERTMODE": "require", "PGSSLSNI": "0", "PGMINPROTOCOLVERSION": "3.2"} {
		t.Setenv(name, value)
	}
	file := filepath.Join(t.TempDir(), "pgpass")
	must(t, os.WriteFile(file, []byte("*:*:*:*:evil\n"), 0o600))
	t.Setenv("PGPASSFILE", file)
	p, _, err := parseURL("postgres://u@db/d")
	must(t, err)
	config, err := p.config("")
	must(t, err)
	if config.Host != "db" || config.Port != 5432 || config.User != "u" || config.Database != "d" || config.Password != "" || config.RequireAuth != "" ||
		config.ChannelBinding != "prefer" || config.SSLNegotiation != "" || config.SSLCertMode != "allow" || config.ConnectTimeout != 9*time.Second || len(config.RuntimeParams) != 2 {
		t.Errorf("%+v", config)
	}
	protected(t, &p, config)
}

func TestPasswordIsNotSentInTheClear(t *testing.T) {
	for text, want := range map[string]string{
		"postgres://u@db/d?sslmode=disable": "!password", "postgres://u@db/d?sslmode=require": "!password", "postgres://u@db/d?sslmode=verify-ca": "!password",
		"postgres://u@db/d": "", "postgres://u@127.0.0.1/d": "",
	} {
		p, _, err := parseURL(text)
		must(t, err)
		config, err := p.config("x")
		must(t, err)
		if config.RequireAuth != want {
			t.Errorf("%s: %q", text, config.RequireAuth)
		}
	}
}

func TestPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	for content, want := range map[string]core.Secret{"a b\n": "a b", "x\r\n": "x", "x": "x", "": "", "\n": "", "a\nb\n": "", "a\x00": ""} {
		must(t, os.WriteFile(file, []byte(content), 0o600))
		got, err := passwordFrom(file)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", content, got.Reveal(), err)
		}
	}
}
