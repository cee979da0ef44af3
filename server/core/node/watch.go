package node

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
)

// watched takes what was committed. What this node has written itself it knows; its echo
// only says where in the order of commits it stands.
func (n *Node) watched(now core.Time, e core.Watched, out []core.Effect) []core.Effect {
	moved := false
	// No desk decides between two changes of one commit: what the first takes from an agent
	// the second may give back. And an offer goes in the commit in which its call's record has
	// it: the record first.
	n.watching = true
	for _, c := range inOrder(e.Changes) {
		var err error
		if c.Tenant == "" {
			err = n.view.Take(c)
			moved = true
		} else {
			out, err = n.changed(now, c, out)
		}
		if err != nil {
			out = append(out, unreadable(c.Tenant, c.Key, err))
		}
	}
	n.watching = false
	if moved {
		out = n.regroup(now, out)
	}
	for _, c := range e.Changes {
		if t, ok := n.tenants[c.Tenant]; ok {
			out = n.match(now, t, n.acceptAll(now, t, out))
		}
	}
	if n.cfg.Plant == "fenced-says-bye" && n.claimed() {
		out = n.farewell(out)
	}
	return out
}

// wrote reports whether a record's anchor is this process, in this or a former incarnation.
func (n *Node) wrote(node core.NodeID, incarnation core.Revision) bool {
	return node == n.cfg.ID && n.born <= incarnation && incarnation <= n.incarnation
}

// claimed reports whether others have claimed what this process owned. When its lease alone
// has ended, which happens while etcd is away, its record is written anew, and it goes on
// under the new incarnation with all that it has.
func (n *Node) claimed() bool {
	if n.alone() || n.view.Alive(n.cfg.ID, n.incarnation) {
		return false
	}
	now, claimed := n.view.Recorded()
	if now > n.incarnation && !claimed {
		n.incarnation = now
		n.view.Reborn(now)
	}
	return claimed
}

// inOrder puts the offers of each commit behind its other changes.
func inOrder(changes []core.Change) []core.Change {
	late := func(c core.Change) int {
		if strings.HasPrefix(c.Key, offerPrefix) {
			return 1
		}
		return 0
	}
	sorted := slices.Clone(changes)
	slices.SortStableFunc(sorted, func(a, b core.Change) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), late(a)-late(b))
	})
	return sorted
}

// changed takes one record of a tenant.
func (n *Node) changed(now core.Time, c core.Change, out []core.Effect) ([]core.Effect, error) {
	kind, id, _ := strings.Cut(c.Key, "/")
	t, ok := n.tenants[c.Tenant]
	if ok && (kind == "config" || kind == "agents") {
		if t.committed[c.Key] = c.Value; c.Value == nil {
			delete(t.committed, c.Key)
		}
	}
	if kind == "config" {
		if n.owns(c.Tenant) {
			return out, nil
		}
		return n.configured(now, t, c, out)
	}
	if !ok {
		return out, nil // the tenant is being deleted
	}
	switch kind {
	case "bindings":
		return n.registered(now, t, id, c, out)
	case "agents":
		if n.owns(c.Tenant) || c.Value == nil {
			return out, nil
		}
		r, err := decode[agentRecord](c.Value)
		if err == nil {
			t.saved[core.AgentID(id)] = r
			out = n.declared(now, t, core.AgentID(id), r, out)
		}
		return out, err
	case "offers":
		if c.Value == nil {
			return n.offered(now, t, core.InteractionID(id), nil, out), nil
		}
		o, err := decode[offerRecord](c.Value)
		o.revision = c.Revision
		if err != nil {
			return out, err
		}
		return n.offered(now, t, core.InteractionID(id), &o, out), nil
	case "calls":
		anchor := anchorOf(c.Value)
		n.view.Anchored(c.Tenant, c.Key, anchor)
		if n.calls[core.InteractionID(id)] != nil {
			return out, nil // what this node anchors it knows better; one that was moved or claimed it is told of
		}
		return n.called(now, t, core.InteractionID(id), c.Value, out)
	case "outbox":
		return n.posted(t, c, core.InteractionID(id), out)
	}
	return out, nil
}

// anchorOf reads who anchors a call off its record; the zero Process when it is gone, or
// cannot be read: nobody acts for such a record.
func anchorOf(value []byte) cluster.Process {
	if value == nil {
		return cluster.Process{}
	}
	id, incarnation := call.AnchorOf(value)
	return cluster.Process{ID: id, Incarnation: incarnation}
}

// coordinate does this node's part for the cluster: shards, suspicions, claims.
func (n *Node) coordinate(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
	if n.alone() || n.life == Over {
		return out
	}
	if silent, is := ev.(core.PeerSilent); is && n.cfg.Plant == "takes-over-unclaimed" {
		out = n.usurp(now, silent.Peer, out)
	}
	return n.view.Due(now, n.token, n.view.Hear(now, ev, out))
}

