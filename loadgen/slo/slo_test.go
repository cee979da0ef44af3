package slo

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// run is a result with some of everything.
func run() *measure.Result {
	r := &measure.Result{Valid: true, Metrics: map[string]measure.Distribution{}}
	for _, m := range measure.Metrics() {
		r.Metrics[m.Name] = measure.Distribution{Unit: m.Unit}
	}
	r.Metrics[measure.Setup] = measure.Distribution{Unit: measure.UnitTime, Count: 990, Min: 800, Mean: 2_500, P1: 900, P50: 2_000, P90: 4_000, P95: 6_000, P99: 200_000, P999: 310_000, Max: 400_000}
	r.Metrics[measure.MediaOneWay] = measure.Distribution{Unit: measure.UnitTime, Count: 1_000_000, P50: 48, P99: 59_999, Max: 70_000}
	r.Metrics["loss"] = measure.Distribution{Unit: measure.UnitRatio, Count: 1980, P99: 0.01, Max: 0.5}
	r.Metrics["mos"] = measure.Distribution{Unit: measure.UnitMOS, Count: 1980, Min: 3.2, P1: 3.9, P50: 4.4}
	r.Counts = measure.Counts{Offered: 1000, Attempted: 998, Completed: 990, Dropped: 2, Refused: 5, Abandoned: 3}
	r.Media = measure.Media{Expected: 1_000_000, Lost: 1_234}
	return r
}

func TestJudge(t *testing.T) {
	for text, want := range map[string]bool{
		"media_one_way_p99<60ms": true, "media_one_way_p99<59999us": false, "media_one_way_p99<=59999us": true, "media_one_way_p50<0.05ms": true,
		"setup_p99<200ms": false, "setup_p99<=200ms": true, "setup_p99<=0.2s": true, "setup_p99>199.9ms": true, "setup_p99==200ms": true, "setup_p99!=200ms": false,
		"setup_p1>=900us": true, "setup_p50<2.001ms": true, "setup_p90<=4ms": true, "setup_p95<=6ms": true, "setup_p999<=310ms": true, "setup_max<=400ms": true, "setup_min>=800us": true, "setup_mean==2.5ms": true,
		"setup_count>=990": true, "setup_count>990": false, "setup_p50<2000µs": false,
		"loss_p99<=1%": true, "loss_p99<1%": false, "loss_p99<=0.01": true, "loss_max<0.5": false, "loss<0.2%": true, "loss<=0.1%": false, "lost==1234": true,
		"mos_p1>=3.9": true, "mos_min>3.2": false, "mos_p50>4.3": true,
		"dropped==0": false, "dropped==2": true, "dropped<=2": true, "dropped!=2": false, "failed==0": true, "cut==0": true, "refused<5": false, "unanswered<1": true, "abandoned<=3": true,
		"offered==1000": true, "attempted>997": true, "completed>=990": true, "completed_ratio>=99%": true, "completed_ratio>0.99": false, "dropped_ratio<1%": true,
		// Nothing was measured: whatever is asked, that is not green.
		"teardown_p99<1s": false, "teardown_p99>=0s": false, "teardown_max!=5ms": false, "media_caller_hears_p99<60ms": false,
		"teardown_count==0": true, "teardown_count>0": false,
	} {
		set, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		v := set.Judge(run())[0]
		if v.Passed != want || v.SLO != text || v.Reason == "" {
			t.Errorf("%s: %+v, want passed %v", text, v, want)
		}
	}
}

func TestNoSamplesIsSaid(t *testing.T) {
	empty := &measure.Result{Metrics: map[string]measure.Distribution{}}
	for _, text := range []string{"teardown_p99<1s", "dropped==0", "completed_ratio>=0", "loss<1%", "mos_min>0"} {
		set, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if v := set.Judge(empty)[0]; v.Passed || v.Reason != "no samples" || v.Samples != 0 {
			t.Errorf("%s on an empty run: %+v", text, v)
		}
	}
}

