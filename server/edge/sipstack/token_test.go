package sipstack

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

func newSeals() *seals { s := &seals{}; s.init(); return s }

// What is sealed opens to the number, with the same texts only, and nowhere else.
func TestSeals(t *testing.T) {
	s, other := newSeals(), newSeals()
	rapid.Check(t, func(t *rapid.T) {
		as := rapid.SampledFrom([]byte{asToken, asHop}).Draw(t, "as")
		number := rapid.Uint64Max(1<<(8*numberSize)-1).Draw(t, "number")
		texts := rapid.SliceOfN(rapid.StringMatching(`[a-c]{0,3}`), 0, 3).Draw(t, "texts")
		text := s.seal(as, number, texts...)
		if n, ok := s.open(as, text, texts...); !ok || n != number {
			t.Fatalf("%q opens to %d, %v", text, n, ok)
		}
		if !sealed(text) || text != s.seal(as, number, texts...) {
			t.Fatalf("%q is no seal, or not the only one", text)
		}
		if _, ok := s.open(as^1, text, texts...); ok {
			t.Fatal("opens as another thing")
		}
		if _, ok := other.open(as, text, texts...); ok {
			t.Fatal("opens in another process")
		}
		for _, wrong := range [][]string{append(texts, ""), append(texts, "a"), {strings.Join(texts, "")}, {strings.Join(texts, "x")}} {
			if _, ok := s.open(as, text, wrong...); ok && fmt.Sprint(len(wrong), wrong) != fmt.Sprint(len(texts), texts) {
				t.Fatalf("%q with %q, made with %q", text, wrong, texts)
			}
		}
		i := rapid.IntRange(0, sealText-1).Draw(t, "i")
		c := rapid.SampledFrom([]byte("AZaz09-_=+/.\n\x00")).Draw(t, "c")
		if changed := text[:i] + string(c) + text[i+1:]; changed != text {
			if _, ok := s.open(as, changed, texts...); ok {
				t.Fatalf("%q opens as well as %q", changed, text)
			}
		}
	})
}

// Whatever is offered as a token, only the text that was made opens, and nothing panics.
func FuzzToken(f *testing.F) {
	s := newSeals()
	const number = 7
	real := s.seal(asToken, number)
	f.Add(real)
	f.Add(real[:23])
	f.Add(strings.Repeat("A", sealText))
	f.Add(strings.ToLower(real))
	f.Add("\r\n" + real[2:])
	f.Add(real + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		n, ok := s.open(asToken, text)
		if !ok {
			return
		}
		if text != s.seal(asToken, n) {
			t.Fatalf("%q opens to %d", text, n)
		}
	})
}

// A token reads back from its URI as the core keeps it, and its bytes are those of the RFC:
// the connection, in the open, and a MAC.
func TestTokenURI(t *testing.T) {
	s := newSeals()
	for _, contact := range []netip.AddrPort{mustAddr("127.0.0.2:5060"), mustAddr("[2001:db8::2]:5070")} {
		text := s.tokenURI(0x0102030405, contact)
		u, err := core.ParseURI(text)
		if err != nil || u.String() != text {
			t.Fatalf("%s reads as %v, %v", text, u, err)
		}
		if transport, _ := u.Param("transport"); transport != "tcp" || u.Port != contact.Port() || u.Host != contact.Addr().String() {
			t.Errorf("%+v", u)
		}
		raw, err := base64.RawURLEncoding.DecodeString(u.User)
		if err != nil || len(raw) != numberSize+macSize || string(raw[:numberSize]) != "\x00\x01\x02\x03\x04\x05" {
			t.Errorf("token %x, %v", raw, err)
		}
	}
}

// RFC 3261 s.16.11: the branch is that of the transaction, whatever connection a message of
// it came on and whatever else it says; two transactions have two.
func TestBranchFollowsFromTheTransaction(t *testing.T) {
	s := newSeals()
	base := parsed{via: via{host: "192.0.2.1", port: 5060, branch: cookie + "x"}, request: &core.Request{Method: core.INVITE,
		Message: core.Message{CallID: "c", CSeq: 3, From: core.Address{Params: ";tag=f"}, To: core.Address{}}}}
	branch := s.branchOf(&base)
	if !strings.HasPrefix(branch, passedCookie) || !isToken(branch) {
		t.Errorf("branch %q", branch)
	}
	change := func(f func(m *parsed, r *core.Request)) string {
		m, r := base, *base.request
		m.request = &r
		f(&m, &r)
		return s.branchOf(&m)
	}
	for name, same := range map[string]string{
		"CANCEL":         change(func(_ *parsed, r *core.Request) { r.Method = core.CANCEL }),
		"ACK":            change(func(_ *parsed, r *core.Request) { r.Method, r.To = core.ACK, r.To.WithTag("t") }),
		"retransmission": change(func(m *parsed, _ *core.Request) { m.via.received = "192.0.2.9" }),
	} {
		if same != branch {
			t.Errorf("%s has branch %s, want %s", name, same, branch)
		}
	}
	seen := map[string]string{branch: "base"}
	for name, other := range map[string]string{
		"branch":  change(func(m *parsed, _ *core.Request) { m.via.branch += "y" }),
		"port":    change(func(m *parsed, _ *core.Request) { m.via.port = 5061 }),
		"host":    change(func(m *parsed, _ *core.Request) { m.via.host = "192.0.2.2" }),
		"CSeq":    change(func(_ *parsed, r *core.Request) { r.CSeq = 4 }),
		"Call-ID": change(func(_ *parsed, r *core.Request) { r.CallID = "d" }),
		"From":    change(func(_ *parsed, r *core.Request) { r.From = r.From.WithTag("g") }),
		"key":     newSeals().branchOf(&base),
	} {
		if seen[other] != "" {
			t.Errorf("another %s has the branch of %s", name, seen[other])
		}
		seen[other] = name
	}
}
