package node

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// parcel is a CDR on its way from the outbox to the records store.
//
//  1. When a call has ended and its media is measured, a commit writes the CDR into the
//     outbox, beside the call's record, which says so. Before it, that record is alone.
//  2. After it, the CDR is handed to the records store, which keeps one per id.
//  3. When the store has it, the outbox entry is deleted.
//
// A crash before 1 finds the record of an ended call and makes the CDR from it; one after 1 or 2 finds the entry again and delivers it again; after 3 nothing is left.
type parcel struct {
	cdr   *core.CDR
	tries int
}

// Redelivery waits longer each time, up to half a minute.
const (
	firstRedelivery = 500 * time.Millisecond
	lastRedelivery  = 30 * time.Second
)

func (n *Node) delivered(now core.Time, id core.InteractionID, out []core.Effect) []core.Effect {
	p, ok := n.outbox[id]
	if !ok {
		return out
	}
	delete(n.outbox, id)
	n.timers.set(timer{parcelTimer, p.cdr.Tenant, string(id)}, core.Never)
	return n.remove(now, subject{p.cdr.Tenant, outboxKey(id)}, nil, out)
}

func (n *Node) deliveryFailed(now core.Time, id core.InteractionID) {
	p, ok := n.outbox[id]
	if !ok {
		return
	}
	if n.cfg.Plant == "cdr-lost" {
		delete(n.outbox, id)
		return
	}
	wait := min(firstRedelivery<<min(p.tries, 10), lastRedelivery)
	p.tries++
	n.timers.set(timer{parcelTimer, p.cdr.Tenant, string(id)}, now.Add(wait))
}

func (n *Node) parcelDue(_ core.Time, id core.InteractionID, out []core.Effect) []core.Effect {
	if p, ok := n.outbox[id]; ok {
		out = append(out, core.Deliver{CDR: p.cdr})
	}
	return out
}
