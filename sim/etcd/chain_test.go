package etcd

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// writer writes batch after batch, one in flight, while troubles come: as a chain, in which
// each batch compares the revision that the one before has left and an unknown outcome is
// read back, or blindly, sending a batch again until it is told of a success.
type writer struct {
	chained bool
	c       *Cluster
	now     core.Time
	id      RequestID
	batch   int
	link    core.Revision
	asked   RequestID
	looks   bool
	again   core.Time
	err     error
}

func (w *writer) send() {
	w.id++
	w.asked, w.again = w.id, never
	r := Request{Client: "n1", ID: w.id, Timeout: 300 * time.Millisecond, NeedLeader: true}
	if w.looks {
		r.Do = Txn{Then: []Op{{Kind: Get, Key: "chains/n1"}}}
	} else {
		t := Txn{Then: []Op{{Kind: Put, Key: "chains/n1", Value: []byte(fmt.Sprint(w.batch))}, {Kind: Put, Key: fmt.Sprintf("t/%06d", w.batch)}}}
		if w.chained {
			t.If = []Compare{{Key: "chains/n1", Target: ModRevision, Is: Equal, Number: int64(w.link)}}
			t.Else = []Op{{Kind: Get, Key: "chains/n1"}}
		}
		r.Do = t
	}
	w.c.Ask(w.now, r)
}

func (w *writer) heard(a Answer) {
	if a.ID != w.asked {
		w.err = fmt.Errorf("an answer to %d, and %d was asked", a.ID, w.asked)
		return
	}
	if a.Err != "" {
		w.looks, w.again = w.chained, a.At.Add(20*time.Millisecond)
		return
	}
	t := a.Reply.(TxnReply)
	if !w.looks && t.Succeeded {
		w.batch, w.link, w.again = w.batch+1, a.Revision, a.At.Add(2*time.Millisecond)
		return
	}
	w.looks, w.again = false, a.At
	found := t.Results[0].Range.KVs
	switch {
	case len(found) == 0 && w.link == 0 || len(found) == 1 && found[0].Mod == w.link: // not carried out so far: again
	case len(found) == 1 && string(found[0].Value) == fmt.Sprint(w.batch):
		w.batch, w.link = w.batch+1, found[0].Mod
	default:
		w.err = fmt.Errorf("batch %d is open with link %d, and the chain holds %+v", w.batch, w.link, found)
	}
}

// written runs a writer for a while and returns what its batches have written.
func written(t *testing.T, seed uint64, chained bool) []KeyValue {
	cfg := Usual()
	cfg.Odds = Odds{LostBefore: 0.01, LostAfter: 0.01, Late: 0.02, LateBy: 2 * time.Second}
	w := &writer{chained: chained, c: New(cfg, rand.New(rand.NewPCG(seed, 3))), batch: 1}
	until := core.Time(30 * time.Second)
	troubles := Troubles(rand.New(rand.NewPCG(seed, 4)), cfg, 0, until, time.Second, 3*time.Second, hardships(), []ClientID{"n1"})
	w.send()
	for w.now < until && w.err == nil {
		w.now = min(until, w.again, w.c.Deadline())
		if len(troubles) > 0 {
			w.now = min(w.now, troubles[0].At)
		}
		for _, a := range w.c.Step(w.now, nil) {
			w.heard(a)
		}
		for len(troubles) > 0 && troubles[0].At <= w.now {
			w.c.Inject(w.now, troubles[0].Fault)
			troubles = troubles[1:]
		}
		if w.again <= w.now {
			w.send()
		}
	}
	if w.err != nil {
		t.Fatalf("seed %d: %v", seed, w.err)
	}
	all, _ := w.c.keys.read("t/", "t0", 0, 0, w.c.keys.head())
	if n := len(all.KVs) - w.batch; n != 0 && n != -1 {
		t.Fatalf("seed %d: %d batches were carried out, and the writer is at %d", seed, len(all.KVs), w.batch)
	}
	return all.KVs
}

// TestChainHolds is what this package is for. The rules of etcdstore's chain keep each batch
// from being carried out twice or out of order, whatever happens; and what happens is enough
// that a writer without them fails.
func TestChainHolds(t *testing.T) {
	const seeds = 30
	batches, blind := 0, 0
	for seed := range uint64(seeds) {
		last := core.Revision(0)
		for _, kv := range written(t, seed, true) { // in the order of the batches' numbers
			if kv.Version != 1 || kv.Mod <= last {
				t.Fatalf("seed %d: %s was written %d times, at last at revision %d, after %d", seed, kv.Key, kv.Version, kv.Mod, last)
			}
			last = kv.Mod
			batches++
		}
		for _, kv := range written(t, seed, false) {
			if kv.Version > 1 {
				blind++
			}
		}
	}
	if blind == 0 {
		t.Errorf("a writer that does not read back what became of a batch was never punished in %d worlds", seeds)
	}
	t.Logf("%d batches in a chain, each once; of those that were sent blindly %d were carried out again", batches, blind)
}
