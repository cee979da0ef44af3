package etcd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// at once: one member, no network, no trouble.
func instant(plant Plant) Config {
	usual := Usual()
	return Config{Members: 1, Election: time.Second, MaxOps: usual.MaxOps, MaxBytes: usual.MaxBytes, FragmentBytes: usual.FragmentBytes, Plant: plant}
}

// model runs programs on a Cluster without faults.
type model struct {
	c       *Cluster
	base    core.Revision
	id      RequestID
	out     []Answer
	leases  []LeaseID
	watches map[RequestID]*modelWatch
	order   []RequestID
}

type modelWatch struct {
	created *Answer
	events  []Event
	ended   *Answer
}

// newModel begins where a real store stands that was emptied and compacted.
func newModel(plant Plant, base core.Revision) *model {
	c := New(instant(plant), rand.New(rand.NewPCG(1, 1)))
	c.keys.rev, c.keys.compacted, c.keys.pruned = base, base, base
	c.keys.past.add(Event{Deleted: true, KV: KeyValue{Key: "~", Mod: base}}, -1) // the last of what was there
	c.members[0].view = c.keys.head()
	return &model{c: c, base: base, watches: map[RequestID]*modelWatch{}}
}

// ask asks and returns the answer, which comes at once; what watches hear is kept.
func (m *model) ask(do Action) Answer {
	m.id++
	id := m.id
	if _, ok := do.(Watch); ok {
		m.watches[id] = &modelWatch{}
		m.order = append(m.order, id)
	}
	m.c.Ask(0, Request{Client: "c", ID: id, Do: do})
	m.out = m.c.Step(0, m.out[:0])
	var mine Answer
	for _, a := range m.out {
		w := m.watches[a.ID]
		if w == nil {
			mine = a
			continue
		}
		switch r := a.Reply.(WatchReply); {
		case r.Created:
			w.created = &a
		case r.Ended:
			w.ended = &a
		default:
			w.events = append(w.events, r.Events...)
		}
	}
	if w := m.watches[id]; w != nil {
		if w.created == nil {
			return *w.ended
		}
		return *w.created
	}
	return mine
}

func (m *model) rev(offset core.Revision) core.Revision {
	if offset == 0 {
		return 0
	}
	return m.base + offset - 1
}

func (m *model) lease(n LeaseID) LeaseID {
	switch {
	case n == 0:
		return 0
	case int(n) <= len(m.leases):
		return m.leases[n-1]
	}
	return 123456789
}

func (m *model) number(id LeaseID) int {
	if i := slices.Index(m.leases, id); i >= 0 {
		return i + 1
	}
	return int(id)
}

func (m *model) ops(ops []Op) []Op {
	out := slices.Clone(ops)
	for i := range out {
		out[i].Lease, out[i].Revision = m.lease(out[i].Lease), m.rev(out[i].Revision)
	}
	return out
}

func (m *model) run(s step) Answer {
	switch {
	case s.Txn != nil:
		t := Txn{If: slices.Clone(s.Txn.If), Then: m.ops(s.Txn.Then), Else: m.ops(s.Txn.Else)}
		for i := range t.If {
			if c := &t.If[i]; c.Target == CreateRevision || c.Target == ModRevision {
				c.Number = int64(m.rev(core.Revision(c.Number)))
			}
		}
		return m.ask(t)
	case s.Range != nil:
		r := *s.Range
		r.Revision = m.rev(r.Revision)
		return m.ask(r)
	case s.Grant != 0:
		a := m.ask(Grant{TTL: s.Grant})
		if r, ok := a.Reply.(LeaseReply); ok {
			m.leases = append(m.leases, r.Lease)
		}
		return a
	case s.Alive != 0:
		return m.ask(KeepAlive{Lease: m.lease(LeaseID(s.Alive))})
	case s.Revoke != 0:
		return m.ask(Revoke{Lease: m.lease(LeaseID(s.Revoke))})
	case s.Past != 0:
		return m.ask(Compact{Revision: m.rev(s.Past)})
	case s.Watch != nil:
		w := *s.Watch
		w.From = m.rev(w.From)
		return m.ask(w)
	}
	return Answer{}
}

