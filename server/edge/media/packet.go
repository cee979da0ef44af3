package media

import "encoding/binary"

// header is what a relay needs of an RTP packet (RFC 3550 s.5.1): the payload lies in
// b[body:end], after CSRCs and extension and before padding.
type header struct {
	marker  bool
	payload uint8
	seq     uint16
	ts      uint32
	ssrc    uint32
	body    int
	end     int
}

// fixedHeader is the length of an RTP header without CSRCs and extension.
const fixedHeader = 12

// parse reads the header of b and reports whether b is RTP version 2 whose lengths hold.
// The elements of a header extension are not looked at: they are negotiated per leg and
// never passed on.
func (h *header) parse(b []byte) bool {
	if len(b) < fixedHeader || b[0]>>6 != 2 {
		return false
	}
	h.marker = b[1]&0x80 != 0
	h.payload = b[1] & 0x7f
	h.seq = binary.BigEndian.Uint16(b[2:])
	h.ts = binary.BigEndian.Uint32(b[4:])
	h.ssrc = binary.BigEndian.Uint32(b[8:])
	h.body, h.end = fixedHeader+4*int(b[0]&0x0f), len(b)
	if b[0]&0x10 != 0 {
		if h.body+4 > len(b) {
			return false
		}
		h.body += 4 + 4*int(binary.BigEndian.Uint16(b[h.body+2:]))
	}
	if b[0]&0x20 != 0 {
		if h.body >= len(b) || b[len(b)-1] == 0 {
			return false
		}
		h.end -= int(b[len(b)-1])
	}
	return h.body <= h.end
}

// put writes a header without CSRCs, extension and padding into b, 12 bytes.
func (h *header) put(b []byte) {
	_ = b[fixedHeader-1]
	b[0] = 0x80
	b[1] = h.payload
	if h.marker {
		b[1] |= 0x80
	}
	binary.BigEndian.PutUint16(b[2:], h.seq)
	binary.BigEndian.PutUint32(b[4:], h.ts)
	binary.BigEndian.PutUint32(b[8:], h.ssrc)
}

// muxedRTCP reports whether a packet on the RTP port is RTCP (RFC 5761 s.4: payload
// types 64-95 are not used for RTP, so the second byte tells).
func muxedRTCP(b []byte) bool { return len(b) >= 8 && b[0]>>6 == 2 && b[1] >= 192 && b[1] <= 223 }
