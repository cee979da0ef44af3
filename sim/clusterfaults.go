package sim

import (
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/sim/check"
	"github.com/dialtone-cc/dialtone/sim/etcd"
)

// recovery is how long after a trouble of the cluster bounds in time do not hold yet: a lease
// must end, a claim be committed, calls taken over, phones must find another node.
const recovery = 20 * time.Second

// disturb begins a trouble of so long.
func (w *World) disturb(what string, d time.Duration) {
	w.marks.hit("cluster: " + what)
	w.trace.say(w.now, "**", what+" for "+d.String())
	w.lastTrouble = max(w.lastTrouble, w.now.Add(d+recovery))
	w.fact(check.Disturbed{What: what, On: true})
	w.after(d+recovery, func() { w.fact(check.Disturbed{What: what}) })
}

// ended is called when a process has ended: what it had not committed is lost.
func (w *World) ended(s *server) {
	w.fact(check.Crashed{})
	if w.commits != nil {
		w.lastTrouble = max(w.lastTrouble, w.now.Add(recovery))
		w.after(recovery, func() { w.fact(check.Restarted{}) })
	}
}

// removed is called at the commit that removes a process's node record: what it asks for from
// now on is not committed, unless only its lease has ended and it joins anew.
func (w *World) removed(p cluster.Process) {
	w.trace.say(w.now, "**", "the record of "+string(p.ID)+" is gone")
	w.after(w.between(0, 500*time.Millisecond), w.restarted)
	if s := w.node(p.ID); s != nil && s.is(p.Incarnation) && !s.leaving {
		w.marks.hit("cluster: record gone of a node that lives")
		w.ended(s)
	}
}

// claimed is called at the commit of a claim: what that process does from now on it does
// because it cannot know.
func (w *World) claimed(key string) {
	node, of, _ := strings.Cut(strings.TrimPrefix(key, "claims/"), "/")
	incarnation, err := strconv.ParseInt(of, 10, 64)
	if s := w.node(core.NodeID(node)); err == nil && s != nil && s.is(core.Revision(incarnation)) {
		w.marks.hit("cluster: claimed alive")
		s.stale = true
		w.ended(s)
	}
}

// rejoin ends a process that has been fenced, and begins another.
func (w *World) rejoin(s *server) {
	w.marks.hit("cluster: fenced node joins again")
	generation := s.generation
	w.after(w.between(10*time.Millisecond, 500*time.Millisecond), func() {
		if s.generation == generation && s.up {
			s.crash(w.between(50*time.Millisecond, w.opt.Down))
		}
	})
}

// left is a process that has drained and ends.
func (w *World) left(s *server) {
	w.marks.hit("cluster: drained")
	s.drained, s.leaving = true, true
	w.lastTrouble = max(w.lastTrouble, w.now.Add(recovery)) // what comes to it just now is lost
	s.quit()
	if w.phase == "drain" {
		return
	}
	w.after(w.between(time.Second, 20*time.Second), func() {
		s.leaving = false
		s.start()
	})
}

// quit ends a process in order.
func (s *server) quit() {
	e := s.store.(*edge)
	s.up = false
	s.generation++
	s.layer.forget()
	s.media.forget()
	e.quit()
	s.core = nil
	s.w.review()
}

// generation changes whenever a process ends.
func (w *World) generation() int {
	n := 0
	for _, s := range w.nodes {
		n += s.generation
	}
	return n
}

// away reports whether etcd, or the store, was away in the last two seconds.
func (w *World) away() bool {
	if w.commits != nil {
		return w.now < w.commits.told || w.now < w.lastTrouble
	}
	return w.now < w.plain.awayUntil.Add(2*time.Second)
}

// disturbedSince reports whether a node may have lost what came to it at or after t.
func (w *World) disturbedSince(t core.Time) bool {
	if w.commits != nil {
		return w.lastTrouble >= t
	}
	return w.nodes[0].began >= t
}

func (w *World) holds(t core.TenantID, texts ...string) bool {
	if w.commits != nil {
		return w.commits.holds(t, texts...)
	}
	return w.plain.holds(t, texts...)
}

func (w *World) entries() []core.Entry {
	if w.commits != nil {
		return w.commits.entries()
	}
	return w.plain.entries()
}

// lost reports whether a datagram does not get through for a partition.
func (w *World) lost(p parcel) bool {
	if from, ours := w.hosts[p.from].(*server); ours && from.mute > 0 {
		return true
	}
	to, ours := w.hosts[p.to].(*server)
	return ours && to.deaf > 0
}

// behind reports whether something was committed that the node has not heard of.
func (s *server) behind() bool {
	e, joined := s.store.(*edge)
	return joined && e.behind()
}

// faultKinds are what goes wrong in a cluster; each is equally likely in a world that has it.
var faultKinds = [...]string{"crash", "power-off", "pause", "peers-cut", "peers-deaf", "etcd-cut", "etcd-deaf", "phones-cut",
	"phones-deaf", "etcd-leader", "etcd-quorum", "etcd-slow", "etcd-member", "drain", "alone"}

