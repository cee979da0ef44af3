package cluster_test

import (
	"fmt"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

const calls = 10_000

// takeover is n1 of a cluster in which n2 has just been claimed, with all its calls.
func takeover(b *testing.B, nodes int) (*desk, []core.InteractionID) {
	d := newDesk(b, nodes).up()
	d.ownAll("n2")
	r := core.NewRand([32]byte{1})
	var ids []core.InteractionID
	for range calls {
		id := r.Interaction(d.now)
		ids = append(ids, id)
		d.Anchored("acme", "calls/"+string(id), cluster.Process{ID: "n2", Incarnation: 102})
	}
	d.due()
	return d, ids
}

func BenchmarkResolve(b *testing.B) {
	for _, nodes := range []int{3, 9} {
		d, ids := takeover(b, nodes)
		b.Run(fmt.Sprintf("alive/nodes=%d", nodes), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Resolve("n2", 102, ids[i%calls])
			}
		})
		var survivors []cluster.Process
		for _, m := range d.Members() {
			if m.ID != "n2" {
				survivors = append(survivors, cluster.Process{ID: m.ID, Incarnation: m.Incarnation})
			}
		}
		d.put(cluster.NodeKey("n2"), nil)
		d.claim("n2", 102, survivors...)
		b.Run(fmt.Sprintf("claimed/nodes=%d", nodes), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, ok := d.Resolve("n2", 102, ids[i%calls]); !ok {
					b.Fatal("nobody")
				}
			}
		})
	}
}

// BenchmarkClaim is all that a survivor computes when a node with 10,000 calls dies: its
// claim, what the watch brings of it, and who acts for each of the calls.
func BenchmarkClaim(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		d, ids := takeover(b, 3)
		dead := core.PeerDead{Peer: d.member("n2")}
		b.StartTimer()
		out := d.hear(dead)
		if at, _ := d.Deadline(); len(claims(out)) == 0 {
			d.now = at
			out = d.due()
		}
		d.commit(out)
		for _, id := range ids {
			if _, ok := d.Resolve("n2", 102, id); !ok {
				b.Fatal("nobody")
			}
		}
	}
}

func BenchmarkAnchored(b *testing.B) {
	d, ids := takeover(b, 3)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d.Anchored("acme", "calls/"+string(ids[i%calls]), cluster.Process{ID: "n3", Incarnation: core.Revision(103 - i/calls%2)})
	}
}

// BenchmarkDue is what every other event of the node pays.
func BenchmarkDue(b *testing.B) {
	d, _ := takeover(b, 9)
	b.Run("idle", func(b *testing.B) {
		for b.Loop() {
			d.due()
		}
	})
	b.Run("changed", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			key := fmt.Sprint("calls/", i)
			d.Anchored("acme", key, cluster.Process{ID: "n4", Incarnation: 50})
			d.due()
			d.Anchored("acme", key, cluster.Process{})
		}
	})
}
