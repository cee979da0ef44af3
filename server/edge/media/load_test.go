package media

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/pion/rtp"

	"github.com/dialtone-cc/dialtone/server/core"
)

// asterisk/asterisk#2115, jambonz/jambonz-feature-server#1027: after the loop was held up,
// old audio is counted and dropped, digits pass, and voice goes on without delay.
func TestBacklogIsDropped(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	bridge(a, b)
	a.say(440, 3)
	b.listenFor(3)
	a.say(440, 1) // the lock is complete once this one has passed
	b.listenFor(1)
	hold, free := make(chan struct{}), make(chan struct{})
	r.pause(a.leg, hold, free)
	<-hold
	a.say(440, 10)
	a.packet(101, []byte{7, 10, 0, 160})
	a.say(440, 5)
	held := time.Now()
	until(t, "held up", func() bool { return time.Since(held) > heldUp+20*time.Millisecond })
	close(free)
	got := b.listenFor(2)
	if got[0].PayloadType != 101 || got[1].PayloadType != 0 {
		t.Fatalf("payload types %d, %d; want the digit and the newest voice", got[0].PayloadType, got[1].PayloadType)
	}
	if d := got[1].SequenceNumber - got[0].SequenceNumber; d != 5 {
		t.Errorf("the newest voice is %d after the digit, want 5: what was dropped must be seen as lost", d)
	}
	if extra := b.next(30 * time.Millisecond); extra != nil {
		t.Fatalf("more of the backlog: %v", extra.Header)
	}
	a.say(440, 5)
	b.listenFor(5)
	r.Do(core.CloseMedia{Leg: a.leg})
	if s := await(t, r.inbox, closedLeg, a.leg).Stats; s.PacketsReceived != 25 || s.PacketsLost != 0 {
		t.Errorf("%+v", s)
	}
}

// A socket holds less than a second of voice, so that no backlog can grow in the kernel.
func TestSocketsHoldLittle(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu)
	bridge(a, b)
	a.say(440, 2)
	b.listenFor(2)
	hold, free := make(chan struct{}), make(chan struct{})
	r.pause(a.leg, hold, free)
	<-hold
	a.say(440, 500) // ten seconds
	close(free)
	var last uint64
	same := 0
	until(t, "the socket is empty", func() bool { // a stalled machine shows the same figure for a moment too
		time.Sleep(20 * time.Millisecond)
		now := r.Gauges().Relayed
		if same++; now != last || now <= 2 {
			last, same = now, 0
		}
		return same >= 10
	})
	r.Do(core.CloseMedia{Leg: a.leg})
	s := await(t, r.inbox, closedLeg, a.leg).Stats
	if s.PacketsReceived > 52 || s.PacketsReceived < 10 {
		t.Errorf("%d of 502 packets lay in the socket", s.PacketsReceived)
	}
}

// No allocation per packet: relay in one law and across both, strangers, playback, reports.
func TestNoAllocationPerPacket(t *testing.T) {
	r := newRig(t, nil)
	a, b, c := r.phone(legID(1), pcmu), r.phone(legID(2), pcmu), r.phone(legID(3), pcma)
	for _, p := range []*phone{b, c} {
		p.hears(core.Source{Kind: core.Bridge, Peer: a.leg})
	}
	a.say(440, 1)
	b.listenFor(1)
	c.listenFor(1)
	l := stopLoop(r)
	ga := r.legs[a.leg]
	packet, err := (&rtp.Packet{Header: rtp.Header{Version: 2, SequenceNumber: 2000, SSRC: a.ssrc}, Payload: a.tone(440)}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	seq := uint16(2000)
	events := l.events[:1]
	relay := func() {
		seq++
		binary.BigEndian.PutUint16(packet[2:], seq)
		a.bytes(packet)
		l.readable(ga, rtpReadable)
	}
	before := l.count
	for name, work := range map[string]func(){
		"relay":    relay,
		"stranger": func() { l.readable(ga, catcherReadable) },
		"control":  func() { l.readable(ga, rtcpReadable) },
		"report":   func() { l.report(ga, false) },
		"tick":     func() { l.now += int64(frame); l.beat() },
		"poll":     func() { a.bytes(packet); l.poller.wait(events); l.readable(ga, rtpReadable) },
	} {
		l.startPlayback(newLeg("int_p/1", 0, -1, -1), core.Source{Loop: true}, newSound(make([]int16, 8000)))
		if n := testing.AllocsPerRun(200, work); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if l.count.Relayed-before.Relayed < 400 || l.count.Transcoded-before.Transcoded < 200 {
		t.Errorf("nothing was relayed: %+v", l.count)
	}
}

// stopLoop takes the loop's thread away and leaves its sockets open, so that a test can
// turn it by hand.
func stopLoop(r *rig) *loop {
	l := r.loops[0]
	taken, free := make(chan struct{}), make(chan struct{})
	r.t.Cleanup(func() { close(free) })
	r.pause("int_test/0", taken, free)
	<-taken
	return l
}

// BenchmarkDo is how long a call's effects hold up the goroutine of Do: two legs opened,
// bridged and closed.
func BenchmarkDo(b *testing.B) {
	r := newRig(b, func(c *Config) { c.Rest = time.Nanosecond })
	spec := core.MediaSpec{Codec: pcmu, Remote: at("127.0.0.1:9"), Send: true, Receive: true, Hear: core.Source{Kind: core.Bridge}}
	for b.Loop() {
		for i := range 2 {
			r.Do(core.OpenMedia{Leg: legID(i)})
			spec.Hear.Peer = legID(1 - i)
			r.Do(core.SetMedia{Leg: legID(i), Spec: spec})
		}
		for i := range 2 {
			r.Do(core.CloseMedia{Leg: legID(i)})
		}
		b.StopTimer()
		for i := range 2 {
			await(b, r.inbox, closedLeg, legID(i))
			await(b, r.inbox, openedLeg, legID(i))
		}
		b.StartTimer()
	}
}
