// Package voice is the mathematics of telephone audio: G.711, a marker in the sound that
// says who speaks and when, a jitter buffer that plays by the clock, and the E-model. All
// of it is pure: instants come in as arguments.
//
// An instant is a time.Duration since a zero that the caller chooses and keeps. Where two
// clocks meet (a sender's and a listener's) the text says so.
package voice

import (
	"math/bits"
	"time"
)

// One frame of G.711, as every phone sends it (RFC 3551 s.4.5.14).
const (
	Rate      = 8000                  // samples per second
	Frame     = 160                   // samples of a frame
	FrameTime = 20 * time.Millisecond // of a frame
)

// Law is one of the two compandings of ITU-T G.711.
type Law uint8

const (
	ULaw Law = iota // PCMU, payload type 0
	ALaw            // PCMA, payload type 8
)

// Compiled once, never written again.
var (
	ulawSamples = table(ulawSample)
	alawSamples = table(alawSample)
	ulawToAlaw  = table(func(c byte) byte { return alawCode(ulawSample(c)) })
	alawToUlaw  = table(func(c byte) byte { return ulawCode(alawSample(c)) })
)

func table[T int16 | byte](f func(byte) T) *[256]T {
	var t [256]T
	for i := range t {
		t[i] = f(byte(i))
	}
	return &t
}

// Encode writes the code of each sample to dst, which is at least as long as pcm.
func (l Law) Encode(dst []byte, pcm []int16) {
	dst = dst[:len(pcm)]
	if l == ALaw {
		for i, s := range pcm {
			dst[i] = alawCode(s)
		}
		return
	}
	for i, s := range pcm {
		dst[i] = ulawCode(s)
	}
}

// Decode writes the sample of each code to dst, which is at least as long as codes.
// Samples are left-justified to 16 bits.
func (l Law) Decode(dst []int16, codes []byte) {
	t := ulawSamples
	if l == ALaw {
		t = alawSamples
	}
	dst = dst[:len(codes)]
	for i, c := range codes {
		dst[i] = t[c]
	}
}

// Recode turns codes of this law into those of the other one, in place.
func (l Law) Recode(codes []byte) {
	t := ulawToAlaw
	if l == ALaw {
		t = alawToUlaw
	}
	for i, c := range codes {
		codes[i] = t[c]
	}
}

// ulawCode is the transmitter of mu-law: after a bias of 132 the highest bit names the
// segment, the four bits below it the step; all bits are inverted on the wire.
func ulawCode(s int16) byte {
	v, sign := int(s), byte(0xff)
	if v < 0 {
		v, sign = -v, 0x7f
	}
	v = min(v, 32635) + 132
	segment := bits.Len(uint(v)) - 8
	return (byte(segment)<<4 | byte(v>>(segment+3))&0x0f) ^ sign
}

// ulawSample is its receiver.
func ulawSample(c byte) int16 {
	c = ^c
	v := (int(c&0x0f)<<3+132)<<(c>>4&7) - 132
	if c&0x80 != 0 {
		v = -v
	}
	return int16(v)
}

// alawCode is the transmitter of A-law: the first two segments have the same step, even
// bits are inverted on the wire, the sign bit is 1 for positive samples.
func alawCode(s int16) byte {
	v, sign := int(s), byte(0xd5)
	if v < 0 {
		v, sign = ^v, 0x55
	}
	segment := bits.Len(uint(v >> 8))
	return (byte(segment)<<4 | byte(v>>(max(segment, 1)+3))&0x0f) ^ sign
}

// alawSample is its receiver: the middle of each step.
func alawSample(c byte) int16 {
	c ^= 0x55
	v, segment := int(c&0x0f)<<4+8, c>>4&7
	if segment > 0 {
		v = (v + 0x100) << (segment - 1)
	}
	if c&0x80 == 0 {
		v = -v
	}
	return int16(v)
}
