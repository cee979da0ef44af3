package measure

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// linesOf is the calls file of calls.
func linesOf(t rapid.TB, calls []Call) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for i := range calls {
		if err := enc.Encode(&calls[i]); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestRecomputeAgreesWithAnHonestResult(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		calls := drawCalls(t, 10)
		r, err := recorded(calls)
		if err != nil {
			t.Fatal(err)
		}
		text := linesOf(t, calls)
		sum := sha256.Sum256(text)
		r.Calls = &CallsFile{Name: "calls.jsonl", Lines: int64(len(calls)), Bytes: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}
		got, err := Recompute(bytes.NewReader(text), throughJSON(t, r))
		if err != nil || len(got.Differences) > 0 {
			t.Fatal(err, got.Differences)
		}
		if got.Lines != int64(len(calls)) || len(got.Compared) != len(Metrics())-3 || len(got.Skipped) != 3 {
			t.Fatalf("%d lines, compared %d, skipped %v", got.Lines, len(got.Compared), got.Skipped)
		}
	})
}

// Someone makes one call look better, and leaves no digest to be caught by.
func TestRecomputeFindsAnEditOfOneLine(t *testing.T) {
	edits := map[string]func(*Call) bool{
		"setup":   func(c *Call) bool { c.Answered -= 20_000; return c.Answered >= c.Invited },
		"outcome": func(c *Call) bool { was := c.Outcome; c.Outcome = Completed; return was == Cut },
		"loss": func(c *Call) bool {
			ok := c.AgentEar != nil && c.AgentEar.Lost > 1
			if ok {
				c.AgentEar.Lost--
			}
			return ok
		},
		"mos": func(c *Call) bool {
			ok := c.CallerEar != nil && c.CallerEar.MOS < 4
			if ok {
				c.CallerEar.MOS += 0.1
			}
			return ok
		},
		"one packet": func(c *Call) bool {
			ok := c.CallerEar != nil
			if ok {
				c.CallerEar.Packets[0][1]++
			}
			return ok
		},
		"the median": func(c *Call) bool {
			ok := c.CallerEar != nil
			if ok {
				c.CallerEar.LatencyP50 = c.CallerEar.LatencyMax*2 + 10
			}
			return ok
		},
		"the peak": func(c *Call) bool {
			ok := c.CallerEar != nil && c.CallerEar.LatencyMax > 100
			if ok {
				c.CallerEar.LatencyMax /= 2
			}
			return ok
		},
		"status":     func(c *Call) bool { was := c.Status; c.Status = 404; return was == 503 },
		"arrival":    func(c *Call) bool { c.Due -= 2_000_000; return c.Due >= 0 },
		"index":      func(c *Call) bool { c.Index--; return c.Index >= 0 },
		"hang-up":    func(c *Call) bool { c.OtherBye -= 5_000; return c.HungUp >= 0 && c.OtherBye > c.HungUp },
		"free agent": func(c *Call) bool { was := c.FreeAgents; c.FreeAgents = 0; return was > 0 && c.Offered >= 0 },
	}
	calls := someCalls(9, 80)
	honest, err := recorded(calls)
	if err != nil {
		t.Fatal(err)
	}
	text := linesOf(t, calls)
	for name, edit := range edits {
		var edited []Call
		if err := EachCall(bytes.NewReader(text), func(_ int64, c *Call) error { edited = append(edited, *c); return nil }); err != nil {
			t.Fatal(err)
		}
		done := false
		for i := range edited {
			var c Call
			_ = json.Unmarshal(linesOf(t, edited[i:i+1]), &c)
			if edit(&c) {
				edited[i], done = c, true
				break
			}
		}
		if !done {
			t.Fatalf("%s: no call to edit", name)
		}
		got, err := Recompute(bytes.NewReader(linesOf(t, edited)), honest)
		if err != nil || len(got.Differences) == 0 {
			t.Errorf("%s: edited and not found (%v)", name, err)
		}
	}
	// What no figure depends on is still in the digest.
	sum := sha256.Sum256(text)
	honest.Calls = &CallsFile{Lines: int64(len(calls)), Bytes: int64(len(text)), SHA256: hex.EncodeToString(sum[:])}
	other := bytes.Replace(text, []byte(`"agent":"100`), []byte(`"agent":"200`), 1)
	got, err := Recompute(bytes.NewReader(other), honest)
	if err != nil || len(got.Differences) != 1 || got.Differences[0].Where != "calls.sha256" {
		t.Errorf("another agent: %v %v", got.Differences, err)
	}
	got, err = Recompute(bytes.NewReader(text[:bytes.IndexByte(text, '\n')+1]), honest)
	if err != nil || len(got.Differences) == 0 || len(got.Differences) > mostDifferences {
		t.Errorf("one line left: %d differences, %v", len(got.Differences), err)
	}
}

