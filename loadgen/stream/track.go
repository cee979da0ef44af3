package stream

import (
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

// track follows the packets of one voice by their index. What each packet touches stands
// together: with thousands of streams every line of it comes from far memory.
type track struct {
	voice       uint64
	packets     uint64 // all of them
	distinct    uint64
	first, last int64 // lowest and highest index
	// Of the highest index: its position in frames, and the highest before it.
	position, before int64
	started, spoke   bool

	playout      voice.Playout
	losses       voice.Losses        // of what is below the window
	seen, played [window / 64]uint64 // of the highest index and the window-1 below

	earlier   int64 // indexes of segments before this one, see restart
	duplicate uint64
	reordered uint64
	depth     time.Duration
	// Where only the RTP timestamp tells when a packet was captured.
	origin, ticks int64 // Unix ns, and samples since
	stamp         uint32
}

// A copy or a straggler is known as such within 20 s.
const window = 1024

func newTrack(voiceID uint64, depth time.Duration) track {
	return track{voice: voiceID, depth: depth, playout: *voice.NewPlayout(depth)}
}

func bit(i int64) (word int64, mask uint64) { return i / 64 % (window / 64), 1 << (i % 64) }

// add takes index i, 0 or more. fresh: it has not come before; newest: nor has a later one.
func (t *track) add(i int64) (fresh, newest bool) {
	t.packets++
	newest = true
	switch {
	case !t.started:
		t.started, t.first, t.last = true, i, i
	case i > t.last:
		t.advance(i)
	case i <= t.last-window: // too old to be told from a copy
		t.duplicate++
		return false, false
	default:
		newest = false
		t.first = min(t.first, i)
	}
	word, mask := bit(i)
	if t.seen[word]&mask != 0 {
		t.duplicate++
		return false, false
	}
	if !newest {
		t.reordered++
	}
	t.seen[word] |= mask
	t.distinct++
	return true, newest
}

// play notes that the jitter buffer has played index i, which add has just taken.
func (t *track) play(i int64) {
	word, mask := bit(i)
	t.played[word] |= mask
}

// advance moves the window up to i, and what leaves it into the pattern of loss.
func (t *track) advance(i int64) {
	for n := 0; t.last < i && n < window; n++ {
		t.last++
		word, mask := bit(t.last)
		if t.last-window >= t.first {
			t.losses.Add(t.played[word]&mask == 0, 1)
		}
		t.seen[word] &^= mask
		t.played[word] &^= mask
	}
	if t.last < i { // the window is empty by now: all that is passed over is lost
		t.losses.Add(true, uint64(i-t.last))
		t.last = i
	}
}

// pattern is all of the loss, the window with it.
func (t *track) pattern() voice.Losses {
	l := t.losses
	for i := max(t.first, t.last-window+1); t.started && i <= t.last; i++ {
		word, mask := bit(i)
		l.Add(t.played[word]&mask == 0, 1)
	}
	return l
}

// expected is how many packets there should be by their index.
func (t *track) expected() uint64 {
	if !t.started {
		return uint64(t.earlier)
	}
	return uint64(t.earlier + t.last - t.first + 1)
}

// restart begins a new segment: its numbers have nothing to do with those before.
func (t *track) restart() {
	t.losses = t.pattern()
	t.earlier = int64(t.expected())
	t.started, t.spoke = false, false
	t.seen, t.played = [window / 64]uint64{}, [window / 64]uint64{}
	t.playout = *voice.NewPlayout(t.depth)
}

// A sequence number that jumps by so many is that of another source (RFC 3550 A.1).
const mostDropout = 3000

// unwrap makes an index of an RTP sequence number; false: it does not follow on.
func (t *track) unwrap(sequence uint16) (int64, bool) {
	if !t.started {
		return 1<<16 + int64(sequence), true // below it is room for stragglers
	}
	step := int64(int16(sequence - uint16(t.last)))
	return t.last + step, step < mostDropout && step > -window
}

// begin says that a timestamp is that of now: only differences count from here on.
func (t *track) begin(timestamp uint32, now int64) {
	t.origin, t.ticks, t.stamp = now, 0, timestamp
	t.playout = *voice.NewPlayout(t.depth)
}

// media is the time of a timestamp, which may have wrapped around.
func (t *track) media(timestamp uint32) int64 {
	t.ticks += int64(int32(timestamp - t.stamp))
	t.stamp = timestamp
	return t.origin + t.ticks*int64(time.Second/voice.Rate)
}
