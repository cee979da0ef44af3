package cluster_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

// The smallest world in which the promises of the package can be broken: a store that
// commits one transaction after the other, and processes that see the commits late, sleep,
// die, lose each other or the store, and come back under the same name.

type failer interface {
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

const tenant = core.TenantID("acme")

type fullKey struct {
	tenant core.TenantID
	key    string
}

type held struct {
	value    []byte
	revision core.Revision
}

// store is etcd as far as the package relies on it.
type store struct {
	revision core.Revision
	keys     map[fullKey]held
	log      [][]core.Change // one element per commit
}

type outcome string

const (
	committed outcome = "committed"
	refused   outcome = "refused"
	fenced    outcome = "fenced"
)

func (s *store) holds(g core.Guard) bool {
	return s.keys[fullKey{g.Tenant, g.Key}].revision == g.Revision
}

func (s *store) commit(tenant core.TenantID, ops ...core.Op) {
	s.revision++
	var changes []core.Change
	for _, op := range ops {
		k := fullKey{tenant, op.Key}
		if op.Value == nil {
			if _, there := s.keys[k]; !there {
				continue
			}
			delete(s.keys, k)
		} else {
			s.keys[k] = held{op.Value, s.revision}
		}
		changes = append(changes, core.Change{Tenant: tenant, Key: op.Key, Value: op.Value, Revision: s.revision})
	}
	s.log = append(s.log, changes)
}

func (s *store) entries() []core.Change {
	var all []core.Change
	for k, h := range s.keys {
		all = append(all, core.Change{Tenant: k.tenant, Key: k.key, Value: h.value, Revision: h.revision})
	}
	slices.SortFunc(all, func(a, b core.Change) int {
		return strings.Compare(string(a.Tenant)+"\x00"+a.Key, string(b.Tenant)+"\x00"+b.Key)
	})
	return all
}

// process is one life of a node, with what is on its way to and from it.
type process struct {
	cluster.Process
	view    *cluster.View
	tokens  core.Token
	applied int           // commits of the log that it has seen
	fence   core.Revision // the incarnation that its Stores compare: Process follows when the watch shows it

	queue    []core.Store // asked for, not yet at the store
	outcomes []core.Event
	inbox    []core.Event // from peers
	peers    []core.Member
	told     map[cluster.Process]string // what the edge said last of each peer
	dead     map[cluster.Process]bool   // of whom it was told PeerDead
	evidence core.Time                  // when the last event of a peer came
	woken    core.Time                  // when it last woke

	records map[string]cluster.Process // as the watch showed them
	writing map[string]core.Token
	shown   map[string]core.Revision // committed at, and not shown by the watch yet

	asleep, cut, over bool // cut off from the store
}

type world struct {
	t      failer
	now    core.Time
	store  store
	ids    []core.NodeID
	alive  map[core.NodeID]*process
	ghosts []*process // dead ones whose Stores are still on the wire
	deaf   map[[2]core.NodeID]bool
	taken  map[core.NodeID]bool // whose chain a claim has taken
	truth  *cluster.View        // has seen every commit
	calls  int
	stores int // asked for by Views
	marks  map[string]int
}

func newWorld(t failer, nodes int, marks map[string]int) *world {
	w := &world{
		t: t, now: core.Time(1_700_000_000 * time.Second), alive: map[core.NodeID]*process{}, marks: marks,
		store: store{revision: 10, keys: map[fullKey]held{}}, deaf: map[[2]core.NodeID]bool{}, taken: map[core.NodeID]bool{}, truth: cluster.New("observer", 1),
	}
	for i := range nodes {
		w.ids = append(w.ids, core.NodeID(fmt.Sprintf("n%d", i+1)))
	}
	return w
}

func (w *world) mark(what string) { w.marks[what]++ }

// start begins a new life of a node: it writes its record, reads all, and watches.
func (w *world) start(id core.NodeID) *process {
	delete(w.taken, id)
	w.commit("", core.Op{Key: cluster.NodeKey(id), Value: cluster.NodeRecord{Version: "test"}.Encode()})
	p := &process{
		Process: cluster.Process{ID: id, Incarnation: w.store.revision}, fence: w.store.revision, applied: len(w.store.log), woken: w.now,
		told: map[cluster.Process]string{}, dead: map[cluster.Process]bool{},
		records: map[string]cluster.Process{}, writing: map[string]core.Token{}, shown: map[string]core.Revision{},
	}
	p.view = cluster.New(id, p.Incarnation)
	w.alive[id] = p
	w.feed(p, w.store.entries())
	return p
}

// feed gives changes to a process as the node would, and does what it asks for.
func (w *world) feed(p *process, changes []core.Change) {
	for _, c := range changes {
		if c.Tenant == "" {
			if err := p.view.Take(c); err != nil {
				w.t.Fatalf("%v", err)
			}
			continue
		}
		if at := p.shown[c.Key]; at != 0 && c.Revision >= at {
			delete(p.shown, c.Key)
			delete(p.writing, c.Key)
		}
		at := anchorOf(w.t, c)
		p.view.Anchored(c.Tenant, c.Key, at)
		delete(p.records, c.Key)
		if at != (cluster.Process{}) {
			p.records[c.Key] = at
		}
	}
	if !p.view.Alive(p.ID, p.Incarnation) {
		now, claimed := p.view.Recorded()
		switch {
		case claimed:
			w.end(p)
			return
		case now > p.Incarnation:
			w.mark("reborn")
			p.Incarnation = now
			p.view.Reborn(now)
		}
	}
	w.adopt(p)
	w.due(p)
}

// adopt writes what a process has to act for and is anchored elsewhere.
func (w *world) adopt(p *process) {
	for _, key := range sorted(p.records) {
		at := p.records[key]
		heir, ok := p.view.Resolve(at.ID, at.Incarnation, core.InteractionID(key))
		if ok && heir == p.ID && at != p.Process && p.writing[key] == 0 {
			w.mark("adopted")
			w.write(p, key, p.Process)
		}
	}
}

func anchorOf(t failer, c core.Change) (at cluster.Process) {
	if c.Value != nil {
		if err := json.Unmarshal(c.Value, &at); err != nil {
			t.Fatalf("%v", err)
		}
	}
	return at
}

func encodeAnchor(at cluster.Process) []byte {
	value, err := json.Marshal(at)
	if err != nil {
		panic(err)
	}
	return value
}

// write asks for a call's record to be anchored at a process; the zero one removes it. It
// compares nothing but, in the store, that the writer is not fenced.
func (w *world) write(p *process, key string, at cluster.Process, guards ...core.Guard) {
	op := core.Op{Key: key}
	if at != (cluster.Process{}) {
		op.Value = encodeAnchor(at)
	}
	p.tokens++
	p.writing[key] = p.tokens
	p.queue = append(p.queue, core.Store{Token: p.tokens, Tenant: tenant, Ops: []core.Op{op}, If: guards})
}

func (w *world) hear(p *process, ev core.Event) {
	w.carry(p, p.view.Hear(w.now, ev, nil))
	w.due(p)
}

func (w *world) due(p *process) {
	token := func() core.Token { p.tokens++; return p.tokens }
	w.carry(p, p.view.Due(w.now, token, nil))
	if at, _ := p.view.Deadline(); at <= w.now {
		w.t.Fatalf("%s: Deadline %v is over right after Due at %v", p.ID, at, w.now)
	}
}

func (w *world) carry(p *process, effects []core.Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case core.SetPeers:
			p.peers = e.Members
		case core.AskPeer:
			if to := w.process(e.Whom); to != nil && w.hears(to.ID, p.ID) {
				to.inbox = append(to.inbox, core.PeerAsked{From: p.view.Self(), About: e.About})
			}
		case core.TellPeer:
			if to := w.process(e.Whom); to != nil && w.hears(to.ID, p.ID) {
				to.inbox = append(to.inbox, core.PeerTold{From: p.view.Self(), About: e.About, Hears: e.Hears})
			}
		case core.Store:
			w.stores++
			w.asked(p, e)
			p.queue = append(p.queue, e)
		default:
			w.t.Fatalf("unexpected effect %T", e)
		}
	}
}

