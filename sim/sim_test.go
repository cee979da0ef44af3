package sim

import (
	"context"
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
)

func real(c node.Config) Core { return node.New(c) }

// workers leaves a core to whoever else tests.
func workers() int { return max(1, runtime.NumCPU()-1) }

// TestSeeds runs the worlds that every change must pass, and asks whether they were worth
// running: a situation that none of them met is not tested.
func TestSeeds(t *testing.T) {
	last := uint64(500)
	if testing.Short() {
		last = 50
	}
	plan := Plan{First: 1, Last: last, Workers: workers(), Recheck: 20}
	sum := plan.Run(context.Background())
	var b strings.Builder
	sum.tell(&b)
	if len(sum.Failed) > 0 {
		t.Fatalf("%d of %d worlds failed\n%s", len(sum.Failed), sum.Seeds, b.String())
	}
	t.Logf("%d worlds, %d calls (%d served), %.0f simulated seconds per second and core", sum.Seeds, sum.Calls, sum.Served, sum.Speed())
	if sum.Rechecks == 0 {
		t.Error("no world was run twice")
	}
	if !testing.Short() && len(sum.Never) > 0 {
		t.Errorf("never met in %d worlds: %s", sum.Seeds, strings.Join(sum.Never, "; "))
	}
}

// TestEqualSeedsMakeEqualWorlds compares every event and effect, by their hash.
func TestEqualSeedsMakeEqualWorlds(t *testing.T) {
	seen := map[string]uint64{}
	for seed := uint64(1); seed <= 12; seed++ {
		a, b := NewWorld(Draw(seed), real).Run(), NewWorld(Draw(seed), real).Run()
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Errorf("seed %d: two runs differ: %s after %d events, %s after %d", seed, a.Hash, a.Events, b.Hash, b.Events)
		}
		if other, twice := seen[a.Hash]; twice {
			t.Errorf("seeds %d and %d make the same world", other, seed)
		}
		seen[a.Hash] = seed
	}
}

// TestPlants plants each known bug and counts the worlds until it is found, from several
// first seeds. Not finding one is a bug of this package.
func TestPlants(t *testing.T) {
	starts, most := []uint64{1, 1000, 2000, 3000, 4000}, uint64(120)
	if testing.Short() {
		starts = starts[:1]
	}
	var all []int
	for _, plant := range Plants() {
		var kills []int
		by := map[string]bool{}
		for _, first := range starts {
			n := 0
			for seed := first; seed < first+most; seed++ {
				n++
				plan := Plan{Plant: plant.Name}
				if r := plan.world(seed, nil); r.Failure != nil {
					by[r.Failure.Property] = true
					break
				}
				if n == int(most) {
					t.Errorf("%s (%s) is not found in %d worlds from seed %d on", plant.Name, plant.Breaks, most, first)
				}
			}
			kills = append(kills, n)
		}
		slices.Sort(kills)
		all = append(all, kills...)
		t.Logf("%-26s median %2d worlds, worst %2d, by %s", plant.Name, kills[len(kills)/2], kills[len(kills)-1], strings.Join(keys(by), " "))
	}
	slices.Sort(all)
	t.Logf("%d plants: median %d worlds to find one, 95th percentile %d", len(Plants()), all[len(all)/2], all[len(all)*95/100])
}

func keys(m map[string]bool) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// TestPlantsChangeNothingElse: a name that no plant has is no plant.
func TestPlantsChangeNothingElse(t *testing.T) {
	o := Draw(7)
	plain := NewWorld(o, real).Run()
	o.Plant = "no-such-plant"
	if r := NewWorld(o, real).Run(); r.Hash != plain.Hash {
		t.Error("an unknown plant changes the world")
	}
}

// liar is a core that does one thing wrong from the first moment: the world and its
// checkers must work without the real core, too.
type liar struct {
	step func(core.Event, []core.Effect) []core.Effect
}

func (l *liar) Step(_ core.Time, ev core.Event, out []core.Effect) []core.Effect {
	return l.step(ev, out)
}
func (*liar) Deadline() (core.Time, core.Reason) { return core.Never, "" }
func (*liar) Valid() error                       { return nil }
func (*liar) Gauges() node.Gauges                { return node.Gauges{} }

func obedient(ev core.Event, out []core.Effect) []core.Effect {
	if c, ok := ev.(core.Commanded); ok {
		return append(out, core.Reply{Token: c.Token})
	}
	return out
}

func world(t *testing.T, step func(core.Event, []core.Effect) []core.Effect) *Failure {
	t.Helper()
	o := Draw(3)
	o.API, o.Agents = 0, 1
	r := NewWorld(o, func(node.Config) Core { return &liar{step} }).Run()
	if r.Failure == nil {
		t.Fatal("the world passed")
	}
	return r.Failure
}

func TestAnswerWithoutRecord(t *testing.T) {
	f := world(t, func(ev core.Event, out []core.Effect) []core.Effect {
		if r, ok := ev.(core.RequestReceived); ok && r.Request.Method == core.INVITE {
			return append(out, core.Respond{Txn: r.Txn, To: r.From, Response: r.Request.Reply(200, "tag")})
		}
		return obedient(ev, out)
	})
	if f.Property != "output-commit" {
		t.Errorf("found by %s: %s", f.Property, f.Text)
	}
}

func TestPanicIsReported(t *testing.T) {
	f := world(t, func(ev core.Event, out []core.Effect) []core.Effect {
		if r, ok := ev.(core.RequestReceived); ok && r.Request.Method == core.INVITE {
			panic("planted")
		}
		return obedient(ev, out)
	})
	if f.Property != "panic" || !strings.Contains(f.Text, "planted") || len(f.Last) == 0 {
		t.Errorf("got %s: %s, %d events", f.Property, f.Text, len(f.Last))
	}
}

