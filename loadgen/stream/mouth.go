package stream

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

const notTalking = -1

// mouth is what a stream says.
type mouth struct {
	tick   int // of the wheel, or notTalking
	codec  Codec
	tone   *tone
	marker *voice.Marker
	muted  bool
	spoke  bool // the frame before this one was sent: no new talkspurt

	ssrc, timestamp uint32 // of position 0
	sequence        uint16 // of the next packet
	position        uint32 // of the next frame
	index           uint32 // of the next stamp
	last            int64  // when the packet before leaves, for a network that keeps the order

	sent  uint64
	began int64 // when the first packet was due, -1 before

	count int // of keys that wait or sound
	rest  int // frames of voice before the next key
	keys  [32]press
}

// press is a key that is pressed.
type press struct {
	event  byte
	frames int    // how long
	frame  int    // of it
	at     uint32 // position at which it began
}

// Each end of an event is sent three times (RFC 4733 s.2.5.1.4); between two events the
// voice is heard for 60 ms, so that they are two (Q.24 asks for 40).
const (
	endRepeats = 3
	keyRest    = 3
	keyVolume  = 10 // dBm0 below zero
)

var errManyKeys = errors.New("32 digits wait to be sent already")

func (m *mouth) press(event byte, frames int) error {
	if m.count == len(m.keys) {
		return errManyKeys
	}
	m.keys[m.count] = press{event: event, frames: frames}
	m.count++
	return nil
}

// packet is a packet on its way: all that its bytes follow from.
type packet struct {
	position uint32 // of the frame; of an event, where it began
	index    uint32
	sequence uint16
	marker   bool  // begins a talkspurt, or an event
	event    bool  // an event instead of voice
	delay    int64 // of the emulated network

	key      byte
	last     bool   // the key is up
	duration uint16 // samples
}

// frame is what is to be said in this frame; false: nothing.
func (m *mouth) frame() (p packet, speaks bool) {
	at := m.position
	m.position++
	switch {
	case m.count > 0 && m.rest == 0:
		p = m.keyed(at)
	case m.muted:
		m.spoke = false
		m.rest = max(0, m.rest-1)
		return p, false
	default:
		p = packet{position: at, index: m.index, marker: !m.spoke}
		m.index++
		m.spoke = true
		m.rest = max(0, m.rest-1)
	}
	p.sequence = m.sequence
	m.sequence++
	m.sent++
	return p, true
}

// keyed is the next packet of the key that is pressed. All packets of an event have the
// timestamp of its begin; the duration grows (RFC 4733 s.2.3.5).
func (m *mouth) keyed(at uint32) packet {
	k := &m.keys[0]
	if k.frame == 0 {
		k.at = at
	}
	k.frame++
	p := packet{position: k.at, event: true, key: k.event, marker: k.frame == 1,
		duration: uint16(min(k.frame, k.frames) * Frame), last: k.frame >= k.frames}
	if k.frame == k.frames+endRepeats-1 {
		copy(m.keys[:], m.keys[1:m.count])
		m.count--
		m.rest = keyRest
	}
	return p
}

// speak says the frame of a stream that is due.
func (l *loop) speak(s *Stream, due int64) {
	m := &s.mouth
	p, speaks := m.frame()
	if !speaks {
		return
	}
	if m.began < 0 {
		m.began = due
	}
	n := &l.engine.cfg.Network
	if n.Loss == 0 && n.Delay == 0 {
		l.transmit(s, &p, due)
		return
	}
	delay, lost := n.fate(s.options.Voice, m.sent-1)
	if lost {
		l.pacing.lost++
		return
	}
	leaves := due + delay
	if !n.Reorder {
		leaves = max(leaves, m.last)
	}
	at := (leaves + int64(tick) - 1) / int64(tick) // at a tick, and so exactly
	m.last = at * int64(tick)
	p.delay = m.last - due
	if at == due/int64(tick) {
		l.transmit(s, &p, due)
		return
	}
	slot := &l.held[at%int64(len(l.held))]
	*slot = append(*slot, departure{s, p})
}

// departure is a packet that the emulated network holds back.
type departure struct {
	stream *Stream
	packet packet
}

// release sends what the emulated network has held back until this tick.
func (l *loop) release(at int64) {
	if len(l.held) == 0 {
		return
	}
	slot := &l.held[at%int64(len(l.held))]
	for i := range *slot {
		if d := &(*slot)[i]; !d.stream.gone {
			l.transmit(d.stream, &d.packet, at*int64(tick))
		}
	}
	clear(*slot)
	*slot = (*slot)[:0]
}

// skip leaves out a frame that is far too late. It is a pause to the listener, no loss: the
// fault is the generator's, and Pacing says so.
func (l *loop) skip(s *Stream) {
	if !s.mouth.muted {
		l.pacing.missed++
	}
	s.mouth.position++
	s.mouth.spoke = false
}

// transmit hands a packet to the kernel.
func (l *loop) transmit(s *Stream, p *packet, due int64) {
	m := &s.mouth
	b := l.out[:12+Frame]
	b[0] = 2 << 6 // version 2
	b[1] = byte(m.codec)
	binary.BigEndian.PutUint16(b[2:], p.sequence)
	binary.BigEndian.PutUint32(b[4:], m.timestamp+p.position*Frame)
	binary.BigEndian.PutUint32(b[8:], m.ssrc)
	stamped := false
	switch {
	case p.event:
		b = b[:12+4]
		b[1] = s.options.Events
		b[12], b[13] = p.key, keyVolume
		if p.last {
			b[13] |= 0x80
		}
		binary.BigEndian.PutUint16(b[14:], p.duration)
	case s.options.Marker:
		m.tone.samples(l.pcm[:Frame], p.position)
		m.marker.Fill(l.pcm[:Frame], uint64(p.position)*Frame)
		m.codec.law().Encode(b[12:], l.pcm[:Frame])
	default:
		stamped = true
		copy(b[12+stampSize:], m.tone.codes(p.position)[stampSize:])
	}
	if p.marker {
		b[1] |= 0x80
	}
	now := l.clock()
	if stamped {
		stamp{s.options.Voice, p.index, p.position, now + l.offset - p.delay, l.engine.clock}.put(b[12:])
	}
	errno := send(s.fd, b, s.to)
	_ = l.pacing.late.RecordValue(min(max(0, now-due)/int64(time.Microsecond), longest))
	switch errno {
	case 0:
		l.pacing.sent++
	case unix.ECONNREFUSED:
		l.pacing.refused++
	default:
		l.pacing.errors++
	}
}
