package arrival_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
)

func anyPhase(t *rapid.T) arrival.Phase {
	rate := rapid.Custom(func(t *rapid.T) arrival.Rate {
		return arrival.Rate(rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(0.01, 300), rapid.SampledFrom([]float64{1, 20, 0.1, 1.0 / 3})).Draw(t, "rate"))
	})
	ph := arrival.Phase{From: rate.Draw(t, "from"), Length: time.Duration(rapid.Int64Range(1e6, 20e9).Draw(t, "length"))}
	ph.To = ph.From
	if rapid.Bool().Draw(t, "ramp") {
		ph.To = rate.Draw(t, "to")
	}
	return ph
}

func integral(ph arrival.Phase) float64 {
	return float64(ph.From+ph.To) / 2 * ph.Length.Seconds()
}

// even makes a schedule without chance, of several phases.
func even(t *rapid.T) (*arrival.Schedule, []arrival.Phase) {
	phases := rapid.SliceOfN(rapid.Custom(anyPhase), 1, 5).Draw(t, "phases")
	s, err := arrival.New(phases, 1)
	if err != nil {
		t.Fatal(err)
	}
	return s, phases
}

// mixed has all kinds of phases.
func mixed(t *rapid.T) *arrival.Schedule {
	phases := rapid.SliceOfN(rapid.Custom(anyPhase), 1, 5).Draw(t, "phases")
	for i := range phases {
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			phases[i].Poisson = true
		case 1:
			offsets := rapid.SliceOfN(rapid.Int64Range(0, int64(phases[i].Length)), 1, 20).Draw(t, "trace")
			slices.Sort(offsets)
			for _, at := range offsets {
				phases[i].Offsets = append(phases[i].Offsets, time.Duration(at))
			}
		}
	}
	s, err := arrival.New(phases, rapid.Uint64().Draw(t, "seed"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func all(s *arrival.Schedule) (due []time.Duration) {
	for i := range s.Count() {
		due = append(due, s.Due(i))
	}
	return due
}

func TestDueTimesAscendWithinTheLength(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := mixed(t)
		last := time.Duration(0)
		for i, due := range all(s) {
			if due < last || due > s.Length() {
				t.Fatalf("arrival %d is due at %v: the one before at %v, the end is at %v", i, due, last, s.Length())
			}
			last = due
		}
	})
}

// At every moment as many have arrived as the rate adds up to, within one: also across the
// borders of phases, where nothing is lost and nothing comes twice.
func TestCountIsTheIntegralOfTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, phases := even(t)
		due := all(s)
		at := time.Duration(rapid.Int64Range(0, int64(s.Length())).Draw(t, "at"))
		expected, start := 0.0, time.Duration(0)
		for _, ph := range phases {
			part := min(max(at-start, 0), ph.Length)
			cut := ph
			cut.To = ph.From + (ph.To-ph.From)*arrival.Rate(part.Seconds()/ph.Length.Seconds())
			cut.Length = part
			expected += integral(cut)
			start += ph.Length
		}
		got := 0
		for _, d := range due {
			if d < at {
				got++
			}
		}
		if math.Abs(float64(got)-expected) > 1+1e-6 {
			t.Fatalf("%d arrivals before %v, the integral of the rate is %.6f", got, at, expected)
		}
	})
}

