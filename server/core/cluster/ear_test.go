package cluster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

const silence = 100 * time.Millisecond

// up connects n1 to all others, long ago.
func (d *desk) up() *desk {
	for _, m := range d.Members() {
		d.hear(core.PeerUp{Peer: m})
	}
	d.due()
	d.wait(5 * time.Second)
	return d
}

func (d *desk) silent(id core.NodeID) []core.Effect {
	return d.hear(core.PeerSilent{Peer: d.member(id), For: silence})
}

func (d *desk) told(from, about core.NodeID, hears bool) []core.Effect {
	return d.hear(core.PeerTold{From: d.member(from), About: d.member(about), Hears: hears})
}

func asked(effects []core.Effect) (whom []core.NodeID) {
	for _, a := range only[core.AskPeer](effects) {
		whom = append(whom, a.Whom.ID)
	}
	return whom
}

func TestPeersAreNamed(t *testing.T) {
	d := newDesk(t, 3)
	got := only[core.SetPeers](d.due())
	if len(got) != 1 || len(got[0].Members) != 2 || got[0].Members[0].ID != "n2" {
		t.Errorf("%v", got)
	}
	d.join("n4")
	d.put(cluster.NodeKey("n2"), nil)
	got = only[core.SetPeers](d.due())
	if len(got) != 1 || len(got[0].Members) != 2 || got[0].Members[1].ID != "n4" {
		t.Errorf("%v", got)
	}
	if got := d.due(); len(got) > 0 {
		t.Errorf("again: %v", got)
	}
}

func TestDeadIsClaimedAtOnceByOne(t *testing.T) {
	first := 0
	for _, self := range []core.NodeID{"n1", "n2", "n3", "n4"} {
		d := newDesk(t, 5)
		d.View = viewOf(t, d, self)
		d.up()
		began := d.now
		out := d.hear(core.PeerDead{Peer: d.member("n5")})
		if len(claims(out)) == 0 {
			out = d.wait(75 * time.Millisecond)
		}
		if c := claims(out); len(c) != 1 || c[0] != "n5" {
			t.Fatalf("%s claims %v", self, c)
		}
		if d.now == began {
			first++
		}
	}
	if first != 1 {
		t.Errorf("%d claim at once, want 1", first)
	}
}

func TestWitnessConfirms(t *testing.T) {
	d := newDesk(t, 4).up()
	whom := asked(d.silent("n4"))
	if len(whom) != 2 || slices.Contains(whom, "n4") {
		t.Fatalf("asked %v", whom)
	}
	if c := claims(d.told(whom[0], "n4", false)); len(c) > 0 {
		t.Fatal("claimed before the other has answered")
	}
	out := append(d.told(whom[1], "n4", false), d.wait(55*time.Millisecond)...)
	if c := claims(out); !slices.Equal(c, []core.NodeID{"n4"}) {
		t.Errorf("claims %v", c)
	}
}

func TestOneWitnessIsEnoughAfterTheTime(t *testing.T) {
	d := newDesk(t, 4).up()
	whom := asked(d.silent("n4"))
	d.told(whom[0], "n4", false)
	if c := claims(d.wait(39 * time.Millisecond)); len(c) > 0 {
		t.Error("claimed before the time was over")
	}
	if c := claims(d.wait(60 * time.Millisecond)); !slices.Equal(c, []core.NodeID{"n4"}) {
		t.Errorf("claims %v", c)
	}
}

func TestLateAnswerCountsNothing(t *testing.T) {
	d := newDesk(t, 3).up()
	whom := asked(d.silent("n3"))
	d.now = d.now.Add(10 * time.Second) // asleep
	out := append(d.told(whom[0], "n3", false), d.wait(30*time.Millisecond)...)
	if c := claims(out); len(c) > 0 {
		t.Errorf("claims %v by an answer of ten seconds ago", c)
	}
	if whom := asked(out); len(whom) == 0 {
		t.Error("does not ask again")
	}
}

