package etcdstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Random writes under random faults, against a map: what was Stored is there and nothing
// else is, in the order of Do; every token has exactly one final outcome; when another
// claims, the Stored ones are the first ones and the rest is Fenced.
func TestRandomFaultsAgainstAModel(t *testing.T) {
	r := newRig(t)
	run := 0
	p := quick()
	p.attempt = 15 * time.Millisecond // a busy disk exceeds it now and then: one more fault
	met := map[string]int{}           // what has happened, over all runs
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &modelRun{r: r, t: t, node: core.NodeID(fmt.Sprint("n", run)), tenant: core.TenantID(fmt.Sprint("t", run)), h: newHeard(), met: met}
		m.chance = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "fault seed"), 0))
		s, _, err := Open(context.Background(), Config{Client: r.client, Node: m.node, Emit: m.h.emit, pace: p})
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer func() {
			r.faults.set(nil)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			s.Close(ctx)
			r.faults.flush()
		}()
		m.drive(s)
		m.check()
		met["claims by itself"] += int(s.Gauges().Claims) - 1
	})
	t.Log(met)
	for _, what := range []string{string(lostAsk), string(lostReply), string(noSpace), string(silent), string(late), string(twice),
		string(newLeader), string(stallReply), "claims by itself", "stored", "fenced"} {
		if met[what] == 0 {
			t.Errorf("%q never happened: the test is blind to it", what)
		}
	}
}

type modelRun struct {
	r      *rig
	t      *rapid.T
	node   core.NodeID
	tenant core.TenantID
	h      *heard
	chance *rand.Rand // of the faults; under the lock of faults
	stores []core.Store
	fence  bool
	met    map[string]int
}

// drive does what is drawn, then heals everything and waits for all outcomes.
func (m *modelRun) drive(s *Store) {
	kinds := []fault{lostAsk, lostReply, noSpace, silent, late, twice, newLeader, stallReply}
	rate := rapid.SampledFrom([]int{10, 50, 90}).Draw(m.t, "percent of faults")
	bad := rapid.IntRange(0, 10).Draw(m.t, "faults at most")
	m.r.faults.set(func(*pb.TxnRequest) fault {
		if bad == 0 || m.chance.IntN(100) >= rate {
			return noFault
		}
		bad--
		kind := kinds[m.chance.IntN(len(kinds))]
		m.met[string(kind)]++
		return kind
	})
	for range rapid.IntRange(3, 24).Draw(m.t, "steps") {
		switch rapid.SampledFrom([]string{"do", "do", "do", "wait", "wait", "wait", "flush", "expire", "claim"}).Draw(m.t, "step") {
		case "do":
			for range rapid.IntRange(1, 10).Draw(m.t, "stores") {
				m.store(s)
			}
		case "wait":
			// For a few more requests, or for a writer that is idle or waits for a deadline.
			enough := m.r.faults.count() + rapid.IntRange(1, 4).Draw(m.t, "requests")
			for end := time.Now().Add(30 * time.Millisecond); m.r.faults.count() < enough && time.Now().Before(end); {
				time.Sleep(100 * time.Microsecond)
			}
		case "flush":
			if n := m.r.faults.flush(); n > 1 {
				m.t.Fatalf("%d copies of batches committed late", n) // one may be the only copy so far
			}
		case "expire":
			if reply, err := m.r.plain.Get(context.Background(), nodeKey(m.node)); err == nil && len(reply.Kvs) == 1 && !m.fence {
				m.r.expire(m.node)
			}
		case "claim":
			if rapid.IntRange(0, 9).Draw(m.t, "really") == 0 && !m.fence {
				m.fence = true
				if rapid.Bool().Draw(m.t, "restart") {
					if _, err := m.r.plain.Put(context.Background(), chainKey(m.node), "another process"); err != nil {
						m.t.Fatalf("%v", err)
					}
				} else if err := m.r.takeAway(m.node); err != nil {
					m.t.Fatalf("%v", err)
				}
			}
		}
	}
	m.store(s)
	last := m.stores[len(m.stores)-1].Token
	for deadline := time.Now().Add(20 * time.Second); m.h.final(m.t)[last] == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("no outcome of the last of %d writes after 20 s", len(m.stores))
		}
	}
}

func (m *modelRun) store(s *Store) {
	st := core.Store{Token: core.Token(len(m.stores) + 1), Tenant: m.tenant}
	for range m.chanceOf(1, 6) {
		op := core.Op{Key: fmt.Sprint("k", m.chanceOf(0, 9)), Value: fmt.Appendf(nil, "%d.%d", st.Token, len(st.Ops))}
		if m.chanceOf(0, 5) == 0 {
			op.Value = nil
		}
		st.Ops = append(st.Ops, op)
	}
	m.stores = append(m.stores, st)
	s.Do(st)
}

func (m *modelRun) chanceOf(low, high int) int { return rapid.IntRange(low, high).Draw(m.t, "n") }

func (m *modelRun) check() {
	final := m.h.final(m.t)
	want := map[string]string{}
	fenced := false
	for _, st := range m.stores {
		m.met[final[st.Token]]++
		switch said := final[st.Token]; {
		case said == "stored" && !fenced:
			for _, op := range st.Ops {
				if want[op.Key] = string(op.Value); op.Value == nil {
					delete(want, op.Key)
				}
			}
		case said == "fenced" && m.fence:
			fenced = true
		default:
			m.t.Fatalf("token %d: %q, claimed %v, fenced before %v", st.Token, said, m.fence, fenced)
		}
	}
	m.compare("at the end", want)
	if n := m.r.faults.flush(); n != 0 {
		m.t.Fatalf("%d late copies committed", n)
	}
	m.compare("after the late copies", want)
}

func (m *modelRun) compare(when string, want map[string]string) {
	entries, _, err := load(context.Background(), m.r.plain, loadPage, logTo(m.r.log))
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	got := map[string]string{}
	for _, e := range entries {
		if e.Tenant == m.tenant {
			got[e.Key] = string(e.Value)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		m.t.Fatalf("%s etcd holds %v, the model %v", when, got, want)
	}
}
