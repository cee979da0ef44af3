package sim

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// records is the records store: slow, failing at times, keeping one CDR by id.
type records struct {
	w    *World
	srv  *server
	have map[core.InteractionID]int // deliveries, of all nodes
}

func newRecords(w *World, s *server) *records {
	return &records{w: w, srv: s, have: w.have}
}

func (r *records) deliver(cdr *core.CDR) {
	generation := r.srv.generation
	written := r.w.between(0, r.w.opt.RecordsMean)
	fails := r.w.chance(r.w.opt.RecordsFail) && r.w.phase == "chaos"
	stillborn := r.w.chance(0.3) // what a crash in between would do
	r.w.after(written, func() {
		if fails || generation != r.srv.generation && stillborn {
			return
		}
		again := r.have[cdr.ID] > 0
		r.have[cdr.ID]++
		if again {
			r.w.marks.hit("CDR delivered twice")
		} else if cdr.Termination.Result == core.Completed {
			r.w.served++
		}
		r.w.marks.hit("ended: " + string(cdr.Termination.Result))
		r.w.marks.hit("reason: " + string(cdr.Termination.Reason))
		r.w.fact(check.Recorded{CDR: cdr, Again: again})
	})
	r.w.after(written+r.w.between(0, 200*time.Millisecond), func() {
		if generation != r.srv.generation {
			return
		}
		if fails {
			r.w.marks.hit("delivery failed")
			r.srv.emit(core.DeliveryFailed{ID: cdr.ID, Cause: "the records store is not reachable"})
		} else {
			r.srv.emit(core.Delivered{ID: cdr.ID})
		}
	})
}
