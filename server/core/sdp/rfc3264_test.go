package sdp

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var directions = []Direction{SendRecv, SendOnly, RecvOnly, Inactive}

// RFC 3264 s.5.1, s.6.1: the direction is seen from the writer.
func TestDirection(t *testing.T) {
	for _, d := range directions {
		r := d.Reverse()
		if r.Sends() != d.Receives() || r.Receives() != d.Sends() || r.Reverse() != d {
			t.Errorf("reverse of %s is %s", d, r)
		}
		for _, e := range directions {
			if both := d.And(e); both.Sends() != (d.Sends() && e.Sends()) || both.Receives() != (d.Receives() && e.Receives()) {
				t.Errorf("%s and %s is %s", d, e, both)
			}
		}
	}
	if none := Direction(""); none.Sends() || none.Receives() {
		t.Error("the empty direction lets audio flow")
	}
}

// RFC 3264 s.5: the offer holds the formats in order of preference.
func TestOffer(t *testing.T) {
	l := everything()
	l.Direction = SendOnly
	s := parsed(t, l.Offer().Marshal())
	if s.Direction != SendOnly || s.Addr != here || s.ID != 7 || s.Version != 1 || len(s.Formats) != 5 || s.Formats[0].Name != "PCMU" {
		t.Errorf("offer %+v", s)
	}
	l.Formats[0].Name = "changed"
	if s.Formats[0].Name != "PCMU" || G711()[0].Name != "PCMU" {
		t.Error("the offer shares its formats with its maker")
	}
}

