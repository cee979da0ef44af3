package bench

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

func TestTallyIsWhatSippWrote(t *testing.T) {
	name := filepath.Join(t.TempDir(), "stat.csv")
	text := "StartTime;ElapsedTime(C);OutgoingCall(C);SuccessfulCall(C);FailedCall(C);GenericCounter1(C);\n" +
		"a\tb;00:00:02:000000;10;4;0;1;\na\tb;00:00:05:000000;500;460;0;30;\na\tb;00:00:06:000000;500;480;20;30;\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readTally(name)
	if want := (tally{Offered: 500, Completed: 450, Refused: 30, Failed: 20, Pace: 100, Goodput: 86}); err != nil || got != want {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	if err := os.WriteFile(name, []byte("no line of figures\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readTally(name); err == nil {
		t.Error("a file without figures was read")
	}
}

func TestSumOverLabels(t *testing.T) {
	text := "# HELP dialtone_x About.\ndialtone_x{phase=\"a\"} 2\ndialtone_x{phase=\"b\"} 3\ndialtone_xy 100\n"
	for name, want := range map[string]float64{"dialtone_x": 5, "dialtone_xy": 100, "dialtone_z": 0} {
		if got := sum(text, name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if got := sum(text, `dialtone_x{phase="b"}`); got != 3 {
		t.Errorf("one line: %v", got)
	}
}

// The cost of a program includes that of its children, alive and ended.
func TestCostIncludesChildren(t *testing.T) {
	dir := t.TempDir()
	const burn = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
	p, err := start(dir, "burner", nil, "sh", "-c", "sh -c '"+burn+"'; (sh -c '"+burn+"; echo ready; sleep 60'; true) ; true")
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	if err := until(t.Context(), time.Minute, func() bool { return strings.Contains(p.tail(), "ready") }); err != nil {
		t.Fatal(err)
	}
	all, err := p.cpu()
	if err != nil {
		t.Fatal(err)
	}
	own := time.Duration(0)
	if err := p.family(func(pid int, _ []string) {
		if pid == p.cmd.Process.Pid {
			own++
		}
	}); err != nil || own != 1 {
		t.Fatalf("the program itself is in its family %d times: %v", own, err)
	}
	if all <= 0 {
		t.Errorf("two children worked, counted: %v", all)
	}
	p.stop()
	if _, err := p.cpu(); err == nil {
		t.Error("the cost of a program that has ended was read")
	}
}

func TestTableShowsRatiosGoalsAndNothingElse(t *testing.T) {
	r := &Report{Runs: 3, Started: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Machine: measure.Machine{CPU: "cpu", Cores: 2, Kernel: "6"},
		Program: measure.Generator{Revision: "0123456789", Modified: true}}
	s := &Suite{out: os.Stderr}
	s.add(Row{Experiment: "cost", Condition: "10 calls", Subject: "dialtone", Unit: "ms", Runs: []float64{3, 1, 2}, Samples: 9, Goal: AtMost(2)})
	s.add(Row{Experiment: "cost", Condition: "10 calls", Subject: "peer", Unit: "ms", Runs: []float64{8}, Samples: 9})
	s.add(Row{Experiment: "rate", Condition: "", Subject: "dialtone", Unit: "/s", Runs: []float64{400}, Goal: AtLeast(500)})
	r.Rows = s.Rows
	for _, want := range []string{"| cost | 10 calls | dialtone | 2 ms | <= 2: met | 9 |", "|  |  | peer | 8 ms (4 x dialtone) |  | 9 |", "400 /s | >= 500: **not met** |", "commit 01234567 (edited)"} {
		if !strings.Contains(r.table(), want) {
			t.Errorf("lacks %q:\n%s", want, r.table())
		}
	}
	name := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(name, []byte("before\n"+tableBegin+"\nold\n"+tableEnd+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // showing it twice shows it once
		if err := r.show(name, true); err != nil {
			t.Fatal(err)
		}
	}
	text, _ := os.ReadFile(name)
	if got := string(text); got != "before\n"+tableBegin+"\n"+r.table()+tableEnd+"\nafter\n" {
		t.Errorf("README:\n%s", got)
	}
	if err := os.WriteFile(name, []byte("no marks"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.show(name, false); err == nil {
		t.Error("a README without the marks was written")
	}
}

func TestUnknownExperimentIsRefused(t *testing.T) {
	if _, err := choose("calls,nonsense"); err == nil || !strings.Contains(err.Error(), "relay") {
		t.Errorf("%v", err)
	}
	chosen, err := choose("relay, calls")
	if err != nil || len(chosen) != 2 || chosen[0].name != "relay" {
		t.Errorf("%v %v", chosen, err)
	}
}
