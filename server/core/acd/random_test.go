package acd_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core/acd"
)

// dice is where a random script gets its choices from: rapid, a seeded generator, a fuzzer.
type dice interface{ roll(n int) int }

type seeded struct{ *rand.Rand }

func (s seeded) roll(n int) int { return s.IntN(n) }

type drawn struct{ *rapid.T }

func (d drawn) roll(n int) int { return rapid.IntRange(0, n-1).Draw(d.T, "roll") }

// size bounds the world of a random script.
type size struct {
	queues, agents, entries, skills, seconds int
	rush                                     int // of 100 commands, how many more bring a call
}

// author writes random scripts. It knows what to name; what happens it does not know.
type author struct {
	dice
	size
	at     int // seconds
	nextID int
	live   []string // interactions that may be about
}

func (a *author) queue() string { return fmt.Sprintf("q%d", a.roll(a.queues)) }
func (a *author) agent() string { return fmt.Sprintf("a%d", a.roll(a.agents)) }

func (a *author) interaction() string {
	if len(a.live) == 0 {
		return "i0"
	}
	return a.live[a.roll(len(a.live))]
}

func (a *author) skills(grades int) string {
	var list []string
	for s := range a.size.skills {
		if a.roll(3) == 0 {
			list = append(list, fmt.Sprintf("s%d:%d", s, 1+a.roll(grades)))
		}
	}
	return strings.Join(list, ",")
}

func (a *author) pick(of ...string) string { return of[a.roll(len(of))] }

func (a *author) putQueue(id string) string {
	line := fmt.Sprintf("queue %s strategy=%s ageing=%s", id, a.pick("longest_idle", "round_robin", "most_skilled", ""), a.pick("60", "0", "7", "1"))
	if a.roll(3) == 0 {
		line += " skills=" + a.skills(2)
	}
	if a.roll(4) == 0 {
		line += fmt.Sprintf(" max=%d", a.roll(5))
	}
	if a.roll(4) == 0 {
		line += " overflow=nobody"
	}
	return line
}

func (a *author) putAgent(id string) string {
	var queues []string
	for range 1 + a.roll(3) {
		queues = append(queues, a.queue()) // twice the same is possible
	}
	return fmt.Sprintf("agent %s queues=%s skills=%s", id, strings.Join(queues, ","), a.skills(3))
}

func (a *author) enqueue(verb string) string {
	id := fmt.Sprintf("i%d", a.nextID)
	if a.roll(8) == 0 {
		id = a.interaction() // overflow to another queue, or a mistake
	} else {
		a.nextID++
		if a.live = append(a.live, id); len(a.live) > a.entries {
			a.live = a.live[1:]
		}
	}
	line := fmt.Sprintf("%s %s queue=%s", verb, id, a.queue())
	if a.roll(3) == 0 {
		line += fmt.Sprintf(" priority=%d", a.roll(11))
	}
	if a.roll(2) == 0 {
		line += " skills=" + a.skills(3)
	}
	if a.roll(3) == 0 { // a place kept through a failover or an overflow
		line += fmt.Sprintf(" arrived=%ds", 1+a.roll(a.at))
	}
	return line
}

// line writes the next command. Those that carry calls on are written most.
func (a *author) line() string {
	if a.rush > 0 && a.roll(100) < a.rush {
		return a.enqueue("requeue")
	}
	switch a.roll(20) {
	case 0:
		return a.putQueue(a.queue())
	case 1:
		return a.putAgent(a.agent())
	case 2:
		switch a.roll(6) {
		case 0:
			return "drop-queue " + a.queue()
		case 1:
			return "drop-agent " + a.agent()
		}
		return "reach " + a.agent() + " " + a.pick("yes", "no")
	case 3:
		return "status " + a.agent() + " " + a.pick("ready", "not_ready lunch", "logged_out", "ready")
	case 4, 5:
		return "login " + a.agent()
	case 6, 7, 8:
		return a.enqueue("enqueue")
	case 9:
		return a.enqueue("requeue")
	case 10:
		return "leave " + a.interaction()
	case 11, 12:
		return "progress " + a.agent() + " " + a.pick("ringing", "talking", "held", "talking", "idle", "reserved")
	case 13, 14:
		return "release " + a.agent() + " " + a.pick("no_answer", "rejected", "busy", "unreachable", "withdrawn", "nonsense")
	case 15:
		return fmt.Sprintf("release %s done wrapup=%ds", a.agent(), a.roll(10))
	case 16:
		return "expire"
	case 17:
		if a.roll(4) == 0 {
			return fmt.Sprintf("restore %s status=%s state=%s int=%s since=%ds idle=%ds offered=%ds until=%ds misses=1 reason=x", a.agent(),
				a.pick("ready", "not_ready", "logged_out", ""), a.pick("idle", "reserved", "ringing", "talking", "held", "wrap_up"),
				a.interaction(), a.roll(a.at), a.roll(a.at), a.roll(a.at), a.roll(a.at+10))
		}
		return "match"
	case 18:
		a.at += a.roll(a.seconds)
		return fmt.Sprintf("at %ds", a.at)
	default:
		return "match"
	}
}

