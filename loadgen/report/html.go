package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

//go:embed page.html
var pageText string // embedding needs a variable; nothing writes to it

//go:embed page.css
var pageStyle string

// page is what the template shows.
type page struct {
	*measure.Result
	Style               template.CSS
	Word, Why, Tone     string
	Cards               []card
	Parts               []segment
	TotalP50, TotalP99  string
	Outcomes            []outcomeRow
	Status, Reason      []named
	CallCharts          []*chart
	SetupCharts         []*chart
	MediaCharts         []*chart
	Rows                []metricRow
	Quality             []metricRow
	Pace                []pace
	ProfileText, Lasted string
	Formula, ReadBy     string
	Facts               []fact
}

type card struct{ Name, Value, Unit, Note string }

type segment struct {
	Name, Key, P50, P99, How, Note, Samples string
	Share                                   float64 // of the bar, percent
}

type outcomeRow struct{ Name, N, Share, What string }

type metricRow struct {
	Name, Unit, What, Samples string
	None                      bool
	Values                    []string
}

type pace struct {
	Name, Got, Limit, Why string
	Broken                bool
}

type fact struct{ Name, Value string }

// HTML writes the run as one page that needs nothing else: no script, no font, no picture from
// anywhere.
func HTML(w io.Writer, r *measure.Result) error {
	p := page{Result: r, Style: template.CSS(pageStyle), Lasted: seconds(r.Duration), Formula: voice.Formula,
		Status: mostFrequent(r.Statuses, 20), Reason: mostFrequent(r.Reasons, 20)}
	p.Word, p.Why = verdict(r)
	p.Tone = map[string]string{"PASSED": "good", "VALID": "good", "FAILED": "bad", "INVALID": "bad"}[p.Word]
	var err error
	if p.CallCharts, p.SetupCharts, p.MediaCharts, err = charts(r); err != nil {
		return err
	}
	p.TotalP50, p.TotalP99 = millis(float64(r.Budget.Total.P50)), millis(float64(r.Budget.Total.P99))
	p.Cards, p.Parts, p.Pace, p.Facts = cards(r), segments(r.Budget), paces(r), facts(r)
	for _, o := range outcomes(r.Counts) {
		p.Outcomes = append(p.Outcomes, outcomeRow{o.name, grouped(o.n), percent(o.n, r.Counts.Offered), o.what})
	}
	for _, m := range measure.Metrics() {
		row := rowOf(m, r.Metrics[m.Name])
		p.Rows = append(p.Rows, row)
		switch m.Name {
		case "mos", "loss", "late", "jitter", "jitter_peak", "longest_gap":
			p.Quality = append(p.Quality, row)
		}
	}
	p.ReadBy = readBy(r.Media.By)
	var text bytes.Buffer
	if err := json.Indent(&text, r.Profile, "", "  "); err != nil {
		return fmt.Errorf("the profile in the result is not JSON: %w", err)
	}
	p.ProfileText = text.String()
	t, err := template.New("page").Funcs(template.FuncMap{"grouped": grouped[int64], "groupedU": grouped[uint64]}).Parse(pageText)
	if err != nil {
		return err
	}
	return t.Execute(w, p)
}

// readBy says how latency was read, and at how many ears.
func readBy(ways map[string]int64) string {
	words := map[string]string{"stamp": "by the packets' stamps", "marker": "by markers in the audio", "none": "not at all"}
	var all []string
	for _, way := range mostFrequent(ways, 3) {
		all = append(all, fmt.Sprintf("%s at %s ears", words[way.Name], grouped(way.N)))
	}
	return strings.Join(all, ", ")
}

// cards are the figures that a reader looks for first. One without samples says so.
func cards(r *measure.Result) []card {
	c := r.Counts
	all := []card{{"Calls completed", percent(c.Completed, c.Offered), "", fmt.Sprintf("%s of %s offered", grouped(c.Completed), grouped(c.Offered))}}
	add := func(title, metric, stat string, at func(measure.Distribution) float64, note func(measure.Distribution) string) {
		d := r.Metrics[metric]
		if d.Count == 0 {
			all = append(all, card{title, "-", "", "no samples"})
			return
		}
		all = append(all, card{title + ", " + stat, value(at(d), d.Unit), unitOf(d.Unit), note(d)})
	}
	p99 := func(d measure.Distribution) float64 { return d.P99 }
	p50And := func(samples string) func(measure.Distribution) string {
		return func(d measure.Distribution) string {
			return fmt.Sprintf("p50 %s %s, %s %s", value(d.P50, d.Unit), unitOf(d.Unit), grouped(d.Count), samples)
		}
	}
	if r.Metrics[measure.MouthToEar].Count > 0 {
		add("Mouth to ear", measure.MouthToEar, "p99", p99, p50And("packets"))
	} else {
		add("Mouth to ear, typical", measure.MouthToEarTypical, "p99", p99, p50And("ears"))
	}
	add("One way", measure.MediaOneWay, "p99", p99, p50And("packets"))
	add("Setup", measure.Setup, "p99", p99, p50And("calls"))
	add("Routing", "routing", "p99", p99, p50And("calls"))
	add("MOS", "mos", "p1", func(d measure.Distribution) float64 { return d.P1 }, func(d measure.Distribution) string {
		return fmt.Sprintf("p50 %s, lowest %s, %s ears", value(d.P50, d.Unit), value(d.Min, d.Unit), grouped(d.Count))
	})
	return all
}

