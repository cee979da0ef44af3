package peers

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// spawnAll starts so many members who know n, and n knows them; all are up.
func spawnAll(t testing.TB, n *node, prefix string, count, megabytes int) []*child {
	t.Helper()
	all := make([]*child, count)
	var members []core.Member
	for i := range all {
		all[i] = spawn(t, core.NodeID(fmt.Sprint(prefix, i)), core.Revision(100+i), "127.0.0.1:0", n.cfg.Beat, megabytes)
		members = append(members, all[i].Member)
	}
	for _, c := range all {
		c.do(t, order{Peers: append([]core.Member{n.Member}, members...)})
	}
	n.know(members...)
	for _, c := range all {
		until(t, string(c.ID), func() bool { return n.Gauges().Up == count })
	}
	return all
}

func standardBeat(c *Config) { c.Beat = 0 }

// kill -9: the peers know within milliseconds.
func TestKilledProcess(t *testing.T) {
	for _, c := range []struct {
		megabytes, batches int
	}{{0, 1}, {256, 0}} {
		if long() {
			c.batches = 10
		}
		var took, rest []time.Duration // since the signal: the event, and the end of its other files
		n := newNode(t, "n", 7, standardBeat)
		for batch := range c.batches {
			victims := spawnAll(t, n, fmt.Sprint("v", batch, "-"), 6, c.megabytes)
			quietFor(t, n.Peers, 6) // longer than steady
			for _, v := range victims {
				at := machineTime()
				v.signal(syscall.SIGKILL)
				until(t, "a death", func() bool { return story(n.said(), v.ID) != "" && last(n.said(), v.ID).Kind == "PeerDead" })
				<-v.ended
				took = append(took, last(n.said(), v.ID).At-at)
				rest = append(rest, v.last-at)
			}
			for _, v := range victims {
				for _, l := range n.said() {
					if l.Kind == "PeerDead" && l.Peer.ID == v.ID && l.Peer != v.Member {
						t.Errorf("%+v is dead", l.Peer)
					}
				}
			}
		}
		if n.Gauges().Deaths != uint64(len(took)) {
			t.Errorf("%d deaths, %d were killed", n.Gauges().Deaths, len(took))
		}
		if len(took) == 0 {
			continue
		}
		t.Logf("%d kills of processes with %d MB more: PeerDead after p50 %v p99 %v max %v; its other files were closed after p50 %v p99 %v max %v", len(took), c.megabytes,
			percentile(took, .5), percentile(took, .99), percentile(took, 1), percentile(rest, .5), percentile(rest, .99), percentile(rest, 1))
		if p50 := percentile(took, .5); p50 > 100*time.Millisecond {
			t.Errorf("half of the deaths took longer than %v", p50)
		}
	}
}

// last is what was said last of a peer.
func last(lines []line, id core.NodeID) (found line) {
	for _, l := range lines {
		if l.Peer.ID == id {
			found = l
		}
	}
	return found
}

// SIGSTOP is a silence however long, SIGCONT ends it.
func TestStoppedProcess(t *testing.T) {
	n := newNode(t, "n", 7, standardBeat)
	v := spawnAll(t, n, "v", 1, 0)[0]
	rounds, held := 3, 40 // beats
	if long() {
		rounds, held = 50, 50
	}
	var took []time.Duration
	for range rounds {
		until(t, "v to be up", func() bool { return last(n.said(), v.ID).Kind == "PeerUp" })
		quietFor(t, n.Peers, 5)
		at := machineTime()
		v.signal(syscall.SIGSTOP)
		until(t, "a silence", func() bool { return last(n.said(), v.ID).Kind == "PeerSilent" && last(n.said(), v.ID).At > at })
		took = append(took, last(n.said(), v.ID).At-at)
		quietFor(t, n.Peers, held)
		v.signal(syscall.SIGCONT)
	}
	until(t, "v to be up", func() bool { return last(n.said(), v.ID).Kind == "PeerUp" })
	t.Logf("%d stops: PeerSilent after p50 %v p99 %v max %v", len(took), percentile(took, .5), percentile(took, .99), percentile(took, 1))
	if g := n.Gauges(); g.Deaths != 0 {
		t.Fatalf("%+v", g)
	}
	// Stopped, and its connection is lost: it cannot answer, but nobody refuses.
	v.signal(syscall.SIGSTOP)
	n.mu.Lock()
	n.peers[v.ID].out.conn.Close()
	n.mu.Unlock()
	until(t, "a silence", func() bool { return n.Gauges().Up == 0 })
	quietFor(t, n.Peers, int(2*handshakeTime/n.cfg.Beat))
	if g := n.Gauges(); g.Deaths != 0 {
		t.Fatalf("stopped, not dead: %+v", g)
	}
	v.signal(syscall.SIGCONT)
	until(t, "v to be up", func() bool { return n.Gauges().Up == 1 && n.Gauges().Connected == 1 })
	v.signal(syscall.SIGSTOP)
	v.signal(syscall.SIGKILL) // which ends a stopped process, too
	until(t, "a death", func() bool { return last(n.said(), v.ID).Kind == "PeerDead" })
}