// asked checks a Store of a View when it is made.
func (w *world) asked(p *process, s core.Store) {
	if s.Tenant != "" || s.Token == 0 || len(s.Ops) == 0 || len(s.Ops) > 66 || len(s.If) > 126 {
		w.t.Fatalf("%s: Store of tenant %q with token %d, %d ops, %d guards", p.ID, s.Tenant, s.Token, len(s.Ops), len(s.If))
	}
	for _, op := range s.Ops {
		id, ok := strings.CutPrefix(op.Key, "nodes/")
		if !ok {
			continue
		}
		of := cluster.Process{ID: core.NodeID(id), Incarnation: revisionIn(s.If, op.Key)}
		if !p.dead[of] && p.woken > p.evidence && w.now < p.woken.Add(150*time.Millisecond) {
			w.t.Fatalf("%s claims %v, and has heard nothing since it woke at %v", p.ID, of, p.woken)
		}
	}
}

func revisionIn(guards []core.Guard, key string) core.Revision {
	for _, g := range guards {
		if g.Key == key {
			return g.Revision
		}
	}
	return -1
}

// hears reports whether what one node sends reaches another.
func (w *world) hears(to, from core.NodeID) bool { return !w.deaf[[2]core.NodeID{to, from}] }

// process returns the living process that a member is; nil: it is gone.
func (w *world) process(m core.Member) *process {
	p := w.alive[m.ID]
	if p == nil || p.Incarnation != m.Incarnation {
		return nil
	}
	return p
}

