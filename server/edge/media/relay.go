package media

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const frame = 20 * time.Millisecond // of playback, and the least step between two sources

// outflow is the one RTP stream that a leg's peer hears, whatever feeds it. Invariants:
//  1. One SSRC for the leg's life.
//  2. The sequence goes on by one from the last packet of a source to the first of the
//     next, and the timestamp by the time that passed between them; that first packet
//     bears the marker.
//  3. Within a source, sequence and timestamp differ from the source's by a constant, so
//     its losses and reorderings stay visible.
type outflow struct {
	ssrc    uint32
	seq     uint16 // of the newest packet
	ts      uint32 // of the newest packet
	at      int64  // ns: when it was made; 0: none yet
	packets uint64
	octets  uint64 // of payload, for the SR

	// How the present source maps to this flow; source 0 means: cut before the next packet.
	source   uint64 // stream identity of the inflow, or of the playback
	inSeq    int64  // extended sequence number of the first packet of this mapping
	outSeq   uint16 // what it became
	withheld uint16 // packets since that were not for this peer, and are no loss to it
	inTs     uint32
	outTs    uint32
}

// cut begins a new source: it returns the sequence number and timestamp of its first packet.
func (o *outflow) cut(now int64, clock uint32) (seq uint16, ts uint32) {
	if o.at == 0 {
		return o.seq, o.ts // random at birth (RFC 3550 s.5.1)
	}
	return o.seq + 1, o.ts + ticks(max(now-o.at, int64(frame)), clock)
}

// ticks converts a duration in ns, modulo 2^32 as RTP counts.
func ticks(ns int64, clock uint32) uint32 {
	return uint32(ns/int64(time.Second)*int64(clock) + ns%int64(time.Second)*int64(clock)/int64(time.Second))
}

// made notes a packet that goes out now.
func (o *outflow) made(seq uint16, ts uint32, now int64) {
	if o.at == 0 || int16(seq-o.seq) > 0 {
		o.seq, o.ts = seq, ts
	}
	o.at = now
}

// place maps a packet of an inflow. fresh says that it is the first of its source; ok is
// false for a packet that is older than the mapping, whose numbers the source before has used.
func (o *outflow) place(stream uint64, extended int64, h *header, inClock, outClock uint32, now int64) (seq uint16, ts uint32, fresh, ok bool) {
	if o.source != stream {
		o.outSeq, o.outTs = o.cut(now, outClock)
		o.source, o.inSeq, o.inTs, o.withheld = stream, extended, h.ts, 0
		return o.outSeq, o.outTs, true, true
	}
	if extended < o.inSeq {
		return 0, 0, false, false
	}
	elapsed := h.ts - o.inTs
	if inClock != outClock && inClock != 0 { // only telephone events pass between such legs
		elapsed = uint32(int64(int32(elapsed)) * int64(outClock) / int64(inClock))
	}
	return o.outSeq + uint16(extended-o.inSeq) - o.withheld, o.outTs + elapsed, false, true
}

// content is what a packet of a leg holds, by its payload type.
type content uint8

const (
	unnegotiated content = iota // comfort noise, or a codec of the offer before
	audio
	event // RFC 4733
)

func contentOf(payload uint8, spec *core.MediaSpec) content {
	switch {
	case spec.Codec.Name == "":
		return unnegotiated
	case payload == spec.Codec.Payload:
		return audio
	case spec.Telephone != 0 && payload == spec.Telephone:
		return event
	}
	return unnegotiated
}

// relay hands a packet to all who hear its leg. b is the packet as it came; it is
// overwritten.
func (l *loop) relay(from *leg, b []byte, h *header, extended int64) {
	what := contentOf(h.payload, &from.spec)
	for _, to := range from.hearers {
		if !to.spec.Send {
			to.out.source = 0 // what was missed meanwhile is no loss to the peer
			continue
		}
		l.pass(from, to, what, b, h, extended)
	}
}

// pass sends one packet of a leg to one hearer, in its payload type and law.
func (l *loop) pass(from, to *leg, what content, b []byte, h *header, extended int64) {
	out := header{marker: h.marker, ssrc: to.out.ssrc}
	recoded := false
	switch {
	case what == event && to.spec.Telephone != 0:
		out.payload = to.spec.Telephone
	case what == audio && from.spec.Codec.Name == to.spec.Codec.Name:
		out.payload = to.spec.Codec.Payload
	case what == audio && from.law != foreign && to.law != foreign:
		out.payload, recoded = to.spec.Codec.Payload, true
	default:
		if to.out.source == from.in.stream && extended >= to.out.inSeq {
			to.out.withheld++
		}
		l.count.Dropped++
		return
	}
	var fresh, ok bool
	out.seq, out.ts, fresh, ok = to.out.place(from.in.stream, extended, h, from.spec.Codec.Clock, to.spec.Codec.Clock, l.now)
	if !ok {
		l.count.Dropped++
		return
	}
	if fresh && what == audio {
		out.marker = true // an event's marker means its beginning (RFC 4733 s.2.3)
	}
	packet := b[h.body-fixedHeader : h.end]
	if recoded {
		packet = l.out[:fixedHeader+h.end-h.body]
		recode(packet[fixedHeader:], b[h.body:h.end], from.law)
		l.count.Transcoded++
	}
	out.put(packet)
	to.out.made(out.seq, out.ts, l.now)
	if l.send(to, packet) {
		l.count.Relayed++
	}
}

// send puts a packet on the wire or drops it: nothing ever waits, for a queue of audio
// is latency that stays (asterisk/asterisk#2115).
func (l *loop) send(to *leg, packet []byte) bool {
	dest := &to.target
	if to.latch.peer.IsValid() {
		dest = nil
	} else if dest.length == 0 {
		l.count.Dropped++
		return false
	}
	if send(to.rtp, packet, dest) != 0 {
		l.count.Dropped++
		return false
	}
	to.out.packets++
	to.out.octets += uint64(len(packet) - fixedHeader)
	return true
}