// begin writes a world with all its queues and agents, most of them at work.
func (a *author) begin() []string {
	a.at = 100
	lines := []string{"at 100s"}
	for i := range a.queues {
		lines = append(lines, a.putQueue(fmt.Sprintf("q%d", i)))
	}
	for i := range a.agents {
		lines = append(lines, a.putAgent(fmt.Sprintf("a%d", i)))
		if a.roll(4) > 0 {
			lines = append(lines, fmt.Sprintf("login a%d", i))
		}
	}
	return lines
}

// pair runs a script on Center and twin and tells where they differ.
type pair struct {
	center, twin play
	script       []string
	watch        []string // commands that look at everything
}

func newPair(s size) *pair {
	p := &pair{center: play{desk: acd.New()}, twin: play{desk: &twin{}}, watch: []string{"deadline"}}
	for i := range s.queues {
		p.watch = append(p.watch, fmt.Sprintf("show q%d", i))
	}
	for i := range s.agents {
		p.watch = append(p.watch, fmt.Sprintf("look a%d", i))
	}
	return p
}

// run executes a line on both. With look everything that can be seen is compared after it.
func (p *pair) run(line string, look bool, live []string) error {
	p.script = append(p.script, line)
	if err := p.compare(line); err != nil || !look {
		return err
	}
	for _, w := range p.watch {
		if err := p.compare(w); err != nil {
			return err
		}
	}
	for _, id := range live {
		if err := p.compare("place " + id); err != nil {
			return err
		}
	}
	if err := p.center.desk.Valid(); err != nil {
		return fmt.Errorf("%w, after\n%s", err, strings.Join(p.script, "\n"))
	}
	return nil
}

func (p *pair) compare(line string) error {
	got, want := p.center.run(line), p.twin.run(line)
	if got != want {
		return fmt.Errorf("%q prints\n%s\nthe twin\n%s\nafter\n%s", line, got, want, strings.Join(p.script, "\n"))
	}
	return nil
}

// TestTwin compares every reservation and all that can be seen, after every command of
// random scripts, with the twin.
func TestTwin(t *testing.T) {
	small := size{queues: 3, agents: 4, entries: 6, skills: 2, seconds: 20}
	rapid.Check(t, func(t *rapid.T) {
		a := &author{dice: drawn{t}, size: small}
		p := newPair(small)
		for _, line := range a.begin() {
			if err := p.run(line, true, nil); err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){"step": func(t *rapid.T) {
			a.dice = drawn{t}
			if err := p.run(a.line(), true, a.live); err != nil {
				t.Fatal(err)
			}
		}})
	})
}

var (
	firstSeed = flag.Uint64("acd.seed", 1, "first seed of TestTwinSeeds")
	seeds     = flag.Uint64("acd.seeds", 12, "number of seeds of TestTwinSeeds")
)

// TestTwinSeeds is TestTwin in larger worlds, where blocks split and merge, lines and teams
// come and go, and many reservations fall into one Match.
func TestTwinSeeds(t *testing.T) {
	for seed := *firstSeed; seed < *firstSeed+*seeds; seed++ {
		d := seeded{rand.New(rand.NewPCG(seed, 0))}
		s := size{queues: 1 + d.roll(12), agents: 1 + d.roll(60), entries: 1 + d.roll(400), skills: 1 + d.roll(4), seconds: 1 + d.roll(30)}
		if seed%4 == 0 {
			s.queues, s.skills, s.rush = 1+d.roll(2), d.roll(2), 40+d.roll(40)
		}
		a := &author{dice: d, size: s}
		p := newPair(s)
		script := a.begin()
		for i := range 3000 {
			var line string
			if i < len(script) {
				line = script[i]
			} else if line = a.line(); line == "match" && d.roll(10) > 0 && seed%3 == 0 {
				continue // let much gather
			}
			if err := p.run(line, i%50 == 0, nil); err != nil {
				t.Fatalf("%v\nseed %d: go test ./server/core/acd -run TestTwinSeeds -acd.seed=%d -acd.seeds=1", err, seed, seed)
			}
		}
	}
}

type bytesDice struct{ rest []byte }

func (b *bytesDice) roll(n int) int {
	if len(b.rest) == 0 {
		return 0
	}
	v := b.rest[0]
	b.rest = b.rest[1:]
	return int(v) % n
}

// FuzzTwin lets the fuzzer write the script.
func FuzzTwin(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		f.Add(b)
	}
	small := size{queues: 2, agents: 3, entries: 4, skills: 1, seconds: 10}
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &bytesDice{b[:min(len(b), 600)]}
		a := &author{dice: d, size: small}
		p := newPair(small)
		lines := a.begin()
		for len(lines) > 0 || len(d.rest) > 0 {
			line := ""
			if len(lines) > 0 {
				line, lines = lines[0], lines[1:]
			} else {
				line = a.line()
			}
			if err := p.run(line, true, a.live); err != nil {
				t.Fatal(err)
			}
		}
	})
}
