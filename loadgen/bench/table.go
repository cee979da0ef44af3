package bench

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// The lines between which the README shows the latest table.
const (
	tableBegin = "<!-- benchmark: made by `make bench`, do not edit -->"
	tableEnd   = "<!-- /benchmark -->"
)

// table is the report as Markdown: one line for each figure, and the ratio to the first
// figure of the same experiment and condition where a peer was measured beside dialtone.
func (r *Report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, Linux %s, commit %s; medians of %d runs on %d shared cores, load and server on the same machine.\n\n",
		r.Started.Format("2006-01-02"), r.Machine.CPU, r.Machine.Kernel, r.commit(), r.Runs, r.Machine.Cores)
	b.WriteString("| what | conditions | who | figure | goal | samples |\n|---|---|---|---:|---|---:|\n")
	first := map[[2]string]Row{}
	for _, row := range r.Rows {
		key := [2]string{row.Experiment, row.Condition}
		lead, again := first[key]
		what, condition, ratio := row.Experiment, row.Condition, ""
		if again {
			what, condition = "", ""
			if lead.Value > 0 {
				ratio = fmt.Sprintf(" (%s x %s)", figure(row.Value/lead.Value), lead.Subject)
			}
		} else {
			first[key] = row
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s %s%s | %s | %d |\n", what, condition, row.Subject, figure(row.Value), row.Unit, ratio, row.verdict(), row.Samples)
	}
	return b.String()
}

func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

func (r *Row) verdict() string {
	switch {
	case len(r.Doubts) > 0:
		return "the generator was too slow: no verdict"
	case r.Goal.Relation == "":
		return ""
	case r.met():
		return fmt.Sprintf("%s %s: met", r.Goal.Relation, figure(r.Goal.Bound))
	}
	return fmt.Sprintf("%s %s: **not met**", r.Goal.Relation, figure(r.Goal.Bound))
}

// show replaces the table in a README, or only checks that the marker lines are there.
func (r *Report) show(readme string, replace bool) error {
	text, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(tableBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !ok2 {
		return fmt.Errorf("%s: the lines %q and %q, between which the table belongs, are not there", readme, tableBegin, tableEnd)
	}
	if !replace {
		return nil
	}
	return os.WriteFile(readme, fmt.Appendf(nil, "%s%s\n%s%s%s", before, tableBegin, r.table(), tableEnd, after), 0o644)
}

// commit names what was measured; figures of edited files say so.
func (r *Report) commit() string {
	name := r.Program.Revision
	if len(name) > 8 {
		name = name[:8]
	}
	if r.Program.Modified {
		name += " (edited)"
	}
	return name
}
