package acd

import (
	"cmp"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// place is a position in an order: of entries by who is served first, of agents by who
// is offered first, of wrap-ups by which ends first. The id makes it total, so that every
// order has one first element, whatever was inserted when.
type place struct {
	rank int64
	at   core.Time
	id   string
}

func (p place) compare(q place) int {
	if p.rank != q.rank {
		return cmp.Compare(p.rank, q.rank)
	}
	if p.at != q.at {
		return cmp.Compare(p.at, q.at)
	}
	return cmp.Compare(p.id, q.id)
}

// entryPlace is the place of an entry in its queue, and across the queues of an agent.
//
// Ageing means: waiting for one ageing period is worth one step of priority. At an instant
// t an entry is thus worth priority + (t-arrival)/ageing, and the greater worth goes first.
// Multiply by ageing and drop t, which is the same for all:
//
//	arrival - priority*ageing, the least first.
//
// So t is gone: ageing is a constant shift of the arrival, an order once made stays right
// for as long as its entries wait, and nothing has to be sorted again as time passes.
//
// Ageing 0 makes the priority absolute: rank decides before time. Entries of such a queue
// with a priority above 0 therefore precede those of an agent's queues that age.
func entryPlace(e Entry, ageing time.Duration) place {
	if ageing == 0 {
		return place{rank: -int64(e.Priority), at: e.ArrivedAt, id: string(e.ID)}
	}
	return place{at: e.ArrivedAt - core.Time(e.Priority)*core.Time(ageing), id: string(e.ID)}
}
