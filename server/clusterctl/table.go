package clusterctl

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/lipgloss/v2"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

// paint is how things look on a terminal; its zero value is plain text.
type paint struct{ good, bad, dim, strong lipgloss.Style }

// paintFor returns colours for a terminal that wants them (https://no-color.org).
func paintFor(w io.Writer) paint {
	file, ok := w.(*os.File)
	if !ok {
		return paint{}
	}
	if _, color := telemetry.Terminal(file); !color {
		return paint{}
	}
	return paint{
		good:   lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Green),
		bad:    lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Red),
		dim:    lipgloss.NewStyle().Faint(true),
		strong: lipgloss.NewStyle().Bold(true),
	}
}

// text is the report for people: first whether all is well and what is not.
func (p paint) text(r *report) string {
	var b strings.Builder
	word := p.good.Render("WELL")
	if !r.Well {
		word = p.bad.Render("WRONG")
	}
	answer := 0
	for _, m := range r.Etcd.Members {
		if m.Failure == "" {
			answer++
		}
	}
	there := 0
	for _, n := range r.Nodes {
		if n.Standing != gone {
			there++
		}
	}
	fmt.Fprintf(&b, " %s  %s, %s, %d of %s of etcd\n", word, counted(there, "node"), counted(r.Calls, "call"), answer, counted(len(r.Etcd.Members), "member"))
	for _, each := range r.Wrong {
		fmt.Fprintf(&b, "   %s %s\n", p.bad.Render("-"), clean(each))
	}
	p.nodes(&b, r)
	p.shards(&b, r)
	p.claims(&b, r)
	p.etcd(&b, r)
	return b.String()
}

func (p paint) nodes(b *strings.Builder, r *report) {
	if len(r.Nodes) == 0 {
		return
	}
	rows := [][]string{p.heads("node", "", "calls", "shards", "version", "address", "up for")}
	for _, n := range r.Nodes {
		look, age := p.good, ""
		if n.Standing != alive {
			look = p.bad
		}
		if !n.Since.IsZero() {
			age = aged(r.At.Sub(n.Since))
		}
		rows = append(rows, []string{clean(string(n.Name)), look.Render(string(n.Standing)), strconv.Itoa(n.Calls), strconv.Itoa(n.Shards),
			clean(n.Version), clean(n.Address), age})
	}
	b.WriteString("\n" + aligned(rows, 2, 3))
}

// shards has a line for each owner, with its oldest and its newest epoch.
func (p paint) shards(b *strings.Builder, r *report) {
	var order []core.NodeID
	by := map[core.NodeID][]shardState{}
	for _, s := range r.Shards {
		if by[s.Owner] == nil {
			order = append(order, s.Owner)
		}
		by[s.Owner] = append(by[s.Owner], s)
	}
	slices.SortFunc(order, func(a, b core.NodeID) int { return natural(string(a), string(b)) })
	rows := [][]string{p.heads("owner", "shards", "numbers", "epochs")}
	for _, owner := range order {
		oldest, newest, numbers := by[owner][0].Epoch, core.Revision(0), []int{}
		for _, s := range by[owner] {
			oldest, newest, numbers = min(oldest, s.Epoch), max(newest, s.Epoch), append(numbers, s.Shard)
		}
		name, epochs := clean(string(owner)), fmt.Sprint(oldest)
		switch {
		case owner == "":
			name, epochs = p.bad.Render("nobody"), ""
		case newest != oldest:
			epochs = fmt.Sprintf("%d to %d", oldest, newest)
		}
		rows = append(rows, []string{name, strconv.Itoa(len(numbers)), ranges(numbers), epochs})
	}
	b.WriteString("\n" + aligned(rows, 1))
}

func (p paint) claims(b *strings.Builder, r *report) {
	if len(r.Claims) == 0 {
		return
	}
	rows := [][]string{p.heads("claim of", "incarnation", "by", "calls left", "survivors")}
	for _, c := range r.Claims {
		var survivors []string
		for _, s := range c.Survivors {
			survivors = append(survivors, clean(string(s)))
		}
		rows = append(rows, []string{clean(string(c.Node)), fmt.Sprint(c.Incarnation), clean(string(c.By)), strconv.Itoa(c.Calls), strings.Join(survivors, ", ")})
	}
	b.WriteString("\n" + aligned(rows, 1, 3))
}

func (p paint) etcd(b *strings.Builder, r *report) {
	rows := [][]string{p.heads("etcd", "address", "", "version", "term", "applied", "size", "in use", "quota", "alarms")}
	for _, m := range r.Etcd.Members {
		row := []string{clean(cmp.Or(m.Name, m.ID)), clean(m.Endpoint)}
		role, alarms := "follower", strings.Join(m.Alarms, " ")
		if alarms != "" {
			alarms = p.bad.Render(alarms)
		}
		switch {
		case m.Failure != "":
			rows = append(rows, append(row, p.bad.Render("does not answer"), "", "", "", "", "", "", alarms))
			continue
		case m.Learner:
			role = "learner"
		case m.Leader:
			role = p.strong.Render("leader")
		case !m.HasLeader:
			role = p.bad.Render("no leader")
		}
		quota := ""
		if m.Quota > 0 {
			quota = bytesOf(m.Quota)
		}
		rows = append(rows, append(row, role, clean(m.Version), fmt.Sprint(m.Term), fmt.Sprint(m.Applied), bytesOf(m.Size), bytesOf(m.InUse), quota, alarms))
	}
	b.WriteString("\n" + aligned(rows, 4, 5, 6, 7, 8))
	b.WriteString("\n   " + p.dim.Render(fmt.Sprintf("read at revision %d, %s", r.Revision, r.At.UTC().Format("2006-01-02 15:04:05 UTC"))) + "\n")
}

func (p paint) heads(names ...string) []string {
	for i, name := range names {
		if name != "" {
			names[i] = p.dim.Render(name)
		}
	}
	return names
}

// aligned writes rows in columns; those of the right are numbers.
func aligned(rows [][]string, right ...int) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], lipgloss.Width(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := "  "
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-lipgloss.Width(cell))
			if slices.Contains(right, i) {
				line += " " + space + cell + " "
			} else {
				line += " " + cell + space + " "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

// clean keeps what others wrote from steering the terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, text)
}

// aged is a duration for people, in its two largest units.
func aged(d time.Duration) string {
	d = max(d, 0)
	switch days := d / (24 * time.Hour); {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, (d%(24*time.Hour))/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	default:
		return fmt.Sprintf("%ds", d/time.Second)
	}
}
