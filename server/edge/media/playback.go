package media

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Playback is paced by a wheel of ten slots that turns once in 20 ms, so that the frames
// of many callers on hold do not go out in one burst, in front of which a relayed packet
// would wait. Ticks are counted from the loop's birth, in whole numbers: frame n of a
// playback that began at tick t is due at tick t+10n for ever, whatever the lag of one
// tick. A frame that is more than 100 ms late is left out: its listener has gone on.
const (
	tick         = 2 * time.Millisecond
	wheelSlots   = int64(frame / tick)
	frameSamples = 160 // 20 ms at 8 kHz
	lateTicks    = int64(100 * time.Millisecond / tick)
	// How far behind its boundary a tick fires, so that rounding finds the right one.
	tickLag = 200 * time.Microsecond
)

// playback is what a leg hears of a file.
type playback struct {
	sound  *sound
	number uint32 // the number that PlaybackDone returns
	loop   bool
	begin  int64  // tick of the first frame
	slot   int    // of the wheel; -1 when nothing plays
	index  int    // within the slot
	id     uint64 // as a source of the outflow
}

// startPlayback begins a file. A missing one is over at once, or, looped, is silence.
func (l *loop) startPlayback(g *leg, src core.Source, s *sound) {
	if s == nil {
		if !src.Loop {
			l.emit(core.PlaybackDone{Leg: g.id, Play: src.Play})
		}
		return
	}
	// The emptiest slot within the next 20 ms: a thousand calls that begin together
	// (a recovery) spread out by themselves.
	first := l.ticked + 1
	best := first
	for t := first; t < first+wheelSlots; t++ {
		if len(l.wheel[t%wheelSlots]) < len(l.wheel[best%wheelSlots]) {
			best = t
		}
	}
	slot := int(best % wheelSlots)
	l.streams++
	g.play = playback{sound: s, number: src.Play, loop: src.Loop, begin: best, slot: slot, index: len(l.wheel[slot]), id: l.streams}
	l.wheel[slot] = append(l.wheel[slot], g)
	l.playing++
}

func (l *loop) stopPlayback(g *leg) {
	if g.play.sound == nil {
		return
	}
	slot := l.wheel[g.play.slot]
	last := slot[len(slot)-1]
	slot[g.play.index], last.play.index = last, g.play.index
	slot[len(slot)-1] = nil
	l.wheel[g.play.slot] = slot[:len(slot)-1]
	g.play = playback{}
	l.playing--
}

// turn plays what is due at a tick. It goes backwards, since a playback that ends takes
// its place's last one.
func (l *loop) turn(t int64) {
	slot := t % wheelSlots
	for i := len(l.wheel[slot]) - 1; i >= 0; i-- {
		g := l.wheel[slot][i]
		if t < g.play.begin {
			continue
		}
		l.playFrame(g, (t-g.play.begin)/wheelSlots)
	}
}

// playFrame sends frame n of what a leg hears. A leg that may not be sent to, or whose
// codec is not of G.711, hears nothing, but the time passes and the end comes.
func (l *loop) playFrame(g *leg, n int64) {
	p := &g.play
	at := n * frameSamples
	if size := int64(len(p.sound.ulaw)); at >= size {
		if !p.loop {
			done := core.PlaybackDone{Leg: g.id, Play: p.number}
			l.stopPlayback(g)
			g.out.source = 0
			l.emit(done)
			return
		}
		at %= size
	}
	if !g.spec.Send || g.law == foreign {
		g.out.source = 0
		return
	}
	packet := l.out[:fixedHeader+frameSamples]
	p.sound.frame(packet[fixedHeader:], int(at), g.law, p.loop)
	h := header{payload: g.spec.Codec.Payload, ssrc: g.out.ssrc}
	o := &g.out
	if o.source != p.id {
		o.outSeq, o.outTs = o.cut(l.now, g.spec.Codec.Clock)
		o.source, o.inTs = p.id, uint32(n*frameSamples)
		h.seq, h.ts, h.marker = o.outSeq, o.outTs, true
	} else {
		h.seq, h.ts = o.seq+1, o.outTs+uint32(n*frameSamples)-o.inTs
	}
	h.put(packet)
	o.made(h.seq, h.ts, l.now)
	if l.send(g, packet) {
		l.count.Played++
	}
}