// end is the end of a process by its own insight or by force.
func (w *world) end(p *process) {
	p.over = true
	if w.alive[p.ID] == p {
		delete(w.alive, p.ID)
	}
	if len(p.queue) > 0 {
		w.ghosts = append(w.ghosts, p)
	}
}

// rebirth is what a process's store does when its lease has ended. If that is all, nobody has
// claimed it and nobody else has started under its name, it writes the node's record anew.
func (w *world) rebirth(p *process) {
	_, there := w.store.keys[fullKey{"", cluster.NodeKey(p.ID)}]
	if w.alive[p.ID] != p || there {
		return
	}
	if w.taken[p.ID] {
		p.outcomes = append(p.outcomes, core.Fenced{})
	} else {
		w.commit("", core.Op{Key: cluster.NodeKey(p.ID), Value: cluster.NodeRecord{Version: "test"}.Encode()})
		p.fence = w.store.revision
	}
}

// send lets the store take the first Store that a process has asked for.
func (w *world) send(p *process) outcome {
	w.rebirth(p)
	s := p.queue[0]
	p.queue = p.queue[1:]
	if w.store.keys[fullKey{"", cluster.NodeKey(p.ID)}].revision != p.fence {
		p.outcomes = append(p.outcomes, core.Fenced{Token: s.Token})
		w.mark("fenced")
		return fenced
	}
	for _, g := range s.If {
		if !w.store.holds(g) {
			p.outcomes = append(p.outcomes, core.Conflict{Token: s.Token})
			w.mark("refused")
			return refused
		}
	}
	w.allowed(p, s)
	w.commit(s.Tenant, s.Ops...)
	p.outcomes = append(p.outcomes, core.Stored{Token: s.Token, Revision: w.store.revision})
	return committed
}

