package app

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// refusedStart runs a node that must not start, and returns what it says on stderr.
func refusedStart(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	p := spawn(t, "refused", append([]string{roleVariable + "=node"}, environ...), args...)
	if line, err := p.line(); err == nil {
		t.Errorf("%v: the node started: %s", args, line)
		p.kill()
	}
	if code := p.exit(t, 30*time.Second); code != 2 {
		t.Errorf("%v: exit code %d, wanted 2: %s", args, code, p.tail())
	}
	text := p.said()
	for _, secret := range []string{secretOperator, secretPassword} {
		if strings.Contains(text, secret) {
			t.Errorf("%v: the message shows a secret: %s", args, text)
		}
	}
	return text
}

// wants fails when a message lacks what the operator needs to mend the cause.
func wants(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, part := range all {
		if !strings.Contains(text, part) {
			t.Errorf("the message lacks %q:\n%s", part, text)
		}
	}
	for _, sign := range []string{"panic", "goroutine "} {
		if strings.Contains(text, sign) {
			t.Errorf("the message holds %q:\n%s", sign, text)
		}
	}
}

// A wrong configuration is refused at start, with the place and what is allowed, and never
// with a secret that stands beside it.
func TestBadDayConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, yaml string
		want       []string
	}{
		{"unknown key", "sip: 127.0.0.1:5060\noperator_kye: " + secretOperator + "\n", []string{"bad.yaml:2", "operator_kye", "operator_key"}},
		{"bad value", "operator_key: " + secretOperator + "\nrtp: 40000\n", []string{"bad.yaml:2", "40000", "FROM-TO"}},
		{"bad duration", "operator_key: " + secretOperator + "\ndrain_timeout: soon\n", []string{"bad.yaml:2", "soon"}},
		{"bad nested value", "operator_key: " + secretOperator + "\netcd:\n  endpoints: nowhere\n", []string{"bad.yaml:3", "HOST:PORT"}},
		{"not YAML", "sip: [\n", []string{"bad.yaml:"}},
		{"no key", "sip: 127.0.0.1:5060\n", []string{"operator_key", "DIALTONE_OPERATOR_KEY"}},
		{"short key", "operator_key: short\n", []string{"operator_key", "16"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "bad.yaml")
			if err := os.WriteFile(file, []byte(c.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			wants(t, refusedStart(t, nil, "server", "--config", file, "--data", t.TempDir()), c.want...)
		})
	}
	wants(t, refusedStart(t, nil, "dev", "--agent-passwrd", secretPassword, "--data", t.TempDir()), "--agent-passwrd", "--agent-password")
	wants(t, refusedStart(t, []string{"DIALTONE_MAX_CALLS=many"}, "dev", "--data", t.TempDir()), "DIALTONE_MAX_CALLS", "many")
}

// A port that somebody else holds is named; so is a directory that cannot be had. The node
// that came first does not notice.
func TestBadDaySecondNode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := startChild(t, dir)
	agent := c.demo().agent(t, "1001")
	call := c.demo().talk(t, "first", "127.0.0.1", agent)
	call.forget()
	began := time.Now()

	wants(t, refusedStart(t, nil, "dev", "--data", dir, "--sip", freeAddress(), "--http", "127.0.0.1:0"), dir, "in use by another dialtone", "--data")
	wants(t, refusedStart(t, nil, "dev", "--data", t.TempDir(), "--sip", c.banner.SIP, "--http", "127.0.0.1:0"), c.banner.SIP, "another")
	http := strings.TrimPrefix(c.banner.HTTP, "http://")
	wants(t, refusedStart(t, nil, "dev", "--data", t.TempDir(), "--sip", freeAddress(), "--http", http), http, "--http")
	wants(t, refusedStart(t, nil, "dev", "--data", t.TempDir(), "--sip", "192.0.2.1:5060", "--http", "127.0.0.1:0"), "192.0.2.1")
	held, err := net.Listen("tcp4", "127.0.0.1:0") // TCP only: UDP could be had
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	wants(t, refusedStart(t, nil, "dev", "--data", t.TempDir(), "--sip", held.Addr().String(), "--http", "127.0.0.1:0"), "TCP", held.Addr().String())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, refusedStart(t, nil, "dev", "--data", file, "--sip", freeAddress(), "--http", "127.0.0.1:0"), file, "--data")
	wants(t, refusedStart(t, []string{"DIALTONE_OPERATOR_KEY=" + secretOperator}, "server", "--data", t.TempDir(), "--sip", freeAddress(), "--http", "127.0.0.1:0",
		"--etcd-endpoints", freeAddress()), "etcd does not answer", "endpoints")

	call.alive(t)
	call.heard(t, time.Since(began), 0.9, 2*time.Second)
	call.hangUp(t)
	c.oneCDR(t, "", "first")
}

