package node

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// standing lists the keys of one kind that are there.
func (g *group) standing(kind string) (keys []string) {
	for _, k := range slices.Sorted(maps.Keys(g.keys)) {
		if strings.HasPrefix(g.keys[k].Key, kind) {
			keys = append(keys, g.keys[k].Key)
		}
	}
	return keys
}

// queue changes the queue of the group.
func (g *group) queue(change func(*tenant.Queue)) {
	q := tenant.DefaultQueue()
	q.ID, q.WrapUpS = "support", 0
	change(&q)
	g.do(g.members[g.owner()], command.PutQueue{Queue: q})
}

// only returns the one call of a node.
func (g *group) only(at core.NodeID) *call.Call {
	for _, id := range slices.Sorted(maps.Keys(g.members[at].Node.calls)) {
		return g.members[at].Node.calls[id]
	}
	g.t.Fatalf("%s has no call", at)
	return nil
}

// bye is the caller's hang-up as the anchor gets it.
func (g *group) bye(c *call.Call) core.Event {
	d := c.Caller.Dialog
	return core.RequestReceived{Txn: core.TxnID("bye-" + c.ID), From: core.Peer{Transport: core.UDP, Addr: phoneAt("bob")},
		Request: &core.Request{Method: core.BYE, Message: core.Message{From: d.Remote, To: d.Local, CallID: d.CallID, CSeq: 2}}}
}

// The commit that accepts an offer removes it and names the agent in the call's record. Who
// took the first for itself would think the agent free and offer once more.
func TestAcceptedOfferIsMadeOnce(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.register("a", "1001")
	g.invite(g.other(), "bob")
	g.wait(time.Second)
	if left := g.standing(offerPrefix); g.offered != 1 || len(left) > 0 {
		t.Errorf("%d offers were made, %v are left", g.offered, left)
	}
}

// A caller who hears a welcome first begins to wait when it ends, at another node's desk, too.
func TestCallerWaitsElsewhereAfterTheWelcome(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.queue(func(q *tenant.Queue) { q.Welcome, q.WelcomeFirst = "hello", true })
	g.register("a", "1001")
	at := g.other()
	g.invite(at, "bob")
	c := g.only(at)
	g.members[at].inbox = append(g.members[at].inbox, core.PlaybackDone{Leg: c.Caller.ID, Play: c.Audio.Play})
	g.wait(time.Second)
	if s := g.calls(); s != string(at)+":bridged" {
		t.Errorf("calls: %s", s)
	}
}

// An offer to a caller who has left meanwhile is taken back at once.
func TestOfferToOneWhoHasLeft(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	at := g.other()
	g.invite(at, "bob")
	anchor := g.members[at]
	anchor.paused = true
	g.register(g.owner(), "1001")
	if g.offered != 1 {
		t.Fatalf("%d offers were made", g.offered)
	}
	anchor.inbox = append([]core.Event{g.bye(g.only(at))}, anchor.inbox...)
	anchor.paused = false
	g.wait(time.Second)
	if left := g.standing(offerPrefix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if s := g.agent("1001"); s != "ready/idle" {
		t.Errorf("the agent: %s", s)
	}
}

// The offer of an agent can come before the record of the call that the agent has left.
func TestOfferBeforeTheAgentsLastRecord(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.queue(func(*tenant.Queue) {})
	g.register("a", "1001")
	owner, at := g.owner(), g.other()
	g.invite(owner, "bob")
	g.invite(at, "eve")
	g.members[owner].inbox = append(g.members[owner].inbox, g.bye(g.only(owner)))
	g.wait(time.Second)
	if c := g.only(at); c.Phase != call.Bridged {
		t.Errorf("a second later the next caller is %s", c.Phase)
	}
}

// A node without ports for agents' phones is not offered agents over and over.
func TestNoPortElsewhereRestsTheDesk(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.noPorts = true
	g.register("a", "1001")
	g.invite(g.other(), "bob")
	g.wait(3 * time.Second)
	if g.offered > 5 {
		t.Errorf("%d offers in three seconds", g.offered)
	}
}
