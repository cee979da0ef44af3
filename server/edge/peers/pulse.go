package peers

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"time"
)

// pulse is one heartbeat. Its times are what the clock of a process said, and mean
// something to that process only.
type pulse struct {
	seq  uint64        // from 1, in steps of one
	sent time.Duration // by the sender's clock
	echo time.Duration // sent of the newest heartbeat that the sender got from the receiver; 0: none
	held time.Duration // how long before sent that one came
}

// A heartbeat on the wire is pulseSize bytes: magic, tag, seq, sent, echo, held, seal. The
// last byte of the magic is the version.
const (
	pulseMagic = "dtb\x01"
	pulseBody  = len(pulseMagic) + 4 + 4*8
	pulseSize  = pulseBody + sealSize
)

// voice makes the heartbeats for one peer: sealed with the key of the connection that the
// peer opened, marked with the tag that it chose.
type voice struct {
	tag tag
	mac hash.Hash
	seq uint64
}

func newVoice(t tag, key []byte) *voice { return &voice{tag: t, mac: hmac.New(sha256.New, key)} }

// append writes the next heartbeat.
func (v *voice) append(b []byte, p pulse) []byte {
	v.seq++
	start := len(b)
	b = append(b, pulseMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(v.tag))
	for _, field := range [...]uint64{v.seq, uint64(p.sent), uint64(p.echo), uint64(p.held)} {
		b = binary.BigEndian.AppendUint64(b, field)
	}
	v.mac.Reset()
	v.mac.Write(b[start:])
	return v.mac.Sum(b)
}

// ear checks the heartbeats of one connection that this process opened.
type ear struct {
	tag     tag
	peer    *peer
	mac     hash.Hash
	highest uint64
	sum     [sealSize]byte
}

func newEar(t tag, q *peer, key []byte) *ear {
	return &ear{tag: t, peer: q, mac: hmac.New(sha256.New, key)}
}

// refusal says why a datagram was dropped; "" is no refusal.
type refusal string

// The refusals.
const (
	malformed refusal = "malformed" // not a heartbeat
	unknown   refusal = "unknown"   // of no connection that there is
	forged    refusal = "forged"    // the seal is wrong
	replayed  refusal = "replayed"  // not newer than what was heard
)

// tagOf returns whose heartbeat a datagram claims to be.
func tagOf(b []byte) (tag, refusal) {
	if len(b) != pulseSize || string(b[:len(pulseMagic)]) != pulseMagic {
		return 0, malformed
	}
	return tag(binary.BigEndian.Uint32(b[len(pulseMagic):])), ""
}

// open reads a datagram of pulseSize that bears the ear's tag. The number is looked at
// after the seal: whoever does not know the key must not be told apart by it.
func (e *ear) open(b []byte) (p pulse, why refusal) {
	e.mac.Reset()
	e.mac.Write(b[:pulseBody])
	if !hmac.Equal(e.mac.Sum(e.sum[:0]), b[pulseBody:]) {
		return p, forged
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[len(pulseMagic)+4+8*i:]) }
	p = pulse{field(0), time.Duration(field(1)), time.Duration(field(2)), time.Duration(field(3))}
	if p.seq <= e.highest {
		return p, replayed
	}
	e.highest = p.seq
	return p, ""
}
