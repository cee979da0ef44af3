package phone

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

const someInvite = "INVITE sip:bob@127.0.0.1:5062 SIP/2.0\r\nv: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;rport, SIP/2.0/TCP [::1]:5061;branch=z9hG4bK0\r\n" +
	"f: \"A, \\\"B\\\" <x>\" <sip:a@b;x=y>;tag=1\r\nt: sip:bob@c\r\ni: id\r\nCSeq: 7 INVITE\r\nm: <sip:a@192.0.2.1>\r\nl: 0\r\n\r\n"

// Whatever comes: no panic, and what is read can be answered.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(someInvite))
	f.Add([]byte("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: i\r\nCSeq: 1 BYE\r\nContact: *\r\nRecord-Route: <sip:x;lr>, <sip:y>\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add([]byte("OPTIONS sip:[::1]:5060;lr?x=y SIP/2.0\r\nVia: SIP / 2.0 / UDP a:1 ;rport=;branch=z\r\nFrom: a\r\nTo: b\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n"))
	p := newParser()
	at := way{addr: netip.MustParseAddrPort("192.0.2.9:4000")}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := read(p, data)
		if err != nil {
			return
		}
		m.back = at
		_ = m.answerTo()
		_ = serverKey(m, m.method)
		var d dialog
		d.asCallee(m, "t")
		_ = d.next()
		d.asCaller(m)
		_ = d.request("BYE").wire(&Endpoint{network: "UDP", sentBy: "x"}, "z")
		_, _ = readSDP(m.body)
		_ = fragmentStatus(m.body)
		_ = pick(m, "WWW-Authenticate")
		_ = userOf(m.uri)
		if m.status != 0 {
			return
		}
		wire := (&response{status: 200, reason: "OK", tag: "x"}).wire(m)
		again, err := read(p, wire)
		if err != nil {
			t.Fatalf("our answer can't be read: %v\n%q\nto\n%q", err, wire, data)
		}
		if again.via.branch != m.via.branch || again.callID != m.callID || again.cseq != m.cseq || again.method != m.method {
			t.Fatalf("our answer is to another request\n%q\nto\n%q", wire, data)
		}
	})
}

// Whatever comes in whatever pieces: no panic, whole messages only, bounded memory.
func FuzzFramer(f *testing.F) {
	f.Add([]byte("\r\n\r\n"+someInvite+someInvite+"x"), uint8(7))
	f.Add([]byte("A\r\nContent-Length: 99999999999\r\n\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		var in framer
		for len(data) > 0 {
			n := copy(in.room(), data[:min(len(data), int(piece)+1)])
			in.grew(n)
			data = data[n:]
			if in.each(func(m []byte) {
				if !bytes.Contains(m, []byte("\r\n\r\n")) {
					t.Fatalf("not whole: %q", m)
				}
			}) != nil {
				return
			}
			if cap(in.buf) > 4*maxMessage {
				t.Fatalf("%d bytes kept", cap(in.buf))
			}
		}
	})
}

// Messages come whole and in order, however the stream is cut.
func TestFramer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sent []string
		for range rapid.IntRange(1, 5).Draw(t, "messages") {
			body := rapid.StringN(0, 300, -1).Draw(t, "body")
			name := rapid.SampledFrom([]string{"Content-Length", "l", "CONTENT-LENGTH"}).Draw(t, "name")
			sent = append(sent, "BYE x SIP/2.0\r\nX: y\r\n"+name+" : "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
		}
		pings := rapid.SampledFrom([]string{"", "\r\n\r\n", "\r\n"}).Draw(t, "pings")
		all := pings + strings.Join(sent, pings)
		var in framer
		var got []string
		for len(all) > 0 {
			n := copy(in.room(), all[:min(len(all), rapid.IntRange(1, 200).Draw(t, "piece"))])
			in.grew(n)
			all = all[n:]
			if err := in.each(func(m []byte) { got = append(got, string(m)) }); err != nil {
				t.Fatal(err)
			}
		}
		if strings.Join(got, "|") != strings.Join(sent, "|") {
			t.Fatalf("got %q, want %q", got, sent)
		}
	})
}

