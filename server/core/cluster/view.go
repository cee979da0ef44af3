package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// View is what one process knows of the cluster: what has been committed up to some
// revision, and whom it hears. It is fed by Take, Anchored and Hear, and asked; after
// feeding it, Due says what is to be done. The zero View is of no use, New makes one.
//
// What always holds:
//  1. nodes, drains and claims are sorted (claims by commit), so all that is asked depends
//     on what was committed alone, never on the order in which memory holds it.
//  2. At most one Store of each subject is open; a Store whose Guards all stand as they
//     stood at the last try is not made again within the retry time.
//  3. Due asks for nothing once this process's own node record is gone.
type View struct {
	self   Process
	fenced bool // a Store said so, or a claim: for good, though the claim is removed one day

	nodes  []node
	shards [Shards]shard
	claims []claim
	drains []core.NodeID

	anchors map[recordKey]Process // by record, so that feeding one twice counts it once
	counts  []count               // records per process, sorted, none at 0

	peers    []core.Member // as last told by SetPeers
	known    core.Revision // and of itself
	absent   []absence
	attempts []attempt
	dirty    bool // something was fed since the last Due
	wake     core.Time
	why      core.Reason
}

// node is one member, and how this process hears it.
type node struct {
	Process
	record NodeRecord
	ear    ear
}

func (n *node) member() core.Member {
	return core.Member{ID: n.ID, Incarnation: n.Incarnation, Addr: n.record.Peer}
}

type shard struct {
	owner Process
	epoch core.Revision // 0: it was never owned
	free  core.Time     // since when this process sees it without a live owner; 0: it has one
}

type claim struct {
	of        Process
	survivors []Process
	revision  core.Revision
}

type recordKey struct {
	tenant core.TenantID
	key    string
}

type count struct {
	Process
	records int
}

// New returns the view of one process; incarnation is that of Restored, whose entries are
// to be fed next.
func New(self core.NodeID, incarnation core.Revision) *View {
	return &View{self: Process{self, incarnation}, anchors: map[recordKey]Process{}, dirty: true, wake: core.Never}
}

// Take applies one key of the cluster's own, watched or restored; others are passed over.
// Changes come in the order of commits. An error says that the value can't be read: then
// the key counts as there, with nothing in it (a member without addresses, a shard without
// an owner, a claim without survivors, a drain).
func (v *View) Take(c core.Change) error {
	if c.Tenant != "" {
		return nil
	}
	kind, rest, _ := strings.Cut(c.Key, "/")
	var err error
	switch kind + "/" {
	case nodePrefix:
		err = v.takeNode(rest, c)
	case shardPrefix:
		err = v.takeShard(rest, c)
	case claimPrefix:
		err = v.takeClaim(rest, c)
	case drainPrefix:
		err = v.takeDrain(rest, c)
	default:
		return nil // of a newer version
	}
	v.dirty = true
	if err != nil {
		return fmt.Errorf("cluster record %.200q at revision %d: %w", c.Key, c.Revision, err)
	}
	return nil
}

func (v *View) takeNode(rest string, c core.Change) error {
	id, err := checkNode(rest)
	if err != nil {
		return err
	}
	i, found := v.find(id)
	if c.Value == nil {
		if found {
			v.nodes = slices.Delete(v.nodes, i, i+1)
		}
		return nil
	}
	record, err := decode[NodeRecord](c.Value)
	n := node{Process: Process{id, c.Revision}, record: record}
	if !found {
		v.nodes = slices.Insert(v.nodes, i, n)
	} else if v.nodes[i].Process != n.Process {
		v.nodes[i] = n
	}
	return err
}

func (v *View) takeShard(rest string, c core.Change) error {
	i, err := parseShard(rest)
	if err != nil {
		return err
	}
	s := &v.shards[i]
	if c.Value == nil {
		s.owner, s.epoch = Process{}, 0
		return nil
	}
	r, err := decode[ShardRecord](c.Value)
	s.owner, s.epoch = Process{r.Owner, r.Incarnation}, c.Revision
	return err
}

