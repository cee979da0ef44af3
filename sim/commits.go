package sim

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/sim/check"
	"github.com/dialtone-cc/dialtone/sim/etcd"
)

// commits is the etcd that the nodes of a world share, and what was really committed,
// whatever anybody has been told: the checkers look there.
type commits struct {
	w       *World
	etcd    *etcd.Cluster
	clients map[etcd.ClientID]*edge
	answers []etcd.Answer // that have come and are not delivered yet
	planned core.Time
	kept    map[string]committed
	links   map[string]core.Revision // ids of chains' links -> their commit
	leases  map[etcd.LeaseID]string
	rev     core.Revision
	view    *cluster.View
	told    core.Time // until when what is missing is excused: etcd was away
}

type committed struct {
	value []byte
	rev   core.Revision
}

func newCommits(w *World) *commits {
	c := &commits{w: w, clients: map[etcd.ClientID]*edge{}, kept: map[string]committed{}, links: map[string]core.Revision{}, leases: map[etcd.LeaseID]string{}, rev: 1, view: cluster.New("the world", 0)}
	cfg := etcd.Usual()
	cfg.Commit = etcd.Span{Low: w.opt.StoreMean / 2, High: 2 * w.opt.StoreMean}
	if w.opt.Unknown > 0 {
		cfg.Odds = etcd.Odds{LostBefore: w.opt.Unknown / 4, LostAfter: w.opt.Unknown / 2, Late: w.opt.Unknown / 4, LateBy: w.opt.StoreWorst}
	}
	cfg.Seen = c.seen
	c.etcd = etcd.New(cfg, rand.New(rand.NewPCG(w.opt.Seed, 0x65746364)))
	return c
}

// ask sends a request of a client.
func (c *commits) ask(r etcd.Request) {
	c.step()
	c.etcd.Ask(c.w.now, r)
	c.plan()
}

func (c *commits) inject(f etcd.Fault) {
	c.step()
	c.etcd.Inject(c.w.now, f)
	c.plan()
}

func (c *commits) close(id etcd.ClientID) {
	c.step()
	delete(c.clients, id)
	c.etcd.Close(c.w.now, id)
	c.plan()
}

// step lets etcd come to this instant. Its answers are delivered by a moment of their own:
// who asks is in the middle of something.
func (c *commits) step() {
	before := len(c.answers)
	c.answers = c.etcd.Step(c.w.now, c.answers)
	if before == 0 && len(c.answers) > 0 {
		c.w.after(0, c.deliver)
	}
}

func (c *commits) plan() {
	at := c.etcd.Deadline()
	if at == core.Never || c.planned > c.w.now && c.planned <= at {
		return
	}
	at = max(at, c.w.now)
	c.planned = at
	c.w.at(at, func() {
		if c.planned == at {
			c.planned = 0
		}
		c.step()
		c.plan()
	})
}

func (c *commits) deliver() {
	all := c.answers
	c.answers = nil
	for _, a := range all {
		if e := c.clients[a.Client]; e != nil && c.w.failure == nil {
			e.answered(a)
		}
	}
}

// seen is every commit at the moment that it happens.
func (c *commits) seen(commit etcd.Commit) {
	if commit.Err != "" || commit.Revision <= c.rev {
		return
	}
	c.rev = commit.Revision
	switch do := commit.Do.(type) {
	case etcd.Txn:
		for _, op := range do.Then {
			switch op.Kind {
			case etcd.Put:
				c.put(op.Key, op.Value)
				if op.Lease != 0 {
					c.leases[op.Lease] = op.Key
				}
			case etcd.Delete:
				c.put(op.Key, nil)
			}
		}
	case etcd.Revoke:
		key := c.leases[do.Lease]
		delete(c.leases, do.Lease)
		if key != "" {
			c.put(key, nil)
		}
	}
}

