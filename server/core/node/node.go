package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/digest"
	"github.com/dialtone-cc/dialtone/server/core/leg"
	"github.com/dialtone-cc/dialtone/server/core/limit"
)

// Life is where a node is between birth and death.
type Life string

// The lives. Only a Serving node takes new interactions.
const (
	Restoring Life = "restoring" // waits for its Restored event
	Serving   Life = "serving"
	Draining  Life = "draining" // live interactions finish
	Over      Life = "over"     // drained, or fenced: nothing is this node's any more
)

// Node is the state of one node. It is not safe for concurrent use: one goroutine steps
// it. What always holds after a Step:
//  1. Every call is found by its id, each of its legs by its local tag, and no others.
//  2. Every agent that a desk sees busy is so with a live call that names it.
//  3. Every call and every line has its timer at its own deadline.
//  4. A call that has ended is forgotten; its CDR is in the outbox until delivered.
type Node struct {
	cfg    Config
	rand   *core.Rand
	life   Life
	tokens core.Token

	incarnation core.Revision // of this process in the cluster; 0: there is none
	born        core.Revision // its first one
	view        *cluster.View
	watching    bool      // changes are being taken: no desk decides yet
	talking     []subject // calls to be taken over, those that talk and the others
	orphans     []subject
	moving      map[core.InteractionID]bool         // to another anchor; the record is on its way
	leavings    map[core.InteractionID][]core.LegID // of calls that have moved: what still relays audio
	inherited   map[core.InteractionID]bool         // those of both lists
	underway    map[core.InteractionID]bool         // taken over, and not known again by both phones

	tenants map[core.TenantID]*tenancy
	domains map[string]core.TenantID
	keys    map[core.KeyHash]core.TenantID
	leaving map[core.TenantID]*asked // tenants whose deletion has begun

	calls map[core.InteractionID]*call.Call
	tags  map[string]core.LegID     // local tag of a dialog -> its leg
	asked map[core.TxnID]core.LegID // our open client transactions
	taken map[string]core.LegID     // Call-ID and From tag of a caller's INVITE (s.8.2.2.2)

	flows map[core.FlowID][]subject // tenant and agent that are reached over it

	lines     map[subject]*line
	lingering []*line // those that may join the Store of another, longest first
	inflight  map[core.Token]*line
	away      core.Time // since when a Store's outcome is open; 0: the store answers
	outbox    map[core.InteractionID]*parcel
	timers    timers

	auth      *digest.Verifier
	invites   *limit.Table[netip.Addr]
	registers *limit.Table[netip.Addr]

	gauges Gauges
}

// Defaults of Config.
const (
	defaultIdleAfter = 10 * time.Second
	defaultKeepalive = 5 * time.Second
	defaultTries     = 3
	defaultGrace     = 500 * time.Millisecond
	defaultMaxCalls  = 20_000
)

// New returns a node that waits for its Restored event.
func New(cfg Config) *Node {
	defaultTo(&cfg.IdleAfter, defaultIdleAfter)
	defaultTo(&cfg.KeepaliveEvery, defaultKeepalive)
	defaultTo(&cfg.KeepaliveTries, defaultTries)
	defaultTo(&cfg.StoreGrace, defaultGrace)
	defaultTo(&cfg.MaxCalls, defaultMaxCalls)
	defaultTo(&cfg.SourceRate, 50)
	defaultTo(&cfg.RegisterRate, 20)
	defaultTo(&cfg.MinExpires, time.Minute)
	defaultTo(&cfg.MaxExpires, time.Hour)
	return &Node{
		cfg: cfg, rand: core.NewRand(cfg.Seed), life: Restoring,
		tenants: map[core.TenantID]*tenancy{}, domains: map[string]core.TenantID{}, keys: map[core.KeyHash]core.TenantID{}, leaving: map[core.TenantID]*asked{},
		calls: map[core.InteractionID]*call.Call{}, tags: map[string]core.LegID{},
		asked: map[core.TxnID]core.LegID{}, taken: map[string]core.LegID{},
		flows: map[core.FlowID][]subject{}, lines: map[subject]*line{}, inflight: map[core.Token]*line{}, outbox: map[core.InteractionID]*parcel{}, underway: map[core.InteractionID]bool{}, inherited: map[core.InteractionID]bool{},
		moving: map[core.InteractionID]bool{}, leavings: map[core.InteractionID][]core.LegID{},
		auth:      digest.New(cfg.NonceKey),
		invites:   limit.New[netip.Addr](float64(cfg.SourceRate), float64(2*cfg.SourceRate), 1<<16),
		registers: limit.New[netip.Addr](float64(cfg.RegisterRate), float64(10*cfg.RegisterRate), 1<<16),
		gauges:    Gauges{Calls: map[string]int{}, Agents: map[string]int{}},
	}
}