// A process that is killed and started anew at the same address, at once.
func TestRestartedProcess(t *testing.T) {
	n := newNode(t, "n", 7)
	v := spawn(t, "v", 5, "127.0.0.1:0", testBeat, 0)
	for incarnation := core.Revision(6); incarnation < 9; incarnation++ {
		v.do(t, order{Peers: []core.Member{n.Member}})
		n.know(v.Member)
		until(t, "v to be up", func() bool { return n.Gauges().Up == 1 })
		v.signal(syscall.SIGKILL)
		<-v.ended
		again := spawn(t, "v", incarnation, v.Addr.String(), testBeat, 0)
		until(t, "its death", func() bool { return last(n.said(), "v").Kind == "PeerDead" && last(n.said(), "v").Peer == v.Member })
		v = again
	}
	if g := n.Gauges(); g.Deaths != 3 {
		t.Errorf("%+v", g)
	}
}

// The observer is stopped while its peers live. When it wakes it suspects nobody.
func TestStoppedObserver(t *testing.T) {
	for try := range 3 {
		a, b := newNode(t, "a", 1), newNode(t, "b", 2)
		o := spawn(t, "o", 3, "127.0.0.1:0", testBeat, 0)
		a.know(o.Member, b.Member)
		b.know(o.Member, a.Member)
		o.do(t, order{Peers: []core.Member{a.Member, b.Member}, Tight: true})
		until(t, "all to be up", func() bool {
			return a.Gauges().Up == 2 && b.Gauges().Up == 2 && story(o.said(), "a")+story(o.said(), "b") == "PeerUpPeerUp"
		})
		o.signal(syscall.SIGSTOP)
		until(t, "a silence", func() bool { return a.Gauges().Up == 1 && b.Gauges().Up == 1 })
		quietFor(t, a.Peers, 40) // its socket is full of old heartbeats, and of none of the new
		o.signal(syscall.SIGCONT)
		until(t, "the observer", func() bool { return a.Gauges().Up == 2 && b.Gauges().Up == 2 })
		quietFor(t, a.Peers, 20)
		if g := o.gauges(t).Gauges; g.Restarts == 0 || g.Up != 2 || g.Deaths != 0 {
			t.Errorf("%+v", g)
		}
		said := story(o.said(), "a") + story(o.said(), "b")
		if said == "PeerUpPeerUp" {
			return
		}
		if lag := max(a.Gauges().Lag, b.Gauges().Lag); !starved(lag, testBeat) {
			t.Fatalf("the observer said %s; the latest beat of its peers was %v late", said, lag)
		}
		t.Logf("try %d: the peers themselves were late", try)
	}
	t.Skip("inconclusive: this machine has no time for heartbeats")
}

// An observer that is a process of its own, and a peer that is a node with a witness.
func TestWitnessOfAnotherProcess(t *testing.T) {
	n := newNode(t, "n", 7)
	all := spawnAll(t, n, "v", 2, 0)
	until(t, "v0 to hear v1", func() bool { return story(all[0].said(), all[1].ID) == "PeerUp" })
	n.Do(core.AskPeer{Whom: all[0].Member, About: all[1].Member})
	until(t, "an answer", func() bool { return last(n.said(), all[0].ID).Kind == "PeerTold" })
	if l := last(n.said(), all[0].ID); !l.Hears || l.About != all[1].Member {
		t.Errorf("%+v", l)
	}
}

// What it costs, at 20 ms: printed, not judged.
func TestCost(t *testing.T) {
	if !long() {
		t.Skip("set " + longVariable + "=1")
	}
	for _, peers := range []int{0, 2, 9} {
		o := spawn(t, "o", 3, "127.0.0.1:0", 20*time.Millisecond, 0)
		var members []core.Member
		for i := range peers {
			n := newNode(t, core.NodeID(fmt.Sprint("n", i)), 1, standardBeat)
			n.know(o.Member)
			members = append(members, n.Member)
		}
		o.do(t, order{Peers: members, Alone: peers == 0})
		until(t, "all to be up", func() bool { return o.gauges(t).Gauges.Up == peers })
		quiet := time.Now().Add(time.Second)
		until(t, "calm", func() bool { return time.Now().After(quiet) })
		before, from := o.gauges(t), time.Now()
		until(t, "ten seconds", func() bool { return time.Since(from) > 10*time.Second })
		after, took := o.gauges(t), time.Since(from)
		perSecond := (after.CPU - before.CPU).Seconds() / took.Seconds() * 1e6
		t.Logf("%d peers: %.0f us of CPU per second; round trip p50 %v p99 %v; lag %v; silences %d", peers, perSecond,
			after.Gauges.RoundTripP50, after.Gauges.RoundTripP99, after.Gauges.Lag, after.Gauges.Silences)
	}
}
