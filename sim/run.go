package sim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Exit codes that scripts rely on.
const (
	exitPassed       = 0
	exitFailed       = 1
	exitUsage        = 2
	exitInconclusive = 3
)

const usage = `Usage: dialtone sim [flags]

Runs the server's core in a virtual world: phones of many tempers, a network that loses,
repeats and reorders, a store that is slow or away, a node that crashes. One seed makes one
world. After each step the properties of the server are checked; the first that does not
hold ends the run with the last events in words and the command that makes it happen again.

Examples:
  dialtone sim --seed 42                  one world
  dialtone sim --seed 42 --trace out.txt  the same, every event and effect in a file
  dialtone sim --seeds 1..500             500 worlds, and which situations none of them met
  dialtone sim --seeds 1..500 --plant cdr-twice   does it find a known bug?
  dialtone sim --seeds 1..100 --nodes 3   three nodes, which die, sleep and are cut off
  dialtone sim --plants                   the list of known bugs
  dialtone sim --seeds 1..100 --json      for machines

Flags:
`

const exits = `
Exit codes: 0 passed, 1 a property did not hold, 2 bad usage, 3 inconclusive (interrupted,
or a world took more events than --steps allows).
`

// Run is the command "dialtone sim". It returns the exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("sim", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	seed := set.Uint64("seed", 1, "the world of this seed")
	seeds := set.String("seeds", "", "the worlds of `A..B`, both included")
	plant := set.String("plant", "", "plant a known bug in the core; see --plants")
	plants := set.Bool("plants", false, "list the known bugs and end")
	asJSON := set.Bool("json", false, "write the result as JSON")
	trace := set.String("trace", "", "write every event and effect to `FILE`; one seed only")
	nodes := set.Int("nodes", 0, "nodes of the cluster, 1 to 5; -1: as many as the seed draws (default: one node with a store of its own)")
	steps := set.Int("steps", 0, "most events of a world before it is inconclusive (default 3000000)")
	duration := set.Duration("duration", 0, "virtual time with faults and arrivals (default: drawn by the seed, 60s to 120s)")
	workers := set.Int("workers", runtime.NumCPU(), "worlds at a time")
	all := set.Bool("all", false, "go on after the first failure")
	marks := set.Bool("marks", false, "list how often each situation was met")
	if err := set.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			help(set, stdout)
			return exitPassed
		}
		return misuse(stderr, err.Error())
	}
	if set.NArg() > 0 {
		return misuse(stderr, fmt.Sprintf("unexpected argument %q", set.Arg(0)))
	}
	if *plants {
		return listPlants(stdout, *asJSON)
	}
	if *plant != "" && !slices.ContainsFunc(append(Plants(), ClusterPlants()...), func(p Plant) bool { return p.Name == *plant }) {
		return misuse(stderr, fmt.Sprintf("--plant %q: not a known bug; dialtone sim --plants lists them", *plant))
	}
	first, last := *seed, *seed
	if *seeds != "" {
		var err error
		if first, last, err = between(*seeds); err != nil {
			return misuse(stderr, err.Error())
		}
	}
	if *steps < 0 || *duration < 0 || *duration > 24*time.Hour || *workers < 1 {
		return misuse(stderr, "--steps and --duration must not be negative, --duration at most 24h, --workers at least 1")
	}
	if *nodes < -1 || *nodes > 5 {
		return misuse(stderr, "--nodes must be 1 to 5, or -1")
	}
	plan := Plan{First: first, Last: last, Plant: *plant, Nodes: *nodes, Chaos: *duration, Events: *steps, Workers: *workers, Recheck: 20, FirstOnly: !*all}
	if *trace != "" {
		if first != last {
			return misuse(stderr, "--trace needs a single --seed")
		}
		return traced(ctx, plan, *trace, *asJSON, *marks, stdout, stderr)
	}
	return execute(ctx, plan, *asJSON, *marks, stdout, stderr)
}

func help(set *flag.FlagSet, out io.Writer) {
	fmt.Fprint(out, usage)
	set.SetOutput(out)
	set.PrintDefaults()
	set.SetOutput(io.Discard)
	fmt.Fprint(out, exits)
}