func TestVerdictSaysWhatWasMeasured(t *testing.T) {
	set, err := Parse(" media_one_way_p99 < 60 ms , completed_ratio >= 99.5 % ,mos_p1>=3.6,dropped==0,setup_max<1s,media_one_way_p50<1ms")
	if err != nil {
		t.Fatal(err)
	}
	if got := set.String(); got != "media_one_way_p99<60ms,completed_ratio>=99.5%,mos_p1>=3.6,dropped==0,setup_max<1s,media_one_way_p50<1ms" {
		t.Errorf("written down as %s", got)
	}
	want := []measure.Verdict{
		{SLO: "media_one_way_p99<60ms", Metric: "media_one_way", Stat: "p99", Unit: "us", Measured: 59_999, Samples: 1_000_000, Passed: true, Reason: "59.999 ms"},
		{SLO: "completed_ratio>=99.5%", Metric: "completed_ratio", Unit: "ratio", Measured: 0.99, Samples: 1000, Reason: "99%"},
		{SLO: "mos_p1>=3.6", Metric: "mos", Stat: "p1", Unit: "mos", Measured: 3.9, Samples: 1980, Passed: true, Reason: "3.90"},
		{SLO: "dropped==0", Metric: "dropped", Measured: 2, Samples: 1000, Reason: "2"},
		{SLO: "setup_max<1s", Metric: "setup", Stat: "max", Unit: "us", Measured: 400_000, Samples: 990, Passed: true, Reason: "400 ms"},
		{SLO: "media_one_way_p50<1ms", Metric: "media_one_way", Stat: "p50", Unit: "us", Measured: 48, Samples: 1_000_000, Passed: true, Reason: "48 us"},
	}
	for i, v := range set.Judge(run()) {
		if v != want[i] {
			t.Errorf("got  %+v\nwant %+v", v, want[i])
		}
	}
}

func TestParseErrorsNameThePlaceAndTheRemedy(t *testing.T) {
	for text, want := range map[string][]string{
		"":                                 {"position 1: an objective is missing"},
		"  ":                               {"position 1: an objective is missing"},
		"dropped==0,":                      {"position 12: an objective is missing"},
		",dropped==0":                      {"position 1: an objective is missing"},
		"dropped==0,,failed==0":            {"position 12: an objective is missing"},
		"dropped":                          {"position 8: a comparison is missing"},
		"==0":                              {"position 1: the name of a figure is missing"},
		"dropped==0, setpu_p99<200ms":      {`position 13: there is no "setpu_p99"; did you mean setup_p99?`},
		"media_one_way_p99_9<5ms":          {"position 1", "did you mean media_one_way_p999?"},
		"media_oneway_p99<5ms":             {"did you mean media_one_way_p99?"},
		"droped==0":                        {"did you mean dropped?"},
		"banana<3":                         {`there is no "banana"`},
		"setup<200ms":                      {`"setup" needs one of its stats, such as setup_p99`},
		"setup_p99=200ms":                  {`position 10: "=" is not a comparison`},
		"setup_p99=<200ms":                 {`position 10: "=<" is not a comparison`},
		"setup_p99<>200ms":                 {`"<>" is not a comparison`},
		"setup_p99<200":                    {`position 11: "setup_p99" cannot be compared with "200"; a time needs a unit: us, ms or s`},
		"setup_p99<200%":                   {"a time needs a unit"},
		"setup_p99<200min":                 {"a time needs a unit"},
		"setup_p99<":                       {"position 11: a number is missing"},
		"setup_p99<ms":                     {`a number is missing before "ms"`},
		"setup_p99<-5ms":                   {`a number is missing before "-5ms"`},
		"setup_p99<1.2.3ms":                {`"1.2.3" is not a number`},
		"setup_p99<9999999999999999ms":     {"is not a number that can be compared"},
		"dropped<5%":                       {`"dropped" is a count and cannot be compared with %; dropped_ratio can`},
		"dropped<5ms":                      {"a count is a plain number"},
		"offered<5%":                       {"a count is a plain number"},
		"loss_p99<5ms":                     {"a ratio is a number from 0 to 1, or has %"},
		"loss_p99<5":                       {`"5" is above 1`},
		"completed_ratio>=101%":            {`"101%" is above 1`},
		"mos_p1>=3.6ms":                    {"MOS is a number from 1 to 4.5"},
		"mos_p1>=36":                       {"above every MOS"},
		"setup_count<5ms":                  {"a count is a plain number"},
		strings.Repeat("x", 65) + "<1":     {"longer than 64 letters"},
		"µµ<1,setup_p99<1":                 {"position 1"},
		"setup_p99<5µs,dropped==0,nope==1": {"position 26"},
		strings.Repeat("dropped==0,", 128) + "cut==0": {"at most 128 objectives"},
		strings.Repeat("dropped==0,", 1_000):          {"at most 8192 are read"},
	} {
		_, err := Parse(text)
		if err == nil {
			t.Errorf("%.60q was accepted", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.60q: %v; want %q", text, err, w)
			}
		}
		if len(text) <= mostText && !strings.Contains(err.Error(), "METRIC: setup ") {
			t.Errorf("%.60q: the error does not say what is allowed", text)
		}
	}
}