// A records database that lost its tail (a disk that lied about a sync) or its head: the
// node says which file it is and what to do. With the file moved away it runs again.
func TestBadDayDamagedRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := startChild(t, dir)
	call := c.demo().talk(t, "kept", "127.0.0.1", c.demo().agent(t, "1001"))
	call.hangUp(t)
	c.oneCDR(t, "", "kept")
	c.end(t)
	name := filepath.Join(dir, "records.db")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head := append(bytes.Repeat([]byte("garbage!"), 64), whole[512:]...)
	for what, content := range map[string][]byte{"truncated": whole[:len(whole)/2+100], "head overwritten": head, "no database": []byte("hello")} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		text := refusedStart(t, c.environ, c.args...)
		wants(t, text, name, "damaged")
		if t.Failed() {
			t.Fatalf("%s: %s", what, text)
		}
	}
	if err := os.Rename(name, name+".bad"); err != nil {
		t.Fatal(err)
	}
	c.start(t)
	c.demo().talk(t, "later", "127.0.0.1", c.demo().agent(t, "1001")).hangUp(t)
	c.oneCDR(t, "", "later")
	c.end(t)
	if err := os.WriteFile(name, whole, 0o600); err != nil { // from a backup
		t.Fatal(err)
	}
	c.start(t)
	c.oneCDR(t, "", "kept")
}

// Records in etcd that nobody of this program has written, or only half: each is named in
// the log and left alone, the rest of the tenant works.
func TestBadDayGarbageInTheStore(t *testing.T) {
	t.Parallel()
	at := freeAddress()
	startEtcd(t, t.TempDir(), at)
	c := startChild(t, t.TempDir(), "server", "--etcd-endpoints", at)
	acme := c.furnish(t, "acme")
	c.end(t)
	garbage := map[string]string{
		"t/acme/calls/no-json":                 "\x00\xff{",
		"t/acme/calls/half":                    `{"id":"half","tenant":"acme","phase":"brid`,
		"t/acme/calls/nothing":                 `{}`,
		"t/acme/calls/null":                    `null`,
		"t/acme/calls/no-agent":                `{"id":"no-agent","tenant":"acme","phase":"bridged","queue":"support"}`,
		"t/acme/calls/no-offer":                `{"id":"no-offer","tenant":"acme","phase":"offering","queue":"support"}`,
		"t/acme/calls/foreign":                 `{"id":"foreign","tenant":"other","phase":"queued","queue":"support"}`,
		"t/acme/calls/other-id":                `{"id":"renamed","tenant":"acme","phase":"queued","queue":"support"}`,
		"t/acme/calls/no-such-phase":           `{"id":"no-such-phase","tenant":"acme","phase":"dancing","queue":"support"}`,
		"t/acme/config/queues/y":               "garbage",
		"t/acme/config/queues/list":            `[]`,
		"t/acme/config/agents/z":               `{"id":`,
		"t/acme/config/numbers/77":             `"seventy-seven"`,
		"t/acme/bindings/1002":                 `{"not":"a list"}`,
		"t/acme/agents/1003":                   "\x00",
		"t/acme/outbox/no-json":                "garbage",
		"t/acme/outbox/nothing":                `{}`,
		"t/acme/outbox/foreign":                `{"id":"foreign","tenant":"other"}`,
		"t/acme/config/queues/nothing":         `{}`,
		"t/acme/config/agents/nothing":         `{}`,
		"t/acme/of-a-later-version/x":          `{"new":true}`,
		"t/ghost/calls/x":                      `{"id":"x"}`,
		"t/ghost/config/tenant":                "garbage",
		"t//no-tenant":                         "garbage",
		"t/" + strings.Repeat("long", 100):     "garbage",
		"t/acme/calls/" + "control\x01in-name": "garbage",
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{at}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for key, value := range garbage {
		if _, err := client.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}

	c.start(t)
	if c.ready() != 200 {
		t.Errorf("/readyz: %d", c.ready())
	}
	text := c.said()
	for _, key := range []string{"calls/no-json", "calls/half", "config/queues/y", "config/queues/list", "config/agents/z", "config/numbers/77", "bindings/1002", "agents/1003", "outbox/no-json"} {
		if !strings.Contains(text, `"key":"`+key+`"`) {
			t.Errorf("no line of the log names %s", key)
		}
	}
	acme.talk(t, "after", "127.0.0.1", acme.agent(t, "1001")).hangUp(t)
	c.oneCDR(t, "acme", "after")
	acme.agent(t, "1002")
	for what, query := range map[string]string{"queue": "/v1/queues?limit=100", "agent": "/v1/agents?limit=100"} {
		if status, body, err := c.try("GET", query, "", "acme"); err != nil || status != 200 || strings.Contains(body, `"id":""`) {
			t.Errorf("a %s without a name: %d %s %v", what, status, body, err)
		}
	}
	if n := c.metrics(t)["dialtone_outbox_records"]; n != 0 {
		t.Errorf("%v records wait for delivery", n)
	}
	for key, value := range garbage { // it may be of a later version: nothing of it is lost
		reply, err := client.Get(ctx, key)
		if err != nil || len(reply.Kvs) != 1 || string(reply.Kvs[0].Value) != value {
			if key != "t/acme/bindings/1002" && key != "t/acme/agents/1003" { // those agents have lived since
				t.Errorf("%q is not as it was: %v %v", key, reply, err)
			}
		}
	}
	if c.end(t); !strings.Contains(c.said(), `"msg":"drained"`) {
		t.Errorf("the drain did not end by itself: %s", c.tail())
	}
}
