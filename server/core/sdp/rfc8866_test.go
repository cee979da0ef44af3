package sdp

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// lines joins lines of a description.
func lines(l ...string) []byte { return []byte(strings.Join(l, "\r\n") + "\r\n") }

// audio returns a description with one audio stream and the given lines after its m= line.
func audio(m string, more ...string) []byte {
	return lines(append([]string{"v=0", "o=- 1 2 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0", m}, more...)...)
}

func parsed(t testing.TB, b []byte) Session {
	t.Helper()
	s, err := Parse(b)
	if err != nil {
		t.Fatalf("%v in\n%s", err, b)
	}
	return s
}

// RFC 8866 s.5: the order of lines; each ends with CRLF.
func TestMarshalOrder(t *testing.T) {
	s := everything().Offer()
	s.RTCP = s.Addr
	s.Others = []Stream{{"video", "RTP/AVP", "97"}}
	want := lines("v=0", "o=- 7 1 IN IP4 198.51.100.1", "s=-", "c=IN IP4 198.51.100.1", "t=0 0",
		"m=audio 20000 RTP/AVP 0 8 101 9 107",
		"a=rtpmap:0 PCMU/8000", "a=rtpmap:8 PCMA/8000", "a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-16",
		"a=rtpmap:9 G722/8000", "a=rtpmap:107 opus/48000/2",
		"a=ptime:20", "a=rtcp:20000 IN IP4 198.51.100.1", "a=sendrecv", "m=video 0 RTP/AVP 97")
	if got := s.Marshal(); string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// RFC 8866 s.5.2: user, id, version, net type, address type, address. The address may be a
// host name here: nothing is sent to it.
func TestOrigin(t *testing.T) {
	b := func(o string) []byte { return lines("v=0", o, "c=IN IP4 192.0.2.1", "m=audio 4 RTP/AVP 0") }
	s := parsed(t, b("o=jdoe 3724394400 3724394405 IN IP4 host.example.com"))
	if s.ID != 3724394400 || s.Version != 3724394405 || s.Origin != "jdoe IN IP4 host.example.com" {
		t.Errorf("origin %+v", s)
	}
	if !strings.Contains(string(s.Marshal()), "\r\no=jdoe 3724394400 3724394405 IN IP4 host.example.com\r\n") {
		t.Errorf("origin is not repeated:\n%s", s.Marshal())
	}
	// An id that is too large, or a word, still tells one description from the next.
	x, y := parsed(t, b("o=- 99999999999999999999 a IN IP4 h")), parsed(t, b("o=- 99999999999999999999 b IN IP4 h"))
	if x.ID != y.ID || x.Version == y.Version || x.ID>>63 != 0 {
		t.Errorf("ids %d.%d and %d.%d", x.ID, x.Version, y.ID, y.Version)
	}
	for _, bad := range []string{"o=- 1 2 IN IP4", "o=", "o=a b c d e f g", "s=no origin"} {
		if _, err := Parse(b(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// RFC 8866 s.5.7: a c= line of the stream goes before that of the session; one of them must be there.
func TestConnection(t *testing.T) {
	s := parsed(t, audio("m=audio 4 RTP/AVP 0", "c=IN IP4 192.0.2.9"))
	if s.Addr.String() != "192.0.2.9:4" {
		t.Errorf("address %v", s.Addr)
	}
	s = parsed(t, audio("m=audio 4 RTP/AVP 0", "c=IN IP6 2001:DB8::1"))
	if s.Addr.String() != "[2001:db8::1]:4" {
		t.Errorf("address %v", s.Addr)
	}
	// What belongs to another stream does not count.
	s = parsed(t, audio("m=audio 4 RTP/AVP 0", "m=video 6 RTP/AVP 31", "c=IN IP4 video.example.com", "a=inactive"))
	if s.Addr.String() != "192.0.2.1:4" || s.Direction != SendRecv {
		t.Errorf("address %v, direction %s", s.Addr, s.Direction)
	}
	for _, bad := range []string{
		"c=IN IP4 phone.example.com", "c=IN IP4 224.2.1.1/127", "c=IN IP4 239.1.1.1", "c=IN IP4 255.255.255.255",
		"c=IN IP6 ff02::1", "c=IN IP6 fe80::1%eth0", "c=IN IP4", "c=ATM NSAP 47", "c=IN IP4 999.1.1.1", "c=",
	} {
		if _, err := Parse(audio("m=audio 4 RTP/AVP 0", bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := Parse(lines("v=0", "o=- 1 1 IN IP4 h", "m=audio 4 RTP/AVP 0")); err == nil {
		t.Error("no c= line was taken")
	}
}

// RFC 8866 s.5.14: media, port, protocol, formats.
func TestMediaLine(t *testing.T) {
	for _, bad := range []string{
		"m=", "m=audio", "m=audio 4", "m=audio 4 RTP/AVP", "m=audio x RTP/AVP 0", "m=audio 65536 RTP/AVP 0",
		"m=audio -1 RTP/AVP 0", "m=audio 4 RTP/AVP PCMU", "m=audio 4 RTP/AVP 128", "m=audio 4 RTP/AVP -1",
		"m=audio 4 RTP/AVP" + strings.Repeat(" 96", maxFormats+1), "m=" + strings.Repeat("a", 65) + " 4 RTP/AVP 0",
	} {
		if _, err := Parse(audio(bad)); err == nil {
			t.Errorf("%.60q was taken", bad)
		}
	}
	s := parsed(t, audio("m=audio 4/2 rtp/avp 8 8 0"))
	if s.Addr.Port() != 4 || s.Proto != "RTP/AVP" || len(s.Formats) != 2 {
		t.Errorf("read %+v", s)
	}
}

// RFC 8866 s.6.6: rtpmap binds a payload type to a name, a clock and a number of channels;
// RFC 3551 s.6: static types need none.
func TestFormats(t *testing.T) {
	s := parsed(t, audio("m=audio 4 RTP/AVP 0 9 11 13 18 96 97 98 99",
		"a=rtpmap:96 Opus/48000/2", "a=rtpmap:96 again/1", "a=rtpmap:97", "a=rtpmap:98 x/0", "a=rtpmap:x PCMU/8000",
		"a=rtpmap:127 PCMU/8000", "a=fmtp:96  useinbandfec=1 ", "a=fmtp:96 second", "a=fmtp:126 none", "a=rtpmap:0 PCMU/8000/1"))
	want := []Format{
		{0, "PCMU", 8000, 1, ""}, {9, "G722", 8000, 1, ""}, {11, "L16", 44100, 1, ""}, {13, "CN", 8000, 1, ""},
		{18, "G729", 8000, 1, ""}, {96, "OPUS", 48000, 2, "useinbandfec=1"}, {97, "", 0, 0, ""}, {98, "", 0, 0, ""}, {99, "", 0, 0, ""},
	}
	if !reflect.DeepEqual(s.Formats, want) {
		t.Errorf("got %+v\nwant %+v", s.Formats, want)
	}
	codec, event, ok := parsed(t, audio("m=audio 4 RTP/AVP 101 13 9 0", "a=rtpmap:101 telephone-event/8000")).Codec()
	if !ok || codec.Name != "G722" || codec.Payload != 9 || codec.Clock != 8000 || event != 101 {
		t.Errorf("codec %+v, event %d, %v", codec, event, ok)
	}
	// RFC 4733 s.2.1: events run on the clock of the codec.
	clocks := []string{"a=rtpmap:99 telephone-event/48000", "a=rtpmap:101 telephone-event/8000"}
	if _, event, _ := parsed(t, audio("m=audio 4 RTP/AVP 0 99 101", clocks...)).Codec(); event != 101 {
		t.Errorf("event %d", event)
	}
	if _, event, _ := parsed(t, audio("m=audio 4 RTP/AVP 0 99", clocks...)).Codec(); event != 0 {
		t.Errorf("event %d", event)
	}
	for _, none := range []string{"m=audio 0 RTP/AVP 0", "m=audio 4 RTP/AVP 13", "m=video 4 RTP/AVP 31", "m=audio 4 RTP/AVP 96"} {
		if codec, _, ok := parsed(t, audio(none)).Codec(); ok {
			t.Errorf("%q has codec %+v", none, codec)
		}
	}
}

// RFC 8866 s.6.7: the direction of the session holds for streams that name none; s.6.4: ptime in ms.
func TestAttributes(t *testing.T) {
	session := func(d string, more ...string) Session {
		return parsed(t, lines(append([]string{"v=0", "o=- 1 2 IN IP4 h", "c=IN IP4 192.0.2.1", d, "m=audio 4 RTP/AVP 0"}, more...)...))
	}
	for _, test := range []struct {
		got  Session
		want Direction
	}{
		{session("a=x"), SendRecv}, {session("a=sendonly"), SendOnly}, {session("a=inactive ", "a=recvonly"), RecvOnly},
		{session("a=inactive", "m=video 6 RTP/AVP 31", "a=sendonly"), Inactive}, {session("a=sendonly:1"), SendRecv},
	} {
		if test.got.Direction != test.want {
			t.Errorf("direction %s, want %s", test.got.Direction, test.want)
		}
	}
	for value, want := range map[string]int{"20": 20, " 30": 30, "0": 0, "-20": 0, "20.5": 0, "1000": 0, "": 0} {
		if s := session("a=ptime:40", "a=ptime:"+value); s.Ptime != want {
			t.Errorf("ptime %q is %d, want %d", value, s.Ptime, want)
		}
	}
}

// RFC 3605 s.2.1.
func TestRTCP(t *testing.T) {
	for value, want := range map[string]string{
		"53020": "192.0.2.1:53020", "53020 IN IP4 192.0.2.7": "192.0.2.7:53020", "53020 IN IP6 2001:db8::7": "[2001:db8::7]:53020",
		"": "invalid AddrPort", "0": "invalid AddrPort", "x": "invalid AddrPort", "5 IN IP4 host": "invalid AddrPort", "5 IN IP4": "invalid AddrPort",
	} {
		if s := parsed(t, audio("m=audio 4 RTP/AVP 0", "a=rtcp:"+value)); s.RTCP.String() != want {
			t.Errorf("rtcp %q is %v, want %s", value, s.RTCP, want)
		}
	}
}

// Lax writers: bare LF, an empty line at the end, no s= and t=, unknown types.
func TestLaxity(t *testing.T) {
	want := parsed(t, audio("m=audio 4 RTP/AVP 0"))
	for _, b := range []string{
		"v=0\no=- 1 2 IN IP4 192.0.2.1\nc=IN IP4 192.0.2.1\nm=audio 4 RTP/AVP 0",
		"v=0 \r\no=-  1 2 IN  IP4 192.0.2.1\r\nx=?\r\nc=in IP4 192.0.2.1\r\na=\r\nm=audio 4 RTP/AVP 0\r\n\r\n",
	} {
		if got := parsed(t, []byte(b)); !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// What is over a bound or no description is an error, never a guess.
func TestBounds(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":     nil,
		"words":     []byte("hello"),
		"no v=":     lines("o=- 1 1 IN IP4 h"),
		"version 1": lines("v=1", "o=- 1 1 IN IP4 h"),
		"late v=":   lines("o=- 1 1 IN IP4 h", "v=0"),
		"size":      audio("m=audio 4 RTP/AVP 0", "a="+strings.Repeat("x", maxSize)),
		"lines":     audio("m=audio 4 RTP/AVP 0", strings.Repeat("a=x\r\n", maxLines)),
		"streams":   audio(strings.Repeat("m=audio 4 RTP/AVP 0\r\n", maxStreams+1)),
		"fmtp":      audio("m=audio 4 RTP/AVP 0", "a=fmtp:0 "+strings.Repeat("x", maxParams+1)),
		"NUL":       audio("m=audio 4 RTP/AVP 0\x00"),
		"bare CR":   audio("m=audio 4 RTP/AVP 0\ra=sendonly"),
	} {
		if s, err := Parse(b); err == nil {
			t.Errorf("%s: taken as %+v", name, s)
		} else if len(err.Error()) > 300 {
			t.Errorf("%s: the error repeats the input: %d bytes", name, len(err.Error()))
		}
	}
}

// A description is stored as JSON in call records and must come back the same.
func TestJSON(t *testing.T) {
	for _, name := range []string{"baresip-1.0.0", "yealink-ipv6", "snom-best-effort-srtp", "fax-t38", "cisco-inactive"} {
		s := parsed(t, phone(t, name))
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Session
		if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(s, back) {
			t.Errorf("%s: %v\n%+v\n%+v", name, err, s, back)
		}
	}
	var zero Session
	if b, err := json.Marshal(struct {
		S Session `json:"s,omitzero"`
	}{}); err != nil || string(b) != "{}" {
		t.Errorf("%s %v", b, err)
	}
	if fmt.Sprint(zero.Codec()) != fmt.Sprint(Session{}.Codec()) || !zero.Refused() {
		t.Error("the zero Session is a stream")
	}
}