func TestDeafServerIsNotLive(t *testing.T) {
	f := world(t, obedient)
	if f.Property != "left-behind" && f.Property != "liveness" && f.Property != "drain" {
		t.Errorf("found by %s: %s", f.Property, f.Text)
	}
}

func TestMediaOfUnknownLeg(t *testing.T) {
	f := world(t, func(ev core.Event, out []core.Effect) []core.Effect {
		if _, ok := ev.(core.RequestReceived); ok {
			return append(out, core.SetMedia{Leg: "int_x/1"})
		}
		return obedient(ev, out)
	})
	if f.Property != "media" {
		t.Errorf("found by %s: %s", f.Property, f.Text)
	}
}

func TestTimelineIsOrdered(t *testing.T) {
	var h timeline
	var got []core.Time
	for i := range 500 {
		h.push(moment{at: core.Time(i * 7919 % 101), tie: uint32(i * 31 % 7)})
	}
	var last moment
	for range 500 {
		m := h.pop()
		if before(&m, &last) && len(got) > 0 {
			t.Fatalf("%v comes after %v", m.at, last.at)
		}
		got, last = append(got, m.at), m
	}
	if _, ok := h.peek(); ok {
		t.Error("the heap is not empty")
	}
}

func TestOptionsAreSwarms(t *testing.T) {
	lossless, crashing, away := 0, 0, 0
	for seed := uint64(1); seed <= 200; seed++ {
		o := Draw(seed)
		if o.Loss < 0 || o.Loss > 0.3 || o.Tenants < 1 || o.Tenants > 3 || o.CallerTempers[0] == 0 || o.AgentTempers[0] == 0 {
			t.Fatalf("seed %d: %+v", seed, o)
		}
		if o.Loss == 0 {
			lossless++
		}
		if o.Crashes > 0 {
			crashing++
		}
		if o.Away > 0 {
			away++
		}
	}
	for name, n := range map[string]int{"lossless": lossless, "crashing": crashing, "with the store away": away} {
		if n < 20 || n > 180 {
			t.Errorf("%d of 200 worlds are %s", n, name)
		}
	}
}

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		args []string
		exit int
		says string
	}{
		{[]string{"--help"}, 0, "Examples:"},
		{[]string{"--seed", "2"}, 0, "passed: 1 worlds"},
		{[]string{"--seeds", "1..3", "--marks"}, 0, "caller hears an agent"},
		{[]string{"--plants"}, 0, "cdr-twice"},
		{[]string{"--seeds", "1..30", "--plant", "cdr-twice"}, 1, "dialtone sim --seed"},
		{[]string{"--seed", "1", "--steps", "50"}, 3, "INCONCLUSIVE"},
		{[]string{"--seeds", "5..1"}, 2, "want A..B"},
		{[]string{"--seeds", "x"}, 2, "want A..B"},
		{[]string{"--plant", "nonsense"}, 2, "not a known bug"},
		{[]string{"--nonsense"}, 2, "not defined"},
		{[]string{"stray"}, 2, "unexpected argument"},
		{[]string{"--seeds", "1..2", "--trace", "x"}, 2, "single --seed"},
	} {
		var out, errs strings.Builder
		if got := Run(context.Background(), c.args, &out, &errs); got != c.exit {
			t.Errorf("%v: exit %d, want %d: %s%s", c.args, got, c.exit, out.String(), errs.String())
		}
		if !strings.Contains(out.String()+errs.String(), c.says) {
			t.Errorf("%v: does not say %q:\n%s%s", c.args, c.says, out.String(), errs.String())
		}
	}
}

// TestEveryFailureIsTold: of each failed world there is the command that makes it again.
func TestEveryFailureIsTold(t *testing.T) {
	var out strings.Builder
	if code := Run(context.Background(), []string{"--seeds", "1..12", "--all", "--plant", "cdr-twice"}, &out, &out); code != exitFailed {
		t.Fatalf("exit %d: %s", code, out.String())
	}
	plan := Plan{First: 1, Last: 12, Plant: "cdr-twice", Workers: 1}
	sum := plan.Run(context.Background())
	if len(sum.Failed) <= inFull {
		t.Fatalf("only %d worlds failed: this shows nothing", len(sum.Failed))
	}
	for _, r := range sum.Failed {
		if !strings.Contains(out.String(), "Reproduce with:\n  "+r.Failure.Command+"\n") {
			t.Errorf("not told: %s", r.Failure.Command)
		}
	}
}

func TestCommandAsJSON(t *testing.T) {
	var out strings.Builder
	file := t.TempDir() + "/trace.txt"
	if code := Run(context.Background(), []string{"--seed", "1", "--plant", "cdr-twice", "--json", "--trace", file}, &out, &out); code != 1 {
		t.Fatalf("exit %d: %s", code, out.String())
	}
	var sum Summary
	if err := json.Unmarshal([]byte(out.String()), &sum); err != nil {
		t.Fatal(err)
	}
	if len(sum.Failed) != 1 || sum.Failed[0].Failure.Seed != 1 || !strings.Contains(sum.Failed[0].Failure.Command, "--seed 1 --plant cdr-twice") {
		t.Errorf("got %+v", sum.Failed)
	}
}

// BenchmarkWorld reports simulated seconds per second.
func BenchmarkWorld(b *testing.B) {
	var virtual float64
	for i := range b.N {
		virtual += NewWorld(Draw(uint64(i%100+1)), real).Run().Virtual.Seconds()
	}
	b.ReportMetric(virtual/b.Elapsed().Seconds(), "sim-s/s")
}
