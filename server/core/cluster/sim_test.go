package cluster_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

// TestWorld lets three to five nodes live through random days, and then one good one.
// Reproduce a failure with the -rapid.seed or -rapid.failfile that it prints.
//
// CLUSTER_CHECKS sets how many days are tried at least (rapid tries -rapid.checks at a time).
func TestWorld(t *testing.T) {
	marks, days := map[string]int{}, 0
	least, _ := strconv.Atoi(os.Getenv("CLUSTER_CHECKS"))
	for again := true; again; again = days < least {
		rapid.Check(t, func(t *rapid.T) {
			days++
			w := newWorld(t, rapid.IntRange(3, 5).Draw(t, "nodes"), marks)
			for _, id := range w.ids {
				if w.roll("is there at first", 4) > 0 {
					w.start(id)
				}
			}
			habits := w.habits()
			for range rapid.IntRange(200, 600).Draw(t, "steps") {
				w.step(habits)
				w.agree()
			}
			w.heal()
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d days: %v", days, marks)
	// Days in which nothing of this happened would prove nothing.
	for _, what := range []string{"claimed", "claimed alive", "claimed absent", "forgotten", "adopted", "refused", "fenced", "restarted unmissed", "reborn", "drained", "moved"} {
		if marks[what] == 0 {
			t.Errorf("%q never happened in %d days", what, days)
		}
	}
}

// roll draws a number below n.
func (w *world) roll(label string, n int) int {
	return rapid.IntRange(0, n-1).Draw(w.t.(*rapid.T), label)
}

func pick[E any](w *world, label string, from []E) (E, bool) {
	if len(from) == 0 {
		return *new(E), false
	}
	return from[w.roll(label, len(from))], true
}

// living are the processes that fit, by id.
func (w *world) living(fit func(*process) bool) []*process {
	var all []*process
	for _, id := range slices.Sorted(maps.Keys(w.alive)) {
		if p := w.alive[id]; fit(p) {
			all = append(all, p)
		}
	}
	return all
}

func awake(p *process) bool { return !p.asleep }
func behind(w *world) func(*process) bool {
	return func(p *process) bool { return !p.asleep && !p.cut && p.applied < len(w.store.log) }
}

// habit is one thing that happens, and how often.
type habit struct {
	name   string
	weight int
	do     func()
}

// habits draws what a day is like: some things never happen in it, some often. What needs
// three faults in a row is found on days that are full of those.
func (w *world) habits() (all []habit) {
	for _, h := range []habit{
		{"watch", 12, w.watch},
		{"commit", 10, w.commitOne},
		{"outcome", 8, w.outcome},
		{"time", 8, func() { w.pass(time.Duration(1+w.roll("ms", 60)) * time.Millisecond) }},
		{"sense", 8, w.sense},
		{"inbox", 8, w.post},
		{"call", 6, w.call},
		{"start", 4, w.comeBack},
		{"go on", 20, w.goOn},
	} {
		h.weight *= 1 + w.roll("how often "+h.name, 3)
		all = append(all, h)
	}
	for _, h := range []habit{
		{"crash", 2, w.crash},
		{"expire", 3, w.expire},
		{"sleep", 1, w.sleep},
		{"wake", 2, w.wake},
		{"cut", 2, w.cutOff},
		{"mend", 2, w.mend},
		{"ghost", 2, w.ghost},
		{"hang up", 2, w.hangUp},
		{"drain", 1, w.drain},
		{"move", 2, w.move},
	} {
		h.weight *= []int{0, 1, 4, 12}[w.roll("how often "+h.name, 4)]
		all = append(all, h)
	}
	return all
}

func (w *world) step(all []habit) {
	total := 0
	for _, h := range all {
		total += h.weight
	}
	at := w.roll("step", total)
	for _, h := range all {
		if at -= h.weight; at < 0 {
			h.do()
			return
		}
	}
}

// goOn gives a process a moment in which all that it waits for comes.
func (w *world) goOn() {
	p, ok := pick(w, "who goes on", w.living(awake))
	if !ok {
		return
	}
	for _, m := range p.peers {
		w.listen(p, m)
	}
	for len(p.inbox) > 0 && !p.over {
		w.receive(p)
	}
	for len(p.queue) > 0 && !p.over && !p.cut {
		w.send(p)
	}
	for len(p.outcomes) > 0 && !p.over && !p.cut {
		w.tell(p)
	}
	if p.applied < len(w.store.log) && !p.over && !p.cut {
		w.show(p, len(w.store.log)-p.applied)
	}
}

// watch shows a process some of the commits that it has not seen, at their ends.
func (w *world) watch() {
	if p, ok := pick(w, "who watches", w.living(behind(w))); ok {
		w.show(p, 1+w.roll("commits", len(w.store.log)-p.applied))
	}
}

func (w *world) show(p *process, commits int) {
	changes := slices.Concat(w.store.log[p.applied : p.applied+commits]...)
	p.applied += commits
	w.feed(p, changes)
}

func (w *world) commitOne() {
	if p, ok := pick(w, "who commits", w.living(func(p *process) bool { return !p.asleep && !p.cut && len(p.queue) > 0 })); ok {
		w.send(p)
	}
}

// outcome tells a process what became of a Store; it may be told that this is open first.
func (w *world) outcome() {
	if p, ok := pick(w, "who is told", w.living(func(p *process) bool { return !p.asleep && !p.cut && len(p.outcomes) > 0 })); ok {
		w.tell(p)
	}
}

func (w *world) tell(p *process) {
	ev := p.outcomes[0]
	p.outcomes = p.outcomes[1:]
	var token core.Token
	var revision core.Revision
	switch e := ev.(type) {
	case core.Stored:
		token, revision = e.Token, e.Revision
	case core.Conflict:
		token = e.Token
	case core.Fenced:
		token = e.Token
	}
	for _, key := range sorted(p.writing) {
		// What was committed is known when the watch has shown it.
		if p.writing[key] == token && w.seen(p) < revision {
			p.shown[key] = revision
		} else if p.writing[key] == token {
			delete(p.writing, key)
		}
	}
	w.adopt(p)
	w.hear(p, core.Unknown{Token: token})
	w.hear(p, ev)
	if _, out := ev.(core.Fenced); out {
		w.end(p)
	}
}

// seen is the revision up to which a process has seen all.
func (w *world) seen(p *process) core.Revision {
	return w.store.revision - core.Revision(len(w.store.log)-p.applied)
}

// pass lets time go by; whose deadline it is, is woken, unless asleep.
func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	for _, p := range w.living(awake) {
		if at, _ := p.view.Deadline(); at <= w.now {
			w.due(p)
		}
	}
}

// sense is the edge of one process that finds out how it hears one of its peers.
func (w *world) sense() {
	if p, ok := pick(w, "who senses", w.living(func(p *process) bool { return !p.asleep && len(p.peers) > 0 })); ok {
		m, _ := pick(w, "whom", p.peers)
		w.listen(p, m)
	}
}

func (w *world) listen(p *process, m core.Member) {
	q, id := w.process(m), cluster.Process{ID: m.ID, Incarnation: m.Incarnation}
	reach := w.hears(p.ID, m.ID) && w.hears(m.ID, p.ID)
	is, ev := "up", core.Event(core.PeerUp{Peer: m})
	switch {
	case q == nil && reach:
		is, ev = "dead", core.PeerDead{Peer: m}
	case q == nil || q.asleep || !w.hears(p.ID, m.ID):
		is, ev = "silent", core.PeerSilent{Peer: m, For: 100 * time.Millisecond}
	}
	if p.told[id] != is {
		p.told[id] = is
		p.inbox = append(p.inbox, ev)
	}
}

// post gives a process the next event of its peers.
func (w *world) post() {
	if p, ok := pick(w, "who gets post", w.living(func(p *process) bool { return !p.asleep && len(p.inbox) > 0 })); ok {
		w.receive(p)
	}
}

func (w *world) receive(p *process) {
	ev := p.inbox[0]
	p.inbox = p.inbox[1:]
	if e, ok := ev.(core.PeerDead); ok {
		p.dead[cluster.Process{ID: e.Peer.ID, Incarnation: e.Peer.Incarnation}] = true
	}
	p.evidence = w.now
	w.hear(p, ev)
}

func (w *world) call() {
	if p, ok := pick(w, "who is called", w.living(awake)); ok && w.calls < 30 {
		w.calls++
		w.write(p, fmt.Sprintf("calls/int_%d", w.calls), p.Process)
	}
}

// own returns the keys of the records that a process anchors and is not writing.
func own(p *process) (keys []string) {
	for _, key := range sorted(p.records) {
		if p.records[key] == p.Process && p.writing[key] == 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

func (w *world) hangUp() {
	if p, ok := pick(w, "who hangs up", w.living(func(p *process) bool { return !p.asleep && len(own(p)) > 0 })); ok {
		key, _ := pick(w, "which call", own(p))
		w.write(p, key, cluster.Process{})
	}
}

func (w *world) crash() {
	if p, ok := pick(w, "who crashes", w.living(func(*process) bool { return true })); ok {
		w.end(p)
	}
}

func (w *world) comeBack() {
	id, _ := pick(w, "who starts", w.ids)
	if w.alive[id] != nil {
		return
	}
	if _, there := w.store.keys[fullKey{"", cluster.NodeKey(id)}]; there {
		w.mark("restarted unmissed")
	}
	p := w.start(id)
	// What it computes from a snapshot is what others computed from the changes.
	w.same(p.view, w.truth, fmt.Sprintf("%v, restored at revision %d, and who saw it all", p.Process, w.store.revision))
}

func (w *world) sleep() {
	if p, ok := pick(w, "who sleeps", w.living(awake)); ok {
		p.asleep = true
	}
}

func (w *world) wake() {
	if p, ok := pick(w, "who wakes", w.living(func(p *process) bool { return p.asleep })); ok {
		w.pass(200 * time.Millisecond)
		w.rouse(p)
	}
}

// rouse wakes a process: its timers are what it sees first.
func (w *world) rouse(p *process) {
	p.asleep, p.woken = false, w.now
	w.due(p)
}

func (w *world) cutOff() {
	a, _ := pick(w, "from whom", w.ids)
	if w.roll("the store", 3) == 0 {
		if p := w.alive[a]; p != nil {
			p.cut = true
		}
		return
	}
	b, _ := pick(w, "to whom", w.ids)
	if a == b {
		return
	}
	w.deaf[[2]core.NodeID{b, a}] = true
	if w.roll("both ways", 2) == 0 {
		w.deaf[[2]core.NodeID{a, b}] = true
	}
}

func (w *world) mend() {
	if p, ok := pick(w, "who finds the store", w.living(func(p *process) bool { return p.cut })); ok {
		p.cut = false
		return
	}
	clear(w.deaf)
}

// expire ends the lease of one that does not renew it.
func (w *world) expire() {
	id, _ := pick(w, "whose lease", w.ids)
	if p := w.alive[id]; p == nil || p.asleep || p.cut {
		w.lapse(id)
	}
}

func (w *world) lapse(id core.NodeID) {
	if _, there := w.store.keys[fullKey{"", cluster.NodeKey(id)}]; there {
		w.mark("expired")
		w.commit("", core.Op{Key: cluster.NodeKey(id)})
	}
}

// ghost lets a Store arrive that a dead process had sent, or loses it.
func (w *world) ghost() {
	if len(w.ghosts) == 0 {
		return
	}
	i := w.roll("whose ghost", len(w.ghosts))
	p := w.ghosts[i]
	if w.send(p); len(p.queue) == 0 || w.roll("the last", 2) == 0 {
		w.ghosts = slices.Delete(w.ghosts, i, i+1)
	}
}

func (w *world) drain() {
	id, _ := pick(w, "who drains", w.ids)
	if _, there := w.store.keys[fullKey{"", cluster.DrainKey(id)}]; there {
		w.commit("", core.Op{Key: cluster.DrainKey(id)})
		return
	}
	w.mark("drained")
	w.commit("", core.Op{Key: cluster.DrainKey(id), Value: cluster.DrainRecord{By: "test", At: w.now}.Encode()})
}

// move gives a call to another member, as a drain does.
func (w *world) move() {
	p, ok := pick(w, "who moves a call", w.living(func(p *process) bool { return !p.asleep && len(own(p)) > 0 }))
	if !ok {
		return
	}
	key, _ := pick(w, "which call", own(p))
	if to, ok := p.view.Successor(core.InteractionID(key)); ok {
		w.mark("moved")
		w.write(p, key, cluster.Process{ID: to.ID, Incarnation: to.Incarnation}, core.Guard{Key: cluster.NodeKey(to.ID), Revision: to.Incarnation})
	}
}

// agree checks that all who have seen the same commits say the same.
func (w *world) agree() {
	all := w.living(func(*process) bool { return true })
	for i, p := range all {
		for _, q := range all[:i] {
			if p.applied == q.applied {
				w.same(p.view, q.view, fmt.Sprintf("%v and %v after %d commits", p.Process, q.Process, p.applied))
			}
		}
		if p.applied == len(w.store.log) {
			w.same(p.view, w.truth, fmt.Sprintf("%v, who has seen it all, and the observer", p.Process))
		}
	}
}

func (w *world) same(a, b *cluster.View, who string) {
	if !slices.Equal(a.Members(), b.Members()) || !slices.Equal(a.Drains(), b.Drains()) {
		w.t.Fatalf("%s: members %v %v, drains %v %v", who, a.Members(), b.Members(), a.Drains(), b.Drains())
	}
	for i := range cluster.Shards {
		ao, ae, aok := a.Owner(i)
		bo, be, bok := b.Owner(i)
		if ao != bo || ae != be || aok != bok {
			w.t.Fatalf("%s: shard %d: %v %d %v, %v %d %v", who, i, ao, ae, aok, bo, be, bok)
		}
	}
	for k, h := range w.store.keys {
		if k.tenant == "" {
			continue
		}
		at := anchorOf(w.t, core.Change{Value: h.value})
		an, aok := a.Resolve(at.ID, at.Incarnation, core.InteractionID(k.key))
		bn, bok := b.Resolve(at.ID, at.Incarnation, core.InteractionID(k.key))
		if an != bn || aok != bok {
			w.t.Fatalf("%s: %s: %q %v, %q %v", who, k.key, an, aok, bn, bok)
		}
	}
}

// heal mends all that can be mended, lets the leases of the dead end, and gives the world
// time. Then everything must have come to rest where it belongs.
func (w *world) heal() {
	clear(w.deaf)
	for len(w.ghosts) > 0 {
		if p := w.ghosts[0]; len(p.queue) > 0 {
			w.send(p)
		} else {
			w.ghosts = w.ghosts[1:]
		}
	}
	if len(w.alive) == 0 {
		w.start(w.ids[0])
	}
	w.pass(200 * time.Millisecond)
	for _, p := range w.living(func(p *process) bool { return p.asleep }) {
		w.rouse(p)
	}
	for _, p := range w.living(func(*process) bool { return true }) {
		p.cut = false
	}
	w.run(3 * time.Second)
	for _, id := range w.ids {
		if w.alive[id] == nil {
			w.lapse(id)
		}
	}
	if len(w.alive) == 0 { // all were fenced: they come back
		w.start(w.ids[0])
	}
	w.run(30 * time.Second)
	w.rested()
	stores := w.stores
	w.run(5 * time.Second)
	if w.stores != stores {
		w.t.Fatalf("%d Stores in a world at rest", w.stores-stores)
	}
}

// run lets a healthy world go on: everything arrives, and every timer fires in time.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for w.now < end {
		for busy := true; busy; {
			busy = false
			for _, p := range w.living(func(*process) bool { return true }) {
				w.rebirth(p)
				for _, m := range p.peers {
					w.listen(p, m)
				}
				for len(p.inbox) > 0 && !p.over {
					busy = true
					w.receive(p)
				}
				for len(p.queue) > 0 && !p.over {
					busy = true
					w.send(p)
				}
				for len(p.outcomes) > 0 && !p.over {
					busy = true
					w.tell(p)
				}
				if p.applied < len(w.store.log) && !p.over {
					busy = true
					w.show(p, len(w.store.log)-p.applied)
				}
			}
		}
		next := end
		for _, p := range w.living(awake) {
			at, _ := p.view.Deadline()
			next = min(next, at)
		}
		w.pass(max(next.Sub(w.now), time.Microsecond))
	}
}

// rested checks a world that has had its time: each record is anchored at a process that is
// there, each shard is where it is meant to be, and no claim is left.
func (w *world) rested() {
	w.agree()
	all := w.living(func(*process) bool { return true })
	for k, h := range w.store.keys {
		at := anchorOf(w.t, core.Change{Value: h.value})
		switch {
		case k.tenant != "" && !w.truth.Alive(at.ID, at.Incarnation):
			w.t.Fatalf("%s is still anchored at %v\n%s", k.key, at, w.dump(nil))
		case k.tenant == "" && strings.HasPrefix(k.key, "claims/"):
			w.t.Fatalf("%s is still there\n%s", k.key, w.dump(nil))
		}
	}
	if got := len(w.truth.Members()); got != len(all) {
		w.t.Fatalf("%d members, %d processes\n%s", got, len(all), w.dump(nil))
	}
	drains := w.truth.Drains()
	staying := slices.ContainsFunc(all, func(p *process) bool { return !slices.Contains(drains, p.ID) })
	for i := range cluster.Shards {
		owner, _, ok := w.truth.Owner(i)
		if !ok || staying && slices.Contains(drains, owner.ID) {
			w.t.Fatalf("shard %d: owner %v, %v; drains %v\n%s", i, owner, ok, drains, w.dump(nil))
		}
	}
}
