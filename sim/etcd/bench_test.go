package etcd

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// loaded is a cluster with so many keys of tenants, each of 300 bytes.
func loaded(b *testing.B, keys int) (*Cluster, core.Time) {
	c := New(Usual(), rand.New(rand.NewPCG(1, 2)))
	now := core.Time(0)
	value := make([]byte, 300)
	for i := 0; i < keys; i += 100 {
		var t Txn
		for j := range 100 {
			t.Then = append(t.Then, Op{Kind: Put, Key: fmt.Sprintf("t/a/calls/%06d", (i+j)*7919%keys), Value: value})
		}
		c.Ask(now, Request{Client: "loader", ID: RequestID(i + 1), Do: t})
		now = now.Add(10 * time.Millisecond)
		if out := c.Step(now, nil); len(out) != 1 || out[0].Err != "" {
			b.Fatalf("%+v", out)
		}
	}
	return c, now
}

// processor returns the time for which this process has had a processor: a benchmark's own
// time says little on a machine with other work.
func processor(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// nodeTxn is what a node writes: two guards, some records, the link of its chain.
func nodeTxn(node, n, keys int, value []byte) Txn {
	name := fmt.Sprint("n", node+1)
	t := Txn{
		If: []Compare{
			{Key: "nodes/" + name, Target: CreateRevision, Is: Equal},
			{Key: "claims/" + name, Target: ModRevision, Is: Equal},
		},
		Else: []Op{{Kind: Get, Key: "nodes/" + name}, {Kind: Get, Key: "chains/" + name}},
	}
	for j := range 3 {
		t.Then = append(t.Then, Op{Kind: Put, Key: fmt.Sprintf("t/a/calls/%06d", (n*31+node*7+j*1009)%keys), Value: value})
	}
	t.Then = append(t.Then, Op{Kind: Put, Key: "chains/" + name, Value: []byte("link")})
	return t
}

// BenchmarkTxn is one Txn of a node from Ask to its answer, three members, three watches.
func BenchmarkTxn(b *testing.B) {
	const keys = 10_000
	c, now := loaded(b, keys)
	for node := range 3 {
		c.Ask(now, Request{Client: ClientID(fmt.Sprint("n", node+1)), ID: 1 << 40, Do: Watch{Key: "claims/", End: "t0"}})
	}
	txns := make([]Txn, 4095)
	for i := range txns {
		txns[i] = nodeTxn(i%3, i, keys, make([]byte, 300))
	}
	clients := []ClientID{"n1", "n2", "n3"}
	var out []Answer
	b.ReportAllocs()
	b.ResetTimer()
	used := processor(b)
	answered := 0
	for i := range b.N {
		c.Ask(now, Request{Client: clients[i%3], ID: RequestID(i + 1), Timeout: time.Second, Do: txns[i%len(txns)]})
		now = now.Add(3 * time.Millisecond)
		out = c.Step(now, out[:0])
		answered += len(out)
		if i%20_000 == 19_999 {
			c.Ask(now, Request{Client: "loader", ID: RequestID(i + 1), Do: Compact{Revision: c.Revision()}})
		}
	}
	b.StopTimer()
	if answered < b.N {
		b.Fatalf("%d answers to %d Txns", answered, b.N)
	}
	b.ReportMetric(float64((processor(b)-used).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkSimulatedSecond is a second of a cluster of three nodes: 100 Txns a second of each,
// watches, keepalives, and 10,000 keys.
func BenchmarkSimulatedSecond(b *testing.B) {
	const keys, each = 10_000, 100
	c, now := loaded(b, keys)
	clients := []ClientID{"n1", "n2", "n3"}
	var out []Answer
	id := RequestID(1 << 40)
	leases := map[ClientID]LeaseID{}
	for _, cl := range clients {
		id++
		c.Ask(now, Request{Client: cl, ID: id, Do: Watch{Key: "claims/", End: "t0"}})
		id++
		c.Ask(now, Request{Client: cl, ID: id, Do: Grant{TTL: 5}})
	}
	txns := make([]Txn, 4095)
	for i := range txns {
		txns[i] = nodeTxn(i%3, i, keys, make([]byte, 300))
	}
	b.ReportAllocs()
	b.ResetTimer()
	used := processor(b)
	events := 0
	for second := range b.N {
		for i := range each {
			for node, cl := range clients {
				id++
				c.Ask(now, Request{Client: cl, ID: id, Timeout: time.Second, Do: txns[((second*each+i)*3+node)%len(txns)]})
				if l := leases[cl]; i == 0 && l != 0 {
					id++
					c.Ask(now, Request{Client: cl, ID: id, Timeout: time.Second, Do: KeepAlive{Lease: l}})
				}
			}
			end := now.Add(time.Second / each)
			for c.Deadline() <= end { // as a simulator does: from one moment to the next
				out = c.Step(c.Deadline(), out[:0])
				for _, a := range out {
					switch r := a.Reply.(type) {
					case LeaseReply:
						leases[a.Client] = r.Lease
					case WatchReply:
						events += len(r.Events)
					}
				}
			}
			now = end
		}
		if second%60 == 59 {
			id++
			c.Ask(now, Request{Client: "loader", ID: id, Do: Compact{Revision: c.Revision()}})
		}
	}
	b.StopTimer()
	if events < b.N*each*3*3*2 {
		b.Fatalf("%d events of %d seconds", events, b.N)
	}
	b.ReportMetric(float64(b.N)/(processor(b)-used).Seconds(), "simulated-s/cpu-s")
}
