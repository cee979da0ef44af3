package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestExitCodesAndMessages(t *testing.T) {
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{nil, badUsage, "", "dialtone dev"},
		{[]string{"help"}, passed, "dialtone dev", ""},
		{[]string{"--help"}, passed, "Exit codes", ""},
		{[]string{"sever"}, badUsage, "", "did you mean server?"},
		{[]string{"frobnicate"}, badUsage, "", `"frobnicate" is not a subcommand`},
		{[]string{"version"}, passed, "dialtone ", ""},
		{[]string{"version", "--xml"}, badUsage, "", "only --json"},
		{[]string{"dev", "--help"}, passed, "DIALTONE_OPERATOR_KEY", ""},
		{[]string{"dev", "--sip", "5060"}, badUsage, "", "HOST:PORT"},
		{[]string{"sim", "--help"}, passed, "--seeds", ""},
		{[]string{"sim", "--sed", "1"}, badUsage, "", "dialtone sim"},
		{[]string{"call", "--server", "nowhere"}, badUsage, "", "dialtone call"},
		{[]string{"server"}, badUsage, "", "operator_key is missing"},
	} {
		var stdout, stderr bytes.Buffer
		if code := run(c.args, nil, &stdout, &stderr); code != c.code {
			t.Errorf("%q: exit code %d, want %d", c.args, code, c.code)
		}
		if !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%q:\nstdout %q\nstderr %q", c.args, stdout.String(), stderr.String())
		}
		if c.code == passed && stderr.Len() > 0 || c.code != passed && stdout.Len() > 0 {
			t.Errorf("%q: results go to stdout, complaints to stderr\nstdout %q\nstderr %q", c.args, stdout.String(), stderr.String())
		}
	}
}

func TestVersionForMachines(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"version", "--json"}, nil, &stdout, &stderr); code != passed {
		t.Fatal(code, stderr.String())
	}
	var b map[string]string
	if err := json.Unmarshal(stdout.Bytes(), &b); err != nil || b["version"] == "" || b["go"] == "" {
		t.Errorf("%v: %s", err, stdout.String())
	}
}
