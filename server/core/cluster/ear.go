package cluster

import (
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	witnesses = 2                     // asked at a time
	answerIn  = 40 * time.Millisecond // what they say later counts no more
	pauseMin  = 50 * time.Millisecond // before they are asked again; doubles up to pauseMax
	pauseMax  = time.Second
	lag       = 40 * time.Millisecond // a timer that fires so late says that this process slept
	stagger   = 25 * time.Millisecond // between those who would claim one dead process: a commit takes less

	// alonePatience, times the silence that was reported, is how much longer silence must
	// last where there is nobody to ask. It is looked at every so often, so that this
	// process finds out when it slept meanwhile.
	alonePatience = 2
	lookEvery     = 50 * time.Millisecond
)

// hearing is what this process hears of another.
type hearing string

const (
	unheard hearing = ""       // nothing yet
	heard   hearing = "heard"  // connected
	silent  hearing = "silent" // a suspect
	dead    hearing = "dead"   // its process has ended: reset, and refused
)

// stage is how far the suspicion of a silent one has come.
type stage string

const (
	asking  stage = "asking"  // until the witnesses' time is over
	resting stage = "resting" // until they are asked again
	alone   stage = "alone"   // there is nobody to ask: until patience ends
	certain stage = "certain" // claimed from until on
)

// ear is how one process hears another.
type ear struct {
	hearing hearing
	since   core.Time
	met     bool // it was heard once
	stage   stage
	until   core.Time
	pause   time.Duration // the last one
	silence time.Duration // as reported, bounded
	left    time.Duration // of the patience of one who is alone
	round   int           // how often witnesses were asked
	asked   []Process     // who has not answered yet
	denied  bool          // one of them hears it
	backed  bool          // one of them does not
}

// Hear takes the events of peers, and the outcomes of the Stores that Due has asked for;
// others are passed over.
func (v *View) Hear(now core.Time, ev core.Event, out []core.Effect) []core.Effect {
	switch e := ev.(type) {
	case core.PeerUp:
		if n := v.peer(e.Peer); n != nil {
			n.ear = ear{hearing: heard, since: now, met: true}
			v.dirty = true
		}
	case core.PeerDead:
		if n := v.peer(e.Peer); n != nil {
			n.ear = ear{hearing: dead, since: now, met: n.ear.met, stage: certain, until: now.Add(v.claimTurn(n))}
			v.dirty = true
		}
	case core.PeerSilent:
		if n := v.peer(e.Peer); n != nil && n.ear.hearing != dead && n.ear.hearing != silent {
			silence := min(max(e.For, pauseMin), pauseMax)
			n.ear = ear{hearing: silent, since: now, met: n.ear.met, silence: silence}
			out = v.ask(now, n, out)
			v.dirty = true
		}
	case core.PeerAsked:
		out = v.answer(e, out)
	case core.PeerTold:
		v.told(now, e)
	case core.Stored:
		v.settle(now, e.Token)
	case core.Conflict:
		v.settle(now, e.Token)
	case core.Fenced:
		v.fenced = true // whichever Store it was of, or of none
	}
	return out
}

// peer returns the member that is this very process and not this one; nil: none.
func (v *View) peer(m core.Member) *node {
	p := Process{m.ID, m.Incarnation}
	if p == v.self {
		return nil
	}
	return v.here(p)
}

// doubted reports whether a member is silent or dead.
func (v *View) doubted() bool {
	return slices.ContainsFunc(v.nodes, func(n node) bool { return n.ear.hearing == silent || n.ear.hearing == dead })
}

