package sim

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// A phone's own view of SDP, written without the server's: it says what it needs and reads
// what it must, as phones do.

// direction of a media line, from the phone's side.
type direction string

const (
	sendrecv direction = "sendrecv"
	sendonly direction = "sendonly"
	recvonly direction = "recvonly"
	inactive direction = "inactive"
)

func (d direction) sends() bool { return d == sendrecv || d == sendonly }

// answerTo is the direction with which a phone that wants one thing answers another
// (RFC 3264 s.6.1).
func answerTo(offered, want direction) direction {
	sends := want.sends() && (offered == sendrecv || offered == recvonly)
	hears := (want == sendrecv || want == recvonly) && (offered == sendrecv || offered == sendonly)
	switch {
	case sends && hears:
		return sendrecv
	case sends:
		return sendonly
	case hears:
		return recvonly
	}
	return inactive
}

// opus is the payload type that these phones give to Opus.
const opus = 107

// rtpmap names the formats that phones know.
func rtpmap(format int) string {
	switch format {
	case 0:
		return "PCMU/8000"
	case 8:
		return "PCMA/8000"
	case 9:
		return "G722/8000"
	case 101:
		return "telephone-event/8000"
	case opus:
		return "opus/48000/2"
	}
	return "speex/16000"
}

// describe writes a phone's SDP.
func describe(rtp netip.AddrPort, id, version int, formats []int, dir direction) []byte {
	var b strings.Builder
	ip := rtp.Addr().String()
	fmt.Fprintf(&b, "v=0\r\no=- %d %d IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP", id, version, ip, ip, rtp.Port())
	for _, f := range formats {
		fmt.Fprintf(&b, " %d", f)
	}
	b.WriteString("\r\n")
	for _, f := range formats {
		fmt.Fprintf(&b, "a=rtpmap:%d %s\r\n", f, rtpmap(f))
	}
	b.WriteString("a=" + string(dir) + "\r\n")
	return []byte(b.String())
}

// understood is what a phone takes from the server's SDP.
type understood struct {
	ok      bool
	rtp     netip.AddrPort
	formats []int
	dir     direction // from the server's side
}

func understand(text []byte) understood {
	u := understood{dir: sendrecv}
	ip := netip.Addr{}
	port := uint64(0)
	for line := range strings.SplitSeq(string(text), "\n") {
		line = strings.TrimRight(line, "\r")
		f := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "c=") && len(f) == 3:
			ip, _ = netip.ParseAddr(f[2])
		case strings.HasPrefix(line, "m=audio") && len(f) > 3:
			port, _ = strconv.ParseUint(f[1], 10, 16)
			for _, x := range f[3:] {
				if n, err := strconv.Atoi(x); err == nil {
					u.formats = append(u.formats, n)
				}
			}
			u.ok = true
		case line == "a=sendrecv", line == "a=sendonly", line == "a=recvonly", line == "a=inactive":
			u.dir = direction(line[2:])
		}
	}
	u.rtp = netip.AddrPortFrom(ip, uint16(port))
	u.ok = u.ok && ip.IsValid() && port != 0
	return u
}

// common is which of a phone's formats the server named too, in the phone's order.
func common(mine, theirs []int) []int {
	var both []int
	for _, f := range mine {
		for _, g := range theirs {
			if f == g {
				both = append(both, f)
			}
		}
	}
	return both
}
