package profile_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// parse reads a command line.
func parse(args []string, environ ...string) (profile.Profile, error) {
	fs := flag.NewFlagSet("loadgen", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	f := profile.Bind(fs)
	if err := fs.Parse(args); err != nil {
		return profile.Profile{}, err
	}
	return f.Profile(environ)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var common = strings.Fields("--target udp:127.0.0.1:5060 --to sip:5000@demo.localhost --rate 20/s --duration 60s " +
	"--hold 20s --agents 20 --agent-uri sip:{1001..1020}@demo.localhost --agent-password secret")

func TestTheFlagsOfTheCommonCase(t *testing.T) {
	p, err := parse(common)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Schedule()
	if err != nil {
		t.Fatal(err)
	}
	got := []any{p.Target.String(), p.To.At(7), s.Count(), s.Length(), p.Hold.Mean(), p.Agents.Count, p.Agents.URI.At(0), p.Agents.URI.At(19), string(p.Agents.Password), p.Domain}
	want := []any{"udp:127.0.0.1:5060", "sip:5000@demo.localhost", int64(1200), time.Minute, 20 * time.Second, 20, "sip:1001@demo.localhost", "sip:1020@demo.localhost", "secret", "demo.localhost"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

const file = `
target: udp:127.0.0.1:5060
to: sip:5000@demo.localhost
arrivals:
  - {rate: 20/s, for: 60s}
hold: 20s
agents:
  count: 20
  uri: sip:{1001..1020}@demo.localhost
`

// A file and flags that say the same make the same Profile: they share one table of keys.
func TestFileAndFlagsMakeTheSame(t *testing.T) {
	byFile, err := parse([]string{"--profile", write(t, "load.yaml", file)}, "DIALTONE_AGENT_PASSWORD=secret")
	if err != nil {
		t.Fatal(err)
	}
	byFlags, err := parse(common)
	if err != nil {
		t.Fatal(err)
	}
	a, err := json.Marshal(byFile)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(byFlags)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(a), string(b)); diff != "" {
		t.Error(diff)
	}
	if byFile.Agents.Password != byFlags.Agents.Password {
		t.Error("the variable and the flag give different passwords")
	}
}

const everything = `
target: tcp:[::1]:5070
to: 'sip:{5000..5001}@pbx.example:5070;user=phone'
caller: '+49{n:5}'
local: ::1
arrivals:
  - {rate: 10/s, for: 1s}
  - {rate: 0/s..10/s, for: 10s}
  - {rate: 'poisson:60/m', for: 10s}
  - {rate: 10/s..30/s, step: 10/s, for: 3s}
  - {trace: calls.csv, column: offset, for: 10s}
lines: 50
hold: uniform:10s..30s
patience: exp:30s
agent_hangs_up: 30%
agents:
  count: 5
  uri: sip:agent{n}@pbx.example
  password_file: pw
  answer_after: lognormal:4s,2s
  wrap_up: 3s
  behaviours:
    - {do: reject, share: 5%, status: 486}
    - do: hold
      share: 10%
      after: 2s
      for: 5s
    - {do: transfer, share: 0.05, to: sip:5001@pbx.example}
    - {do: ignore, share: 1%}
media:
  codec: pcma
  latency: marker
  network: delay=20ms,jitter=5ms,loss=0.1%
  jitter_buffer: 20ms
  priority: realtime
seed: 7
slo:
  - setup_p99<200ms
  - dropped==0
api:
  url: http://127.0.0.1:8080/
  key_file: key
  tenant: demo
`

func TestEverythingThatAFileSays(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"pw": "hidden\n", "key": "dt_key\r\n", "calls.csv": "id,offset\n1,0.5\n2,7\n3,99\n", "load.yaml": everything} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := parse([]string{"--profile", filepath.Join(dir, "load.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Schedule()
	if err != nil {
		t.Fatal(err)
	}
	got := []any{p.Target.Addr(), p.To.At(3), p.Caller.At(41), p.Domain, s.Length(), p.Lines, p.Hold.String(), p.Patience.String(), p.HangUp.String(),
		p.Agents.URI.At(4), string(p.Agents.Password), p.Agents.AnswerAfter.String(), len(p.Agents.Behaviours), p.Agents.Behaviours[1].For,
		p.Media, p.Seed, p.SLO, p.API.URL, string(p.API.Key)}
	want := []any{"[::1]:5070", "sip:5001@pbx.example:5070;user=phone", "+4900042", "pbx.example", 34 * time.Second, 50, "uniform:10s..30s", "exp:30s", "30%",
		"sip:agent5@pbx.example", "hidden", "lognormal:4s,2s", 4, 5 * time.Second,
		profile.Media{Codec: "pcma", Latency: "marker", Priority: profile.RealTime, JitterBuffer: 20 * time.Millisecond, Network: profile.Network{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.001}},
		uint64(7), []string{"setup_p99<200ms", "dropped==0"}, "http://127.0.0.1:8080", "dt_key"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// 10 + 50 + Poisson of 10 + 10+20+30 + the two of the trace that lie in its 10 s.
	if n := s.Count(); n < 10+50+60+2 || n > 10+50+60+2+40 {
		t.Errorf("%d arrivals", n)
	}
	travels(t, p)
}

// travels sends a profile to another process.
func travels(t *testing.T, p profile.Profile) {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var again profile.Profile
	if err := json.Unmarshal(text, &again); err != nil {
		t.Fatal(err)
	}
	twice, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(twice)); diff != "" {
		t.Errorf("a profile that went to another process differs: %s", diff)
	}
	if err := again.Check(); err != nil {
		t.Error(err)
	}
}

// The reference in the README is a profile that is accepted as it stands there.
func TestTheReadmesProfile(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	block, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no YAML in the README")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"load.yaml": block, "agents.secret": "pw", "operator.key": "key", "monday.csv": "offset\n1.5\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, err := parse([]string{"--profile", filepath.Join(dir, "load.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Arrivals) != 6 || len(p.Agents.Behaviours) != 4 || len(p.SLO) != 2 {
		t.Errorf("%+v", p)
	}
}

func TestFlagsGoBeforeTheFile(t *testing.T) {
	path := write(t, "load.yaml", file+"slo: [dropped==0]\n")
	p, err := parse([]string{"--profile", path, "--duration", "5s", "--hold", "1s", "--slo", "cut==0", "--slo", "failed==0"})
	if err != nil {
		t.Fatal(err)
	}
	s, _ := p.Schedule()
	if diff := cmp.Diff([]any{int64(100), time.Second, []string{"cut==0", "failed==0"}}, []any{s.Count(), p.Hold.Mean(), p.SLO}); diff != "" {
		t.Error(diff)
	}
	p, err = parse([]string{"--profile", path, "--rate", "1/s", "--duration", "3s"})
	if s, _ := p.Schedule(); err != nil || s.Count() != 3 {
		t.Errorf("%v", err)
	}
}

// Whoever writes something wrong is told where, what is near, and what is allowed.
func TestFileRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, says string }{
		"unknown":       {file + "holdd: 3s\n", "line 10: holdd is not a key; did you mean hold?; allowed are target, to, "},
		"in agents":     {strings.Replace(file, "count", "cuont", 1), "line 8: agents.cuont is not a key; did you mean agents.count?"},
		"in a phase":    {strings.Replace(file, "rate:", "rat:", 1), "line 5: rat is not a key; did you mean rate?; allowed are rate, step, for, trace, column"},
		"nothing near":  {file + "zzzzzzzz: 1\n", "line 10: zzzzzzzz is not a key; allowed are"},
		"rate":          {strings.Replace(file, "20/s", "20", 1), "line 5: rate: \"20\": must be a rate (20/s, 90/m)"},
		"span":          {strings.Replace(file, "hold: 20s", "hold: often", 1), "line 6: hold: \"often\": must be a duration (20s) or a distribution: uniform:"},
		"target":        {strings.Replace(file, "udp:", "sctp:", 1), "line 2: target: \"sctp:127.0.0.1:5060\": must be udp:HOST:PORT or tcp:HOST:PORT"},
		"to":            {strings.Replace(file, "to: sip:5000@", "to: 5000@", 1), "to: \"5000@demo.localhost\": must be a SIP URI"},
		"too few names": {strings.Replace(file, "count: 20", "count: 21", 1), "names 20 agents, but agents.count is 21"},
		"twice":         {file + "hold: 3s\n", "line 10: mapping key \"hold\" already defined"},
		"a list":        {file + "lines: [1, 2]\n", "line 10: lines: one value is allowed"},
		"a mapping":     {file + "lines: {n: 3}\n", "line 10: lines: one value is allowed"},
		"act":           {file + "  behaviours:\n    - {do: rejct, share: 5%}\n", "did you mean reject?"},
		"no status":     {file + "  behaviours:\n    - {do: reject, share: 5%}\n", "reject needs a status"},
		"shares":        {file + "  behaviours:\n    - {do: ignore, share: 60%}\n    - {do: ignore, share: 60%}\n", "add up to 120%"},
		"password":      {file + "  password: geheim\n", "agents.password is not a key; did you mean agents.password_file?"},
		"no trace":      {strings.Replace(file, "rate: 20/s", "trace: none.csv", 1), "arrivals, entry 1: trace: open"},
		"same callers":  {file + "caller: '100'\n", "each arrival needs its own"},
		"api":           {file + "api: {url: 'http://me:pw@host'}\n", "without a password in it"},
		"no calls":      {strings.Replace(file, "20/s", "0/s", 1), "not a single call would arrive"},
		"step":          {strings.Replace(file, "rate: 20/s", "rate: 1/s..1000000/s, step: 1/s", 1), "at most 1000 are allowed"},
		"syntax":        {"to: [\n", "line 1"},
		"empty":         {"", "is empty"},
		"two":           {file + "---\n" + file, "one YAML document is allowed"},
	} {
		_, err := parse([]string{"--profile", write(t, "load.yaml", c.text)})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v\n  expected: %s", name, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: the error shows a password", name)
		}
	}
}

func TestFlagsRefuse(t *testing.T) {
	without := func(flag string) (args []string) {
		for i := 0; i < len(common); i += 2 {
			if common[i] != flag {
				args = append(args, common[i], common[i+1])
			}
		}
		return args
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no target":   {without("--target"), "target is missing"},
		"no URI":      {without("--to"), "to is missing"},
		"no rate":     {without("--rate"), "--duration needs --rate"},
		"no duration": {without("--duration"), "--rate needs --duration"},
		"no pattern":  {without("--agent-uri"), "agents.uri is missing"},
		"lines":       {append(common[:len(common):len(common)], "--lines", "0"), "whole number, 1 to"},
		"network":     {append(common[:len(common):len(common)], "--network", "delay=fast"), "must be a duration"},
		"loss":        {append(common[:len(common):len(common)], "--network", "loss=200%"), "must be 0% to 100%"},
		"share":       {append(common[:len(common):len(common)], "--agent-hangs-up", "-1%"), "must be 0% to 100%"},
		"way":         {append(common[:len(common):len(common)], "--latency", "stmp"), "did you mean stamp?"},
		"local":       {append(common[:len(common):len(common)], "--local", "eth0"), "must be an address"},
	} {
		if _, err := parse(c.args); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v\n  expected: %s", name, err, c.says)
		}
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	p, err := parse(common, "DIALTONE_API_KEY=secret")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{string(text), fmt.Sprint(p), fmt.Sprintf("%+v", p), fmt.Sprintf("%#v", p), fmt.Sprintf("%s %q", p.Agents.Password, p.Agents.Password)} {
		if strings.Contains(shown, "\"secret\"") || strings.Contains(shown, ":secret") || strings.Contains(shown, " secret") {
			t.Errorf("shown: %s", shown)
		}
	}
}

func TestSpansHaveTheirMean(t *testing.T) {
	for _, text := range []string{"20s", "0s", "uniform:10s..30s", "exp:20s", "lognormal:20s,8s", "list:5s,10s,1m0s"} {
		s, err := profile.ParseSpan(text)
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != text {
			t.Errorf("%s is written as %s", text, s)
		}
		const n = 20_000
		var sum, squares float64
		for i := range int64(n) {
			d := s.Draw(arrival.Chance(1, text, i)).Seconds()
			if d < 0 {
				t.Fatalf("%s: %v", text, d)
			}
			sum, squares = sum+d, squares+d*d
		}
		mean := sum / n
		deviation := math.Sqrt(max(0, squares/n-mean*mean))
		if math.Abs(mean-s.Mean().Seconds()) > 5*deviation/math.Sqrt(n)+1e-6 {
			t.Errorf("%s: mean of %d draws %.3f s, stated %v", text, n, mean, s.Mean())
		}
		if text == "lognormal:20s,8s" && math.Abs(deviation-8) > 0.5 {
			t.Errorf("%s: standard deviation %.2f s", text, deviation)
		}
	}
	for _, text := range []string{"", "20", "exp:", "exp:0s", "uniform:3s..1s", "uniform:1s", "lognormal:1s", "list:", "-3s", "exp:1s,2s", "normal:3s", "25h", "1s,2s"} {
		if _, err := profile.ParseSpan(text); err == nil {
			t.Errorf("%q is allowed", text)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		text string
		at   int64
		want string
	}{
		{"sip:{n}@h", 0, "sip:1@h"}, {"9{n:7}", 41, "90000042"}, {"{1001..1020}", 0, "1001"}, {"{1001..1020}", 19, "1020"}, {"{1001..1020}", 20, "1001"},
		{"{08..11}", 1, "09"}, {"{0..0}x", 5, "0x"}, {"a{n}-{1..3}", 3, "a4-1"}, {"plain", 9, "plain"},
	} {
		p, err := profile.ParsePattern(c.text)
		if err != nil || p.At(c.at) != c.want {
			t.Errorf("%s at %d: %q %v, expected %q", c.text, c.at, p.At(c.at), err, c.want)
		}
	}
	for _, text := range []string{"{", "}", "{}", "{m}", "{n:0}", "{n:x}", "{3..1}", "{a..b}", "a b", "<sip:1@h>", "{{n}}", "{n:99}", "x}y"} {
		if _, err := profile.ParsePattern(text); err == nil {
			t.Errorf("%q is allowed", text)
		}
	}
}

// As many different texts as Distinct says, and no two arrivals share one where it says none.
func TestPatternsAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-c]{0,3}(\{(n|n:[1-9]|[1-9]\.\.9|0[1-5]\.\.12)\}[a-c]?){0,3}`).Draw(t, "pattern")
		p, err := profile.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		n, bounded := p.Distinct()
		if !bounded {
			n = 200
		}
		seen := map[string]bool{}
		for i := range int64(n) {
			seen[p.At(i)] = true
		}
		if len(seen) != n {
			t.Fatalf("%q has %d texts in its first %d", text, len(seen), n)
		}
		if bounded && p.At(int64(n)) != p.At(0) {
			t.Fatalf("%q does not begin anew after %d", text, n)
		}
	})
}

// Whom a number belongs to is read back from it, also where digits stand around it.
func TestPatternsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[a-c0-9+]{0,3}\{(n|n:[1-9])\}([a-c][0-9]?(\{[1-9]\.\.9\})?)?`).Draw(t, "pattern")
		p, err := profile.ParsePattern(text)
		if err != nil {
			t.Fatal(err)
		}
		i := rapid.Int64Range(0, 1e6).Draw(t, "i")
		if got, ok := p.Index(p.At(i)); !ok || got != i {
			t.Fatalf("%q: %q is read as %d %v, is %d", text, p.At(i), got, ok, i)
		}
	})
	p, _ := profile.ParsePattern("9{n:7}")
	for _, other := range []string{"", "9", "900000", "90000000", "9000001x", "1001", "91", "+90000001"} {
		if i, ok := p.Index(other); ok {
			t.Errorf("%q is taken for caller %d", other, i)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(file))
	f.Add([]byte("a: &x [*x]\n"))
	f.Add([]byte("agents: {behaviours: [{do: hold}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "p.yaml")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		p := profile.Default()
		if p.Read(path) == nil {
			_ = p.Check()
		}
	})
}

