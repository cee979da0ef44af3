package node

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// parcel is a CDR on its way to the records store. The outbox is the records of calls that
// have ended, and what lies below outbox/ for those whose delivery takes long.
//
//  1. When a call has ended and its media is measured, a commit writes its record with the
//     mark that its CDR is filed. Nothing in the CDR changes after that.
//  2. After it, the CDR is handed to the records store, which keeps one per id.
//  3. When the store has it and the last leg is closed, the call's record is deleted.
//  4. When the store does not take it, and the last leg is closed, the CDR alone is put below
//     outbox/ in place of the call's record: it is smaller, and a successor need not hang up
//     phones that have long been told.
//
// A crash before 1 finds the record of an ended call and makes the CDR from it; one after 1
// finds the CDR in either place and delivers it again; after 3 nothing is left.
type parcel struct {
	cdr     *core.CDR
	tries   int
	key     string // of the record that it is delivered from
	spilled bool   // it was moved below outbox/, by the line of key
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
	_, live := n.calls[id]
	switch {
	case p.spilled: // by the same line as the put, which might be refused and come again
		return n.settle(now, p, nil, out)
	case live && p.key == callKey(id):
		return out // the record goes with the last leg
	}
	return n.remove(now, subject{p.cdr.Tenant, p.key}, nil, out)
}

func (n *Node) deliveryFailed(now core.Time, id core.InteractionID, out []core.Effect) []core.Effect {
	p, ok := n.outbox[id]
	if !ok {
		return out
	}
	if n.cfg.Plant == "cdr-lost" {
		delete(n.outbox, id)
		return out
	}
	wait := min(firstRedelivery<<min(p.tries, 10), lastRedelivery)
	p.tries++
	n.timers.set(timer{parcelTimer, p.cdr.Tenant, string(id)}, now.Add(wait))
	if _, live := n.calls[id]; !live && !p.spilled && p.key == callKey(id) {
		p.spilled = true
		return n.settle(now, p, encode(postedRecord{*p.cdr, n.incarnation}), out)
	}
	return out
}

// settle deletes the record of a call that has ended, and writes what stays below outbox/.
func (n *Node) settle(now core.Time, p *parcel, cdr []byte, out []core.Effect) []core.Effect {
	l := n.line(subject{p.cdr.Tenant, p.key}, func() any { return nil })
	l.Touch(now, core.Op{Key: outboxKey(p.cdr.ID), Value: cdr})
	return n.flush(now, l, out)
}

func (n *Node) parcelDue(_ core.Time, id core.InteractionID, out []core.Effect) []core.Effect {
	if p, ok := n.outbox[id]; ok {
		out = append(out, core.Deliver{CDR: p.cdr})
	}
	return out
}