func TestParseList(t *testing.T) {
	set, err := ParseList([]string{"dropped==0", "setup_p99<200ms,cut==0"})
	if err != nil || set.String() != "dropped==0,setup_p99<200ms,cut==0" {
		t.Errorf("%v (%v)", set, err)
	}
	if _, err := ParseList([]string{"dropped==0", "cutt==0"}); err == nil || !strings.Contains(err.Error(), `objective 2, "cutt==0"`) {
		t.Errorf("%v", err)
	}
}

// A media objective asks of the generator twice the exactness.
func TestLimits(t *testing.T) {
	set, err := Parse("media_one_way_p999<=2ms,setup_p99<1us,media_agent_hears_p50<100us,mouth_to_ear_p99>1us")
	if err != nil {
		t.Fatal(err)
	}
	got := set.Limits(measure.DefaultLimits())
	want := measure.DefaultLimits()
	want.SendJitterP999, want.SendJitterP50 = 1_000, 50
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// Every figure can be asked for by its name, in its unit, and reads back as it was written.
func TestEveryFigureRoundTrips(t *testing.T) {
	all := names()
	if sorted := slices.Sorted(slices.Values(all)); len(slices.Compact(sorted)) != len(all) {
		t.Fatal("two figures share a name")
	}
	for _, name := range all {
		if f, err := find(name); err != nil || f.name() != name {
			t.Errorf("%s is found as %s (%v)", name, f.name(), err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var parts []string
		for range rapid.IntRange(1, 6).Draw(t, "objectives") {
			name := rapid.SampledFrom(all).Draw(t, "figure")
			f, err := find(name)
			if err != nil || f.name() != name {
				t.Fatalf("%s is found as %s (%v)", name, f.name(), err)
			}
			number := rapid.SampledFrom([]string{"0", "1", "0.5", ".25", "0.999"}).Draw(t, "number")
			suffix := rapid.SampledFrom(slices.Sorted(func(yield func(string) bool) {
				for s := range f.unit.suffixes() {
					if !yield(s) {
						return
					}
				}
			})).Draw(t, "unit")
			parts = append(parts, name+rapid.SampledFrom([]string{"<", "<=", ">", ">=", "==", "!="}).Draw(t, "comparison")+number+suffix)
		}
		set, err := Parse(strings.Join(parts, rapid.SampledFrom([]string{",", " , ", ",\n"}).Draw(t, "comma")))
		if err != nil {
			t.Fatal(err)
		}
		if got := set.String(); got != strings.Join(parts, ",") {
			t.Fatalf("%s, want %s", got, strings.Join(parts, ","))
		}
		again, err := Parse(set.String())
		if err != nil || !slices.Equal(again, set) {
			t.Fatalf("%v is read back as %v (%v)", set, again, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"media_one_way_p99<60ms,setup_p99<200ms,dropped==0", "mos_p1>=3.6", "loss<0.1%", "a<b", ",", "setup_p99 < 1 µs", "\xff<\xff", "==", "setup_p99<1e5ms"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		set, err := Parse(text)
		if err != nil {
			if set != nil || !strings.Contains(err.Error(), "\n") && len(text) <= mostText {
				t.Fatalf("%q: %v, %v", text, set, err)
			}
			return
		}
		again, err := Parse(set.String())
		if err != nil || !slices.Equal(set, again) {
			t.Fatalf("%q is %v, which is read as %v (%v)", text, set, again, err)
		}
		if len(set.Judge(run())) != len(set) || len(set) == 0 {
			t.Fatal("not every objective has a verdict")
		}
	})
}
