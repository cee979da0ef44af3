package sipstack

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func option(callID, body string) string {
	return "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.9;branch=z9hG4bK" + callID + "\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: " +
		callID + "\r\nCSeq: 1 OPTIONS\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n" + body
}

// RFC 3261 s.18.3: boundaries in a stream don't depend on how TCP cuts it.
func TestFramesInAnyPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var want []string
		pings := 0
		for i := range rapid.IntRange(1, 5).Draw(t, "messages") {
			lines := rapid.IntRange(0, 5).Draw(t, "CRLFs before")
			pings += lines / 2
			stream = append(stream, strings.Repeat("\r\n", lines)...)
			body := rapid.SampledFrom([]string{"", "x", "\r\n\r\n", option("inner", ""), strings.Repeat("y", 5000)}).Draw(t, "body")
			want = append(want, option(fmt.Sprint("c", i), body))
			stream = append(stream, want[i]...)
		}
		f := framer{limit: 1 << 16}
		var got []string
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), rapid.IntRange(1, 3000).Draw(t, "piece"))
			n = copy(f.room(), rest[:n])
			f.grew(n)
			rest = rest[n:]
			for {
				msg, _, err := f.next()
				if err != nil {
					t.Fatal(err)
				}
				if msg == nil {
					break
				}
				got = append(got, string(msg))
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || f.partial() {
			t.Fatalf("got %d messages, want %d, partial %v", len(got), len(want), f.partial())
		}
	})
}

// RFC 5626 s.3.5.1: CRLF CRLF between messages is a ping, in one read or in two; a lone
// CRLF is the answer to ours.
func TestPings(t *testing.T) {
	for text, want := range map[string]int{"\r\n": 0, "\r\n\r\n": 1, "\r|\n\r|\n": 1, "\r\n|\r\n": 1, "\r\n\r\n|\r\n\r\n": 2, "\r\n\r\n\r\n": 1} {
		f, got := framer{limit: 100}, 0
		for part := range strings.SplitSeq(text, "|") {
			f.grew(copy(f.room(), part))
			if _, ping, err := f.next(); err != nil {
				t.Errorf("%q: %v", text, err)
			} else if ping {
				got++
			}
		}
		if got != want || f.partial() {
			t.Errorf("%q: %d pings, want %d; partial %v", text, got, want, f.partial())
		}
	}
}

func TestUnframable(t *testing.T) {
	head := "OPTIONS sip:a@b SIP/2.0\r\n"
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"no length":             {head + "\r\n", errFraming},
		"negative":              {head + "l: -1\r\n\r\n", errFraming},
		"not a number":          {head + "Content-Length: x\r\n\r\n", errFraming},
		"two that differ":       {head + "l: 1\r\nContent-Length: 2\r\n\r\n", errFraming}, // RFC 4475 s.3.3.9
		"two alike":             {head + "l: 1\r\nContent-Length: 1\r\n\r\nx", nil},
		"folded":                {head + "Content-Length:\r\n 1\r\n\r\nx", nil},
		"body above the limit":  {head + "l: 60000\r\n\r\n", errTooLarge},
		"header without end":    {head + strings.Repeat("X: y\r\n", 4000), errTooLarge},
		"first byte not a name": {"\x16\x03\x01 TLS", errGarbage},
	} {
		f := framer{limit: 50000}
		var err error
		var msg []byte
		for rest := c.text; len(rest) > 0 && err == nil && msg == nil; {
			n := copy(f.room(), rest)
			f.grew(n)
			rest = rest[n:]
			msg, _, err = f.next()
		}
		if err != c.want || err == nil && msg == nil {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if cap(f.buf) > 4*maxHeader {
			t.Errorf("%s: buffer grew to %d", name, cap(f.buf))
		}
	}
}

// One large message must not hold its memory for the life of the connection.
func TestFrameBufferShrinks(t *testing.T) {
	f := framer{limit: 1 << 16}
	for rest := []byte(option("big", strings.Repeat("z", 60000))); len(rest) > 0; {
		n := copy(f.room(), rest)
		f.grew(n)
		rest = rest[n:]
	}
	if msg, _, err := f.next(); err != nil || !bytes.HasSuffix(msg, []byte("zzz")) {
		t.Fatal(err)
	}
	if f.room(); cap(f.buf) > firstRead {
		t.Errorf("still holds %d bytes", cap(f.buf))
	}
}
