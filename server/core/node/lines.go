package node

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/commit"
)

// subject names one record: its tenant and its key below it.
type subject struct {
	tenant core.TenantID
	key    string
}

// promise is where an agent's reservation is on its way into a call's record.
type promise uint8

const (
	none promise = iota
	made         // in memory; the next Store has it
	sent         // in the Store in flight
)

// line is the gate of one record. value makes the record's bytes at the moment of a
// Store, not at every change: nil deletes it.
type line struct {
	commit.Line
	subject
	value   func() any
	agents  []core.AgentID // whose record goes with the next Store, as it is then
	sent    []core.Op
	guards  []core.Guard // of the next Store: what a decision in it rests on
	guarded bool         // the Store in flight has guards
	promise promise      // the next Store reserves an agent
	moved   bool         // the Store in flight gives the call to another anchor
	retryAt core.Time
	lingers bool // it is in Node.lingering
}

// A Store that was refused is made again after so long.
const retryAfterConflict = time.Second

// How long a change waits for company, that a call may cost fewer commits. Linger is for
// what nobody outside waits for: that a phone rings, a CDR on its way, a record to be
// deleted. The others: see patience.
const (
	linger      = 50 * time.Millisecond
	endPatience = 20 * time.Millisecond
	ackPatience = 10 * time.Millisecond
)

func (n *Node) token() core.Token { n.tokens++; return n.tokens }

// line returns the gate of a record, with what its next Store is to write. A nil value
// leaves the record out: only the ops that come with Touch are written.
func (n *Node) line(s subject, value func() any) *line {
	l, ok := n.lines[s]
	if !ok {
		l = &line{subject: s}
		n.lines[s] = l
	}
	l.value = value
	return l
}

// write changes one record and lets the effects follow its commit.
func (n *Node) write(now core.Time, s subject, value any, waiting []commit.Waiting, out []core.Effect) []core.Effect {
	l := n.line(s, func() any { return value })
	l.Touch(now)
	out = l.Add(now, waiting, out)
	return n.flush(now, l, out)
}

// remove deletes one record.
func (n *Node) remove(now core.Time, s subject, waiting []commit.Waiting, out []core.Effect) []core.Effect {
	return n.write(now, s, nil, waiting, out)
}

// flush makes the Store that is due, sets the line's timer, and forgets an idle line.
func (n *Node) flush(now core.Time, l *line, out []core.Effect) []core.Effect {
	due := max(l.Due(linger), l.retryAt)
	if due <= now {
		return n.send(now, l, out)
	}
	if due != core.Never && l.retryAt == 0 && !l.lingers {
		l.lingers = true
		n.lingering = append(n.lingering, l)
	}
	n.timers.set(timer{lineTimer, l.tenant, l.key}, min(due, l.Deadline(n.cfg.StoreGrace)))
	if l.Idle() {
		delete(n.lines, l.subject)
	}
	return out
}

// guard adds to what the next Store of the line compares.
func (l *line) guard(all ...core.Guard) {
	for _, g := range all {
		if !slices.Contains(l.guards, g) {
			l.guards = append(l.guards, g)
		}
	}
}

// send makes the Store of a line.
func (n *Node) send(_ core.Time, l *line, out []core.Effect) []core.Effect {
	n.rests(l)
	s := l.Send(n.token(), l.tenant, append(n.agentOps(l), core.Op{Key: l.key, Value: encode(l.value())})...)
	s.If, l.guards, l.guarded = l.guards, nil, len(l.guards) > 0
	if l.promise == made {
		l.promise = sent
	} else {
		l.promise = none
	}
	l.sent, l.retryAt = s.Ops, 0
	id, _ := strings.CutPrefix(l.key, callKey(""))
	l.moved = n.moving[core.InteractionID(id)]
	n.inflight[s.Token] = l
	n.timers.set(timer{lineTimer, l.tenant, l.key}, l.Deadline(n.cfg.StoreGrace))
	return append(out, s)
}

// gather lets the lines that linger join the Stores of this step, where there is one, and
// marks them as company, so that one commit carries them all. It follows everything else
// that a step does.
func (n *Node) gather(now core.Time, since core.Token, out []core.Effect) []core.Effect {
	if n.tokens == since {
		return out
	}
	stay := n.lingering[:0]
	for _, l := range n.lingering {
		switch due := l.Due(linger); {
		case due == core.Never || l.retryAt != 0:
			l.lingers = false // it has left, or its timer alone sends it
		case l.Joins(now, linger):
			l.lingers = false
			out = n.send(now, l, out)
		default:
			stay = append(stay, l)
		}
	}
	clear(n.lingering[len(stay):])
	n.lingering = stay
	last := -1
	for i := range out {
		s, ok := out[i].(core.Store)
		if !ok || s.Token <= since {
			continue
		}
		if last >= 0 {
			company := out[last].(core.Store)
			company.More = true
			out[last] = company
		}
		last = i
	}
	return out
}

// encode writes a record; nil stays nil, a deletion. Calls have their own form; what is
// small or seldom written is JSON.
func encode(v any) []byte {
	switch v := v.(type) {
	case nil:
		return nil
	case *call.Call:
		return v.Encode()
	case []byte:
		return v
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic("record cannot be encoded: " + err.Error()) // our own types: a bug, never data
	}
	return b
}

// rests adds what every decision of a desk rests on: the epoch of its shard.
func (n *Node) rests(l *line) {
	t, ok := n.tenants[l.tenant]
	if !ok || n.alone() {
		return
	}
	kind, _, _ := strings.Cut(l.key, "/")
	if kind == "config" || kind == "agents" || len(l.agents) > 0 {
		l.guard(n.epoch(t)...)
	}
}

func (n *Node) stored(now core.Time, token core.Token, out []core.Effect) []core.Effect {
	l, ok := n.inflight[token]
	if !ok {
		return out
	}
	delete(n.inflight, token)
	n.away = 0
	out = l.Committed(now, out)
	if id, is := strings.CutPrefix(l.key, callKey("")); is && n.moving[core.InteractionID(id)] && l.moved {
		l.Abandon() // what has changed since is the new anchor's to find out
		n.departed(now, core.InteractionID(id))
	}
	return n.flush(now, l, out)
}

func (n *Node) conflict(now core.Time, token core.Token, out []core.Effect) []core.Effect {
	l, ok := n.inflight[token]
	if !ok {
		return out
	}
	delete(n.inflight, token)
	if l.guarded {
		return n.overruled(now, l, out)
	}
	var again []core.Op
	for _, op := range l.sent {
		if id, ok := strings.CutPrefix(op.Key, agentKey("")); ok && op.Key != l.key {
			l.agents = append(l.agents, core.AgentID(id))
		} else {
			again = append(again, op)
		}
	}
	l.Refused(again)
	l.retryAt = now.Add(retryAfterConflict)
	out = append(out, core.Log{Level: 8, Tenant: l.tenant, Text: "store refused a write; it is tried again", Attrs: []any{"key", l.key}})
	return n.flush(now, l, out)
}

func (n *Node) lineDue(now core.Time, s subject, out []core.Effect) []core.Effect {
	l, ok := n.lines[s]
	if !ok {
		return out
	}
	out = l.Overdue(now, n.cfg.StoreGrace, out)
	return n.flush(now, l, out)
}
