package sdp

import (
	"embed"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Descriptions of phones. Those with a version in their name were captured from the
// program; the others follow published traces of the make, with addresses changed.
//
//go:embed testdata/phones/*.sdp
var phones embed.FS

func phone(t testing.TB, name string) []byte {
	t.Helper()
	b, err := phones.ReadFile("testdata/phones/" + name + ".sdp")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var here = netip.MustParseAddrPort("198.51.100.1:20000")

func everything() Local {
	return Local{ID: 7, Version: 1, Addr: here, Formats: append(G711(), PassThrough()...)}
}

// brief writes what matters of an answer: codec, payload, event payload, direction, streams.
func brief(s Session) string {
	codec, event, _ := s.Codec()
	text := fmt.Sprintf("%s %d +%d %s %s", codec.Name, codec.Payload, event, s.Direction, s.Proto)
	for i, other := range s.Others {
		if i == s.Index {
			text += " [audio]"
		}
		text += " " + other.Media
	}
	return text
}

func TestPhones(t *testing.T) {
	for _, test := range []struct {
		name   string
		remote string // address, ptime, formats
		answer string
		err    error
	}{
		{"baresip-1.0.0", "192.0.2.2:5902 20ms 5", "PCMU 0 +101 sendrecv RTP/AVP", nil},
		{"linphone-5.1.65", "127.0.0.1:7078 0ms 9", "PCMU 0 +101 sendrecv RTP/AVP", nil},
		{"sipp-3.6.1", "127.0.0.1:6000 0ms 1", "PCMU 0 +0 sendrecv RTP/AVP", nil},
		{"chromium-jssip", "203.0.113.7:51234 0ms 8", "", ErrSecured},
		{"asterisk-pjsip", "198.51.100.20:17310 20ms 4", "PCMA 8 +101 sendrecv RTP/AVP", nil},
		{"cisco-inactive", "192.0.2.40:0 0ms 5", "", ErrNoAudio},
		{"cisco-hold-video", "192.0.2.40:21558 0ms 5", "PCMU 0 +101 inactive RTP/AVP [audio] video", nil},
		{"cisco-7905-old", "192.0.2.232:16384 0ms 2", "PCMU 0 +101 sendrecv RTP/AVP", nil},
		{"rfc2543-hold", "0.0.0.0:16420 0ms 3", "PCMU 0 +101 recvonly RTP/AVP", nil},
		{"static-only", "192.0.2.99:30000 0ms 4", "PCMA 8 +0 sendrecv RTP/AVP", nil},
		{"fax-t38", "0.0.0.0:0 0ms 0", "", ErrNoAudio},
		{"snom-best-effort-srtp", "192.0.2.70:59026 20ms 4", "PCMU 0 +101 sendrecv RTP/AVP audio", nil},
		{"yealink-ipv6", "[2001:db8::70]:11794 20ms 3", "PCMA 8 +101 sendrecv RTP/AVP", nil},
		{"opus-only", "192.0.2.8:40000 0ms 3", "OPUS 109 +110 recvonly RTP/AVPF", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			offer, err := Parse(phone(t, test.name))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%v %dms %d", offer.Addr, offer.Ptime, len(offer.Formats)); got != test.remote {
				t.Errorf("read %s, want %s", got, test.remote)
			}
			answer, err := everything().Answer(offer)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err != nil {
				if !errors.Is(err, ErrNoCodec) {
					t.Errorf("%v is not a kind of ErrNoCodec", err)
				}
				return
			}
			if got := brief(answer); got != test.answer {
				t.Errorf("answer %q, want %q", got, test.answer)
			}
			if err := offer.Accept(answer); err != nil {
				t.Errorf("the answer does not fit its offer: %v", err)
			}
		})
	}
}

// The stream that a phone offers twice, secured and plain, is answered in the plain one,
// and the secured one is refused in its place.
func TestBestEffortSecurity(t *testing.T) {
	offer, err := Parse(phone(t, "snom-best-effort-srtp"))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := everything().Answer(offer)
	if err != nil {
		t.Fatal(err)
	}
	text := string(answer.Marshal())
	first, second := strings.Index(text, "m=audio 0 RTP/SAVP 9\r\n"), strings.Index(text, "m=audio 20000 RTP/AVP 0 101\r\n")
	if first < 0 || second < first {
		t.Errorf("want the secured stream refused, then the plain one:\n%s", text)
	}
}

// Linphone puts Opus first: with G.711 in the offer too it is not taken, unless G.711 is
// not what we can.
func TestPassThroughWhenWanted(t *testing.T) {
	offer, _ := Parse(phone(t, "linphone-5.1.65"))
	l := everything()
	l.Formats = PassThrough()
	answer, err := l.Answer(offer)
	if err != nil {
		t.Fatal(err)
	}
	if got := brief(answer); got != "OPUS 96 +0 sendrecv RTP/AVP" {
		t.Errorf("answer %q", got)
	}
	l.Formats = append(PassThrough(), G711()[2])
	answer, _ = l.Answer(offer)
	if got := brief(answer); got != "OPUS 96 +99 sendrecv RTP/AVP" { // RFC 4733 s.2.1: the clock of the codec
		t.Errorf("answer %q", got)
	}
}
