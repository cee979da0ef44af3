package sim

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// heal ends all faults and all arrivals: from now on everything must come to its end
// within a bound. What has vanished stays away until its own time.
func (w *World) heal() {
	w.trace.say(w.now, "**", "healing: no faults and no new callers from here on")
	w.phase = "heal"
	o := &w.opt
	o.Loss, o.Duplicate, o.StoreSlow, o.Unknown, o.Conflict, o.Resets, o.Reboots, o.RecordsFail = 0, 0, 0, 0, 0, 0, 0, 0
	o.MediaPorts = max(o.MediaPorts, 400)
	for _, s := range w.nodes {
		s.crashIn, s.dark = 0, s.dark && !s.up
	}
	if w.plain != nil {
		w.plain.fenceNext, w.plain.awayUntil = false, min(w.plain.awayUntil, w.now.Add(time.Second))
	}
	for _, p := range w.phones {
		p.closed = false
		p.twice = false
		for _, d := range p.live {
			if d.bridged {
				w.after(w.between(time.Second, 8*time.Second), d.hangUp)
			}
		}
	}
	w.fact(check.Healed{})
	w.tend()
}

// tend makes the agents ready who are not, again and again: a caller who waits must find
// somebody. An agent who is ready is left alone, for being told "ready" might cure a state
// that nothing else would.
func (w *World) tend() {
	if w.phase == "over" {
		return
	}
	for _, person := range w.agents {
		w.api.ask(asking{of: person.company, do: command.GetAgent{ID: person.conf.ID}, then: func(e core.Reply) {
			if v, ok := e.Value.(command.AgentView); ok && v.Status != acd.Ready {
				w.api.status(person, acd.Ready)
			}
		}})
	}
	w.after(3*time.Second, w.tend)
}

// settle waits until nothing is pending.
func (w *World) settle() bool {
	end := w.now.Add(w.opt.Bound)
	for next := w.now.Add(2 * time.Second); ; next = next.Add(2 * time.Second) {
		if !w.until(next, nil) {
			return false
		}
		left := w.pending()
		if len(left) == 0 {
			w.trace.say(w.now, "**", "settled")
			return true
		}
		if next > end {
			w.fail("liveness", fmt.Sprintf("after %s without faults this is still pending:\n  %s", w.opt.Bound, strings.Join(left, "\n  ")))
			return false
		}
	}
}

// pending says in words what has not come to its end.
func (w *World) pending() []string {
	var left []string
	say := func(format string, args ...any) { left = append(left, fmt.Sprintf(format, args...)) }
	for _, s := range w.nodes {
		if gone := s.drained && w.phase == "drain"; !gone && (!s.up || s.core == nil) {
			return []string{"the node is down" + s.named()}
		}
	}
	for _, p := range w.phones {
		for _, d := range p.live {
			say("%s is in a dialog (Call-ID %s, %s, confirmed %t), hears file %q, voice of %q", p.far, d.callID, dialogWords[d.state], d.confirmed,
				d.hears.File, d.hears.Speaker.Phone)
		}
	}
	for _, s := range w.nodes {
		if s.core != nil {
			s.pending(say)
		}
	}
	if w.commits != nil && w.phase != "drain" {
		left = append(left, w.commits.pending()...)
	}
	return left
}

// pending says what one node has not brought to its end.
func (s *server) pending(say func(string, ...any)) {
	g := s.core.Gauges()
	for _, phase := range sortedKeys(g.Calls) {
		if g.Calls[phase] > 0 {
			say("the node%s has %d calls in phase %s", s.named(), g.Calls[phase], phase)
		}
	}
	for _, state := range []acd.State{acd.Reserved, acd.Ringing, acd.Talking, acd.Held, acd.WrapUp} {
		if n := g.Agents[string(state)]; n > 0 {
			say("%d agents are %s", n, state)
		}
	}
	if g.Waiting > 0 {
		say("%d entries wait in queues", g.Waiting)
	}
	if g.Held > 0 {
		say("%d effects wait for a commit", g.Held)
	}
	if g.Outbox > 0 {
		say("%d CDRs are in the outbox", g.Outbox)
	}
	for _, l := range s.media.legs {
		say("media leg %s is open", l.id)
	}
	if n := s.store.waits(); n > 0 {
		say("%d writes wait for the store", n)
	}
}

var dialogWords = [...]string{early: "early", up: "up", over: "over"}

func sortedKeys(m map[string]int) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// drain ends the world as an operator would: one call is live, new ones are refused, and
// when the live one has ended the node says that it is drained.
func (w *World) drain() {
	w.phase = "drain"
	first := w.lastCaller(1)
	w.until(w.now.Add(w.between(200*time.Millisecond, 3*time.Second)), nil)
	w.trace.say(w.now, "**", "drain")
	for _, s := range w.nodes {
		s.drained, s.draining = false, true
		s.emit(core.DrainRequested{Within: 60 * time.Second})
	}
	if !w.until(w.now.Add(100*time.Millisecond), nil) {
		return
	}
	second := w.lastCaller(2)
	if !w.until(w.now.Add(90*time.Second), func() bool { return w.isDrained() && second.called.state == over && len(first.p.live) == 0 }) {
		return
	}
	switch {
	case second.final != 503 && (w.commits == nil || second.final != 0):
		w.fail("drain", fmt.Sprintf("a call during the drain was told %d, 503 expected", second.final))
	case !w.isDrained():
		w.fail("drain", "the drain has not ended after 90 s:\n  "+strings.Join(w.pending(), "\n  "))
	default:
		// A phone whose INVITE was given up and which answers late ends that by itself.
		w.until(w.now.Add(timeout+10*time.Second), nil)
		w.leftovers()
	}
	w.phase = "over"
}

func (w *World) isDrained() bool {
	if w.commits == nil {
		return w.drained
	}
	return !slices.ContainsFunc(w.nodes, func(s *server) bool { return !s.drained })
}

// lastCaller calls a number of the first tenant, with patience.
func (w *World) lastCaller(i int) *caller {
	c := w.tenants[0]
	name := fmt.Sprintf("%s-last%d", c.marker, i)
	p := newPhone(w, c, name, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 5, 0, byte(i)}), 5060), core.UDP)
	p.user = name
	p.calls = &caller{p: p, temper: "patient", number: c.numbers[0].Number}
	p.calls.call()
	return p.calls
}

// leftovers looks for records of calls that have ended.
func (w *World) leftovers() {
	// Who is in wrap-up when the node ends is not held up by anything.
	left := slices.DeleteFunc(w.pending(), func(s string) bool {
		return strings.HasSuffix(s, "agents are "+string(acd.WrapUp))
	})
	if len(left) > 0 {
		w.fail("drain", "drained, but this is pending:\n  "+strings.Join(left, "\n  "))
		return
	}
	for _, e := range w.entries() {
		for _, p := range w.phones {
			for _, d := range p.past {
				if p.calls != nil && bytes.Contains(e.Value, []byte(d.callID)) {
					w.fail("leak", fmt.Sprintf("record %s of tenant %s still names the ended call %s", e.Key, e.Tenant, d.callID))
					return
				}
			}
		}
	}
}