// clusterFaults plans what goes wrong while the chaos lasts.
func (w *World) clusterFaults(within func() time.Duration) {
	for range w.opt.Faults {
		at := within()
		w.after(at, func() {
			w.strike(faultKinds[w.opt.FaultKinds.pick(w.rng)])
			for w.rng.IntN(4) == 0 { // several at once
				w.strike(faultKinds[w.opt.FaultKinds.pick(w.rng)])
			}
		})
	}
	for i := range w.opt.Floods {
		w.after(within(), func() { w.flood(i) })
	}
}

// strike is one fault at a node, or at etcd.
func (w *World) strike(kind string) {
	if w.phase != "chaos" {
		return
	}
	left := max(time.Second, epoch.Add(w.opt.Chaos).Sub(w.now))
	short := min(left, w.between(50*time.Millisecond, 3*time.Second))
	long := min(left, w.between(500*time.Millisecond, 40*time.Second))
	s := w.nodes[w.rng.IntN(len(w.nodes))]
	if !s.up || s.core == nil || s.leaving {
		return
	}
	switch kind {
	case "crash", "power-off":
		s.dark = kind == "power-off"
		s.crashIn, s.downFor = 1+w.rng.IntN(40), w.between(20*time.Millisecond, max(w.opt.Down, 30*time.Second*time.Duration(w.rng.IntN(2))))
		w.disturb(kind+s.named(), s.downFor)
	case "pause":
		d := short
		if w.rng.IntN(2) == 0 {
			d = long
		}
		w.disturb(kind+s.named(), d)
		s.stop(d)
	case "peers-cut", "peers-deaf", "alone":
		w.disturb(kind+s.named(), long)
		w.partition(s, kind, long)
	case "phones-cut", "phones-deaf":
		w.disturb(kind+s.named(), long)
		s.deaf++
		half := kind == "phones-deaf"
		if !half {
			s.mute++
		}
		w.after(long, func() {
			s.deaf--
			if !half {
				s.mute--
			}
		})
	case "drain":
		if w.standing() > 1 && !s.draining {
			w.disturb(kind+s.named(), 60*time.Second)
			s.draining = true
			s.emit(core.DrainRequested{Within: w.between(time.Second, 30*time.Second)})
		}
	default:
		w.strikeEtcd(kind, s, short, long)
	}
}

// partition cuts a node off from its peers; one that is alone also from etcd.
func (w *World) partition(s *server, kind string, d time.Duration) {
	only := w.rng.IntN(3) == 0 // from one of them
	var cut [][2]int
	for _, o := range w.nodes {
		if o == s {
			continue
		}
		cut = append(cut, [2]int{o.index, s.index})
		if kind != "peers-deaf" {
			cut = append(cut, [2]int{s.index, o.index})
		}
		if only && kind != "alone" {
			break
		}
	}
	for _, c := range cut {
		w.cuts[c]++
	}
	w.review()
	w.after(d, func() {
		for _, c := range cut {
			w.cuts[c]--
		}
		w.review()
	})
	if e, joined := s.store.(*edge); joined && kind == "alone" {
		w.commits.cutOff(e, etcd.CutLink, d)
	}
}

// cutOff cuts a client from all members.
func (c *commits) cutOff(e *edge, kind etcd.FaultKind, d time.Duration) {
	for i := range 3 {
		c.inject(etcd.Fault{Kind: kind, Client: e.client, Member: etcd.MemberID(i + 1), For: d})
	}
}

func (w *World) strikeEtcd(kind string, s *server, short, long time.Duration) {
	c := w.commits
	e, joined := s.store.(*edge)
	if !joined {
		return
	}
	switch kind {
	case "etcd-cut":
		w.disturb(kind+s.named(), long)
		c.cutOff(e, etcd.CutLink, long)
	case "etcd-deaf":
		w.disturb(kind+s.named(), long)
		c.cutOff(e, []etcd.FaultKind{etcd.CutTo, etcd.CutFrom}[w.rng.IntN(2)], long)
	case "etcd-leader":
		w.disturb(kind, 3*time.Second)
		c.inject(etcd.Fault{Kind: etcd.Elect})
	case "etcd-quorum":
		w.disturb(kind, long)
		what := []etcd.FaultKind{etcd.Crash, etcd.Pause, etcd.Isolate}[w.rng.IntN(3)]
		for i := range 2 {
			c.inject(etcd.Fault{Kind: what, Member: etcd.MemberID(i + 1), For: long})
		}
		c.trouble(long)
	case "etcd-slow":
		w.disturb(kind, long)
		delay := w.between(20*time.Millisecond, 600*time.Millisecond)
		for i := range 3 {
			c.inject(etcd.Fault{Kind: etcd.SlowDisk, Member: etcd.MemberID(i + 1), For: long, Delay: delay})
		}
	case "etcd-member":
		w.disturb(kind, short)
		what := []etcd.FaultKind{etcd.Crash, etcd.Pause, etcd.Isolate, etcd.Reset}[w.rng.IntN(4)]
		c.inject(etcd.Fault{Kind: what, Member: etcd.MemberID(1 + w.rng.IntN(3)), For: short})
	}
}

// standing counts the nodes that take calls.
func (w *World) standing() int {
	n := 0
	for _, s := range w.nodes {
		if s.up && s.core != nil && !s.draining && !s.stopped {
			n++
		}
	}
	return n
}
