package media

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds of RFC 3550 A.1.
const (
	maxDropout  = 3000
	maxMisorder = 100
	seqMod      = 1 << 16
)

// inflow is what is known of the packets that a peer sends: RFC 3550 A.1 (sequence), A.3
// (loss) and A.8 (jitter). A new SSRC or a restarted sequence begins a new stream; sums
// go on through all of them.
//
// The probation of A.1 (two packets before a source counts) is left out: the source's
// address and payload type are checked already, and it would cost the first syllable.
type inflow struct {
	stream uint64 // identity of the running stream, unique in the loop; 0: none yet

	ssrc    uint32
	base    int64 // extended number of the first packet
	highest int64 // extended number of the newest; begins one cycle up, so that late ones stay positive
	badSeq  int32 // where a restarted sequence would go on; -1: no suspicion
	count   uint64

	transit    int32 // of the last audio packet, in RTP clock ticks
	hasTransit bool
	jitter     float64 // in RTP clock ticks
	clock      uint32  // Hz

	lostBefore    int64 // of the streams that ended
	totalReceived uint64

	// What the last report has said (A.3).
	reportedExpected int64
	reportedCount    uint64

	lastAt     int64 // when a packet came while receiving was wanted; 0: none yet
	longestGap int64 // ns
}

// begin starts a stream with its first packet.
func (f *inflow) begin(h *header, stream uint64) {
	if f.stream != 0 {
		f.lostBefore += f.lost()
	}
	f.stream, f.ssrc = stream, h.ssrc
	f.highest = seqMod + int64(h.seq)
	f.base = f.highest
	f.badSeq, f.count = -1, 0
	f.hasTransit = false
	f.reportedExpected, f.reportedCount = 0, 0
}

// take places a packet in its stream and returns its extended sequence number. restart
// asks for a new stream; ok is false for a packet that A.1 calls invalid (a jump that no
// second packet has confirmed).
func (f *inflow) take(h *header) (extended int64, restart, ok bool) {
	if f.stream == 0 || h.ssrc != f.ssrc {
		return 0, true, true
	}
	delta := h.seq - uint16(f.highest)
	switch {
	case delta < maxDropout: // in order, with a permissible gap
		f.highest += int64(delta)
		f.badSeq = -1
		return f.highest, false, true
	case delta <= seqMod-maxMisorder:
		if int32(h.seq) == f.badSeq {
			return 0, true, true
		}
		f.badSeq = int32(h.seq + 1)
		return 0, false, false
	default: // duplicate or late
		return f.highest + int64(int16(delta)), false, true
	}
}

// arrive counts a packet that came at now (ns) and measures the silence before it.
func (f *inflow) arrive(now int64, wanted bool) {
	f.count++
	f.totalReceived++
	if !wanted {
		return
	}
	if f.lastAt != 0 && now-f.lastAt > f.longestGap {
		f.longestGap = now - f.lastAt
	}
	f.lastAt = now
}

// pause forgets the last arrival: while a party is on hold, silence is no gap, and its
// clock may stand still.
func (f *inflow) pause() { f.lastAt, f.hasTransit = 0, false }

// vary takes an audio packet into the jitter (A.8). Telephone events are left out, for
// all packets of an event bear the timestamp of its beginning.
func (f *inflow) vary(now int64, ts, clock uint32) {
	if clock == 0 {
		return
	}
	f.clock = clock
	// In two steps, for ns times Hz would overflow after two days.
	ticks := now/int64(time.Second)*int64(clock) + now%int64(time.Second)*int64(clock)/int64(time.Second)
	transit := int32(uint32(ticks) - ts)
	if f.hasTransit {
		d := transit - f.transit
		if d < 0 {
			d = -d
		}
		f.jitter += (float64(d) - f.jitter) / 16
	}
	f.transit, f.hasTransit = transit, true
}

func (f *inflow) expected() int64 {
	if f.stream == 0 {
		return 0
	}
	return f.highest - f.base + 1
}

// lost is that of the running stream; duplicates can make it negative (A.3).
func (f *inflow) lost() int64 { return f.expected() - int64(f.count) }

// interval returns the fraction lost since the last report, in 256ths (A.3).
func (f *inflow) interval() uint8 {
	expected, count := f.expected()-f.reportedExpected, f.count-f.reportedCount
	f.reportedExpected, f.reportedCount = f.expected(), f.count
	lost := expected - int64(count)
	if expected <= 0 || lost <= 0 {
		return 0
	}
	return uint8(min(lost<<8/expected, 255))
}

// stats is what the CDR shows.
func (g *leg) stats() core.AudioStats {
	s := core.AudioStats{
		PacketsReceived: g.in.totalReceived,
		PacketsSent:     g.out.packets,
		PacketsLost:     uint64(max(0, g.in.lostBefore+g.in.lost())),
		LongestGapMs:    float64(g.in.longestGap) / 1e6,
		Refused:         g.refused,
	}
	if g.in.clock != 0 {
		s.JitterMs = g.in.jitter * 1000 / float64(g.in.clock)
	}
	return s
}
