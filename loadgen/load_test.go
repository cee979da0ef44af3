package loadgen

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// These tests wait for SIP's timers far more than they compute: more of them than there are cores
// run at a time, unless -parallel says otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("4")
	}
	os.Exit(m.Run())
}

// answering is a phone that answers every call at once and lets the caller hang up.
func answering(t *testing.T) netip.AddrPort {
	t.Helper()
	e, err := phone.Listen(phone.EndpointConfig{Target: phone.Target{Addr: netip.MustParseAddrPort("127.0.0.1:9")}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := e.Phone(phone.Config{User: "anybody", Voice: 1 << 50, Tone: 880})
	if err != nil {
		t.Fatal(err)
	}
	var taking sync.WaitGroup
	done := make(chan struct{})
	taking.Go(func() {
		for {
			select {
			case call := <-p.Incoming():
				taking.Go(func() { _ = call.Answer(t.Context()); <-call.Done() })
			case <-done:
				return
			}
		}
	})
	t.Cleanup(func() { close(done); e.Close(); taking.Wait() })
	return e.Addr()
}

// load runs the command in this process.
func load(t *testing.T, environ []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, wrong bytes.Buffer
	code = Load(t.Context(), args, environ, &out, &wrong)
	return code, out.String(), wrong.String()
}

// read reads what a run has written.
func read(t *testing.T, path string) (*measure.Result, []measure.Call) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	res, err := measure.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := os.Open(callsPath(path))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	var calls []measure.Call
	err = measure.EachCall(lines, func(_ int64, c *measure.Call) error { calls = append(calls, *c); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return res, calls
}

// On a loaded machine a run may say of itself that it was too slow. That is right, and no
// failure of a test; any other reason is.
var pacing = regexp.MustCompile(`^(send jitter|INVITEs left|the generator used|\d+ of \d+ packets were never sent|.*read too late$)`)

func onlyPacing(t *testing.T, res *measure.Result) {
	t.Helper()
	for _, reason := range res.Invalid {
		if !pacing.MatchString(reason) {
			t.Errorf("invalid: %s", reason)
		}
	}
}

func TestLoadAgainstAResponder(t *testing.T) {
	t.Parallel()
	target := answering(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "out.json")
	code, stdout, stderr := load(t, nil, "--target", "udp:"+target.String(), "--to", "sip:{600..601}@"+target.String(), "--rate", "10/s", "--duration", "2s",
		"--hold", "uniform:300ms..600ms", "--json", path, "--html", filepath.Join(dir, "out.html"), "--junit", filepath.Join(dir, "out.xml"), "--slo", "failed==0,dropped==0", "--seed", "5")
	res, calls := read(t, path)
	onlyPacing(t, res)
	if want := res.ExitCode(); code != want || code != exitPassed && code != exitInvalid {
		t.Errorf("exit code %d, the result says %d\n%s", code, want, stderr)
	}
	if res.Counts.Offered != 20 || res.Counts.Completed != 20 || len(calls) != 20 {
		t.Errorf("%+v, %d lines\n%s", res.Counts, len(calls), stdout)
	}
	heard := 0
	for _, c := range calls {
		if c.Due != measure.Micros(c.Index*100_000) || c.Caller != fmt.Sprintf("9%07d", c.Index+1) || c.Invited < c.Due || c.Answered < c.Invited || c.HungUp < c.Answered+290_000 || c.Status != 200 {
			t.Errorf("%+v", c)
		}
		if c.CallerEar != nil && c.CallerEar.Voice > 0 && c.CallerEar.Way == "stamp" && c.CallerEar.MOS > 1 {
			heard++
		}
	}
	if heard < 15 { // a call of 0.3 s may be too short on a loaded machine
		t.Errorf("%d of 20 callers heard the responder", heard)
	}
	for _, name := range []string{"out.html", "out.xml"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if code, stdout, stderr = load(t, nil, "recompute", path); code != exitPassed {
		t.Errorf("recompute: %d %s %s", code, stdout, stderr)
	}
	forge(t, callsPath(path))
	if code, stdout, _ = load(t, nil, "recompute", path); code != exitFailed || !strings.Contains(stdout, "DIFFERS") {
		t.Errorf("recompute of a forged file: %d %s", code, stdout)
	}
}

// forge makes one call a second faster.
func forge(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	var c measure.Call
	if err := json.Unmarshal(first, &c); err != nil {
		t.Fatal(err)
	}
	c.Answered += 1_000_000
	line, _ := json.Marshal(c)
	if err := os.WriteFile(path, append(append(line, '\n'), rest...), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The same seed is the same load, in any number of processes: who calls when, how long they
// talk, who hangs up.
func TestASeedIsALoad(t *testing.T) {
	t.Parallel()
	target := answering(t)
	plan := func(seed string) []any {
		path := filepath.Join(t.TempDir(), "out.json")
		load(t, nil, "--target", "udp:"+target.String(), "--to", "sip:600@"+target.String(), "--rate", "poisson:20/s", "--duration", "500ms", "--hold", "50ms", "--json", path, "--seed", seed, "--quiet")
		_, calls := read(t, path)
		var due []any
		for _, c := range calls {
			due = append(due, fmt.Sprintf("%d %s %d", c.Index, c.Caller, c.Due))
		}
		return due
	}
	sorted := func(lines []any) map[any]bool {
		set := map[any]bool{}
		for _, line := range lines {
			set[line] = true
		}
		return set
	}
	a, b, c := sorted(plan("3")), sorted(plan("3")), sorted(plan("4"))
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(a, c) {
		t.Error("another seed makes the same load")
	}
}

// An arrival that finds no line is dropped and counted; those after it are not late for it. (Where
// the machine stalls for seconds, so that the run is invalid, a line may be free again for a late one.)
func TestNoFreeLineIsADropNotADelay(t *testing.T) {
	t.Parallel()
	target := answering(t)
	path := filepath.Join(t.TempDir(), "out.json")
	code, _, _ := load(t, nil, "--target", "udp:"+target.String(), "--to", "sip:600@"+target.String(), "--rate", "20/s", "--duration", "1s", "--lines", "2", "--hold", "3s",
		"--json", path, "--slo", "dropped==0", "--quiet")
	res, calls := read(t, path)
	onlyPacing(t, res)
	if res.Counts.Completed+res.Counts.Dropped != 20 || res.Counts.Completed < 2 || res.Valid && res.Counts.Completed != 2 || code == exitPassed {
		t.Errorf("exit code %d, %+v", code, res.Counts)
	}
	for _, c := range calls {
		if c.Due != measure.Micros(c.Index*50_000) || c.Index < 2 && c.Outcome != measure.Completed || c.Outcome == measure.Dropped && c.Invited != measure.Never {
			t.Errorf("%+v", c)
		}
	}
}

func TestADeadTargetIsInvalidAndSaysSo(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for SIP's timers; not with -short")
	}
	// Nobody listens at the discard port: the kernel refuses what is sent there.
	path := filepath.Join(t.TempDir(), "out.json")
	code, stdout, _ := load(t, nil, "--target", "udp:127.0.0.1:9", "--to", "sip:600@127.0.0.1", "--rate", "5/s", "--duration", "400ms", "--patience", "1s", "--drain", "1s", "--json", path)
	res, _ := read(t, path)
	if code != exitInvalid || !strings.Contains(stdout, "no call got an answer") && !strings.Contains(strings.Join(res.Invalid, " "), "no call got an answer") {
		t.Errorf("exit code %d: %q\n%s", code, res.Invalid, stdout)
	}
}

func TestLoadLeavesNothingBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for SIP's timers; not with -short")
	}
	target := answering(t)
	run := func() {
		load(t, nil, "--target", "udp:"+target.String(), "--to", "sip:600@"+target.String(), "--rate", "20/s", "--duration", "500ms", "--hold", "100ms", "--quiet")
	}
	run() // what the first use opens for good, such as the resolver
	before := goleak.IgnoreCurrent()
	files := openFiles(t)
	for range 3 {
		run()
	}
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(45 * time.Second) // the responder's streams linger after a call
	for openFiles(t) > files && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
	}
	if n := openFiles(t); n > files {
		t.Errorf("%d open files, before %d", n, files)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func TestUsage(t *testing.T) {
	good := []string{"--target", "udp:127.0.0.1:5060", "--to", "sip:600@127.0.0.1", "--rate", "5/s", "--duration", "1s"}
	with := func(more ...string) []string { return append(good[:len(good):len(good)], more...) }
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no target":       {good[2:], "target is missing"},
		"unknown flag":    {with("--rates", "5"), "not defined: -rates"},
		"argument":        {with("go"), "takes flags only"},
		"objective":       {with("--slo", "setup_p98<1s"), "setup"},
		"workers":         {with("--workers", "0"), "--workers 0"},
		"no token":        {with("--coordinate", "127.0.0.1:0"), "DIALTONE_JOIN_TOKEN"},
		"directory":       {with("--json", "/nowhere/out.json"), "cannot be written"},
		"profile":         {[]string{"--profile", "/nowhere.yaml"}, "no such file"},
		"recompute":       {[]string{"recompute"}, "usage: dialtone loadgen recompute FILE"},
		"agents, no name": {with("--agents", "3"), "agents.uri is missing"},
	} {
		code, _, stderr := load(t, nil, c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.says) {
			t.Errorf("%s: exit code %d: %s\n  expected: %s", name, code, stderr, c.says)
		}
	}
	code, _, stderr := load(t, nil, "--help")
	for _, flag := range strings.Fields("target to rate duration hold agents agent-uri agent-password profile json html junit slo lines seed answer-after patience network jitter-buffer latency codec workers coordinate join local quiet") {
		if !strings.Contains(stderr, "\n  --"+flag+" ") {
			t.Errorf("--help does not mention --%s", flag)
		}
	}
	if code != exitPassed || !strings.Contains(stderr, "dialtone loadgen --profile load.yaml") {
		t.Errorf("--help: exit code %d", code)
	}
}
