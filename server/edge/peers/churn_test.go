package peers

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Ten nodes that end, join again and lose their connections, in any order: whoever lives is up
// for all others in the end, whoever has ended is dead for all who had met it, once, and
// nobody who lives is ever dead.
func TestChurn(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		checks := "5"
		if long() {
			checks = "40"
		}
		if err := f.Value.Set(checks); err != nil {
			t.Fatal(err)
		}
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(r *rapid.T) {
		w := &world{t: t, live: map[core.NodeID]*node{}, ended: map[process]bool{}}
		defer w.end()
		for i := range 10 {
			w.start(core.NodeID(fmt.Sprint("n", i)))
		}
		w.introduceAll()
		w.settle(r)
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			id := core.NodeID(fmt.Sprint("n", rapid.IntRange(0, 9).Draw(r, "who")))
			n := w.live[id]
			switch what := rapid.SampledFrom([]string{"end", "join", "anew", "cut", "settle"}).Draw(r, "what"); {
			case what == "end" && n != nil:
				n.Close()
				w.died(n.Member)
				delete(w.live, id)
			case what == "join" && n == nil:
				w.start(id)
				w.introduceAll()
			case what == "anew" && n != nil:
				w.died(n.Member)
				w.revision++
				n.Member.Incarnation = w.revision
				n.SetSelf(w.revision)
				w.introduceAll()
			case what == "cut" && n != nil:
				n.mu.Lock()
				for _, q := range n.order {
					if q.out != nil {
						q.out.conn.Close()
					}
				}
				n.mu.Unlock()
			case what == "settle":
				w.settle(r)
			}
		}
		w.settle(r)
	})
}

type world struct {
	t        *testing.T
	live     map[core.NodeID]*node
	all      []*node
	revision core.Revision
	ended    map[process]bool
}

func (w *world) start(id core.NodeID) {
	w.revision++
	n := newNode(w.t, id, w.revision, func(c *Config) { c.Beat = 20 * time.Millisecond })
	w.live[id] = n
	w.all = append(w.all, n)
}

func (w *world) died(m core.Member) { w.ended[processOf(m)] = true }

func (w *world) introduceAll() {
	var members []core.Member
	for _, n := range w.live {
		members = append(members, n.Member)
	}
	for _, n := range w.live {
		n.know(members...)
	}
}

func (w *world) end() {
	for _, n := range w.all {
		n.Close()
	}
}

// settle waits until the living know each other, and checks what was said so far.
func (w *world) settle(r *rapid.T) {
	limit := time.Now().Add(20 * time.Second)
	for !w.settled() {
		if time.Now().After(limit) {
			r.Fatalf("not settled: %s", w.describe())
		}
		time.Sleep(time.Millisecond)
	}
	for _, n := range w.all {
		deaths := map[process]int{}
		for _, l := range n.said() {
			if l.Kind == "PeerDead" {
				who := processOf(l.Peer)
				if deaths[who]++; deaths[who] > 1 || !w.ended[who] {
					r.Fatalf("%s says that %+v is dead, for the time number %d", n.Member.ID, who, deaths[who])
				}
			}
		}
	}
}

// settled says whether every one who lives holds of every peer that it knows what is true.
func (w *world) settled() bool {
	for _, n := range w.live {
		n.mu.Lock()
		right := !slices.ContainsFunc(n.order, func(q *peer) bool {
			if w.ended[processOf(q.member)] {
				return q.sight.verdict != dead && q.met || q.told != q.sight.verdict
			}
			return q.sight.verdict != up || q.out == nil || q.told != up
		})
		n.mu.Unlock()
		if !right {
			return false
		}
	}
	return true
}

func (w *world) describe() (all string) {
	for _, n := range w.live {
		n.mu.Lock()
		for _, q := range n.order {
			all += fmt.Sprintf("%s of %s.%d: %q told %q met %v; ", n.Member.ID, q.member.ID, q.member.Incarnation, q.sight.verdict, q.told, q.met)
		}
		n.mu.Unlock()
	}
	return all
}
