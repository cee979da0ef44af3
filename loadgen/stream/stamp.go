package stream

import (
	"encoding/binary"
	"os"
	"strings"
)

// Frame is one 20 ms frame of G.711 at 8 kHz, in samples and in bytes.
const Frame = 160

// A stamp stands at the head of each frame that a stream sends. A server that passes audio
// through leaves it whole, so the other side knows who spoke, when, and what is missing.
// In a transcoded or mixed path it is noise; there the marker tells.
type stamp struct {
	voice    uint64 // who speaks
	index    uint32 // which frame of those that were sent, from 0
	position uint32 // which 20 ms since the voice began; runs on through pauses, index does not
	sent     int64  // when it left, in Unix nanoseconds of the sender's clock
	clock    uint64 // whose clock that is
}

const (
	stampMagic = 0x6469616c746f6e32 // "dialton2"
	stampSize  = 40
)

// put writes the stamp inverted: a byte of zero is the loudest sample of u-law, its inverse
// is silence.
func (s stamp) put(b []byte) {
	binary.BigEndian.PutUint64(b, stampMagic)
	binary.BigEndian.PutUint64(b[8:], ^s.voice)
	binary.BigEndian.PutUint32(b[16:], ^s.index)
	binary.BigEndian.PutUint32(b[20:], ^s.position)
	binary.BigEndian.PutUint64(b[24:], ^uint64(s.sent))
	binary.BigEndian.PutUint64(b[32:], ^s.clock)
}

func readStamp(b []byte) (stamp, bool) {
	if len(b) < stampSize || binary.BigEndian.Uint64(b) != stampMagic {
		return stamp{}, false
	}
	return stamp{
		voice: ^binary.BigEndian.Uint64(b[8:]), index: ^binary.BigEndian.Uint32(b[16:]), position: ^binary.BigEndian.Uint32(b[20:]),
		sent: int64(^binary.BigEndian.Uint64(b[24:])), clock: ^binary.BigEndian.Uint64(b[32:]),
	}, true
}

// clockID names the clock of this machine: containers of one kernel share it, machines do
// not. The boot alone is not enough, since virtual machines that were cloned while they ran
// have it in common but drift apart.
func clockID() uint64 {
	var text strings.Builder
	for _, name := range []string{"/proc/sys/kernel/random/boot_id", "/etc/machine-id"} {
		b, err := os.ReadFile(name)
		if err == nil {
			text.Write(b)
		}
	}
	if text.Len() == 0 { // better no latency than one between two clocks
		host, _ := os.Hostname()
		text.WriteString(host)
	}
	return hash(text.String())
}

// hash is FNV-1a.
func hash(text string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(text) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// mix spreads the bits of x over all of a number (SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
