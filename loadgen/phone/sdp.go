package phone

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// direction of an audio stream, seen by who writes it (RFC 8866 s.6.7).
type direction string

const (
	sendrecv direction = "sendrecv"
	sendonly direction = "sendonly"
	recvonly direction = "recvonly"
	inactive direction = "inactive"
)

func (d direction) sends() bool    { return d == sendrecv || d == sendonly }
func (d direction) receives() bool { return d == sendrecv || d == recvonly }

func directionOf(sends, receives bool) direction {
	switch {
	case sends && receives:
		return sendrecv
	case sends:
		return sendonly
	case receives:
		return recvonly
	}
	return inactive
}

// answerTo is the direction of an answer of one who wants d, to an offer (RFC 3264 s.6.1).
func (d direction) answerTo(offer direction) direction {
	return directionOf(d.sends() && offer.receives(), d.receives() && offer.sends())
}

const defaultEvents = 101 // payload type of telephone-event in our offers

// description is the audio stream of an SDP.
type description struct {
	addr      netip.AddrPort
	codecs    []stream.Codec // that we know, in their order
	events    uint8          // payload type of telephone-event, 0 for none
	direction direction
}

// readSDP finds the first audio stream (RFC 8866).
func readSDP(body []byte) (description, error) {
	d := description{direction: sendrecv}
	var host, port string
	streams, audio := 0, false // how many m= lines so far; whether we are below the first audio
	for line := range bytes.Lines(body) {
		text := strings.TrimRight(string(line), "\r\n")
		kind, value, ok := strings.Cut(text, "=")
		if !ok || streams > 0 && !audio && kind != "m" {
			continue
		}
		switch kind {
		case "m":
			streams++
			fields := strings.Fields(value)
			if audio = port == "" && len(fields) >= 4 && fields[0] == "audio"; audio {
				port, _, _ = strings.Cut(fields[1], "/")
				d.codecs = knownCodecs(fields[3:])
			}
		case "c":
			if fields := strings.Fields(value); len(fields) == 3 && fields[0] == "IN" {
				host, _, _ = strings.Cut(fields[2], "/")
			}
		case "a":
			d.attribute(value)
		}
	}
	addr, err := netip.ParseAddr(host)
	number, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || number == 0 {
		return description{}, fmt.Errorf("no audio stream with an address in an SDP of %d bytes", len(body))
	}
	d.addr = netip.AddrPortFrom(addr.Unmap(), uint16(number))
	return d, nil
}

func (d *description) attribute(value string) {
	switch name, rest, _ := strings.Cut(value, ":"); name {
	case string(sendrecv), string(sendonly), string(recvonly), string(inactive):
		d.direction = direction(name)
	case "rtpmap":
		pt, encoding, _ := strings.Cut(rest, " ")
		if n, err := strconv.ParseUint(pt, 10, 7); err == nil && n >= 96 && strings.EqualFold(strings.TrimSpace(encoding), "telephone-event/8000") {
			d.events = uint8(n)
		}
	}
}

func knownCodecs(types []string) (known []stream.Codec) {
	for _, t := range types {
		switch t {
		case "0":
			known = append(known, stream.PCMU)
		case "8":
			known = append(known, stream.PCMA)
		}
	}
	return known
}

// common are the codecs of both, in their order.
func (d *description) common(ours []stream.Codec) (both []stream.Codec) {
	for _, c := range d.codecs {
		if slices.Contains(ours, c) {
			both = append(both, c)
		}
	}
	return both
}

// mayHear reports whether the other side takes audio. The address 0.0.0.0 is hold as RFC
// 2543 had it.
func (d *description) mayHear() bool { return d.direction.receives() && !d.addr.Addr().IsUnspecified() }

// writeSDP describes one stream of G.711. events of 0: without telephone-event.
func writeSDP(at netip.AddrPort, codecs []stream.Codec, events uint8, d direction, id, version uint32) []byte {
	family := "IP4"
	if at.Addr().Is6() {
		family = "IP6"
	}
	b := make([]byte, 0, 256)
	b = fmt.Appendf(b, "v=0\r\no=- %d %d IN %s %s\r\ns=-\r\nc=IN %s %s\r\nt=0 0\r\nm=audio %d RTP/AVP",
		id, version, family, at.Addr(), family, at.Addr(), at.Port())
	for _, c := range codecs {
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(c), 10)
	}
	if events != 0 {
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(events), 10)
	}
	b = append(b, "\r\n"...)
	for _, c := range codecs {
		name := "PCMU"
		if c == stream.PCMA {
			name = "PCMA"
		}
		b = fmt.Appendf(b, "a=rtpmap:%d %s/8000\r\n", c, name)
	}
	if events != 0 {
		b = fmt.Appendf(b, "a=rtpmap:%d telephone-event/8000\r\na=fmtp:%d 0-16\r\n", events, events)
	}
	return fmt.Appendf(b, "a=ptime:20\r\na=%s\r\n", d)
}