func TestConstantRateIsByIndexNotBySum(t *testing.T) {
	// 1/3 ms does not fit into whole nanoseconds: a sum of intervals would be 3 ms off here.
	s, err := arrival.New([]arrival.Phase{{From: 3000, To: 3000, Length: 1000 * time.Second}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.Count() != 3_000_000 {
		t.Fatalf("%d arrivals, expected 3,000,000", s.Count())
	}
	for _, i := range []int64{0, 1, 3, 1_000_000, 2_999_999} {
		want := time.Duration(math.Round(float64(i) / 3 * 1e6))
		if d := s.Due(i) - want; d < -1 || d > 1 {
			t.Errorf("arrival %d is due at %v, expected %v", i, s.Due(i), want)
		}
	}
}

func TestAPhaseTakesUpWhatTheOneBeforeLeft(t *testing.T) {
	second := time.Second
	s, err := arrival.New([]arrival.Phase{{From: 1, To: 1, Length: 2*second + second/2}, {From: 2, To: 2, Length: second}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Half an arrival is left over at 2.5 s; at 2/s the other half takes 0.25 s.
	want := []time.Duration{0, second, 2 * second, 2750 * time.Millisecond, 3250 * time.Millisecond}
	if diff := cmp.Diff(want, all(s)); diff != "" {
		t.Error(diff)
	}
}

func TestPoissonHasItsMeanAndVariance(t *testing.T) {
	const rate, length, runs = 50.0, 20.0, 300
	var sum, squares, gaps, short float64
	for seed := range uint64(runs) {
		s, err := arrival.New([]arrival.Phase{{From: rate, To: rate, Length: length * 1e9, Poisson: true}}, seed)
		if err != nil {
			t.Fatal(err)
		}
		n := float64(s.Count())
		sum, squares = sum+n, squares+n*n
		last := time.Duration(0)
		for _, due := range all(s) {
			gaps++
			if (due - last).Seconds() < math.Ln2/rate { // the median of an exponential gap
				short++
			}
			last = due
		}
	}
	mean := sum / runs
	variance := squares/runs - mean*mean
	// A Poisson count of mean 1000 has variance 1000; five standard errors of each.
	if sigma := math.Sqrt(rate * length / runs); math.Abs(mean-rate*length) > 5*sigma {
		t.Errorf("mean count %.1f, expected %v", mean, rate*length)
	}
	if sigma := rate * length * math.Sqrt(2.0/runs); math.Abs(variance-rate*length) > 5*sigma {
		t.Errorf("variance of the count %.1f, expected %v", variance, rate*length)
	}
	if sigma := 0.5 / math.Sqrt(gaps); math.Abs(short/gaps-0.5) > 5*sigma {
		t.Errorf("%.4f of the gaps are below the median of the exponential distribution, expected 0.5", short/gaps)
	}
}

func TestPoissonFollowsARamp(t *testing.T) {
	s, err := arrival.New([]arrival.Phase{{From: 0, To: 200, Length: 100 * time.Second, Poisson: true}}, 7)
	if err != nil {
		t.Fatal(err)
	}
	first := 0
	for _, due := range all(s) {
		if due < 50*time.Second {
			first++
		}
	}
	// A quarter of the area under a ramp from 0 is in its first half.
	if n := float64(s.Count()); math.Abs(n-10_000) > 500 || math.Abs(float64(first)-2500) > 250 {
		t.Errorf("%v arrivals, %d in the first half; expected about 10,000 and 2,500", n, first)
	}
}

func TestASeedIsARun(t *testing.T) {
	make := func(seed uint64) []time.Duration {
		s, err := arrival.New([]arrival.Phase{{From: 100, To: 100, Length: time.Minute, Poisson: true}}, seed)
		if err != nil {
			t.Fatal(err)
		}
		return all(s)
	}
	if diff := cmp.Diff(make(3), make(3)); diff != "" {
		t.Errorf("the same seed differs: %s", diff)
	}
	if cmp.Equal(make(3), make(4)) {
		t.Error("two seeds give the same arrivals")
	}
	a, b := arrival.Chance(1, "hold", 5).Uint64(), arrival.Chance(1, "hold", 5).Uint64()
	if a != b {
		t.Error("chance is not reproducible by index")
	}
	seen := map[uint64]bool{}
	for i := range int64(1000) {
		for _, purpose := range []string{"hold", "patience"} {
			seen[arrival.Chance(1, purpose, i).Uint64()] = true
		}
	}
	if len(seen) != 2000 {
		t.Errorf("%d different numbers of 2000", len(seen))
	}
}

func TestSharesAreThePartsOfTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := mixed(t)
		n := rapid.IntRange(1, 7).Draw(t, "workers")
		got := map[int64]time.Duration{}
		for k := range n {
			for i, due := range s.Share(k, n) {
				if i%int64(n) != int64(k) {
					t.Fatalf("worker %d of %d was given arrival %d", k, n, i)
				}
				if _, twice := got[i]; twice {
					t.Fatalf("arrival %d was given out twice", i)
				}
				got[i] = due
			}
		}
		for i, due := range all(s) {
			if d, ok := got[int64(i)]; !ok || d != due {
				t.Fatalf("arrival %d: %v in a share, %v by index", i, d, due)
			}
		}
		if int64(len(got)) != s.Count() {
			t.Fatalf("%d given out, there are %d", len(got), s.Count())
		}
	})
}

func TestSteps(t *testing.T) {
	phases, err := arrival.Steps(10, 30, 10, 10*time.Second, false)
	if err != nil {
		t.Fatal(err)
	}
	var total time.Duration
	var rates []arrival.Rate
	for _, ph := range phases {
		total += ph.Length
		rates = append(rates, ph.From)
		if ph.From != ph.To {
			t.Error("a step is not level")
		}
	}
	if diff := cmp.Diff([]arrival.Rate{10, 20, 30}, rates); diff != "" || total != 10*time.Second {
		t.Errorf("%s, in all %v", diff, total)
	}
	down, err := arrival.Steps(3, 1, 1, time.Second, true)
	if err != nil || len(down) != 3 || down[2].From != 1 || !down[0].Poisson {
		t.Errorf("down: %v %v", down, err)
	}
	for _, by := range []arrival.Rate{0, -1} {
		if _, err := arrival.Steps(1, 2, by, time.Second, false); err == nil {
			t.Errorf("a step of %v is allowed", by)
		}
	}
}

func TestScheduleRefuses(t *testing.T) {
	second := time.Second
	for name, phases := range map[string][]arrival.Phase{
		"nothing":     nil,
		"no length":   {{From: 1, To: 1}},
		"negative":    {{From: -1, To: 1, Length: second}},
		"not a rate":  {{From: arrival.Rate(math.NaN()), To: 1, Length: second}},
		"too fast":    {{From: 2e6, To: 1, Length: second}},
		"too many":    {{From: 1e6, To: 1e6, Length: time.Hour}},
		"descending":  {{Length: second, Offsets: []time.Duration{2, 1}}},
		"late offset": {{Length: second, Offsets: []time.Duration{2 * second}}},
		"too long":    {{From: 0, To: 0, Length: 20 * 24 * time.Hour}, {From: 0, To: 0, Length: 20 * 24 * time.Hour}},
	} {
		if _, err := arrival.New(phases, 1); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRateIsThePlannedOne(t *testing.T) {
	s, err := arrival.New([]arrival.Phase{{From: 0, To: 10, Length: 10 * time.Second}, {Length: 2 * time.Second, Offsets: []time.Duration{0, 1, 2, 3}}}, 1)
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]arrival.Rate{0: 0, 5 * time.Second: 5, 11 * time.Second: 2, 13 * time.Second: 0} {
		if got := s.Rate(at); math.Abs(float64(got-want)) > 1e-9 {
			t.Errorf("at %v: %v, expected %v", at, got, want)
		}
	}
}

func TestReadTrace(t *testing.T) {
	want := []time.Duration{0, 300 * time.Millisecond, 1500 * time.Millisecond}
	for name, c := range map[string]struct{ text, column string }{
		"lines":   {"# offsets\n1.5\n\n0\n300ms # a comment\n", ""},
		"windows": {"0\r\n0.3\r\n1.5\r\n", ""},
		"csv":     {"id,offset,who\n1,\"1.5\",a\n2,0,b\n3, 300ms,c\n", "offset"},
	} {
		got, err := arrival.ReadTrace(strings.NewReader(c.text), c.column)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name, c := range map[string]struct{ text, column, says string }{
		"a word":    {"1\nsoon\n", "", "line 2"},
		"negative":  {"-1\n", "", "line 1"},
		"nan":       {"NaN\n", "", "line 1"},
		"empty":     {"# none\n", "", "empty"},
		"no column": {"id,offset\n1,2\n", "due", "id, offset"},
		"no header": {"", "due", "header"},
		"csv word":  {"id,offset\n1,2\n2,x\n", "offset", "line 3"},
		"ragged":    {"id,offset\n1\n", "offset", "line 2"},
	} {
		if _, err := arrival.ReadTrace(strings.NewReader(c.text), c.column); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, expected an error that says %q", name, err, c.says)
		}
	}
}

func FuzzReadTrace(f *testing.F) {
	f.Add("1.5\n300ms\n", "")
	f.Add("id,offset\n1,2\n\"a\n", "offset")
	f.Fuzz(func(t *testing.T, text, column string) {
		offsets, err := arrival.ReadTrace(strings.NewReader(text), column)
		if err == nil && (len(offsets) == 0 || !slices.IsSorted(offsets) || offsets[0] < 0) {
			t.Errorf("%v", offsets)
		}
	})
}

func BenchmarkDuePoisson(b *testing.B) {
	s, err := arrival.New([]arrival.Phase{{From: 1000, To: 1000, Length: time.Hour, Poisson: true}}, 1)
	if err != nil {
		b.Fatal(err)
	}
	i := int64(0)
	for b.Loop() {
		s.Due(i % s.Count())
		i++
	}
}
