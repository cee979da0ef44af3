package node

import (
	"maps"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
)

// drain takes no more interactions; those that live have so long to finish.
func (n *Node) drain(now core.Time, within time.Duration, out []core.Effect) []core.Effect {
	if n.life == Restoring {
		n.life = Over
		return append(out, core.Drained{})
	}
	n.life = Draining
	n.timers.set(timer{kind: drainTimer}, now.Add(within))
	return out
}

// drainDue hangs up who still talks.
func (n *Node) drainDue(now core.Time, out []core.Effect) []core.Effect {
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		out = n.withCall(now, id, out, func(c *call.Call, env *call.Env) { c.HangUp(env, core.DrainHangup) })
	}
	return out
}

// drained ends the node when nothing of it is left to do: no call, no write on the way, no
// CDR undelivered.
func (n *Node) drained(out []core.Effect) []core.Effect {
	if n.life != Draining || len(n.calls) > 0 || len(n.lines) > 0 || len(n.outbox) > 0 {
		return out
	}
	n.life = Over
	return append(out, core.Drained{})
}