// Someone makes the result look better: each figure of each metric is compared, of those too
// that do not follow from the calls.
func TestRecomputeFindsAnEditOfTheResult(t *testing.T) {
	calls := someCalls(9, 60)
	honest, err := recorded(calls)
	if err != nil {
		t.Fatal(err)
	}
	text := linesOf(t, calls)
	var doc map[string]any
	whole, err := json.Marshal(honest)
	if err == nil {
		err = json.Unmarshal(whole, &doc)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{Setup, MediaOneWay, "mos", "loss", SendJitter, Register} {
		for _, stat := range []string{"count", "mean", "p1", "p50", "p90", "p95", "p99", "p99_9", "hdr_sum"} {
			d := doc["metrics"].(map[string]any)[m].(map[string]any)
			was := d[stat]
			d[stat] = was.(float64) + 1
			edited, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			d[stat] = was
			var r Result
			if err := json.Unmarshal(edited, &r); err != nil {
				t.Fatal(err)
			}
			got, err := Recompute(bytes.NewReader(text), &r)
			if err != nil || len(got.Differences) == 0 || !strings.HasPrefix(got.Differences[0].Where, m+".") {
				t.Errorf("%s %s: edited and not found: %v (%v)", m, stat, got.Differences, err)
			}
		}
	}
}

// Without the packets on the lines nothing can be said about them, and that is said.
func TestRecomputeWithoutPacketsSkipsThem(t *testing.T) {
	calls := someCalls(9, 60)
	r, err := recorded(calls)
	if err != nil {
		t.Fatal(err)
	}
	for i := range calls {
		for _, ear := range []*Audio{calls[i].CallerEar, calls[i].AgentEar} {
			if ear != nil {
				ear.Packets = nil
			}
		}
	}
	got, err := Recompute(bytes.NewReader(linesOf(t, calls)), r)
	if err != nil || len(got.Differences) > 0 {
		t.Fatal(err, got.Differences)
	}
	if words := strings.Join(got.Skipped, "\n"); len(got.Skipped) != 6 || !strings.Contains(words, "media_one_way: the calls file was written without each packet's latency") {
		t.Errorf("skipped %q", got.Skipped)
	}
}

func TestCallsFileIsReadStrictly(t *testing.T) {
	good := strings.TrimSpace(string(linesOf(t, someCalls(1, 1))))
	for name, text := range map[string]string{
		"not JSON":          "setup 5 ms",
		"an unknown field":  strings.Replace(good, `{"index"`, `{"colour":"red","index"`, 1),
		"two values":        good + good,
		"a broken tally":    `{"index":0,"outcome":"completed","caller_hears":{"latency_us_counts":[[5]]}}`,
		"tally, descending": `{"index":0,"outcome":"completed","caller_hears":{"latency_us_counts":[[5,1],[4,1]]}}`,
		"tally, no count":   `{"index":0,"outcome":"completed","caller_hears":{"latency_us_counts":[[5,0]]}}`,
		"no outcome":        `{"index":0}`,
		"another outcome":   `{"index":0,"outcome":"lost"}`,
		"a line too long":   `{"reason":"` + strings.Repeat("x", MostLine) + `"}`,
	} {
		_, err := Recompute(strings.NewReader(good+"\n"+text+"\n"), &Result{})
		if err == nil || !strings.Contains(err.Error(), "line") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Recompute(strings.NewReader(good+"\n"), &Result{}); err != nil {
		t.Errorf("a good line: %v", err)
	}
}

func FuzzRecompute(f *testing.F) {
	calls := someCalls(2, 12)
	f.Add(linesOf(f, calls))
	f.Add([]byte(`{"index":1,"outcome":"completed","due_us":9223372036854775807,"ended_us":1,"invited_us":9000000000000000000,"answered_us":-5}`))
	f.Add([]byte(`{"index":1,"outcome":"cut","caller_hears":{"expected":18446744073709551615,"lost":1,"latency_n":5,"latency_us_counts":[[86400000000,1099511627776]]}}`))
	r, err := recorded(calls)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Recompute(bytes.NewReader(text), r)
		if err == nil && len(got.Differences) == 0 && !bytes.Contains(text, []byte("outcome")) {
			t.Error("nothing was read and nothing differs")
		}
		again := NewRecorder()
		_ = EachCall(bytes.NewReader(text), func(_ int64, c *Call) error { again.Add(c); return nil })
		res, err := again.Result(soundRun())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := res.Series.Coarse(3); err != nil {
			t.Fatal(err)
		}
	})
}

// throughJSON is a result as another process reads it.
func throughJSON(t rapid.TB, r *Result) *Result {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return &back
}
