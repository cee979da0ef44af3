package acd_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// A script is a list of commands, one a line, which are executed one after the other; what
// each prints is compared. The same language runs against the Center (golden files below),
// and against Center and twin at once (twin_test.go), whose failures are printed as scripts.
//
//	at 10s                        the instant from here on, since the epoch
//	queue q1 strategy=round_robin ageing=60 max=5 skills=de:3,fr:1 overflow=nobody
//	drop-queue q1                 prints who waited there
//	agent a1 queues=q1,q2 skills=de:5
//	drop-agent a1
//	login a1 a2                   reachable and ready
//	status a1 not_ready lunch     also ready, logged_out
//	reach a1 yes                  or no
//	enqueue i1 queue=q1 priority=2 skills=de:4 arrived=3s        (arrived: now)
//	requeue i1 …                  the same without limits
//	leave i1
//	match                         prints the reservations
//	progress a1 ringing
//	release a1 done wrapup=5s
//	restore a1 status=ready state=wrap_up until=9s idle=2s since=1s int=i1 reason=… offered=1s misses=1
//	expire                        prints whose wrap-up has ended
//	deadline
//	show q1                       counts
//	place i1                      its position, 0 when it does not wait
//	look a1                       the agent
//
// In a golden file a block is commands, a line "----", what they print, and an empty line.
// A # begins a comment. go test ./server/core/acd -run TestGolden -rewrite writes them anew.

// desk is what a script runs against.
type desk interface {
	PutQueue(tenant.Queue)
	DropQueue(core.QueueID) []core.InteractionID
	PutAgent(tenant.Agent)
	DropAgent(core.AgentID)
	Agent(core.AgentID) (acd.Agent, bool)
	SetStatus(core.Time, core.AgentID, acd.Status, string)
	SetReachable(core.Time, core.AgentID, bool)
	Restore(core.Time, acd.Agent) error
	Enqueue(core.Time, acd.Entry) error
	Requeue(core.Time, acd.Entry) error
	Leave(core.Time, core.InteractionID)
	Waiting(core.InteractionID) bool
	Match(core.Time) []acd.Reservation
	Progress(core.Time, core.AgentID, acd.State) error
	Release(core.Time, core.AgentID, acd.Outcome, time.Duration) error
	Expire(core.Time) []core.AgentID
	Deadline() core.Time
	Staffed(core.QueueID) bool
	Count(core.QueueID) acd.Count
	Position(core.InteractionID) int
	Valid() error
}

// play is a desk with the instant of a script.
type play struct {
	desk desk
	now  core.Time
}

// command is one line taken apart: name, subject, the words that follow, the key=values.
type command struct {
	name, id string
	words    []string
	args     map[string]string
}

func parse(line string) command {
	c := command{args: map[string]string{}}
	line, _, _ = strings.Cut(line, "#")
	for i, w := range strings.Fields(line) {
		key, value, isArg := strings.Cut(w, "=")
		switch {
		case i == 0:
			c.name = w
		case isArg:
			c.args[key] = value
		case i == 1:
			c.id = w
		}
		if i > 0 && !isArg {
			c.words = append(c.words, w)
		}
	}
	return c
}

func (c command) time(key string, otherwise core.Time) core.Time {
	if v, ok := c.args[key]; ok {
		return core.Time(duration(v))
	}
	return otherwise
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

func whole(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func skills(s string) map[string]int {
	m := map[string]int{}
	for _, pair := range split(s) {
		name, grade, _ := strings.Cut(pair, ":")
		m[name] = whole(grade)
	}
	return m
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// run executes a line and returns what it prints.
func (p *play) run(line string) string {
	c := parse(line)
	d := p.desk
	switch c.name {
	case "":
		return ""
	case "at":
		p.now = core.Time(duration(c.id))
	case "queue":
		q := tenant.Queue{ID: core.QueueID(c.id), Strategy: tenant.Strategy(c.args["strategy"]), MaxWaiting: 1000,
			Skills: skills(c.args["skills"]), AgeingS: float64(whole(c.args["ageing"]))}
		if max, ok := c.args["max"]; ok {
			q.MaxWaiting = whole(max)
		}
		if c.args["overflow"] == "nobody" {
			q.Overflow = &tenant.Overflow{WhenNobody: true}
		}
		d.PutQueue(q)
	case "drop-queue":
		return fmt.Sprintln("gone:", d.DropQueue(core.QueueID(c.id)))
	case "agent":
		a := tenant.Agent{ID: core.AgentID(c.id), Skills: skills(c.args["skills"])}
		for _, q := range split(c.args["queues"]) {
			a.Queues = append(a.Queues, core.QueueID(q))
		}
		d.PutAgent(a)
	case "drop-agent":
		d.DropAgent(core.AgentID(c.id))
	case "login":
		for _, id := range c.words {
			d.SetReachable(p.now, core.AgentID(id), true)
			d.SetStatus(p.now, core.AgentID(id), acd.Ready, "")
		}
	case "status":
		d.SetStatus(p.now, core.AgentID(c.id), acd.Status(c.words[1]), strings.Join(c.words[2:], " "))
	case "reach":
		d.SetReachable(p.now, core.AgentID(c.id), c.words[1] == "yes")
	default:
		return p.move(c) + p.show(c)
	}
	return ""
}

// move executes the commands about interactions.
func (p *play) move(c command) string {
	d, id := p.desk, core.AgentID(c.id)
	switch c.name {
	case "enqueue", "requeue":
		e := acd.Entry{ID: core.InteractionID(c.id), Queue: core.QueueID(c.args["queue"]), Priority: whole(c.args["priority"]),
			Skills: skills(c.args["skills"]), ArrivedAt: c.time("arrived", p.now)}
		if c.name == "requeue" {
			return failure(d.Requeue(p.now, e))
		}
		return failure(d.Enqueue(p.now, e))
	case "leave":
		d.Leave(p.now, core.InteractionID(c.id))
	case "match":
		out := ""
		for _, r := range d.Match(p.now) {
			out += fmt.Sprintf("%s -> %s (%s)\n", r.Interaction, r.Agent, r.Queue)
		}
		if out == "" {
			return "nothing\n"
		}
		return out
	case "progress":
		return failure(d.Progress(p.now, id, acd.State(c.words[1])))
	case "release":
		wrapUp := time.Duration(c.time("wrapup", 0))
		return failure(d.Release(p.now, id, acd.Outcome(c.words[1]), wrapUp))
	case "restore":
		return failure(d.Restore(p.now, acd.Agent{ID: id, Status: acd.Status(c.args["status"]), Reason: c.args["reason"],
			State: acd.State(c.args["state"]), Since: c.time("since", 0), Interaction: core.InteractionID(c.args["int"]),
			IdleSince: c.time("idle", 0), OfferedAt: c.time("offered", 0), WrapUpUntil: c.time("until", 0), Misses: whole(c.args["misses"])}))
	case "expire":
		return fmt.Sprintln("ended:", d.Expire(p.now))
	}
	return ""
}

// failure prints an error without what depends on the wording of a desk.
func failure(err error) string {
	if err == nil {
		return ""
	}
	text, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), "acd: "), ":")
	return "error: " + text + "\n"
}