func defaultTo[T comparable](v *T, d T) {
	if *v == *new(T) {
		*v = d
	}
}

// Step takes one event and appends the effects that follow, in order.
func (n *Node) Step(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
	if n.life == Over {
		return n.afterlife(ev, out)
	}
	token := n.tokens
	switch e := ev.(type) {
	case core.RequestReceived:
		out = n.request(now, e, out)
	case core.ResponseReceived:
		out = n.response(now, e, out)
	case core.TransactionFailed:
		if id, ok := n.asked[e.Txn]; ok {
			delete(n.asked, e.Txn)
			out = n.withLeg(now, id, out, func(c *call.Call, env *call.Env) { c.Failed(env, id, e) })
		}
	case core.FlowClosed:
		out = n.flowClosed(now, e.Flow, out)
	case core.MediaOpened, core.MediaRefused, core.MediaIdle, core.MediaResumed, core.PlaybackDone, core.MediaClosed:
		out = n.media(now, ev, out)
	case core.Stored:
		out = n.stored(now, e.Token, out)
	case core.Conflict:
		out = n.conflict(now, e.Token, out)
	case core.Unknown:
		if n.away == 0 {
			n.away = now
		}
	case core.Fenced:
		return n.fence(out)
	case core.Restored:
		out = n.restore(now, e, out)
	case core.Watched:
		if out = n.watched(now, e, out); n.claimed() {
			return n.fence(out)
		}
	case core.Delivered:
		out = n.delivered(now, e.ID, out)
	case core.DeliveryFailed:
		out = n.deliveryFailed(now, e.ID, out)
	case core.Purged:
		out = n.purged(now, e, out)
	case core.Commanded:
		out = n.command(now, e, out)
	case core.DrainRequested:
		out = n.drain(now, e.Within, out)
	case core.Woken:
	}
	out = n.gather(now, token, n.due(now, out))
	return n.coordinate(now, ev, out)
}

// Deadline returns when the node wants Woken, and why; core.Never when nothing is due.
func (n *Node) Deadline() (core.Time, core.Reason) {
	if n.life == Over {
		return core.Never, ""
	}
	at, why := n.timers.first()
	if n.alone() {
		return at, why
	}
	if t, r := n.view.Deadline(); t < at {
		return t, r
	}
	return at, why
}

// due does what the timers ask for. A timer that is still due after its work would spin;
// each kind of work moves or removes its own.
func (n *Node) due(now core.Time, out []core.Effect) []core.Effect {
	for range 1000 { // what is left is done in the next Step, which is due at once
		t, ok := n.timers.due(now)
		if !ok {
			break
		}
		switch t.kind {
		case callTimer:
			out = n.withCall(now, core.InteractionID(t.id), out, func(c *call.Call, env *call.Env) { c.Wake(env) })
		case lineTimer:
			out = n.lineDue(now, subject{t.tenant, t.id}, out)
		case deskTimer:
			out = n.deskDue(now, t.tenant, out)
		case bindingTimer:
			out = n.bindingsDue(now, t.tenant, core.AgentID(t.id), out)
		case parcelTimer:
			out = n.parcelDue(now, core.InteractionID(t.id), out)
		case drainTimer:
			out = n.drainDue(now, out)
		case rescueTimer:
			out = n.rescued(now, t.tenant, core.InteractionID(t.id), out)
		case farewellTimer:
			out = n.farewellDue(core.InteractionID(t.id), out)
		case offerTimer:
			if tenant, ok := n.tenants[t.tenant]; ok {
				out = n.takeBack(now, tenant, core.InteractionID(t.id), out)
			}
		case portTimer:
			if t, ok := n.tenants[t.tenant]; ok {
				out = n.match(now, t, out)
			}
		}
	}
	return n.drained(out)
}

