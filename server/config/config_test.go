package config

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const goodKey = "an-operator-key-of-24-ch"

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dialtone.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDevFlagsThatScriptsUse(t *testing.T) {
	args := []string{"--data", "/tmp/x", "--sip", "127.0.0.1:5070", "--http", "localhost:8090", "--rtp", "20000-20999",
		"--operator-key", "opkey", "--agent-password", "pw", "--ring-timeout", "2s", "--log-level", "debug",
		"--log-format", "json", "--drain-timeout", "1s", "--json"}
	cfg, err := Parse(Dev, args, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Data != "/tmp/x" || cfg.SIP.String() != "127.0.0.1:5070" || cfg.HTTP.String() != "127.0.0.1:8090" ||
		cfg.RTP != (Ports{20000, 20999}) || cfg.OperatorKey.Reveal() != "opkey" || cfg.AgentPassword.Reveal() != "pw" ||
		cfg.RingTimeout != 2*time.Second || cfg.LogLevel.String() != "DEBUG" || cfg.LogFormat != JSON ||
		cfg.DrainTimeout != time.Second || !cfg.JSON {
		t.Errorf("%+v", cfg)
	}
}

func TestDefaults(t *testing.T) {
	cfg, err := Parse(Dev, nil, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Data != "./.dialtone" || cfg.SIP.String() != "127.0.0.1:5060" || cfg.HTTP.String() != "127.0.0.1:8080" ||
		cfg.RTP != (Ports{16384, 32767}) || cfg.DrainTimeout != 30*time.Second || cfg.RingTimeout != 0 || cfg.JSON {
		t.Errorf("%+v", cfg)
	}
}

func TestFlagBeforeVariableBeforeFile(t *testing.T) {
	file := write(t, "operator_key: "+goodKey+"\ndata: file\nnode: file\nrtp: 20000-20999\n")
	environ := []string{"DIALTONE_DATA=variable", "DIALTONE_NODE=variable", "DIALTONE_CONFIG=" + file, "DIALTONE_RTP="}
	cfg, err := Parse(Server, []string{"--data", "flag"}, environ, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Data != "flag" || cfg.Node != "variable" || cfg.RTP.From != 20000 || cfg.OperatorKey.Reveal() != goodKey {
		t.Errorf("data %s, node %s, rtp %v", cfg.Data, cfg.Node, cfg.RTP)
	}
}

func TestEveryKeyHasAFlagAndAVariable(t *testing.T) {
	var help bytes.Buffer
	for _, command := range []Command{Dev, Server} {
		help.Reset()
		if _, err := Parse(command, []string{"--help"}, nil, &help); !errors.Is(err, flag.ErrHelp) {
			t.Fatal(err)
		}
		for _, k := range keysOf(command) {
			if !strings.Contains(help.String(), "--"+k.flag()+" ") || !strings.Contains(help.String(), k.variable()+" ") {
				t.Errorf("the help of %s lacks %s", command, k.name)
			}
		}
	}
}

// The sample that is shipped must load, apart from the files that it names.
func TestSampleLoads(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "operator.key")
	if err := os.WriteFile(secret, []byte(goodKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sample, err := os.ReadFile("../../deploy/dialtone.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(sample), "/etc/dialtone/operator.key", secret, 1)
	text = strings.NewReplacer("# etcd:", "etcd:", "#   endpoints:", "  endpoints:").Replace(text)
	cfg, err := Parse(Server, []string{"--config", write(t, text)}, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.OperatorKey.Reveal() != goodKey || len(cfg.Etcd) != 3 || cfg.Contact[core.UDP].String() != "203.0.113.7:5060" ||
		cfg.DrainTimeout != 10*time.Minute || cfg.Node != "node-1" {
		t.Errorf("%+v", cfg)
	}
}

func TestBadValuesSayWhatIsAllowed(t *testing.T) {
	for _, c := range []struct {
		command Command
		args    []string
		environ []string
		want    []string
	}{
		{Dev, []string{"--sip", "5060"}, nil, []string{"--sip", `"5060"`, "HOST:PORT"}},
		{Dev, []string{"--sip", "example.com:5060"}, nil, []string{"IP address"}},
		{Dev, []string{"--sip", "127.0.0.1:70000"}, nil, []string{"0 to 65535"}},
		{Dev, nil, []string{"DIALTONE_HTTP=nope"}, []string{"DIALTONE_HTTP", "HOST:PORT"}},
		{Dev, []string{"--rtp", "20001-20999"}, nil, []string{"even FROM"}},
		{Dev, []string{"--rtp", "30000-20000"}, nil, []string{"FROM-TO"}},
		{Dev, []string{"--rtp", "80-90"}, nil, []string{"1024"}},
		{Dev, []string{"--ring-timeout", "20"}, nil, []string{"with its unit", "100ms", "5m0s"}},
		{Dev, []string{"--ring-timeout", "10m"}, nil, []string{"5m0s"}},
		{Dev, []string{"--drain-timeout", "-1s"}, nil, []string{"--drain-timeout"}},
		{Dev, []string{"--log-level", "loud"}, nil, []string{"debug, info, warn or error"}},
		{Dev, []string{"--log-format", "xml"}, nil, []string{"text, json or auto"}},
		{Dev, []string{"--json=perhaps"}, nil, []string{"true or false"}},
		{Dev, []string{"--node", "Node 1"}, nil, []string{"a-z"}},
		{Dev, []string{"--max-calls", "0"}, nil, []string{"1 to 1000000"}},
		{Dev, []string{"--sip", "0.0.0.0:5060"}, nil, []string{"contact.udp"}},
		{Dev, []string{"--sip", "0.0.0.0:5060", "--contact-udp", "192.0.2.1:5060", "--contact-tcp", "192.0.2.1:5060"}, nil, []string{"media_address"}},
		{Dev, []string{"--contact-udp", "0.0.0.0:5060"}, nil, []string{"peers reach"}},
		{Dev, []string{"--operater-key", "x"}, nil, []string{"--operater-key is not a flag", "did you mean --operator-key?"}},
		{Dev, []string{"extra"}, nil, []string{`"extra" is not expected`}},
		{Dev, []string{"--etcd-endpoints", "127.0.0.1:2379"}, nil, []string{"not a flag"}},
		{Server, nil, nil, []string{"operator_key is missing", "DIALTONE_OPERATOR_KEY"}},
		{Server, nil, []string{"DIALTONE_OPERATOR_KEY=short"}, []string{"16 characters"}},
		{Server, []string{"--config", "/does/not/exist"}, nil, []string{"--config", "/does/not/exist"}},
		{Server, []string{"--etcd-endpoints", "nonsense"}, nil, []string{"list of HOST:PORT"}},
		{Server, []string{"--operator-key-file", "/does/not/exist"}, nil, []string{"a file that can be read"}},
	} {
		_, err := Parse(c.command, c.args, c.environ, io.Discard)
		var refused *Error
		if !errors.As(err, &refused) {
			t.Errorf("%v %v: %v", c.args, c.environ, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v %v: %q does not say %q", c.args, c.environ, err, want)
			}
		}
	}
}

func TestBadFileIsPointedAt(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{"data: x\nsipp: 127.0.0.1:1\n", "FILE:2:1: sipp is not a key; did you mean sip?\n   2 | sipp: …\n     | ^"},
		{"data: x\noperator_kye: a-secret-of-24-characters\n", "FILE:2:1: operator_kye is not a key; did you mean operator_key?\n   2 | operator_kye: …\n     | ^"},
		{"rtp: 1-2\n", "FILE:1:6: rtp: \"1-2\" is refused"},
		{"contact:\n  utp: 1.2.3.4:5060\n", "FILE:2:3: contact.utp is not a key; did you mean contact.udp?"},
		{"contact: 1.2.3.4:5060\n", "FILE:1:10: keys and values are allowed here"},
		{"- sip\n", "FILE:1:1: keys and values are allowed here"},
		{"sip: {a: b}\n", "FILE:1:1: sip: one value is allowed"},
		{"sip:\n", "FILE:1:1: sip: one value is allowed"},
		{"data: a\ndata: b\n", "FILE:2:1: mapping key \"data\" already defined"},
		{"data: a\n---\ndata: b\n", "FILE: one YAML document is allowed, here are 2"},
		{"sip: *there\n", "FILE:1:1: sip: one value is allowed"},
		{"agent_password: x\n", "FILE:1:1: agent_password is not a key"},
	} {
		path := write(t, c.content)
		_, err := Parse(Server, []string{"--config", path}, nil, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), strings.Replace(c.want, "FILE", path, 1)) {
			t.Errorf("%q:\n got %v\nwant %s", c.content, err, c.want)
		}
	}
}

func TestSecretsAreInNoMessage(t *testing.T) {
	bad := "hidden value"
	_, flagErr := Parse(Dev, []string{"--operator-key", bad}, nil, io.Discard)
	_, variableErr := Parse(Dev, nil, []string{"DIALTONE_AGENT_PASSWORD=" + bad}, io.Discard)
	_, fileErr := Parse(Server, []string{"--config", write(t, "operator_key: "+bad+"\n")}, nil, io.Discard)
	_, syntaxErr := Parse(Server, []string{"--config", write(t, "operator_key: {"+bad+"\n")}, nil, io.Discard)
	for _, err := range []error{flagErr, variableErr, fileErr, syntaxErr} {
		if err == nil || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%v", err)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	cfg, err := Parse(Dev, nil, []string{"DIALTONE_PORT=tcp://10.0.0.1:80", "DIALTONE_OPERATR_KEY=x", "DIALTONE_ETCD_ENDPOINTS=a:1"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Warnings) != 1 || !strings.Contains(cfg.Warnings[0], "did you mean DIALTONE_OPERATOR_KEY?") {
		t.Errorf("%q", cfg.Warnings)
	}
}

func TestNearest(t *testing.T) {
	words := []string{"dev", "server", "sim", "version", "help"}
	for word, want := range map[string]string{"sever": "server", "versoin": "version", "s": "", "ser": "server", "quux": "", "dve": "dev", "": ""} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzDocument(f *testing.F) {
	for _, seed := range []string{"", "sip: 1.2.3.4:5\n", "contact:\n  udp: x\n", "a: &x 1\nb: *x", "- - -", "? {a: 1}\n: 2", "data: |\n  x", "etcd: {endpoints: [a:1, b:2]}", "\t", "sip: !!binary x", "<<: *a"} {
		f.Add(seed)
	}
	keys := keysOf(Server)
	f.Fuzz(func(t *testing.T, content string) {
		d, err := parseDocument("f", []byte(content), keys)
		if err != nil {
			var refused *Error
			if !errors.As(err, &refused) {
				t.Fatalf("%T", err)
			}
			return
		}
		for _, k := range keys {
			if k.name != "operator_key_file" { // it reads a file
				_ = d.apply(k, defaults(Server))
			}
		}
	})
}