// commit checks, at every commit, that who acts for a record changes only when the one who
// acted is gone, or wrote so itself; and that whoever gets a shard is there.
func (w *world) commit(tenant core.TenantID, ops ...core.Op) {
	before := w.acting()
	w.store.commit(tenant, ops...)
	changes := w.store.log[len(w.store.log)-1]
	written := map[string]bool{}
	for _, c := range changes {
		if c.Tenant == "" {
			if err := w.truth.Take(c); err != nil {
				w.t.Fatalf("%v", err)
			}
		} else {
			written[c.Key] = true
			w.truth.Anchored(c.Tenant, c.Key, anchorOf(w.t, c))
		}
	}
	after := w.acting()
	for _, key := range sorted(before) {
		is, there := after[key]
		if was := before[key]; there && is != was && !written[key] && w.truth.Alive(was.ID, was.Incarnation) {
			w.t.Fatalf("revision %d: %v acted for %s and is there, now %v acts\n%s", w.store.revision, was, key, is, w.dump(changes))
		}
	}
	for _, c := range changes {
		if strings.HasPrefix(c.Key, "shards/") {
			var r cluster.ShardRecord
			if err := json.Unmarshal(c.Value, &r); err != nil || !w.truth.Alive(r.Owner, r.Incarnation) {
				w.t.Fatalf("revision %d: %s is given to %s/%d, which is not there\n%s", c.Revision, c.Key, r.Owner, r.Incarnation, w.dump(changes))
			}
		}
	}
}

// acting returns who acts for each record, by all that was committed; nobody is left out.
func (w *world) acting() map[string]cluster.Process {
	who := map[string]cluster.Process{}
	for k, h := range w.store.keys {
		if k.tenant == "" {
			continue
		}
		at := anchorOf(w.t, core.Change{Value: h.value})
		if id, ok := w.truth.Resolve(at.ID, at.Incarnation, core.InteractionID(k.key)); ok {
			who[k.key] = cluster.Process{ID: id, Incarnation: w.store.keys[fullKey{"", cluster.NodeKey(id)}].revision}
		}
	}
	return who
}

// allowed checks what is about to be committed against what is true at this moment.
func (w *world) allowed(p *process, s core.Store) {
	gone := map[core.NodeID]bool{}
	for _, op := range s.Ops {
		kind, rest, _ := strings.Cut(op.Key, "/")
		switch {
		case s.Tenant != "":
			h, there := w.store.keys[fullKey{s.Tenant, op.Key}]
			if !there {
				continue
			}
			at := anchorOf(w.t, core.Change{Value: h.value})
			if id, ok := w.truth.Resolve(at.ID, at.Incarnation, core.InteractionID(op.Key)); !ok || id != p.ID {
				w.t.Fatalf("%v writes %s, anchored at %v, for which %q acts (%v)\n%s", p.Process, op.Key, at, id, ok, w.dump(nil))
			}
		case kind == "nodes":
			gone[core.NodeID(rest)] = true
			w.mark("claimed")
			if q := w.alive[core.NodeID(rest)]; q != nil {
				w.mark("claimed alive")
			}
		case kind == "claims" && op.Value != nil:
			id, _, _ := strings.Cut(rest, "/")
			if w.taken[core.NodeID(id)] = true; !gone[core.NodeID(id)] {
				w.mark("claimed absent")
			}
		case kind == "claims":
			w.mark("forgotten")
		case kind == "shards":
			h, there := w.store.keys[fullKey{"", op.Key}]
			if !there {
				continue
			}
			var r cluster.ShardRecord
			if err := json.Unmarshal(h.value, &r); err != nil {
				w.t.Fatalf("%v", err)
			}
			if w.truth.Alive(r.Owner, r.Incarnation) && r.Owner != p.ID && !gone[r.Owner] {
				w.t.Fatalf("%v writes %s, which %s/%d owns and is there\n%s", p.Process, op.Key, r.Owner, r.Incarnation, w.dump(nil))
			}
		}
	}
}

func (w *world) dump(last []core.Change) string {
	var b strings.Builder
	for _, c := range w.store.entries() {
		fmt.Fprintf(&b, "  %s %s @%d %s\n", c.Tenant, c.Key, c.Revision, c.Value)
	}
	for _, c := range last {
		fmt.Fprintf(&b, "  last: %s %s @%d %s\n", c.Tenant, c.Key, c.Revision, c.Value)
	}
	return b.String()
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