// RFC 3264 s.6: "The answer MUST contain exactly the same number of "m=" lines as the offer", in order.
func TestAnswerStreams(t *testing.T) {
	offer := parsed(t, audio("m=video 6 RTP/AVP 31 97", "m=audio 4 RTP/AVP 8", "m=image 8 udptl t38", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"))
	answer, err := everything().Answer(offer)
	if err != nil {
		t.Fatal(err)
	}
	text := string(answer.Marshal())
	at := 0
	for _, m := range []string{"m=video 0 RTP/AVP 31\r\n", "m=audio 20000 RTP/AVP 8\r\n", "m=image 0 UDPTL t38\r\n", "m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\n"} {
		i := strings.Index(text[at:], m)
		if i < 0 {
			t.Fatalf("want %q, in its order, in\n%s", m, text)
		}
		at += i
	}
	if strings.Count(text, "m=") != 4 {
		t.Errorf("more streams than the offer:\n%s", text)
	}
	for _, wrong := range []func(*Session){
		func(s *Session) { s.Others = s.Others[1:] },
		func(s *Session) { s.Others = append(s.Others, Stream{"text", "RTP/AVP", "98"}) },
		func(s *Session) { s.Others[0], s.Others[1] = s.Others[1], s.Others[0] },
		func(s *Session) { s.Index = 0 },
		func(s *Session) { s.Index = -1 },
		func(s *Session) { s.Proto = "RTP/SAVP" },
	} {
		s := answer
		s.Others = append([]Stream(nil), answer.Others...)
		wrong(&s)
		if offer.Accept(s) == nil {
			t.Errorf("accepted %+v", s)
		}
	}
}

// RFC 3264 s.6.1: which direction may answer which.
// livekit/sip#779: an answer of sendrecv to sendonly made the phone hang up on hold.
func TestAnswerDirection(t *testing.T) {
	legal := map[Direction][]Direction{
		SendRecv: {SendRecv, SendOnly, RecvOnly, Inactive},
		SendOnly: {RecvOnly, Inactive},
		RecvOnly: {SendOnly, Inactive},
		Inactive: {Inactive},
	}
	for _, offered := range directions {
		offer := parsed(t, audio("m=audio 4 RTP/AVP 0", "a="+string(offered)))
		for _, answered := range directions {
			answer := parsed(t, audio("m=audio 4 RTP/AVP 0", "a="+string(answered)))
			want := error(ErrDirection)
			for _, d := range legal[offered] {
				if d == answered {
					want = nil
				}
			}
			if err := offer.Accept(answer); !errors.Is(err, want) {
				t.Errorf("%s to %s: %v, want %v", answered, offered, err, want)
			}
			l := everything()
			l.Direction = answered
			ours, err := l.Answer(offer)
			if err != nil {
				t.Fatal(err)
			}
			if err := offer.Accept(ours); err != nil {
				t.Errorf("we want %s, are offered %s and answer %s: %v", answered, offered, ours.Direction, err)
			}
			if ours.Direction.Sends() != (answered.Sends() && offered.Receives()) {
				t.Errorf("we want %s, are offered %s and answer %s", answered, offered, ours.Direction)
			}
		}
	}
}

// RFC 3264 s.6.1: the answer lists formats of the offer, under the offerer's payload numbers.
func TestAnswerFormats(t *testing.T) {
	for _, test := range []struct{ m, answer string }{
		{"m=audio 4 RTP/AVP 8 0|", "PCMA 8 +0"},
		{"m=audio 4 RTP/AVP 9 0|", "PCMU 0 +0"}, // G.711 goes before what is only passed through
		{"m=audio 4 RTP/AVP 9 18|", "G722 9 +0"},
		{"m=audio 4 RTP/AVP 18 97 9|a=rtpmap:97 opus/48000/2", "OPUS 97 +0"},
		{"m=audio 4 RTP/AVP 96 98|a=rtpmap:96 pcma/8000|a=rtpmap:98 TELEPHONE-event/8000", "PCMA 96 +98"},
		{"m=audio 4 RTP/AVP 0 98|a=rtpmap:98 telephone-event/48000", "PCMU 0 +0"}, // RFC 4733 s.2.1: same clock
		{"m=audio 4 RTP/AVP 18 13 101|a=rtpmap:101 telephone-event/8000", ""},
		{"m=audio 4 RTP/AVP 97|a=rtpmap:97 opus/48000", ""}, // RFC 7587 s.7: always two channels
		{"m=audio 4 RTP/AVP 97|a=rtpmap:97 PCMU/16000", ""},
		{"m=audio 4 RTP/AVP 101|a=rtpmap:101 telephone-event/8000", ""},
	} {
		offer := parsed(t, audio(strings.TrimSuffix(strings.ReplaceAll(test.m, "|", "\r\n"), "\r\n")))
		answer, err := everything().Answer(offer)
		if test.answer == "" {
			if err != ErrNoCodec {
				t.Errorf("%q: %v", test.m, err)
			}
			continue
		}
		if got := strings.TrimSuffix(brief(answer), " sendrecv RTP/AVP"); err != nil || got != test.answer {
			t.Errorf("%q: %q, %v; want %q", test.m, got, err, test.answer)
		}
	}
	// Without telephone-event on our side none is answered.
	l := everything()
	l.Formats = G711()[:2]
	answer, err := l.Answer(parsed(t, phone(t, "baresip-1.0.0")))
	if err != nil || brief(answer) != "PCMU 0 +0 sendrecv RTP/AVP" {
		t.Errorf("%q, %v", brief(answer), err)
	}
}

// RFC 3264 s.6.1: the answer MUST hold a codec of the offer, and MAY hold more.
func TestAcceptFormats(t *testing.T) {
	offer := everything().Offer()
	for _, test := range []struct {
		m    string
		want error
	}{
		{"m=audio 4 RTP/AVP 0", nil},
		{"m=audio 4 RTP/AVP 101 8\r\na=rtpmap:101 telephone-event/8000", nil},
		{"m=audio 4 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2", nil}, // s.6.1 says SHOULD for the number
		{"m=audio 4 RTP/AVP 0 18", nil},
		{"m=audio 4 RTP/AVP 18 0", ErrNoCodec}, // would be used first
		{"m=audio 4 RTP/AVP 3", ErrNoCodec},
		{"m=audio 4 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000", ErrNoCodec},
		{"m=audio 0 RTP/AVP 0", ErrRefused},
	} {
		if err := offer.Accept(parsed(t, audio(test.m))); !errors.Is(err, test.want) {
			t.Errorf("%q: %v, want %v", test.m, err, test.want)
		}
	}
}

// RFC 3264 s.6: "If a stream is offered with port zero, the answer MUST be port zero": we
// have nothing to answer, and accept nothing else.
func TestRefusedOffer(t *testing.T) {
	offer := parsed(t, audio("m=audio 0 RTP/AVP 0"))
	if _, err := everything().Answer(offer); !errors.Is(err, ErrNoAudio) {
		t.Errorf("answered: %v", err)
	}
	if err := offer.Accept(parsed(t, audio("m=audio 4 RTP/AVP 0"))); err == nil {
		t.Error("a stream was accepted that was not offered")
	}
	if !offer.Addr.IsValid() || !parsed(t, phone(t, "fax-t38")).Addr.IsValid() {
		t.Error("a description that was read has no valid address") // by which records tell it from none at all
	}
}

// RFC 3264 s.8.4: 0.0.0.0 means that nothing is to be sent to the writer.
func TestOldHold(t *testing.T) {
	for _, test := range []struct {
		c    string
		in   Direction
		want Direction
	}{
		{"c=IN IP4 0.0.0.0", SendRecv, SendOnly}, {"c=IN IP4 0.0.0.0", SendOnly, SendOnly}, {"c=IN IP4 0.0.0.0", RecvOnly, Inactive},
		{"c=IN IP4 0.0.0.0", Inactive, Inactive}, {"c=IN IP6 ::", SendRecv, SendOnly}, {"c=IN IP4 192.0.2.1", SendRecv, SendRecv},
	} {
		offer := parsed(t, audio("m=audio 4 RTP/AVP 0", test.c, "a="+string(test.in)))
		if offer.Direction != test.want {
			t.Errorf("%s with %s reads as %s, want %s", test.c, test.in, offer.Direction, test.want)
		}
		if answer, err := everything().Answer(offer); err != nil || answer.Direction.Sends() != test.want.Receives() {
			t.Errorf("%s with %s: answer %s, %v", test.c, test.in, answer.Direction, err)
		}
	}
}

// RFC 3264 s.8: the next description of a dialog has as many streams, the same origin, and
// (s.8.3.2) gives no payload number a second meaning.
func TestAfter(t *testing.T) {
	offer := parsed(t, audio("m=video 6 RTP/AVP 31", "m=audio 4 RTP/AVP 8 101 107 96", "a=rtpmap:101 opus/48000/2", "a=rtpmap:107 telephone-event/8000", "a=rtpmap:96 iLBC/8000"))
	answer, err := everything().Answer(offer)
	if err != nil {
		t.Fatal(err)
	}
	moved := everything()
	moved.Addr, moved.Version = netip.MustParseAddrPort("203.0.113.5:4000"), 2
	next := moved.After(answer, offer).Offer()
	text := string(next.Marshal())
	for _, want := range []string{
		"\r\no=- 7 2 IN IP4 198.51.100.1\r\n", "\r\nc=IN IP4 203.0.113.5\r\n",
		"\r\nm=video 0 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 0 8 107 9 101\r\n",
		"\r\na=rtpmap:107 telephone-event/8000\r\n", "\r\na=rtpmap:101 opus/48000/2\r\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in\n%s", want, text)
		}
	}
	// A number that meant something that we can't is not used again.
	other := parsed(t, audio("m=audio 4 RTP/AVP 0 101 107", "a=rtpmap:101 iLBC/8000", "a=rtpmap:107 speex/8000"))
	first := everything().After(Session{}, other).Offer()
	seen := map[uint8]bool{101: true, 107: true}
	for _, f := range first.Formats {
		if seen[f.Payload] {
			t.Errorf("payload %d has two meanings: %+v", f.Payload, first.Formats)
		}
		seen[f.Payload] = true
	}
	if everything().Formats[2].Payload != 101 {
		t.Error("After changed the formats of its maker")
	}
}