// fence drops everything in silence: another node is the owner now, and its calls live
// on there. No BYE is sent.
func (n *Node) fence(out []core.Effect) []core.Effect {
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		n.calls[id].EachLeg(func(l *leg.Leg) { out = append(out, core.CloseMedia{Leg: l.ID}) })
	}
	n.life = Over
	return append(out,
		core.Log{Level: 8, Text: "fenced: another owner has taken this node's state; restart it to join again"},
		core.Drained{})
}

// afterlife answers those who must not be left waiting.
func (n *Node) afterlife(ev core.Event, out []core.Effect) []core.Effect {
	switch e := ev.(type) {
	case core.RequestReceived:
		if m := e.Request.Method; m == core.INVITE || m == core.REGISTER || m == core.OPTIONS {
			resp := e.Request.Reply(503, n.rand.Tag())
			resp.Header = []core.Field{leg.RetryAfter(5)}
			out = append(out, core.Respond{Txn: e.Txn, To: e.From, Response: resp})
		}
	case core.Commanded:
		out = append(out, core.Reply{Token: e.Token, Problem: unavailable("the node is shutting down")})
	}
	return out
}

// Gauges is the node in numbers, for telemetry. Counts are of this moment.
type Gauges struct {
	Life      Life
	Calls     map[string]int // live interactions by phase
	Agents    map[string]int // by what they do, or their status when that keeps them away
	Held      int            // records with effects that wait for a commit
	Waiting   int
	Bindings  int
	Outbox    int
	Tenants   int
	Away      bool // the store does not answer
	Ownerless int  // shards without an owner
}

// Gauges returns the node in numbers; the cost does not depend on the number of calls.
func (n *Node) Gauges() Gauges {
	g := n.gauges
	if g.Life, g.Away = n.life, n.away != 0; g.Life == Serving && !n.takes() {
		g.Life = Draining // by the operator's order: it is to be empty, and stays
	}
	g.Calls, g.Agents = maps.Clone(g.Calls), maps.Clone(g.Agents)
	g.Held, g.Outbox, g.Tenants = len(n.inflight), len(n.outbox), len(n.tenants)
	if !n.alone() {
		for shard := range cluster.Shards {
			if _, _, ok := n.view.Owner(shard); !ok {
				g.Ownerless++
			}
		}
	}
	return g
}

// Valid checks the numbered invariants above and those of every part, and names the
// first that does not hold. It walks over everything: for the simulator and tests.
func (n *Node) Valid() error {
	legs := 0
	for _, id := range slices.Sorted(maps.Keys(n.calls)) {
		c := n.calls[id]
		if err := c.Valid(); err != nil {
			return err
		}
		if c.Phase == call.Ended {
			return fmt.Errorf("call %s has ended and is still known", id)
		}
		var err error
		c.EachLeg(func(l *leg.Leg) {
			legs++
			if n.tags[l.Dialog.Local.Tag()] != l.ID {
				err = fmt.Errorf("leg %s is not found by its tag", l.ID)
			}
		})
		if err != nil {
			return err
		}
		if at, _ := c.Deadline(); at != n.timers.at(timer{callTimer, c.Tenant, string(id)}) {
			return fmt.Errorf("call %s: timer is not at its deadline", id)
		}
	}
	if legs != len(n.tags) {
		return fmt.Errorf("%d tags for %d legs", len(n.tags), legs)
	}
	for _, id := range slices.Sorted(maps.Keys(n.tenants)) {
		if err := n.tenants[id].valid(n); err != nil {
			return err
		}
	}
	return nil
}