func FuzzValues(f *testing.F) {
	for _, text := range []string{"20/s", "poisson:1/s..5/s", "exp:20s", "sip:{1..5}@h", "udp:[::1]:5060", "delay=20ms,loss=1%", "5%"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := profile.ParseSpan(text); err == nil {
			if again, err := profile.ParseSpan(s.String()); err != nil || again.String() != s.String() {
				t.Errorf("span %q is written as %q", text, s)
			}
			if d := s.Draw(arrival.Chance(1, "", 1)); d < 0 || d > 24*time.Hour {
				t.Errorf("span %q draws %v", text, d)
			}
		}
		if p, err := profile.ParsePace(text); err == nil {
			if again, err := profile.ParsePace(p.String()); err != nil || again != p {
				t.Errorf("pace %q is written as %q", text, p)
			}
		}
		if p, err := profile.ParsePattern(text); err == nil {
			p.At(0)
			_, _ = p.Distinct()
			_ = p.URI()
			if i, ok := p.Index(text); ok && p.At(i) != text {
				t.Errorf("%q: %q is no text of it", text, text)
			}
		}
		if x, err := profile.ParseTarget(text); err == nil {
			if again, err := profile.ParseTarget(x.String()); err != nil || again != x {
				t.Errorf("target %q is written as %q", text, x)
			}
		}
		_, _ = profile.ParseNetwork(text)
	})
}