func segments(b measure.Budget) []segment {
	if b.Total.Samples == 0 {
		return nil
	}
	sum := measure.Micros(1)
	for _, part := range b.Parts() {
		sum += part.P50
	}
	var all []segment
	for _, part := range b.Parts() {
		s := segment{Name: part.Name, Key: strings.ReplaceAll(part.Name, " ", "-"), P50: millis(float64(part.P50)), P99: millis(float64(part.P99)), How: part.How, Note: part.Note,
			Share: 100 * float64(part.P50) / float64(sum)}
		if part.How == measure.HowMeasured {
			s.Samples = grouped(part.Samples)
		}
		all = append(all, s)
	}
	return all
}

func rowOf(m measure.Metric, d measure.Distribution) metricRow {
	row := metricRow{Name: m.Name, Unit: unitOf(m.Unit), What: m.What, Samples: grouped(d.Count), None: d.Count == 0}
	if row.None {
		return row
	}
	if d.Negative > 0 {
		row.What += fmt.Sprintf(" (%s ended before they began, counted as 0)", grouped(d.Negative))
	}
	for _, v := range []float64{d.Min, d.Mean, d.P1, d.P50, d.P90, d.P95, d.P99, d.P999, d.Max} {
		row.Values = append(row.Values, value(v, m.Unit))
	}
	return row
}

// paces are the generator's figures beside its limits.
func paces(r *measure.Result) []pace {
	var all []pace
	late := func(metric, stat string, got float64, limit measure.Micros, why string) {
		if limit > 0 {
			all = append(all, pace{metric + " " + stat, millis(got) + " ms", "at most " + millis(float64(limit)) + " ms", why, got > float64(limit)})
		}
	}
	jitter, lateness, l, g := r.Metrics[measure.SendJitter], r.Metrics[measure.ArrivalLateness], r.Limits, r.Pacing
	late("send jitter", "p99.9", jitter.P999, l.SendJitterP999, "late packets are jitter and gaps that the server did not make")
	late("send jitter", "p99", jitter.P99, l.SendJitterP99, "half of what an objective asks of media latency")
	late("send jitter", "p50", jitter.P50, l.SendJitterP50, "half of what an objective asks of media latency")
	late("arrival lateness", "p99", lateness.P99, l.ArrivalLatenessP99, "late arrivals come in bunches: another load than the stated one")
	if l.CPUShare > 0 {
		all = append(all, pace{"own CPU", fmt.Sprintf("%.2f of %.2f cores", g.CPUCores, g.Cores), fmt.Sprintf("at most %.0f%%", 100*l.CPUShare), "above it the generator waits for itself", g.CPUCores > l.CPUShare*g.Cores})
	}
	if l.MissedTicks > 0 {
		due := float64(g.Packets + g.MissedTicks)
		all = append(all, pace{"packets never sent", fmt.Sprintf("%s of %s", grouped(g.MissedTicks), grouped(g.Packets+g.MissedTicks)), fmt.Sprintf("at most %.2f%%", 100*l.MissedTicks),
			"a gap that the server did not make", float64(g.MissedTicks) > l.MissedTicks*due})
	}
	return append(all,
		pace{"clock", string(g.Clock), "shared", "latency between two clocks means nothing", g.Clock != measure.SharedClock && r.Metrics[measure.MediaOneWay].Count > 0},
		pace{"arrivals without a line", grouped(r.Counts.Dropped), "counted, not limited", "dropped, never postponed", false})
}

func facts(r *measure.Result) []fact {
	g := r.Generator
	revision := g.Revision
	if g.Modified {
		revision += " with changes"
	}
	all := []fact{{"generator", fmt.Sprintf("dialtone %s, commit %s, %s", g.Version, revision, g.Go)}, {"shared by", workers(r.Workers)}}
	for _, m := range r.Machines {
		all = append(all, fact{m.Host, fmt.Sprintf("%s, %d cores, GOMAXPROCS %d, %s, %s %s (%s), %s", m.CPU, m.Cores, m.GOMAXPROCS, bytesIn(m.Memory), m.OS, m.Kernel, m.Arch, m.Go)})
	}
	if r.Calls != nil {
		all = append(all, fact{"calls file", fmt.Sprintf("%s, %s lines, %s, SHA-256 %s", r.Calls.Name, grouped(r.Calls.Lines), bytesIn(uint64(max(r.Calls.Bytes, 0))), r.Calls.SHA256)})
	}
	return all
}
