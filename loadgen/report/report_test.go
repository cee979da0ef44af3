package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

var update = flag.Bool("update", false, "write the golden files of this package anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (go test -update writes it anew): %s", path, diff)
	}
}

func TestSummary(t *testing.T) {
	r := sample(t)
	var b bytes.Buffer
	if err := Summary(&b, r, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "failed.txt", b.Bytes())
	b.Reset()
	r.Invalidate("the generator used 1.95 of its 2.00 cores, the limit is 90%: it may have waited for itself")
	if err := Summary(&b, r, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "invalid.txt", b.Bytes())
	b.Reset()
	empty, err := measure.NewRecorder().Result(sampleRun())
	if err != nil {
		t.Fatal(err)
	}
	if err := Summary(&b, empty, false); err != nil {
		t.Fatal(err)
	}
	golden(t, "empty.txt", b.Bytes())
}

// Each metric's line ends in its percentiles and begins with its number of samples.
func TestSummaryHasEveryMetricWithItsSamples(t *testing.T) {
	r := sample(t)
	var b bytes.Buffer
	if err := Summary(&b, r, false); err != nil {
		t.Fatal(err)
	}
	for _, m := range measure.Metrics() {
		d := r.Metrics[m.Name]
		line := regexp.MustCompile(`(?m)^ +` + m.Name + `\s.*$`).FindString(b.String())
		if (line != "") != (d.Count > 0) {
			t.Errorf("%s with %d samples: %q", m.Name, d.Count, line)
		}
		if d.Count > 0 && (!strings.Contains(line, grouped(d.Count)) || !strings.Contains(line, value(d.P99, m.Unit))) {
			t.Errorf("%s: %q lacks %d samples or p99 %s", m.Name, line, d.Count, value(d.P99, m.Unit))
		}
	}
}

// What a server wrote into a reason must not reach the terminal as an order.
func TestSummaryIsCleanOfTheNetworksControlSequences(t *testing.T) {
	r := sample(t)
	r.Reasons["busy \x1b]0;owned\x07\x1b[2J\r\nall is well"] = 9_999
	r.Invalidate("bad \x1b[31m words")
	var b bytes.Buffer
	if err := Summary(&b, r, false); err != nil {
		t.Fatal(err)
	}
	if i := bytes.IndexFunc(b.Bytes(), func(c rune) bool { return c < ' ' && c != '\n' }); i >= 0 {
		t.Errorf("control character in %q", b.String()[max(i-20, 0):i+20])
	}
}

func TestColourOnlyOnATerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if Colourful(w) {
		t.Error("colours in a pipe")
	}
	var b bytes.Buffer
	if err := Summary(&b, sample(t), true); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b") && os.Getenv("CLICOLOR_FORCE") == "" {
		t.Error("escape sequences in a buffer, which is no terminal")
	}
}

func TestProgressIsSilentInAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := NewProgress(w, time.Minute)
	p.Update(Moment{Elapsed: time.Second, Live: 3, SetupP99: measure.Never, OneWayP99: measure.Never})
	p.Close()
	w.Close()
	if text, err := io.ReadAll(r); err != nil || len(text) > 0 {
		t.Errorf("%q (%v)", text, err)
	}
}

