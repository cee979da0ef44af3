package media

import "math/bits"

// law is how a leg's audio is companded. foreign is any format that is only passed
// through: G722, OPUS.
type law uint8

const (
	foreign law = iota
	ulaw
	alaw
)

// lawOf returns the companding of a codec's name (RFC 3551 s.4.5.14).
func lawOf(name string) law {
	switch name {
	case "PCMU":
		return ulaw
	case "PCMA":
		return alaw
	}
	return foreign
}

// The silence of each law: the code of the sample zero.
const (
	ulawSilence = 0xff
	alawSilence = 0xd5
)

// The compiled tables: samples of each code (G.711 tables 1 and 2, left-justified to
// 16 bits as in G.191), and the code of the other law that lies nearest.
var (
	ulawSample = table(ulawExpand)
	alawSample = table(alawExpand)
	ulawToAlaw = table(func(c byte) byte { return alawEncode(ulawExpand(c)) })
	alawToUlaw = table(func(c byte) byte { return ulawEncode(alawExpand(c)) })
)

func table[T int16 | byte](f func(byte) T) *[256]T {
	var t [256]T
	for i := range t {
		t[i] = f(byte(i))
	}
	return &t
}

// ulawExpand is the receiver of G.711 mu-law: sign, three bits of segment, four of
// step, all inverted on the wire; 33 is the bias in 14-bit samples, 4 times that here.
func ulawExpand(c byte) int16 {
	c = ^c
	v := (int(c&0x0f)<<3+0x84)<<(c>>4&7) - 0x84
	if c&0x80 != 0 {
		return int16(-v)
	}
	return int16(v)
}

// ulawEncode is the transmitter of G.711 mu-law, on 14 bits and with the one's complement
// of negative samples as G.191 does it.
func ulawEncode(s int16) byte {
	v, sign := int(s)>>2, byte(0xff)
	if v < 0 {
		v, sign = ^v, 0x7f
	}
	v = min(v+33, 0x1fff)
	segment := bits.Len(uint(v)) - 6
	return (byte(segment)<<4 | byte(v>>(segment+1))&0x0f) ^ sign
}

// alawExpand is the receiver of G.711 A-law; even bits are inverted on the wire.
func alawExpand(c byte) int16 {
	c ^= 0x55
	v, segment := int(c&0x0f)<<4+8, c>>4&7
	if segment > 0 {
		v = (v + 0x100) << (segment - 1)
	}
	if c&0x80 == 0 {
		return int16(-v)
	}
	return int16(v)
}

// alawEncode is the transmitter of G.711 A-law.
func alawEncode(s int16) byte {
	v, sign := int(s)>>4, byte(0xd5)
	if v < 0 {
		v, sign = ^v, 0x55 // one's complement, as G.191: -1 falls in the first negative step
	}
	if v < 16 {
		return byte(v) ^ sign
	}
	segment := bits.Len(uint(v)) - 4
	return (byte(segment)<<4 | byte(v>>(segment-1))&0x0f) ^ sign
}

// recode writes src, companded in the law from, to dst in the law to; both are of G.711
// and dst is as long as src.
func recode(dst, src []byte, from law) {
	t := ulawToAlaw
	if from == alaw {
		t = alawToUlaw
	}
	dst = dst[:len(src)]
	for i, c := range src {
		dst[i] = t[c]
	}
}
