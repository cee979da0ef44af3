package report

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"charm.land/lipgloss/v2"
	"charm.land/lipgloss/v2/table"
	"golang.org/x/term"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Colourful says whether a summary on out may have colours: it is a terminal, and neither
// NO_COLOR nor TERM=dumb asks for none.
func Colourful(out *os.File) bool {
	return term.IsTerminal(int(out.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Summary writes the run for a terminal: whether it is valid first, then objectives, calls,
// the budget and every metric that has samples. Without colour it is plain text.
func Summary(w io.Writer, r *measure.Result, colour bool) error {
	p := palette(colour)
	var b strings.Builder
	word, why := verdict(r)
	tone := map[string]lipgloss.Style{"PASSED": p.good, "VALID": p.good, "FAILED": p.bad, "INVALID": p.bad}[word]
	fmt.Fprintf(&b, "\n %s  %s\n", tone.Render(word), why)
	for _, reason := range r.Invalid {
		fmt.Fprintf(&b, "   %s %s\n", p.bad.Render("-"), clean(reason))
	}
	fmt.Fprintf(&b, "\n %s, %s, from %s, %s\n", clean(r.Target), seconds(r.Duration), r.Started.UTC().Format("2006-01-02 15:04:05 UTC"), workers(r.Workers))
	p.verdicts(&b, r)
	p.calls(&b, r)
	p.budget(&b, r.Budget)
	p.metrics(&b, r)
	p.pacing(&b, r)
	b.WriteString("\n")
	if colour {
		_, err := lipgloss.Fprint(w, b.String())
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func workers(n int) string {
	if n == 1 {
		return "1 generator"
	}
	return fmt.Sprintf("%d generators", n)
}

// paint is how things look.
type paint struct{ good, bad, dim, strong lipgloss.Style }

func palette(colour bool) paint {
	if !colour {
		return paint{}
	}
	return paint{
		good:   lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Green),
		bad:    lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red),
		dim:    lipgloss.NewStyle().Faint(true),
		strong: lipgloss.NewStyle().Bold(true),
	}
}

func (p paint) heading(b *strings.Builder, text string) {
	fmt.Fprintf(b, "\n %s\n", p.strong.Render(text))
}

func (p paint) verdicts(b *strings.Builder, r *measure.Result) {
	if len(r.Verdicts) == 0 {
		return
	}
	p.heading(b, "Objectives")
	var rows [][]string
	for _, v := range r.Verdicts {
		word := p.good.Render("met")
		switch {
		case !r.Valid:
			word = p.bad.Render("unknown")
		case !v.Passed:
			word = p.bad.Render("MISSED")
		}
		rows = append(rows, []string{word, v.SLO, v.Reason, grouped(v.Samples) + " samples"})
	}
	b.WriteString(p.grid(nil, rows, 3))
}

func (p paint) calls(b *strings.Builder, r *measure.Result) {
	p.heading(b, "Calls")
	c := r.Counts
	var rows [][]string
	for _, line := range outcomes(c) {
		if line.n == 0 && line.quiet {
			continue
		}
		rows = append(rows, []string{grouped(line.n), line.name, percent(line.n, c.Offered), line.what})
	}
	b.WriteString(p.grid(nil, rows, 0, 2))
	for _, reason := range mostFrequent(r.Reasons, 5) {
		fmt.Fprintf(b, "   %s x %s\n", grouped(reason.N), clean(reason.Name))
	}
}

// outcome is a line of the table of calls. A quiet one is left out where it is 0.
type outcome struct {
	name, what string
	n          int64
	quiet      bool
}

func outcomes(c measure.Counts) []outcome {
	return []outcome{
		{"offered", "arrivals that were due", c.Offered, false},
		{"completed", "answered, talked as long as planned, hung up", c.Completed, false},
		{"abandoned", "the caller gave up before an agent answered", c.Abandoned, true},
		{"refused", "a final status of 300 or more", c.Refused, true},
		{"unanswered", "the server ended it before an agent answered", c.Unanswered, true},
		{"cut", "the server ended it while the two talked", c.Cut, true},
		{"failed", "no answer, a broken message, no port, no connection", c.Failed, true},
		{"dropped", "no free line in the generator: never dialled, never postponed", c.Dropped, false},
	}
}

func (p paint) metrics(b *strings.Builder, r *measure.Result) {
	p.heading(b, "Measured")
	var rows [][]string
	for _, m := range measure.Metrics() {
		d := r.Metrics[m.Name]
		if d.Count == 0 {
			continue
		}
		row := []string{m.Name, unitOf(m.Unit), grouped(d.Count)}
		for _, v := range []float64{d.Min, d.P50, d.P90, d.P99, d.P999, d.Max} {
			row = append(row, value(v, m.Unit))
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		b.WriteString("   nothing\n")
		return
	}
	b.WriteString(p.grid([]string{"", "", "samples", "min", "p50", "p90", "p99", "p99.9", "max"}, rows, 2, 3, 4, 5, 6, 7, 8))
}

func (p paint) pacing(b *strings.Builder, r *measure.Result) {
	g := r.Pacing
	p.heading(b, "The generator itself")
	fmt.Fprintf(b, "   %s RTP packets sent, %s never sent; %.2f of %.2f cores used; clock %s\n", grouped(g.Packets), grouped(g.MissedTicks), g.CPUCores, g.Cores, g.Clock)
}

// budget is the way from mouth to ear as one bar.
func (p paint) budget(b *strings.Builder, u measure.Budget) {
	if u.Total.Samples == 0 {
		return
	}
	p.heading(b, "Mouth to ear")
	fmt.Fprintf(b, "   %s ms p50, %s ms p99, measured (%s samples)\n   ", p.strong.Render(millis(float64(u.Total.P50))), p.strong.Render(millis(float64(u.Total.P99))), grouped(u.Total.Samples))
	const width = 60
	sum, fills := measure.Micros(0), []string{"█", "▓", "█", "▒"}
	for _, part := range u.Parts() {
		sum += part.P50
	}
	var words []string
	for i, part := range u.Parts() {
		cells := 0
		if part.P50 > 0 {
			cells = max(1, int(math.Round(width*float64(part.P50)/float64(max(sum, 1)))))
		}
		fill := strings.Repeat(fills[i], cells)
		if part.How == measure.HowMeasured {
			fill = p.good.Render(strings.Repeat("|", cells))
		}
		b.WriteString(fill)
		how := part.How
		if part.How == measure.HowMeasured {
			how = "measured, p99 " + millis(float64(part.P99))
		}
		words = append(words, fmt.Sprintf("%s %s ms (%s)", part.Name, millis(float64(part.P50)), how))
	}
	b.WriteString("\n   " + p.dim.Render(strings.Join(words, " + ")) + "\n")
}

// grid is a table; right are the columns that hold numbers.
func (p paint) grid(headers []string, rows [][]string, right ...int) string {
	t := table.New().Border(lipgloss.HiddenBorder()).BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).BorderColumn(false).Rows(rows...).
		StyleFunc(func(row, col int) lipgloss.Style {
			s := lipgloss.NewStyle().PaddingLeft(2)
			if col == 0 {
				s = s.PaddingLeft(3)
			}
			for _, c := range right {
				if c == col {
					s = s.Align(lipgloss.Right)
				}
			}
			if row == table.HeaderRow {
				s = s.Inherit(p.dim)
			}
			return s
		})
	if headers != nil {
		t = t.Headers(headers...)
	}
	var b strings.Builder
	for line := range strings.Lines(t.Render()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}