func TestMomentInWords(t *testing.T) {
	for _, c := range []struct {
		m    Moment
		want string
	}{
		{Moment{SetupP99: measure.Never, OneWayP99: measure.Never}, "   0s  0 live  0 done"},
		{Moment{Elapsed: 61 * time.Second, Live: 1_234, Started: 5_000, Completed: 3_700, Failed: 2, Dropped: 1, SetupP99: 2_345, OneWayP99: 260},
			"  61s  1,234 live  3,700 done  2 failed  1 dropped  setup p99 2.345 ms  one way p99 0.260 ms"},
	} {
		if got := c.m.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestJUnit(t *testing.T) {
	r := sample(t)
	var failed, invalid bytes.Buffer
	if err := JUnit(&failed, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "failed.xml", failed.Bytes())
	r.Invalidate("the generator used 1.95 of its 2.00 cores & more")
	if err := JUnit(&invalid, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "invalid.xml", invalid.Bytes())
	for text, want := range map[string][3]int{failed.String(): {6, 2, 0}, invalid.String(): {6, 0, 6}} {
		var doc junitSuites
		if err := xml.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		s := doc.Suites[0]
		if got := [3]int{s.Tests, s.Failures, s.Errors}; got != want || len(s.Cases) != want[0] {
			t.Errorf("tests, failures, errors are %v, want %v", got, want)
		}
	}
}

func TestJSONIsReadBack(t *testing.T) {
	r := sample(t)
	path := filepath.Join(t.TempDir(), "result.json")
	if err := WriteFile(path, r, JSON); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := measure.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A report that breaks off leaves the file of the run before it.
func TestWriteFileIsAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "result.json")
	if err := os.WriteFile(path, []byte("before"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := WriteFile(path, nil, func(w io.Writer, _ *measure.Result) error {
		fmt.Fprint(w, "half")
		return syscall.ENOSPC
	})
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if text, _ := os.ReadFile(path); string(text) != "before" {
		t.Errorf("the file holds %q", text)
	}
	err = WriteFile(filepath.Join(t.TempDir(), "no", "result.json"), nil, JSON)
	if err == nil || !strings.Contains(err.Error(), "no such directory; create it first") {
		t.Errorf("%v", err)
	}
}

func TestCallsFileHoldsEveryCall(t *testing.T) {
	rec, calls := sampleRecorder(150)
	path := filepath.Join(t.TempDir(), "calls.jsonl")
	f, err := CreateCalls(path, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range calls {
		if err := f.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	file, err := f.Close()
	if err != nil {
		t.Fatal(err)
	}
	r, err := rec.Result(sampleRun())
	if err != nil {
		t.Fatal(err)
	}
	r.Calls = &file
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found, err := measure.Recompute(bytes.NewReader(text), r)
	if err != nil || len(found.Differences) > 0 || found.Lines != 150 || file.Name != "calls.jsonl" {
		t.Errorf("%+v %+v (%v)", file, found, err)
	}
	// Without packets a line is short, and the call that was given is left as it is.
	short, err := CreateCalls(filepath.Join(t.TempDir(), "short.jsonl"), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := short.Add(calls[0]); err != nil || len(calls[0].CallerEar.Packets) == 0 {
		t.Errorf("%v, %d packets left", err, len(calls[0].CallerEar.Packets))
	}
	if !file.Packets {
		t.Error("a file with packets does not say so")
	}
	if file, err = short.Close(); err != nil || file.Bytes > 1_500 || file.Packets {
		t.Errorf("%d bytes (%v)", file.Bytes, err)
	}
}

func TestFullDiskIsSaid(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	f, err := CreateCalls("/dev/full", true)
	if err != nil {
		t.Fatal(err)
	}
	_, calls := sampleRecorder(150)
	for i := range 300 {
		if err = f.Add(calls[i%150]); err != nil {
			break
		}
	}
	if err == nil || !strings.Contains(err.Error(), "/dev/full: the disk is full after ") || !strings.Contains(err.Error(), "choose a path on another disk") {
		t.Errorf("while writing: %v", err)
	}
	if _, err := f.Close(); err == nil || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("at the end: %v", err)
	}
}

func TestPage(t *testing.T) {
	r := sample(t)
	r.Reasons["<script>alert(1)</script>"] = 3
	r.Calls = &measure.CallsFile{Name: "calls.jsonl", Lines: 1200, Bytes: 5 << 20, SHA256: strings.Repeat("ab", 32), Packets: true}
	var b bytes.Buffer
	if err := HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, m := range measure.Metrics() {
		row := regexp.MustCompile(`(?s)<code>` + m.Name + `</code>.*?</tr>`).FindString(page)
		d := r.Metrics[m.Name]
		if d.Count > 0 && (!strings.Contains(row, ">"+grouped(d.Count)+"<") || !strings.Contains(row, ">"+value(d.P999, m.Unit)+"<")) || d.Count == 0 && !strings.Contains(row, "no samples") {
			t.Errorf("%s with %d samples: %q", m.Name, d.Count, row)
		}
	}
	for _, v := range r.Verdicts {
		if !strings.Contains(page, strings.NewReplacer("<", "&lt;", ">", "&gt;").Replace(v.SLO)) {
			t.Errorf("objective %s is missing", v.SLO)
		}
	}
	for _, want := range []string{"FAILED", "Ie,eff = Ie", "stated", "bench-1", "0123456789abcdef", strings.Repeat("ab", 32), "dialtone loadgen recompute RESULT.json", "jq -r", " calls.jsonl | sort", "&#34;hold&#34;: &#34;10s&#34;", "prefers-color-scheme"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing", want)
		}
	}
	// Nothing is loaded from anywhere, nothing runs, and nothing was taken for safe that is not.
	for _, never := range []string{`(?i)<script`, `(?i)\b(src|href|srcset|action|poster)\s*=`, `(?i)url\s*\(`, `(?i)@import`, `(?i)https?://`, `ZgotmplZ`, `NaN`, `#0102`} {
		if found := regexp.MustCompile(never).FindString(page); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	if n := strings.Count(page, "<svg "); n != 2*6 {
		t.Errorf("%d drawings, want 6 charts of 2 sizes", n)
	}
	var words []string
	for _, title := range regexp.MustCompile(`<figcaption><b>([^<]*)`).FindAllStringSubmatch(page, -1) {
		words = append(words, title[1])
	}
	want := []string{"Calls per second", "Concurrent calls", "Setup over time", "Signalling by percentile", "One-way latency over time", "One-way latency by percentile"}
	if !slices.Equal(words, want) {
		t.Errorf("charts %q, want %q", words, want)
	}
}

func TestPageOfAnEmptyRun(t *testing.T) {
	r, err := measure.NewRecorder().Result(measure.Run{Limits: measure.DefaultLimits()})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	if page := b.String(); !strings.Contains(page, "INVALID") || !strings.Contains(page, "nothing has been measured") || strings.Contains(page, "<svg") {
		t.Errorf("%.600s", page)
	}
}

// The curve by percentile is that of the metric: it ends at its maximum.
func TestChartByPercentileFollowsTheHistogram(t *testing.T) {
	r := sample(t)
	c, err := byPercentile(r, "t", []string{measure.Setup})
	if err != nil {
		t.Fatal(err)
	}
	d, k := r.Metrics[measure.Setup], c.Curves[0]
	at := func(x float64) float64 {
		i, _ := slices.BinarySearch(k.xs, x)
		return k.ys[min(i, len(k.ys)-1)] * 1_000
	}
	for x, want := range map[float64]float64{1: d.P90, 2: d.P99, 9: d.Max} {
		if got := at(x); got < want*0.93 || got > want*1.07 {
			t.Errorf("at %v the curve is at %v us, the metric at %v", x, got, want)
		}
	}
	if !slices.IsSorted(k.ys) {
		t.Error("the curve falls")
	}
}

func TestTicks(t *testing.T) {
	for high, want := range map[float64]float64{1: 0.5, 20: 5, 3: 1, 0.04: 0.01, 999: 500} {
		if got := niceStep(high, 4); got < want*0.999 || got > want*1.001 {
			t.Errorf("step for %v is %v, want %v", high, got, want)
		}
	}
	for v, want := range map[float64][2]float64{0.018: {0.01, 0.02}, 2.7: {2, 5}, 10: {10, 10}, 99: {50, 100}} {
		if low, high := round125(v, false), round125(v, true); low < want[0]*0.999 || low > want[0]*1.001 || high < want[1]*0.999 || high > want[1]*1.001 {
			t.Errorf("%v lies between %v and %v, want %v", v, low, high, want)
		}
	}
	if a := timeAxis(3600); a.ticks[1].Label != "0:10" || len(a.ticks) != 7 {
		t.Errorf("an hour has ticks %v", a.ticks)
	}
}

func TestFiguresInWords(t *testing.T) {
	for got, want := range map[string]string{
		grouped(int64(0)): "0", grouped(int64(999)): "999", grouped(int64(-1_234_567)): "-1,234,567", grouped(uint64(1_000)): "1,000",
		millis(48): "0.048", millis(9_999): "9.999", millis(9_999.9): "10.00", millis(58_460): "58.46", millis(123_456): "123.5", millis(2_441_000): "2,441",
		percent(0, 0): "-", percent(5, 5): "100%", percent(99_999, 100_000): "> 99.99%", percent(1, 100_000): "< 0.01%", percent(0, 9): "0.00%", percent(1, 3): "33.33%",
		value(0.0123, measure.UnitRatio): "1.230", value(4.409, measure.UnitMOS): "4.41",
		seconds(72_000_000): "72.0 s", seconds(3_600_000_000): "1h0m0s", bytesIn(8 << 30): "8.0 GiB", bytesIn(5): "5 bytes",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func BenchmarkCallsAdd(b *testing.B) {
	_, calls := sampleRecorder(100)
	for _, packets := range []bool{true, false} {
		b.Run(fmt.Sprintf("packets=%v", packets), func(b *testing.B) {
			f, err := CreateCalls(os.DevNull, packets)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := f.Add(calls[i%100]); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := f.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func BenchmarkRecorderAdd(b *testing.B) {
	r, calls := sampleRecorder(100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r.Add(calls[i%100])
	}
	text, err := json.Marshal(r.Counts())
	if err != nil || len(text) == 0 {
		b.Fatal(err)
	}
}