func (c *commits) put(key string, value []byte) {
	was, there := c.kept[key]
	if value == nil && !there {
		return
	}
	switch {
	case strings.HasPrefix(key, "chains/"):
		c.links[string(value)] = c.rev
	case strings.HasPrefix(key, "nodes/") && there:
		c.w.removed(cluster.Process{ID: core.NodeID(key[len("nodes/"):]), Incarnation: was.rev})
	case strings.HasPrefix(key, "claims/") && value != nil:
		c.w.claimed(key)
	}
	if value == nil {
		delete(c.kept, key)
	} else {
		c.kept[key] = committed{value, c.rev}
	}
	if t, k := parted(key); t == "" {
		_ = c.view.Take(core.Change{Key: k, Value: value, Revision: c.rev}) // what cannot be read the nodes complain of
	}
	if rest, ok := strings.CutPrefix(key, "t/"); ok {
		tenant, rest, _ := strings.Cut(rest, "/")
		kind, id, _ := strings.Cut(rest, "/")
		if kind == "calls" || kind == "offers" {
			c.w.fact(check.Reserved{Tenant: core.TenantID(tenant), Interaction: core.InteractionID(id), Agent: c.reserves(tenant, id)})
		}
	}
}

// reserves returns which agent the records of an interaction name, "" for none.
func (c *commits) reserves(tenant, id string) core.AgentID {
	if r, ok := c.kept["t/"+tenant+"/calls/"+id]; ok {
		if k, err := call.Decode(r.value); err == nil {
			if s := k.Standing(); s.Agent != "" {
				return s.Agent
			}
		}
	}
	if r, ok := c.kept["t/"+tenant+"/offers/"+id]; ok {
		return offeredTo(r.value)
	}
	return ""
}

// actor returns who is to act for the call whose record names a Call-ID: its anchor, or who
// follows it by the claims that are committed. "" is nobody yet.
func (c *commits) actor(callID string) (by core.NodeID, found bool) {
	for key, r := range c.kept { // one record at most: the order of the visit does not matter
		if !strings.HasPrefix(key, "t/") || !strings.Contains(key, "/calls/") || !bytes.Contains(r.value, []byte(callID)) {
			continue
		}
		node, incarnation := call.AnchorOf(r.value)
		if s := c.w.node(node); s != nil && !s.stale && s.is(incarnation) {
			return node, true // also while its lease has ended: nobody else has a claim
		}
		by, _ := c.view.Resolve(node, incarnation, core.InteractionID(key[strings.LastIndex(key, "/")+1:]))
		return by, true
	}
	return "", false
}

// there reports whether a process has its node record.
func (c *commits) there(p cluster.Process) bool {
	r, ok := c.kept[cluster.NodeKey(p.ID)]
	return ok && r.rev == p.Incarnation
}

// holds is as store.holds.
func (c *commits) holds(t core.TenantID, texts ...string) bool {
	for key, r := range c.kept { // "any": the order of the visit does not matter
		if strings.HasPrefix(key, "t/") && (t == "" || strings.HasPrefix(key, "t/"+string(t)+"/")) && containsAll(r.value, texts) {
			return true
		}
	}
	return false
}

// entries is all that is committed of tenants, in the order of keys.
func (c *commits) entries() []core.Entry {
	var all []core.Entry
	for _, key := range slices.Sorted(maps.Keys(c.kept)) {
		if t, k := parted(key); t != "" {
			all = append(all, core.Entry{Tenant: t, Key: k, Value: c.kept[key].value, Revision: c.kept[key].rev})
		}
	}
	return all
}

// parted takes a key of etcd apart: a tenant's, or the cluster's own.
func parted(key string) (core.TenantID, string) {
	rest, ok := strings.CutPrefix(key, "t/")
	if !ok {
		return "", key
	}
	t, k, _ := strings.Cut(rest, "/")
	return core.TenantID(t), k
}

func joined(t core.TenantID, key string) string {
	if t == "" {
		return key
	}
	return "t/" + string(t) + "/" + key
}

// pending says which records should be gone when all is over, and are not.
func (c *commits) pending() []string {
	var left []string
	for _, key := range slices.Sorted(maps.Keys(c.kept)) {
		_, k := parted(key)
		kind, _, _ := strings.Cut(k, "/")
		switch kind {
		case "calls", "offers", "outbox", "claims":
			left = append(left, "record "+key)
		}
	}
	for shard := range cluster.Shards {
		r, ok := c.kept[cluster.ShardKey(shard)]
		if owner := shardOwner(r.value); !ok || !c.there(owner) {
			left = append(left, "shard "+cluster.ShardKey(shard)+" has no live owner")
		}
	}
	return left
}

// trouble says that etcd does not work as it should for a while.
func (c *commits) trouble(d time.Duration) {
	c.told = max(c.told, c.w.now.Add(d+2*time.Second))
}
