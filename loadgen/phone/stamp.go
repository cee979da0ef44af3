package phone

import (
	"encoding/binary"
	"math"
)

// Frame is one 20 ms frame of G.711 at 8 kHz.
const Frame = 160

// A stamp stands at the head of each frame that a phone sends. A server that passes audio
// through leaves it whole, so the other side knows who spoke, when, and what is missing.
// In a transcoded or mixed path it is noise, and only the tone behind it is left.
type stamp struct {
	voice uint64 // who speaks
	index uint64 // which frame, from 0
	sent  int64  // when, in Unix nanoseconds of the sender's clock
}

const (
	stampMagic = 0x6469616c746f6e65 // "dialtone"
	stampSize  = 32
)

func (s stamp) put(b []byte) {
	binary.BigEndian.PutUint64(b, stampMagic)
	binary.BigEndian.PutUint64(b[8:], s.voice)
	binary.BigEndian.PutUint64(b[16:], s.index)
	binary.BigEndian.PutUint64(b[24:], uint64(s.sent))
}

func readStamp(b []byte) (stamp, bool) {
	if len(b) < stampSize || binary.BigEndian.Uint64(b) != stampMagic {
		return stamp{}, false
	}
	return stamp{voice: binary.BigEndian.Uint64(b[8:]), index: binary.BigEndian.Uint64(b[16:]),
		sent: int64(binary.BigEndian.Uint64(b[24:]))}, true
}

// tone returns n samples of a sine of hz from sample at on, as G.711 u-law.
func tone(b []byte, hz float64, at uint64) {
	for i := range b {
		b[i] = ulaw(int16(8000 * math.Sin(2*math.Pi*hz*float64(at+uint64(i))/8000)))
	}
}

// ulaw compresses one sample (ITU-T G.711).
func ulaw(s int16) byte {
	const bias, clip = 0x84, 32635
	sign := byte(0)
	v := int(s)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, clip) + bias
	exponent := 7
	for mask := 0x4000; v&mask == 0 && exponent > 0; mask >>= 1 {
		exponent--
	}
	return ^(sign | byte(exponent<<4) | byte(v>>(exponent+3))&0x0f)
}

// linear expands one u-law byte.
func linear(u byte) float64 {
	u = ^u
	v := float64((int(u&0x0f)<<3+0x84)<<(u>>4&7) - 0x84)
	if u&0x80 != 0 {
		return -v
	}
	return v
}

// Power returns how much of hz is in u-law audio, 0 to 1 of all its energy (Goertzel).
func Power(audio []byte, hz float64) float64 {
	c := 2 * math.Cos(2*math.Pi*hz/8000)
	var s1, s2, energy float64
	for _, u := range audio {
		x := linear(u)
		energy += x * x
		s1, s2 = x+c*s1-s2, s1
	}
	if energy == 0 {
		return 0
	}
	return min(1, 2*(s1*s1+s2*s2-c*s1*s2)/(energy*float64(len(audio))))
}