// One who was about to claim and slept asks again.
func TestSleeperAsksAgain(t *testing.T) {
	for self := 1; self <= 4; self++ {
		d := newDesk(t, 5)
		d.View = viewOf(t, d, nodeID(self))
		d.up()
		var c []core.NodeID
		for _, w := range asked(d.silent("n5")) {
			c = claims(d.told(w, "n5", false))
		}
		if len(c) > 0 {
			continue // its turn is the first: there is nothing to sleep through
		}
		d.now = d.now.Add(time.Minute)
		out := d.due()
		if c := claims(out); len(c) > 0 || len(asked(out)) == 0 {
			t.Errorf("n%d claims %v, asks %v", self, c, asked(out))
		}
	}
}

func TestAloneClaimsAfterPatience(t *testing.T) {
	d := newDesk(t, 2).up()
	if whom := asked(d.silent("n2")); len(whom) > 0 {
		t.Fatalf("asked %v", whom)
	}
	if c := claims(d.wait(2*silence - time.Millisecond)); len(c) > 0 {
		t.Error("claimed before three times the silence")
	}
	if c := claims(d.wait(time.Millisecond)); !slices.Equal(c, []core.NodeID{"n2"}) {
		t.Errorf("claims %v", c)
	}
}

func TestAloneAsleepBeginsAnew(t *testing.T) {
	d := newDesk(t, 2).up()
	d.silent("n2")
	d.wait(60 * time.Millisecond)
	d.now = d.now.Add(130 * time.Millisecond) // awake again before patience would end
	if c := claims(append(d.due(), d.wait(2*silence-time.Millisecond)...)); len(c) > 0 {
		t.Error("claimed, and slept meanwhile")
	}
	if c := claims(d.wait(time.Millisecond)); !slices.Equal(c, []core.NodeID{"n2"}) {
		t.Errorf("claims %v", c)
	}
}

func TestHeardAgainIsNotClaimed(t *testing.T) {
	d := newDesk(t, 2).up()
	d.silent("n2")
	d.wait(150 * time.Millisecond)
	d.hear(core.PeerUp{Peer: d.member("n2")})
	if c := claims(d.wait(time.Minute)); len(c) > 0 {
		t.Errorf("claims %v", c)
	}
}

// Who was never heard may be where this node's configuration does not look.
func TestNeverHeardIsNotClaimedAlone(t *testing.T) {
	d := newDesk(t, 2)
	d.due()
	d.silent("n2")
	if c := claims(d.wait(time.Minute)); len(c) > 0 {
		t.Errorf("claims %v", c)
	}
}

// Who hears nobody is cut off, or deaf. It asks, and claims nobody.
func TestDeafClaimsNobody(t *testing.T) {
	d := newDesk(t, 4).up()
	d.silent("n2")
	d.silent("n3")
	out := append(d.silent("n4"), d.wait(time.Minute)...)
	if c := claims(out); len(c) > 0 {
		t.Errorf("claims %v", c)
	}
	if len(asked(out)) == 0 {
		t.Error("asks nobody")
	}
}

// Questions go over a connection; an answer shows that who gave it lives.
func TestWhoAnswersIsNoSuspect(t *testing.T) {
	d := newDesk(t, 3).up()
	d.silent("n2")
	d.hear(core.PeerDead{Peer: d.member("n3")})
	d.wait(25 * time.Millisecond)
	d.told("n2", "n3", false)
	for range 100 {
		if c := claims(d.wait(45 * time.Millisecond)); slices.Contains(c, "n2") {
			t.Fatal("claimed one who speaks")
		}
		d.told("n2", "n3", false)
	}
}

