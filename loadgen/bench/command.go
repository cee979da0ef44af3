package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Report is what a benchmark has found: a file below bench/.
type Report struct {
	Schema  string            `json:"schema"` // "dialtone.bench/1"
	Started time.Time         `json:"started"`
	TookS   float64           `json:"took_s"`
	Program measure.Generator `json:"program"`
	Machine measure.Machine   `json:"machine"`
	Runs    int               `json:"runs"`
	Quick   bool              `json:"quick,omitempty"` // too short to quote
	Left    []string          `json:"left_out,omitempty"`
	Rows    []Row             `json:"rows"`
	Soak    []reading         `json:"soak,omitempty"`

	Silences []float64 `json:"silences_ms,omitempty"` // after each kill, one for each party of each call
}

// Exit codes, the same for every command of the rig.
const (
	exitPassed  = 0
	exitFailed  = 1
	exitUsage   = 2
	exitInvalid = 3
)

const help = `dialtone bench starts servers of its own on loopback and measures them: dialtone, and
beside it the peers that are installed (Kamailio with rtpengine as relay). sipp is the
independent generator of calls, dialtone loadgen that of audio.

  dialtone bench                       everything, about 40 minutes on two cores
  dialtone bench --only calls,relay    some experiments
  dialtone bench --quick               a short look; figures not to be quoted
  dialtone bench --goals               exit code 1 where a figure misses its goal
  dialtone bench --only soak --soak-rate 250 --soak-for 1h
  dialtone bench --only failover --kills 210       nodes of a cluster, killed one after the other

Experiments: calls, knee, growth, routing, relay, capacity, memory, ear; failover and soak only when named.
Exit code 0: measured; 1: a goal was missed (with --goals); 2: bad usage; 3: it could not be measured.

`

// experiment is one chapter of the benchmark.
type experiment struct {
	name  string
	needs []string // programs
	run   func(*Suite, context.Context) error
}

func experiments() []experiment {
	return []experiment{
		{"calls", []string{"sipp"}, (*Suite).callCost},
		{"knee", []string{"sipp"}, (*Suite).knee},
		{"growth", []string{"sipp"}, (*Suite).growth},
		{"routing", nil, (*Suite).routing},
		{"relay", nil, (*Suite).relay},
		{"capacity", nil, (*Suite).capacity},
		{"memory", nil, (*Suite).memory},
		{"ear", nil, (*Suite).ear},
		{"failover", nil, (*Suite).failover},
		{"soak", []string{"sipp"}, (*Suite).soak},
	}
}

// Command runs `dialtone bench`.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, help)
		fs.PrintDefaults()
	}
	only := fs.String("only", "", "experiments to run, separated by commas")
	quick := fs.Bool("quick", false, "short runs, one of each")
	runs := fs.Int("runs", 3, "repetitions of each figure, 1 to 20; the median counts")
	into := fs.String("into", "bench", "folder for the report")
	readme := fs.String("readme", "", "a README whose table is to be replaced")
	soakRate := fs.Int("soak-rate", 0, "calls/s of the soak, half of the knee as a rule")
	kills := fs.Int("kills", 210, "how many nodes failover kills")
	soakFor := fs.Duration("soak-for", time.Hour, "how long the soak lasts")
	goals := fs.Bool("goals", false, "fail where a figure misses its goal")
	asJSON := fs.Bool("json", false, "print the report as JSON")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitPassed
	case err != nil:
		return exitUsage
	case *runs < 1 || *runs > 20 || fs.NArg() > 0:
		fmt.Fprintln(stderr, "dialtone bench: takes no arguments, and 1 to 20 runs; see dialtone bench --help")
		return exitUsage
	}
	chosen, err := choose(*only)
	if err != nil {
		fmt.Fprintln(stderr, "dialtone bench:", err)
		return exitUsage
	}
	s := &Suite{runs: *runs, quick: *quick, kills: *kills, soakRate: *soakRate, soakFor: *soakFor, out: stderr}
	if s.quick {
		s.runs = 1
	}
	if *readme != "" {
		if err := (&Report{}).show(*readme, false); err != nil {
			fmt.Fprintln(stderr, "dialtone bench:", err)
			return exitUsage
		}
	}
	r, err := s.report(ctx, chosen)
	if r != nil { // also what was measured before something failed
		err = errors.Join(err, r.keep(*into, *readme, *quick))
	}
	if err != nil {
		fmt.Fprintln(stderr, "dialtone bench:", err)
		return exitInvalid
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(r)
	} else {
		fmt.Fprint(stdout, "\n", r.table())
	}
	if *goals && slices.ContainsFunc(r.Rows, func(row Row) bool { return !row.met() }) {
		return exitFailed
	}
	if *goals && len(r.Left) > 0 {
		return exitInvalid
	}
	return exitPassed
}

// choose picks the experiments named; when none is, all but those that take very long.
func choose(names string) ([]experiment, error) {
	all := experiments()
	if names == "" {
		return all[:len(all)-2], nil
	}
	var chosen []experiment
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(all, func(e experiment) bool { return e.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("--only %q: there is calls, knee, growth, routing, relay, capacity, memory, ear, failover, soak", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// report runs the experiments.
func (s *Suite) report(ctx context.Context, chosen []experiment) (*Report, error) {
	var err error
	if s.binary, err = os.Executable(); err != nil {
		return nil, err
	}
	if s.work, err = os.MkdirTemp("", "dialtone-bench-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(s.work)
	r := &Report{Schema: "dialtone.bench/1", Started: time.Now().UTC(), Program: measure.ThisGenerator(), Machine: measure.ThisMachine(), Runs: s.runs, Quick: s.quick}
	for _, e := range chosen {
		if names := missing(e.needs...); len(names) > 0 {
			s.leave(e.name, names)
			continue
		}
		if fault := e.run(s, ctx); fault != nil {
			err = fmt.Errorf("%s: %w", e.name, fault)
			break
		}
	}
	r.Rows, r.Left, r.Soak, r.Silences, r.TookS = s.Rows, s.Left, s.Readings, s.Silences, time.Since(r.Started).Seconds()
	return r, err
}

// keep writes the report to a file named for its moment, and the table to a README.
func (r *Report) keep(folder, readme string, quick bool) error {
	if quick {
		return nil // not to be quoted
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, r.Started.Format("2006-01-02T150405Z")+".json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if readme == "" {
		return nil
	}
	return r.show(readme, true)
}