// What we write as SDP we read again (RFC 8866), with every codec and direction.
func TestSDPRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := description{
			addr:      netip.AddrPortFrom(rapid.SampledFrom([]netip.Addr{loopback, netip.MustParseAddr("2001:db8::1")}).Draw(t, "addr"), uint16(rapid.IntRange(1, 65535).Draw(t, "port"))),
			codecs:    rapid.SampledFrom([][]stream.Codec{{stream.PCMU}, {stream.PCMA}, {stream.PCMA, stream.PCMU}}).Draw(t, "codecs"),
			events:    uint8(rapid.SampledFrom([]int{0, 96, 101, 127}).Draw(t, "events")),
			direction: rapid.SampledFrom([]direction{sendrecv, sendonly, recvonly, inactive}).Draw(t, "direction"),
		}
		got, err := readSDP(writeSDP(want.addr, want.codecs, want.events, want.direction, 1, 2))
		if err != nil || got.addr != want.addr || got.events != want.events || got.direction != want.direction || len(got.common(want.codecs)) != len(want.codecs) {
			t.Fatalf("%+v, %v, want %+v", got, err, want)
		}
	})
}

// Of several streams the first audio counts, with its own attributes; those of the session
// hold where it has none (RFC 8866 s.5.7, s.6.7).
func TestReadSDP(t *testing.T) {
	const v = "v=0\r\nc=IN IP4 192.0.2.1\r\n"
	for _, c := range []struct {
		text, addr string
		direction  direction
	}{
		{v + "a=sendonly\r\nm=audio 10 RTP/AVP 0\r\n", "192.0.2.1:10", sendonly},
		{v + "a=sendonly\r\nm=audio 10 RTP/AVP 0\r\nc=IN IP4 192.0.2.2/127\r\na=inactive\r\n", "192.0.2.2:10", inactive},
		{v + "m=video 8 RTP/AVP 99\r\nc=IN IP4 192.0.2.3\r\na=inactive\r\nm=audio 10/2 RTP/AVP 8\r\nm=audio 12 RTP/AVP 8\r\na=recvonly\r\n", "192.0.2.1:10", sendrecv},
		{v + "m=audio 0 RTP/AVP 0\r\n", "", ""},
		{v + "m=video 8 RTP/AVP 99\r\n", "", ""},
		{"v=0\r\nc=IN IP4 host.example.com\r\nm=audio 10 RTP/AVP 0\r\n", "", ""},
		{"m=audio\r\nm=audio 70000 RTP/AVP 0\r\nc=IN\r\n", "", ""},
	} {
		d, err := readSDP([]byte(c.text))
		if c.addr == "" {
			if err == nil {
				t.Errorf("%q was taken: %+v", c.text, d)
			}
			continue
		}
		if err != nil || d.addr.String() != c.addr || d.direction != c.direction {
			t.Errorf("%q: %+v, %v", c.text, d, err)
		}
	}
}

// Ancillary data of any shape does no harm.
func FuzzAncillary(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, oob []byte) {
		if lag, _ := ancillary(oob, time.Now()); lag < 0 || lag > mostLag {
			t.Fatal(lag)
		}
	})
}

// What was said is forgotten after 64*T1, and before when there is too much of it.
func TestPastIsBounded(t *testing.T) {
	e := &Endpoint{t1: time.Millisecond, kick: make(chan struct{}, 1)}
	e.past.init(100)
	e.past.alarm.ring = e.forget
	for i := range 1000 {
		e.remember(strings.Repeat("x", i), []byte("y"), way{})
		if len(e.past.byKey) > 100 || cap(e.past.order) > 1000 {
			t.Fatalf("%d kept, room for %d", len(e.past.byKey), cap(e.past.order))
		}
	}
	_, newest := e.past.byKey[strings.Repeat("x", 999)]
	if _, old := e.past.byKey[strings.Repeat("x", 899)]; !newest || old {
		t.Error("not the newest are kept")
	}
	e.forget(time.Now().Add(time.Second))
	if len(e.past.byKey) != 0 || e.past.order != nil {
		t.Errorf("%d are left", len(e.past.byKey))
	}
}
