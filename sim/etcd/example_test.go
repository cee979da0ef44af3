package etcd_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/etcd"
)

// A node writes under a guard, over a link on which answers do not come through; another
// watches. The write has an unknown outcome, and the watch shows what became of it.
func Example() {
	c := etcd.New(etcd.Usual(), rand.New(rand.NewPCG(1, 1)))
	now := core.Time(0)
	c.Ask(now, etcd.Request{Client: "n2", ID: 1, NeedLeader: true, Do: etcd.Watch{Key: "claims/", End: "t0", From: 1}})
	c.Inject(now, etcd.Fault{Kind: etcd.CutFrom, Client: "n1", Member: 2, For: 3 * time.Second})
	c.Ask(now, etcd.Request{Client: "n1", ID: 1, Via: 2, Timeout: time.Second, Do: etcd.Txn{
		If:   []etcd.Compare{{Key: "nodes/n1", Target: etcd.CreateRevision, Is: etcd.Equal, Number: 0}},
		Then: []etcd.Op{{Kind: etcd.Put, Key: "nodes/n1", Value: []byte("here")}},
	}})
	for end := now.Add(2 * time.Second); c.Deadline() <= end; {
		now = c.Deadline()
		for _, a := range c.Step(now, nil) {
			switch r := a.Reply.(type) {
			case etcd.WatchReply:
				for _, e := range r.Events {
					fmt.Printf("%s hears of %s at revision %d\n", a.Client, e.KV.Key, e.KV.Mod)
				}
			default:
				fmt.Printf("%s is told: %s (definite: %t)\n", a.Client, a.Err, a.Err.Definite())
			}
		}
	}
	// Output:
	// n2 hears of nodes/n1 at revision 2
	// n1 is told: deadline exceeded (definite: false)
}
