package sdp

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The reading of what was written of what was read is what was read: a stored description
// and the one on the wire never drift apart.
func stable(t interface {
	Helper()
	Fatalf(string, ...any)
}, b []byte) {
	t.Helper()
	first, err := Parse(b)
	if err != nil {
		return
	}
	wire := first.Marshal()
	second, err := Parse(wire)
	if err != nil {
		t.Fatalf("%v in\n%s\nof\n%s", err, wire, b)
	}
	// Streams that were refused for us stay refused; everything else is the same.
	if !reflect.DeepEqual(first, second) {
		t.Fatalf("first  %+v\nsecond %+v\nof\n%s", first, second, b)
	}
	if answer, err := everything().Answer(first); err == nil {
		if err := first.Accept(answer); err != nil {
			t.Fatalf("%v: the answer\n%s\ndoes not fit the offer\n%s", err, answer.Marshal(), b)
		}
		if back, err := Parse(answer.Marshal()); err != nil || !reflect.DeepEqual(answer, back) {
			t.Fatalf("%v: answer\n%+v\n%+v", err, answer, back)
		}
	}
}

func FuzzParse(f *testing.F) {
	entries, err := phones.ReadDir("testdata/phones")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		b, _ := phones.ReadFile("testdata/phones/" + e.Name())
		f.Add(b)
	}
	f.Add(audio("m=audio 0 RTP/AVP 0", "c=IN IP4 h"))
	f.Add(audio("m=audio 4 udptl t38", "m=audio 0 RTP/AVP 96"))
	f.Fuzz(func(t *testing.T, b []byte) { stable(t, b) })
}

var payloadNames = []string{"PCMU/8000", "PCMA/8000", "G722/8000", "opus/48000/2", "telephone-event/8000", "telephone-event/48000", "CN/8000", "iLBC/8000"}

// description draws what a phone might send.
func description(t *rapid.T) []byte {
	b := []string{"v=0", "o=- " + strconv.FormatUint(rapid.Uint64().Draw(t, "id"), 10) + " 1 IN IP4 h", "s=-"}
	b = append(b, "c="+rapid.SampledFrom([]string{"IN IP4 192.0.2.1", "IN IP4 0.0.0.0", "IN IP6 2001:db8::1"}).Draw(t, "c"))
	if rapid.Bool().Draw(t, "sessionwide") {
		b = append(b, "a="+string(rapid.SampledFrom(directions).Draw(t, "session direction")))
	}
	for range rapid.IntRange(0, 4).Draw(t, "streams") {
		media := rapid.SampledFrom([]string{"audio", "audio", "video", "image"}).Draw(t, "media")
		proto := rapid.SampledFrom([]string{"RTP/AVP", "RTP/AVP", "RTP/AVPF", "RTP/SAVP", "udptl"}).Draw(t, "proto")
		port := rapid.SampledFrom([]string{"0", "4000", "65535"}).Draw(t, "port")
		payloads := rapid.SliceOfN(rapid.IntRange(0, 127), 1, 8).Draw(t, "payloads")
		m := "m=" + media + " " + port + " " + proto
		var maps []string
		for _, p := range payloads {
			m += " " + strconv.Itoa(p)
			if p >= 96 {
				maps = append(maps, "a=rtpmap:"+strconv.Itoa(p)+" "+rapid.SampledFrom(payloadNames).Draw(t, "name"))
			}
		}
		b = append(append(b, m), maps...)
		if rapid.Bool().Draw(t, "direct") {
			b = append(b, "a="+string(rapid.SampledFrom(directions).Draw(t, "direction")))
		}
	}
	return lines(b...)
}

func local(t *rapid.T) Local {
	formats := append(G711(), PassThrough()...)
	kept := slices.DeleteFunc(formats, func(Format) bool { return rapid.IntRange(0, 3).Draw(t, "drop") == 0 })
	return Local{
		ID: 1, Version: 1, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), rapid.Uint16Min(1).Draw(t, "port")),
		Direction: rapid.SampledFrom(append(directions, "")).Draw(t, "want"), Formats: kept,
	}
}

func TestRoundTripProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { stable(t, description(t)) })
}

// RFC 3264 s.6: an answer always fits its offer, and names nothing that was not offered.
func TestAnswerProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offer, err := Parse(description(t))
		if err != nil {
			t.Fatal(err)
		}
		l := local(t)
		answer, err := l.Answer(offer)
		if err != nil {
			if !errors.Is(err, ErrNoCodec) {
				t.Fatalf("%v is not a kind of ErrNoCodec", err)
			}
			return
		}
		if err := offer.Accept(answer); err != nil {
			t.Fatal(err)
		}
		for _, f := range answer.Formats {
			if !slices.ContainsFunc(offer.Formats, func(g Format) bool { return g.Payload == f.Payload && g.same(f) }) {
				t.Fatalf("%+v was not offered in %+v", f, offer.Formats)
			}
			if f.audible() && !slices.ContainsFunc(l.Formats, f.same) {
				t.Fatalf("%+v is not what we can", f)
			}
		}
		if answer.Direction.Sends() && (!offer.Direction.Receives() || offer.Addr.Addr().IsUnspecified()) {
			t.Fatalf("we send to who does not receive: %s to %+v", answer.Direction, offer)
		}
		if strings.Count(string(answer.Marshal()), "\r\nm=") != offer.lines() {
			t.Fatalf("streams of the answer\n%s", answer.Marshal())
		}
	})
}

// Two of us agree in every dialog of offers from either side: each answer is accepted, no
// payload number changes its meaning, and the number of streams never falls.
func TestDialogProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type side struct {
			local Local
			last  Session
		}
		sides := [2]side{{local: local(t)}, {local: local(t)}}
		meaning, streams := map[uint8]Format{}, 0
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			i := rapid.IntRange(0, 1).Draw(t, "offerer")
			offerer, answerer := &sides[i], &sides[1-i]
			offerer.local.Direction = rapid.SampledFrom(directions).Draw(t, "wants")
			offerer.local.Version++
			answerer.local.Version++
			offer := offerer.local.After(offerer.last, answerer.last).Offer()
			answer, err := answerer.local.After(answerer.last, offer).Answer(offer)
			if err != nil {
				continue
			}
			if err := offer.Accept(answer); err != nil {
				t.Fatal(err)
			}
			for _, f := range slices.Concat(offer.Formats, answer.Formats) {
				if was, known := meaning[f.Payload]; known && !was.same(f) {
					t.Fatalf("payload %d was %s and is %s", f.Payload, was.Name, f.Name)
				}
				meaning[f.Payload] = f
			}
			if offer.lines() < streams {
				t.Fatalf("%d streams after %d", offer.lines(), streams)
			}
			streams = offer.lines()
			offerer.last, answerer.last = offer, answer
		}
	})
}
