package responder

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Payload types (RFC 3551 s.6); telephone-event is dynamic.
const (
	pcmu = 0
	pcma = 8
)

// description is the one audio stream of an SDP, as far as it matters here.
type description struct {
	addr      netip.AddrPort
	laws      []int  // of PCMU and PCMA, in their order
	events    int    // payload type of telephone-event, 0 without
	direction string // sendrecv, sendonly, recvonly, inactive
}

var errNoAudio = errors.New("no G.711 audio in the session description")

// describe reads an SDP (RFC 8866). Only IP addresses, no names.
func describe(body []byte) (description, error) {
	d := description{direction: "sendrecv"}
	var addr netip.Addr
	port, inAudio, seen := 0, false, false
	for line := range strings.Lines(string(body)) {
		kind, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		switch kind {
		case "m":
			fields := strings.Fields(value)
			inAudio = !seen && len(fields) >= 4 && fields[0] == "audio" && fields[2] == "RTP/AVP"
			if inAudio {
				seen = true
				port, _ = strconv.Atoi(fields[1])
				for _, f := range fields[3:] {
					if n, err := strconv.Atoi(f); err == nil && (n == pcmu || n == pcma) && !slices.Contains(d.laws, n) {
						d.laws = append(d.laws, n)
					}
				}
			}
		case "c": // of the session, or after m= of the stream
			if fields := strings.Fields(value); len(fields) == 3 && (inAudio || !seen) {
				addr, _ = netip.ParseAddr(fields[2])
			}
		case "a":
			if inAudio || !seen {
				d.attribute(value)
			}
		}
	}
	if !addr.IsValid() || port < 1 || port > 65535 || len(d.laws) == 0 {
		return d, errNoAudio
	}
	d.addr = netip.AddrPortFrom(addr.Unmap().WithZone(""), uint16(port))
	return d, nil
}

func (d *description) attribute(value string) {
	switch value {
	case "sendrecv", "sendonly", "recvonly", "inactive":
		d.direction = value
		return
	}
	if rest, ok := strings.CutPrefix(value, "rtpmap:"); ok {
		kind, name, _ := strings.Cut(rest, " ")
		if n, err := strconv.Atoi(kind); err == nil && n >= 96 && n <= 127 && strings.EqualFold(name, "telephone-event/8000") {
			d.events = n
		}
	}
}

// answered is the direction of an answer to an offer of that one (RFC 3264 s.6.1).
func answered(direction string) string {
	switch direction {
	case "sendonly":
		return "recvonly"
	case "recvonly":
		return "sendonly"
	}
	return direction
}

// write makes the SDP of a stream at addr.
func (d description) write(addr netip.AddrPort, version uint64) []byte {
	family := "IP4"
	if addr.Addr().Is6() {
		family = "IP6"
	}
	b := fmt.Appendf(nil, "v=0\r\no=- 1 %d IN %s %s\r\ns=-\r\nc=IN %s %s\r\nt=0 0\r\nm=audio %d RTP/AVP", version, family, addr.Addr(), family, addr.Addr(), addr.Port())
	for _, n := range d.laws {
		b = fmt.Appendf(b, " %d", n)
	}
	if d.events != 0 {
		b = fmt.Appendf(b, " %d", d.events)
	}
	b = append(b, "\r\n"...)
	for _, n := range d.laws {
		name := "PCMU"
		if n == pcma {
			name = "PCMA"
		}
		b = fmt.Appendf(b, "a=rtpmap:%d %s/8000\r\n", n, name)
	}
	if d.events != 0 {
		b = fmt.Appendf(b, "a=rtpmap:%d telephone-event/8000\r\na=fmtp:%d 0-16\r\n", d.events, d.events)
	}
	return fmt.Appendf(b, "a=ptime:20\r\na=%s\r\n", d.direction)
}
