package node

import (
	"maps"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

const (
	// moveRetry is after how long a call that could not be moved is tried again.
	moveRetry = time.Second
	// farewell is how long the audio of a call that has moved is relayed on: until its phones
	// have been told where it is now.
	farewell = time.Second
)

// drain takes no more interactions; those that live have so long to finish. Then they move
// to other nodes, or are hung up where there is none.
func (n *Node) drain(now core.Time, within time.Duration, out []core.Effect) []core.Effect {
	if n.life == Restoring {
		n.life = Over
		return append(out, core.Drained{})
	}
	n.life = Draining
	n.timers.set(timer{kind: drainTimer}, now.Add(within))
	return out
}

// ordered follows the operator's record that this node is to be empty, or no longer.
func (n *Node) ordered(now core.Time) {
	if n.life != Serving {
		return
	}
	set := n.timers.at(timer{kind: drainTimer}) != core.Never
	switch draining := n.view.Draining(); {
	case draining && !set:
		n.timers.set(timer{kind: drainTimer}, now.Add(n.cfg.DrainWithin))
	case !draining && set:
		n.timers.set(timer{kind: drainTimer}, core.Never)
	}
}

// takes reports whether the node takes new interactions.
func (n *Node) takes() bool { return n.life == Serving && (n.alone() || !n.view.Draining()) }

// drainDue moves who still talks or waits. Where nobody can take a call over, the node that
// is to end hangs up, and the one that is only to be empty waits.
func (n *Node) drainDue(now core.Time, out []core.Effect) []core.Effect {
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		if to, ok := n.successor(id); ok {
			out = n.move(now, id, to, out)
		} else if n.life == Draining {
			out = n.withCall(now, id, out, func(c *call.Call, env *call.Env) { c.HangUp(env, core.DrainHangup) })
		}
	}
	if len(n.calls) > 0 {
		n.timers.set(timer{kind: drainTimer}, now.Add(moveRetry))
	}
	return out
}

func (n *Node) successor(id core.InteractionID) (core.Member, bool) {
	if n.alone() {
		return core.Member{}, false
	}
	return n.view.Successor(id)
}

// move makes another node the anchor of a call:
//
//  1. The record is written with the other as anchor, if that one is still there. It is this
//     node's last write of it.
//  2. The other sees the record and takes the call over, as from a node that has died. This
//     one still relays the audio.
//  3. The phones are told, and send elsewhere. The ports here are closed a while later.
func (n *Node) move(now core.Time, id core.InteractionID, to core.Member, out []core.Effect) []core.Effect {
	c := n.calls[id]
	switch c.Phase {
	case call.Ending, call.Arriving, call.Announcing:
		return out // it is over in a moment
	case call.Offering:
		out = n.withCall(now, id, out, func(c *call.Call, env *call.Env) { c.TakeBack(env) })
	}
	if n.moving[id] || n.calls[id] == nil {
		return out
	}
	n.moving[id] = true
	return n.withCall(now, id, out, func(c *call.Call, env *call.Env) {
		c.Node, c.Incarnation, c.Mover = to.ID, to.Incarnation, n.cfg.ID
		env.Touched = true
		env.If = append(env.If, core.Guard{Key: cluster.NodeKey(to.ID), Revision: to.Incarnation})
	})
}

// departed forgets a call whose record says that another node anchors it.
func (n *Node) departed(now core.Time, id core.InteractionID) {
	c := n.calls[id]
	if c == nil || c.Mover == "" {
		return
	}
	delete(n.moving, id)
	t := n.tenants[c.Tenant]
	for _, tag := range t.tags[id] {
		delete(n.tags, tag)
	}
	delete(t.tags, id)
	delete(n.calls, id)
	delete(n.taken, takenKey(c.Caller.Dialog.CallID, c.Caller.Dialog.Remote.Tag()))
	n.timers.set(timer{callTimer, c.Tenant, string(id)}, core.Never)
	t.calls--
	n.gauges.Calls[string(c.Phase)]--
	n.gauges.Waiting -= waits(c.Phase)
	t.others[id] = c
	var legs []core.LegID
	c.EachLeg(func(l *leg.Leg) { legs = append(legs, l.ID) })
	n.leavings[id] = legs
	n.timers.set(timer{farewellTimer, c.Tenant, string(id)}, now.Add(farewell))
}

// stays takes back that a call was to move: the other node has gone.
func (n *Node) stays(id core.InteractionID) {
	if c := n.calls[id]; c != nil && n.moving[id] {
		delete(n.moving, id)
		c.Node, c.Incarnation, c.Mover = n.cfg.ID, n.incarnation, ""
	}
}

func (n *Node) farewellDue(id core.InteractionID, out []core.Effect) []core.Effect {
	for _, l := range n.leavings[id] {
		out = append(out, core.CloseMedia{Leg: l})
	}
	delete(n.leavings, id)
	return out
}

// drained ends the node when nothing of it is left to do: no call, no write on the way, no
// CDR undelivered, no audio relayed.
func (n *Node) drained(out []core.Effect) []core.Effect {
	if n.life != Draining || len(n.calls)+len(n.lines)+len(n.outbox)+len(n.leavings) > 0 {
		return out
	}
	n.life = Over
	return append(out, core.Drained{})
}