func misuse(stderr io.Writer, text string) int {
	fmt.Fprintf(stderr, "dialtone sim: %s\nTry dialtone sim --help.\n", text)
	return exitUsage
}

// between reads A..B.
func between(s string) (first, last uint64, err error) {
	a, b, ok := strings.Cut(s, "..")
	if ok {
		if first, err = strconv.ParseUint(a, 10, 64); err == nil {
			last, err = strconv.ParseUint(b, 10, 64)
		}
	}
	if !ok || err != nil || last < first {
		return 0, 0, fmt.Errorf("--seeds %q: want A..B, two numbers in order, for example 1..500", s)
	}
	return first, last, nil
}

func traced(ctx context.Context, plan Plan, file string, asJSON, marks bool, stdout, stderr io.Writer) int {
	f, err := os.Create(file)
	if err != nil {
		return misuse(stderr, fmt.Sprintf("--trace: %v; name a file that can be written", err))
	}
	plan.Trace = f
	code := execute(ctx, plan, asJSON, marks, stdout, stderr)
	if err := f.Close(); err != nil {
		fmt.Fprintf(stderr, "dialtone sim: the trace is not complete: %v\n", err)
		return exitInconclusive
	}
	return code
}

func execute(ctx context.Context, plan Plan, asJSON, marks bool, stdout, stderr io.Writer) int {
	if total := plan.Last - plan.First + 1; total > 1 && isTerminal(stderr) {
		plan.Progress = func(done, failed int) {
			if done%10 == 0 || uint64(done) == total {
				fmt.Fprintf(stderr, "\r%d of %d worlds, %d failed ", done, total, failed)
			}
		}
		defer fmt.Fprintln(stderr)
	}
	sum := plan.Run(ctx)
	slices.SortFunc(sum.Failed, func(a, b Result) int { return int(min(1, max(-1, int64(a.Seed)-int64(b.Seed)))) })
	if asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(sum); err != nil {
			fmt.Fprintf(stderr, "dialtone sim: the result can't be written: %v\n", err)
			return exitInconclusive
		}
		return sum.exit()
	}
	sum.tell(stdout)
	sum.write(stdout, plan.First == plan.Last, marks)
	return sum.exit()
}

func (s *Summary) exit() int {
	code := exitPassed
	for _, r := range s.Failed {
		if r.Failure.Property != "inconclusive" {
			return exitFailed
		}
		code = exitInconclusive
	}
	if s.Cut && code == exitPassed {
		return exitInconclusive
	}
	return code
}

func (s *Summary) write(out io.Writer, single, marks bool) {
	verdict := "passed"
	switch s.exit() {
	case exitFailed:
		verdict = "FAILED"
	case exitInconclusive:
		verdict = "INCONCLUSIVE"
	}
	fmt.Fprintf(out, "%s: %d worlds, %d failed; %d calls, %d of them served; %d events, %s simulated in %s (%.0f simulated seconds per second and core)\n",
		verdict, s.Seeds, len(s.Failed), s.Calls, s.Served, s.Events, s.Virtual.Round(time.Second), s.Wall.Round(time.Millisecond), s.Speed())
	if s.Rechecks > 0 {
		fmt.Fprintf(out, "%d worlds ran twice and were equal event for event\n", s.Rechecks)
	}
	if marks {
		for _, what := range s.Marks.Sorted() {
			fmt.Fprintf(out, "  %8d  %s\n", s.Marks[what], what)
		}
	}
	if !single && len(s.Never) > 0 {
		fmt.Fprintf(out, "never met: %s\n", strings.Join(s.Never, "; "))
	}
}

func listPlants(out io.Writer, asJSON bool) int {
	if asJSON {
		// Plain values: there is nothing in them that can't be encoded.
		_ = json.NewEncoder(out).Encode(append(Plants(), ClusterPlants()...))
		return exitPassed
	}
	for _, p := range append(Plants(), ClusterPlants()...) {
		fmt.Fprintf(out, "%-28s %s\n", p.Name, p.Breaks)
	}
	return exitPassed
}

// isTerminal reports whether progress is welcome there.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