func TestAnswers(t *testing.T) {
	d := newDesk(t, 4)
	d.due()
	ask := func(about core.Member) (answers []bool) {
		for _, a := range only[core.TellPeer](d.hear(core.PeerAsked{From: d.member("n2"), About: about})) {
			answers = append(answers, a.Hears)
		}
		return answers
	}
	n3 := d.member("n3")
	if got := ask(n3); len(got) > 0 {
		t.Errorf("of one never heard: %v", got)
	}
	d.hear(core.PeerUp{Peer: n3})
	if got := ask(n3); !slices.Equal(got, []bool{true}) {
		t.Errorf("of one heard: %v", got)
	}
	d.silent("n3")
	if got := ask(n3); !slices.Equal(got, []bool{false}) {
		t.Errorf("of one silent: %v", got)
	}
	if got := ask(core.Member{ID: "n3", Incarnation: 1}); len(got) > 0 {
		t.Errorf("of a former life: %v", got)
	}
	if got := ask(d.Self()); !slices.Equal(got, []bool{true}) {
		t.Errorf("of itself: %v", got)
	}
	if out := d.hear(core.PeerAsked{From: core.Member{ID: "n9", Incarnation: 9}, About: n3}); len(out) > 0 {
		t.Errorf("a stranger is told %v", out)
	}
}

// TestOneWayLoss: n1 does not hear another, all others do, and some of their answers are
// late or lost. However long it lasts it is not claimed.
func TestOneWayLoss(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.IntRange(3, 6).Draw(rt, "nodes")
		d := newDesk(t, nodes).up()
		out := d.silent("n2")
		for range rapid.IntRange(1, 60).Draw(rt, "rounds") {
			for _, whom := range asked(out) {
				switch rapid.IntRange(0, 3).Draw(rt, "answer") {
				case 0: // lost
				case 1: // late
					d.now = d.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(rt, "ms")) * time.Millisecond)
					fallthrough
				default:
					out = append(out, d.told(whom, "n2", true)...)
				}
			}
			out = d.wait(time.Duration(rapid.IntRange(0, 3000).Draw(rt, "wait")) * time.Millisecond)
			if c := claims(out); len(c) > 0 {
				rt.Fatalf("claims %v", c)
			}
		}
	})
}

// TestMixedAnswers: of all who were asked and have answered in time one hears the suspect.
// Then it is not claimed in this round, whatever the order of the answers.
func TestMixedAnswers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t, rapid.IntRange(4, 6).Draw(rt, "nodes")).up()
		out := d.silent("n2")
		for range 20 {
			whom := asked(out)
			if len(whom) != 2 {
				rt.Fatalf("asked %v", whom)
			}
			hearing := rapid.IntRange(0, 1).Draw(rt, "who hears it")
			out = nil
			for _, i := range rapid.Permutation([]int{0, 1}).Draw(rt, "order") {
				out = append(out, d.told(whom[i], "n2", i == hearing)...)
				out = append(out, d.told(whom[i], "n2", false)...) // a copy counts nothing
			}
			for len(asked(out)) == 0 {
				at, why := d.Deadline()
				if at == core.Never {
					rt.Fatal("does not ask again")
				}
				d.now = max(d.now, at)
				out = append(out, d.due()...)
				if c := claims(out); len(c) > 0 {
					rt.Fatalf("claims %v (%s)", c, why)
				}
			}
		}
	})
}

// TestDeadHostIsFound: nobody hears it, and not all who are asked can be reached. It is
// claimed all the same.
func TestDeadHostIsFound(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t, rapid.IntRange(4, 6).Draw(rt, "nodes")).up()
		out, found := d.silent("n2"), false
		lost := d.Members()[rapid.IntRange(2, len(d.Members())-1).Draw(rt, "lost")].ID
		for end := d.now.Add(2 * time.Second); d.now < end && !found; {
			for _, whom := range asked(out) {
				if whom != lost {
					out = append(out, d.told(whom, "n2", false)...)
				}
			}
			more := d.wait(5 * time.Millisecond)
			found = len(claims(out))+len(claims(more)) > 0
			out = more
		}
		if !found {
			rt.Fatal("not claimed within two seconds")
		}
	})
}

// viewOf returns the view of another member that has seen what d has seen.
func viewOf(t testing.TB, d *desk, self core.NodeID) *cluster.View {
	v := cluster.New(self, d.member(self).Incarnation)
	for i, m := range d.Members() {
		if err := v.Take(core.Change{Key: cluster.NodeKey(m.ID), Value: []byte(`{}`), Revision: m.Incarnation}); err != nil {
			t.Fatal(fmt.Errorf("%d: %w", i, err))
		}
	}
	return v
}