// Hold and resume, both by direction and by address, over and over: the directions of both
// sides mirror each other each time, and after a resume audio flows both ways again.
// jambonz/sbc-outbound#123: one-way audio after hold and unhold.
func TestHoldAndResume(t *testing.T) {
	for _, hold := range [][]string{{"c=IN IP4 192.0.2.1", "a=sendonly"}, {"c=IN IP4 192.0.2.1", "a=inactive"}, {"c=IN IP4 0.0.0.0"}} {
		l := everything()
		var ours, theirs Session
		for round := range 6 {
			body := audio("m=audio 4 RTP/AVP 8 101", "a=rtpmap:101 telephone-event/8000")
			if round%2 == 1 {
				body = audio("m=audio 4 RTP/AVP 8 101", append(hold, "a=rtpmap:101 telephone-event/8000")...)
			}
			theirs = parsed(t, body)
			l.Version++
			var err error
			if ours, err = l.After(ours, theirs).Answer(theirs); err != nil {
				t.Fatal(err)
			}
			if err := theirs.Accept(parsed(t, ours.Marshal())); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if held := round%2 == 1; held == ours.Direction.Sends() {
				t.Errorf("round %d: held %v, and we answer %s", round, held, ours.Direction)
			}
			if ours.Direction != theirs.Direction.Reverse() {
				t.Errorf("round %d: %s answers %s", round, ours.Direction, theirs.Direction)
			}
			if ours.Version != uint64(round)+2 || ours.ID != 7 {
				t.Errorf("round %d: origin %d %d", round, ours.ID, ours.Version)
			}
		}
	}
}
