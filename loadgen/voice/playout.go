package voice

import "time"

// Playout is a jitter buffer of a fixed depth that plays by the clock, never by a count of
// packets. It computes when a phone would have played each packet; it holds no audio.
//
//	mouth-to-ear = packetisation (20 ms) + transit (network and servers) + wait in the buffer
//
// It runs from the capture of a packet's first sample to the playing of that sample.
//
// The first packet is played depth after its arrival; every other keeps its distance to it
// in capture time, so all of them have one mouth-to-ear delay, and a packet whose transit
// exceeds the lowest by more than depth is late. It is not played: a phone has concealed
// it by then.
//
// The two clocks may differ: only differences of transit enter, so an unknown offset
// between them changes no wait and no decision (MouthToEar then contains the offset). They
// may drift: each half second of speech the buffer compares its depth above the lowest
// transit of the last two seconds with the depth it should have, and moves when they
// differ by more than a millisecond: outwards at once, inwards by at most 10 ms (which a
// phone hides in a pause, and which keeps the packets in order). So a first packet that
// came late deepens the buffer for a moment only. After 10 late packets in a row (another
// path, a takeover) it starts anew with the next one.
//
// A fixed depth is what is stated and can be compared; how a phone of some maker adapts is
// not the server's doing.
type Playout struct {
	depth   time.Duration
	started bool

	offset, before time.Duration // play = capture + offset; before: for what was captured before since
	since          time.Duration // capture instant from which offset holds
	restart        time.Duration // what was captured before it has missed the last new start
	newest         time.Duration // latest capture instant seen
	lateRun        int
	moves          uint64

	windowEnd time.Duration    // capture instant at which the current window is over
	lowest    [4]time.Duration // transit, per window; [0] is the current one. Outwards it takes all four
}

const (
	window     = 500 * time.Millisecond
	tolerance  = time.Millisecond
	mostInward = 10 * time.Millisecond // less than a frame, so order is kept
	mostLate   = 10                    // in a row
	oldest     = time.Second           // a packet that much behind the newest is late in any case
	noTransit  = time.Duration(1<<63 - 1)
)

// Played is what became of a packet.
type Played struct {
	At         time.Duration // when its first sample is played, or should have been; listener's clock
	Wait       time.Duration // in the buffer, from its arrival; negative when late
	MouthToEar time.Duration // capture of its first sample to At, if both clocks are one
	Late       bool
}

// NewPlayout returns an empty buffer of that depth (20 ms is one frame).
func NewPlayout(depth time.Duration) *Playout { return &Playout{depth: max(0, depth)} }

// Arrive takes a packet whose first sample was captured at captured by the sender's clock
// (20 ms before it was due to be sent) and which arrived at arrived by the listener's.
// Copies of a packet that came before are the caller's to drop.
func (p *Playout) Arrive(captured, arrived time.Duration) Played {
	transit := arrived - captured
	switch {
	case !p.started:
		p.started, p.newest, p.restart = true, captured, -noTransit
		p.anchor(captured, transit)
	case captured > p.newest:
		p.newest = captured
		p.turn(captured)
	}
	p.lowest[0] = min(p.lowest[0], transit)
	offset := p.offset
	if captured < p.since {
		offset = p.before
	}
	late := transit > offset || p.newest-captured > oldest || captured < p.restart
	switch {
	case !late:
		p.lateRun = 0
	case p.lateRun+1 >= mostLate && captured == p.newest:
		p.anchor(captured, transit)
		p.restart = captured
		p.moves++
		offset, late = p.offset, false
	default:
		p.lateRun++
	}
	return Played{At: captured + offset, Wait: offset - transit, MouthToEar: offset, Late: late}
}

// Moves is how often the buffer has moved its schedule.
func (p *Playout) Moves() uint64 { return p.moves }

// anchor starts the schedule at a packet that has just arrived.
func (p *Playout) anchor(captured, transit time.Duration) {
	p.offset, p.before, p.since = transit+p.depth, transit+p.depth, captured
	p.lateRun = 0
	p.windowEnd = captured + window
	p.lowest = [4]time.Duration{transit, noTransit, noTransit, noTransit}
}

// turn closes the window when captured is past it, and moves the schedule if it must.
func (p *Playout) turn(captured time.Duration) {
	if captured < p.windowEnd {
		return
	}
	// A pause (a phone on hold) leaves no measurements: what was seen before it still counts.
	p.windowEnd = captured + window
	lowest := min(p.lowest[0], p.lowest[1], p.lowest[2], p.lowest[3])
	if p.lowest[0] != noTransit {
		copy(p.lowest[1:], p.lowest[:3])
		p.lowest[0] = noTransit
	}
	move := lowest + p.depth - p.offset
	if lowest == noTransit || move >= -tolerance && move <= tolerance {
		return
	}
	p.before, p.since = p.offset, captured
	p.offset += max(move, -mostInward)
	p.moves++
}