// show executes the commands that only print.
func (p *play) show(c command) string {
	d := p.desk
	switch c.name {
	case "deadline":
		return fmt.Sprintln("deadline", clock(d.Deadline()))
	case "show":
		n := d.Count(core.QueueID(c.id))
		return fmt.Sprintf("%s: %d waiting since %s, %d ready %d busy %d not ready, staffed %t\n", c.id,
			n.Waiting, clock(n.LongestWaitSince), n.Ready, n.Busy, n.NotReady, d.Staffed(core.QueueID(c.id)))
	case "place":
		id := core.InteractionID(c.id)
		if d.Waiting(id) != (d.Position(id) > 0) {
			return fmt.Sprintf("%s waits: %t, place %d\n", id, d.Waiting(id), d.Position(id))
		}
		return fmt.Sprintf("%s is %d\n", id, d.Position(id))
	case "look":
		a, ok := d.Agent(core.AgentID(c.id))
		if !ok {
			return c.id + ": none\n"
		}
		out := fmt.Sprintf("%s: %s", a.ID, a.Status)
		if a.Reason != "" {
			out += "{" + a.Reason + "}"
		}
		out += fmt.Sprintf(" %s since %s, idle clock %s", a.State, clock(a.Since), clock(a.IdleSince))
		if a.Interaction != "" {
			out += ", with " + string(a.Interaction)
		}
		if a.WrapUpUntil != 0 {
			out += ", wrap-up until " + clock(a.WrapUpUntil)
		}
		if !a.Reachable {
			out += ", unreachable"
		}
		return out + fmt.Sprintf(", offered %s, missed %d\n", clock(a.OfferedAt), a.Misses)
	}
	return ""
}

// clock prints an instant as a duration since the epoch.
func clock(t core.Time) string {
	switch t {
	case 0:
		return "-"
	case core.Never:
		return "never"
	}
	return time.Duration(t).String()
}

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// TestGolden runs the scripts in testdata.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("testdata: %v, %d scripts", err, len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := golden(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, have := strings.Split(string(text), "\n"), strings.Split(got, "\n")
			for i := range max(len(want), len(have)) {
				if i >= len(want) || i >= len(have) || want[i] != have[i] {
					t.Fatalf("%s:%d differs from here on, got\n%s", file, i+1, strings.Join(have[min(i, len(have)):], "\n"))
				}
			}
		})
	}
}

// golden returns a script with what its commands print now. The twin must print the same.
func golden(text string) (string, error) {
	center, twin := &play{desk: acd.New()}, &play{desk: &twin{}}
	var out strings.Builder
	printing, printed := false, ""
	for line := range slices.Values(strings.Split(strings.TrimRight(text, "\n"), "\n")) {
		switch {
		case line == "----":
			out.WriteString("----\n" + printed)
			printing, printed = true, ""
		case line == "":
			out.WriteString("\n")
			printing = false
		case printing: // what was printed once
		default:
			out.WriteString(line + "\n")
			got := center.run(line)
			printed += got
			if want := twin.run(line); got != want {
				return out.String(), fmt.Errorf("%s: Center prints\n%s\ntwin\n%s", line, got, want)
			}
			if err := center.desk.Valid(); err != nil {
				return out.String(), fmt.Errorf("%s: %w", line, err)
			}
		}
	}
	return out.String(), nil
}