// called takes the record of a call. Its own this node knows better.
func (n *Node) called(now core.Time, t *tenancy, id core.InteractionID, value []byte, out []core.Effect) ([]core.Effect, error) {
	if value == nil {
		if t.others[id] == nil {
			return out, nil
		}
		return n.other(now, t, id, nil, out), nil
	}
	c, err := call.Decode(value)
	if err == nil {
		err = c.Valid()
	}
	if err == nil && (c.Tenant != t.conf.ID || c.ID != id) {
		err = errOtherKey
	}
	moved := err == nil && c.Mover != "" && c.Mover != n.cfg.ID // to this node, perhaps
	if err != nil || !moved && n.wrote(c.Node, c.Incarnation) {
		return out, err
	}
	out = n.other(now, t, id, c, out)
	n.inherit(t, id)
	return n.rescue(now, out), nil
}

// posted takes a CDR that waits for the records store.
func (n *Node) posted(t *tenancy, c core.Change, id core.InteractionID, out []core.Effect) ([]core.Effect, error) {
	if c.Value == nil {
		n.view.Anchored(c.Tenant, c.Key, cluster.Process{})
		delete(t.posted, id)
		return out, nil
	}
	p, err := decodeOf(c.Value, func(p postedRecord) bool { return p.Tenant == t.conf.ID && p.ID == id })
	if err != nil {
		return out, err
	}
	n.view.Anchored(c.Tenant, c.Key, cluster.Process{ID: p.Node, Incarnation: p.Incarnation})
	if n.wrote(p.Node, p.Incarnation) {
		return out, nil
	}
	t.posted[id] = p
	return n.redeliver(t, id, out), nil
}

// configured takes a change of a tenant's configuration that its shard's owner made.
func (n *Node) configured(now core.Time, t *tenancy, c core.Change, out []core.Effect) ([]core.Effect, error) {
	switch {
	case c.Value != nil && c.Key == tenantKey:
		return n.take(now, core.Entry{Tenant: c.Tenant, Key: c.Key, Value: c.Value}, out)
	case t == nil:
		return out, nil
	case c.Value != nil:
		err := n.takeConfig(t, core.Entry{Tenant: c.Tenant, Key: c.Key, Value: c.Value})
		return n.match(now, t, out), err
	case c.Key == tenantKey:
		if t.calls == 0 {
			n.dropTenant(t)
		}
	case strings.HasPrefix(c.Key, queuePrefix):
		id := core.QueueID(c.Key[len(queuePrefix):])
		delete(t.queues, id)
		t.desk.DropQueue(id)
	case strings.HasPrefix(c.Key, agentPrefix):
		n.dropAgent(t, core.AgentID(c.Key[len(agentPrefix):]))
	case strings.HasPrefix(c.Key, numberPrefix):
		delete(t.numbers, c.Key[len(numberPrefix):])
	}
	return out, nil
}

// registered takes the bindings that another node holds for an agent.
func (n *Node) registered(now core.Time, t *tenancy, rest string, c core.Change, out []core.Effect) ([]core.Effect, error) {
	agent, holder, _ := strings.Cut(rest, "/")
	id, by := core.AgentID(agent), core.NodeID(holder)
	if by == n.cfg.ID || n.cfg.Plant == "bindings-of-others-ignored" {
		return out, nil
	}
	var set registrar.Set
	if c.Value != nil {
		var err error
		if set, err = decode[registrar.Set](c.Value); err != nil {
			return out, err
		}
	}
	before := len(t.bindings[id])
	t.bind(id, by, set)
	out = n.rebind(now, t, id, out)
	if len(t.bindings[id]) > 0 && n.ours(t) {
		out = n.cameBack(now, t, id, before == 0, out)
	}
	return out, nil
}

// owns reports whether this node is the owner of a tenant's shard.
func (n *Node) owns(id core.TenantID) bool {
	if n.alone() {
		return true
	}
	owner, _, ok := n.view.Owner(cluster.ShardOf(id))
	return ok && owner.ID == n.cfg.ID && owner.Incarnation == n.incarnation
}

func (n *Node) ours(t *tenancy) bool { return n.owns(t.conf.ID) }

// alone: without an incarnation there is no cluster, and everything is this node's.
func (n *Node) alone() bool { return n.incarnation == 0 }

// epoch is what the Store of a desk's decision compares.
func (n *Node) epoch(t *tenancy) []core.Guard {
	if n.alone() {
		return nil
	}
	shard := cluster.ShardOf(t.conf.ID)
	_, epoch, _ := n.view.Owner(shard)
	return []core.Guard{{Key: cluster.ShardKey(shard), Revision: epoch}}
}

// regroup does what follows from a change of who is there and who owns what.
func (n *Node) regroup(now core.Time, out []core.Effect) []core.Effect {
	n.ordered(now)
	for _, id := range slices.Sorted(maps.Keys(n.tenants)) {
		t := n.tenants[id]
		for _, agent := range slices.Sorted(maps.Keys(t.bound)) {
			out = n.rebind(now, t, agent, out)
		}
		for _, c := range slices.Sorted(maps.Keys(t.others)) {
			n.inherit(t, c)
		}
		for _, c := range slices.Sorted(maps.Keys(t.posted)) {
			out = n.redeliver(t, c, out)
		}
		out = n.match(now, t, out)
	}
	return n.rescue(now, out)
}
