package sim

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// store keeps its promises (package core, Store): writes are committed in the order in
// which they were asked for, in groups; the outcome of one may be open for a while.
type store struct {
	w         *World
	srv       *server
	kept      map[core.TenantID]map[string][]byte
	waiting   []core.Store
	busy      bool
	doubted   int // of the group: Unknown was said for the first so many
	awayUntil core.Time
	fenceNext bool
}

func newStore(w *World, s *server) *store {
	return &store{w: w, srv: s, kept: map[core.TenantID]map[string][]byte{}}
}

func (s *store) ask(e core.Store) {
	s.waiting = append(s.waiting, e)
	s.begin()
}

// begin commits all that waits as one group, after the latency of this commit.
func (s *store) begin() {
	if s.busy || len(s.waiting) == 0 {
		return
	}
	s.busy = true
	n := min(len(s.waiting), 128)
	latency := s.w.opt.StoreMean/2 + s.w.about(s.w.opt.StoreMean/2)
	if s.w.chance(s.w.opt.StoreSlow) {
		latency = s.w.between(latency, s.w.opt.StoreWorst)
		s.w.marks.hit("store slow")
	}
	generation := s.srv.generation
	if s.w.chance(s.w.opt.Unknown) {
		doubt := s.w.between(0, 2*latency)
		open := doubt + s.w.between(0, s.w.opt.StoreWorst)
		s.w.after(doubt, func() { s.unknown(generation, n) })
		latency = open
	}
	s.w.after(latency, func() { s.commit(generation, n) })
}

func (s *store) unknown(generation, n int) {
	if generation != s.srv.generation || s.doubted > 0 {
		return
	}
	s.w.marks.hit("store outcome unknown")
	s.doubted = n
	for _, e := range s.waiting[:n] {
		s.srv.emit(core.Unknown{Token: e.Token})
	}
}

func (s *store) commit(generation, n int) {
	if generation != s.srv.generation {
		return
	}
	if s.w.now < s.awayUntil {
		// Nothing is committed now. The edge stops waiting after 5 s and says so.
		s.w.after(5*time.Second, func() {
			if s.busy && s.w.now < s.awayUntil {
				s.unknown(generation, n)
			}
		})
		s.w.after(min(s.awayUntil.Sub(s.w.now), time.Second)+s.w.about(100*time.Millisecond), func() { s.commit(generation, n) })
		return
	}
	group := slices.Clone(s.waiting[:n])
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
	s.busy, s.doubted = false, 0
	events := make([]core.Event, 0, n)
	for _, e := range group {
		switch {
		case s.fenceNext:
			events = append(events, core.Fenced{Token: e.Token})
		case s.w.chance(s.w.opt.Conflict):
			s.w.marks.hit("store conflict")
			events = append(events, core.Conflict{Token: e.Token})
		default:
			s.apply(e)
			events = append(events, core.Stored{Token: e.Token})
		}
	}
	if s.fenceNext {
		s.fence()
	}
	for _, ev := range events {
		if generation != s.srv.generation {
			return
		}
		s.srv.emit(ev)
	}
	s.begin()
}

// fence ends the node: it must fall silent, and after a moment another process begins.
func (s *store) fence() {
	s.w.marks.hit("fenced")
	s.srv.fenced, s.fenceNext = true, false
	s.waiting = nil
	s.w.fact(check.Disturbed{What: "fenced", On: true})
	generation := s.srv.generation
	s.w.after(time.Second, func() {
		s.w.fact(check.Disturbed{What: "fenced"})
		if s.srv.generation == generation {
			s.srv.crash(s.w.between(0, s.w.opt.Down))
		}
	})
}

func (s *store) apply(e core.Store) {
	of := s.kept[e.Tenant]
	if of == nil {
		of = map[string][]byte{}
		s.kept[e.Tenant] = of
	}
	for _, op := range e.Ops {
		if op.Value == nil {
			delete(of, op.Key)
		} else {
			of[op.Key] = slices.Clone(op.Value)
		}
	}
}

func (s *store) waits() int { return len(s.waiting) }

// crash: of the writes on their way a prefix made it, unless the store is away.
func (s *store) crash() {
	if len(s.waiting) > 0 && s.w.now >= s.awayUntil && !s.srv.fenced {
		n := s.w.rng.IntN(len(s.waiting) + 1)
		for _, e := range s.waiting[:n] {
			s.apply(e)
		}
		if n > 0 {
			s.w.marks.hit("crash with a write that made it")
		}
		if n < len(s.waiting) {
			s.w.marks.hit("crash with a write that did not")
		}
	}
	s.waiting, s.busy, s.doubted, s.fenceNext = nil, false, 0, false
}

// away makes the store unreachable for a while.
func (s *store) away(d time.Duration) {
	s.w.marks.hit("store away")
	s.w.trace.say(s.w.now, "**", "the store is away for "+d.String())
	s.awayUntil = s.w.now.Add(d)
	s.w.fact(check.Disturbed{What: "store away", On: true})
	s.w.after(d+time.Second, func() { s.w.fact(check.Disturbed{What: "store away"}) })
}

// entries is all that is committed, in the order of keys.
func (s *store) entries() []core.Entry {
	var all []core.Entry
	for _, t := range slices.Sorted(maps.Keys(s.kept)) {
		for _, k := range slices.Sorted(maps.Keys(s.kept[t])) {
			all = append(all, core.Entry{Tenant: t, Key: k, Value: slices.Clone(s.kept[t][k])})
		}
	}
	return all
}

// holds reports whether one committed value of a tenant names all the texts. A tenant that
// is not known stands for any.
func (s *store) holds(t core.TenantID, texts ...string) bool {
	for id, of := range s.kept {
		if t != "" && id != t {
			continue
		}
		for _, value := range of { // "any": the order of the visit does not matter
			if containsAll(value, texts) {
				return true
			}
		}
	}
	return false
}

func containsAll(value []byte, texts []string) bool {
	for _, text := range texts {
		if !bytes.Contains(value, []byte(text)) {
			return false
		}
	}
	return true
}