// ask begins a round of questions about a silent member. Those that are heard are asked.
// When none is, it is this process that is cut off, or deaf: then its own patience is no
// proof, unless there is nobody else in the cluster. It asks them all the same: questions
// go over the connection, and who answers is no longer a suspect.
func (v *View) ask(now core.Time, n *node, out []core.Effect) []core.Effect {
	e := &n.ear
	whom := v.others(func(_ *View, o *node) bool { return o != n })
	if len(whom) == 0 {
		for i := range v.nodes {
			if o := &v.nodes[i]; o != n && o.Process != v.self && o.ear.hearing != dead {
				whom = append(whom, o)
			}
		}
	}
	if len(whom) == 0 && e.met {
		e.stage, e.left, e.until = alone, alonePatience*e.silence, now.Add(lookEvery)
		return out
	}
	if len(whom) == 0 {
		// Never heard: as likely this node's own configuration is wrong. The lease decides.
		v.rest(now, e)
		return out
	}
	thing := hash(claimKey(n.Process))
	slices.SortFunc(whom, func(a, b *node) int { return prefers(a.ID, b.ID, thing) })
	e.stage, e.until, e.denied, e.backed, e.asked = asking, now.Add(answerIn), false, false, nil
	for i := range min(witnesses, len(whom)) {
		w := whom[(e.round*witnesses+i)%len(whom)] // others each time: one may be as deaf as this one
		e.asked = append(e.asked, w.Process)
		out = append(out, core.AskPeer{Whom: w.member(), About: n.member()})
	}
	e.round++
	return out
}

func (v *View) rest(now core.Time, e *ear) {
	e.pause = min(max(2*e.pause, pauseMin), pauseMax)
	e.stage, e.until, e.asked = resting, now.Add(e.pause), nil
}

// answer says whether this process hears another. One that it has never heard, or does not
// know, it says nothing of: that is no evidence.
func (v *View) answer(e core.PeerAsked, out []core.Effect) []core.Effect {
	n := v.here(Process{e.About.ID, e.About.Incarnation})
	if n == nil || v.peer(e.From) == nil {
		return out
	}
	if n.Process != v.self && n.ear.hearing == unheard {
		return out
	}
	hears := n.Process == v.self || n.ear.hearing == heard
	return append(out, core.TellPeer{Whom: e.From, About: e.About, Hears: hears})
}

func (v *View) told(now core.Time, e core.PeerTold) {
	w := v.peer(e.From)
	if w == nil {
		return
	}
	if w.ear.hearing == silent {
		v.rest(now, &w.ear) // whoever speaks is not dead
		v.dirty = true
	}
	n := v.peer(e.About)
	if n == nil || n.ear.hearing != silent || n.ear.stage != asking || now > n.ear.until {
		return
	}
	i := slices.Index(n.ear.asked, w.Process)
	if i < 0 {
		return
	}
	n.ear.asked = slices.Delete(n.ear.asked, i, i+1)
	if e.Hears {
		n.ear.denied = true
	} else {
		n.ear.backed = true
	}
	if len(n.ear.asked) == 0 {
		v.judge(now, n)
	}
	v.dirty = true
}

// judge ends a round of questions. All who were asked are waited for, since one that hears
// the suspect outweighs one that does not: then it lives, and a path is broken.
func (v *View) judge(now core.Time, n *node) {
	if n.ear.denied || !n.ear.backed {
		v.rest(now, &n.ear)
		return
	}
	n.ear.stage, n.ear.until = certain, now.Add(v.claimTurn(n))
}

// suspect does what the suspicions' timers ask for. A timer that fires late says that this
// process has slept, and so that it may have been the silent one: it begins anew.
func (v *View) suspect(now core.Time, out []core.Effect) []core.Effect {
	for i := range v.nodes {
		n := &v.nodes[i]
		if n.ear.hearing != silent {
			continue
		}
		switch e := &n.ear; {
		case now < e.until:
		case e.stage == resting, now.Sub(e.until) > lag:
			out = v.ask(now, n, out)
		case e.stage == asking:
			v.judge(now, n)
		case e.stage == alone && e.left > lookEvery:
			e.left, e.until = e.left-lookEvery, e.until.Add(lookEvery)
		case e.stage == alone:
			e.stage, e.until = certain, now
		}
		if n.ear.stage != certain {
			v.alarm(n.ear.until, "a peer is silent")
		}
	}
	return out
}