func (v *View) takeClaim(rest string, c core.Change) error {
	of, err := parseClaim(rest)
	if err != nil {
		return err
	}
	v.claims = slices.DeleteFunc(v.claims, func(c claim) bool { return c.of == of })
	if c.Value == nil {
		return nil
	}
	r, err := decodeClaim(c.Value)
	made := claim{of, r.Survivors, c.Revision}
	i, _ := slices.BinarySearchFunc(v.claims, made, compareClaims)
	v.claims = slices.Insert(v.claims, i, made)
	v.fenced = v.fenced || v.covering(v.self) != nil
	return err
}

func (v *View) takeDrain(rest string, c core.Change) error {
	id, err := checkNode(rest)
	if err != nil {
		return err
	}
	i, found := slices.BinarySearch(v.drains, id)
	switch {
	case c.Value == nil && found:
		v.drains = slices.Delete(v.drains, i, i+1)
	case c.Value != nil && !found:
		v.drains = slices.Insert(v.drains, i, id)
	}
	if c.Value != nil {
		_, err = decode[DrainRecord](c.Value)
	}
	return err
}

// Anchored says at which process a tenant's record is anchored now, the zero Process when
// the record is gone. It is told of every record that Resolve is asked about, own ones
// included, as the watch shows them: never before they are committed. A record of which it
// is not told may lose the claim that says who acts for it.
func (v *View) Anchored(tenant core.TenantID, key string, at Process) {
	k := recordKey{tenant, key}
	was := v.anchors[k]
	if was == at {
		return
	}
	if at == (Process{}) {
		delete(v.anchors, k)
	} else {
		v.anchors[k] = at
	}
	v.count(was, -1)
	v.count(at, +1)
}

func (v *View) count(of Process, more int) {
	if of == (Process{}) {
		return
	}
	i, found := slices.BinarySearchFunc(v.counts, of, func(c count, p Process) int { return compareProcesses(c.Process, p) })
	if !found {
		v.counts = slices.Insert(v.counts, i, count{Process: of})
		v.dirty = v.dirty || v.here(of) == nil // one that is gone may have to be claimed
	}
	if v.counts[i].records += more; v.counts[i].records == 0 {
		v.counts = slices.Delete(v.counts, i, i+1)
		v.dirty = v.dirty || len(v.claims) > 0 // one of them may go
	}
}

// Self returns this process; Addr is where its peers reach it, invalid once it has been
// claimed or its lease has ended.
func (v *View) Self() core.Member {
	if n := v.here(v.self); n != nil {
		return n.member()
	}
	return core.Member{ID: v.self.ID, Incarnation: v.self.Incarnation}
}

// Members returns the processes whose node records are there, this one included, by id.
func (v *View) Members() []core.Member {
	members := make([]core.Member, len(v.nodes))
	for i := range v.nodes {
		members[i] = v.nodes[i].member()
	}
	return members
}

// Node returns the record of a member; false when there is none.
func (v *View) Node(id core.NodeID) (NodeRecord, bool) {
	i, found := v.find(id)
	if !found {
		return NodeRecord{}, false
	}
	return v.nodes[i].record, true
}

// Alive reports whether a process may still commit: its node record is there. For this
// process itself false means that it has been claimed, or its lease has ended.
func (v *View) Alive(id core.NodeID, incarnation core.Revision) bool {
	return v.here(Process{id, incarnation}) != nil
}

// Draining reports whether this node is to be empty.
func (v *View) Draining() bool { return v.empties(v.self.ID) }

// Drains returns the nodes that are to be empty, by id; some may not be there.
func (v *View) Drains() []core.NodeID { return slices.Clone(v.drains) }

func (v *View) empties(id core.NodeID) bool {
	_, found := slices.BinarySearch(v.drains, id)
	return found
}

func (v *View) find(id core.NodeID) (int, bool) {
	return slices.BinarySearchFunc(v.nodes, id, func(n node, id core.NodeID) int { return cmp.Compare(n.ID, id) })
}

// here returns the member that is this process, nil when there is none.
func (v *View) here(p Process) *node {
	if i, found := v.find(p.ID); found && v.nodes[i].Incarnation == p.Incarnation {
		return &v.nodes[i]
	}
	return nil
}

func compareProcesses(a, b Process) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Incarnation, b.Incarnation))
}

func compareClaims(a, b claim) int {
	return cmp.Or(cmp.Compare(a.revision, b.revision), compareProcesses(a.of, b.of))
}