// tally counts what was compared.
type tally struct {
	programs, operations, events int
	errors                       map[Error]int
	ended                        map[Error]int // watches
}

// differ runs a program on both and returns the first difference.
func differ(r *real, p program, plant Plant, n *tally) error {
	if err := r.begin(); err != nil {
		return fmt.Errorf("the real etcd: %w", err)
	}
	defer r.finish()
	m := newModel(plant, r.base)
	last := step{Txn: &Txn{}} // every watch hears of this, so nothing can be missing at its end
	for _, key := range alphabet {
		last.Txn.Then = append(last.Txn.Then, Op{Kind: Put, Key: key})
	}
	if n.programs++; n.errors == nil {
		n.errors, n.ended = map[Error]int{}, map[Error]int{}
	}
	for i, s := range append(slices.Clone(p), last) {
		n.operations++
		got := m.run(s)
		var want Answer
		if s.Watch != nil {
			want = r.watch(s.Watch, s.Watch.From != 0 && m.rev(s.Watch.From) <= m.c.Revision())
			got, want = sameStart(got, want)
		} else {
			want = r.run(s)
		}
		if got.Err != "" {
			n.errors[got.Err]++
		}
		if g, w := show(got, m.base, m.number), show(want, r.base, r.number); g != w {
			return fmt.Errorf("step %d:\n  the model: %s\n  real etcd: %s\n%s", i, g, w, p)
		}
		if s.Watch == nil {
			continue
		}
		// A watch from the past is served in etcd's own time: before that, nothing may go on.
		w := m.watches[m.order[len(m.order)-1]]
		if err := r.watches[len(r.watches)-1].collect(len(w.events), w.ended != nil); err != nil {
			return fmt.Errorf("step %d: %w\n%s", i, err, p)
		}
	}
	for i, id := range m.order {
		w, x := m.watches[id], r.watches[i]
		if err := x.collect(len(w.events), w.ended != nil); err != nil {
			return fmt.Errorf("watch %d: %w\n%s", i, err, p)
		}
		n.events += len(w.events)
		if w.ended != nil {
			n.ended[w.ended.Err]++
		}
		if err := sameWatch(m, w, r, x); err != nil {
			return fmt.Errorf("watch %d: %w\n%s", i, err, p)
		}
	}
	return nil
}

// sameStart allows for a watch that is refused at once: one says so first, the other after
// it has begun.
func sameStart(got, want Answer) (Answer, Answer) {
	got.Revision, want.Revision = 0, 0
	return got, want
}

func sameWatch(m *model, w *modelWatch, r *real, x *realWatch) error {
	var got, want []string
	for _, e := range w.events {
		got = append(got, showEvent(e, m.base, m.number))
	}
	for _, e := range x.events {
		want = append(want, showEvent(e, r.base, r.number))
	}
	if w.ended != nil {
		got = append(got, show(*w.ended, m.base, m.number))
	}
	if x.ended != nil {
		want = append(want, show(*x.ended, r.base, r.number))
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("\n  the model: %v\n  real etcd: %v", got, want)
	}
	return nil
}

// TestSameAsEtcd runs random programs on a real etcd and on the model: answers, revisions,
// errors and the events of watches must be equal.
func TestSameAsEtcd(t *testing.T) {
	r := &real{client: startReal(t)}
	var n tally
	rapid.Check(t, func(rt *rapid.T) {
		if err := differ(r, genProgram().Draw(rt, "program"), "", &n); err != nil {
			rt.Fatal(err)
		}
	})
	t.Logf("%d programs, %d operations, %d events of watches were compared; errors %v, watches ended %v",
		n.programs, n.operations, n.events, n.errors, n.ended)
	for _, err := range []Error{ErrEmptyKey, ErrDuplicateKey, ErrTooManyOps, ErrTooLarge, ErrCompacted, ErrFuture, ErrLeaseNotFound, ErrTTLTooLarge} {
		if n.errors[err] == 0 && n.operations > 20_000 {
			t.Errorf("never met: %q", err)
		}
	}
}
