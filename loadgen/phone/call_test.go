package phone

import (
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// uriOf is an address of b as a caller of a dials it.
func uriOf(user string, e *Endpoint) string { return "sip:" + user + "@" + e.Addr().String() }

// A whole call through a proxy that records its route: every request of the dialog goes
// through it (RFC 3261 s.12.2.1.1, s.16.12.1.1), and the instants are in order on both sides.
func TestCallThroughAProxy(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice := add(t, a, Config{User: "alice", Domain: "example.com"})
	bob := add(t, b, Config{User: "bob"})
	add(t, b, Config{User: "other"})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	closed(t, "ringing", out.WhenRinging())
	if err := in.Answer(within(t)); err != nil {
		t.Fatal(err)
	}
	closed(t, "answered", out.WhenAnswered())
	if got := in.Remote().Number(); got != "alice" {
		t.Errorf("the call is from %q", got)
	}
	if out.ID() != in.ID() || out.Status() != 200 || out.Reason() != "OK" {
		t.Errorf("%s %s: %d %s", out.ID(), in.ID(), out.Status(), out.Reason())
	}
	if err := out.Hold(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := in.Hold(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := out.Resume(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := in.HangUp(within(t)); err != nil {
		t.Fatal(err)
	}
	ends(t, out, ByRemote)
	ends(t, in, ByLocal)
	for who, c := range map[string]*Call{"caller": out, "callee": in} {
		await(t, "the stream of the "+who+" is closed", func() bool { return c.Media.Talk(a.Addr(), stream.PCMU) != nil })
	}
	ordered(t, "caller", out.Times(), "Invited", "Provisional", "Ringing", "Answered", "Acked", "ByeReceived", "Ended")
	ordered(t, "callee", in.Times(), "Invited", "Ringing", "Answered", "Acked", "ByeSent", "ByeAnswered", "Ended")
	for _, start := range []string{"INVITE", "ACK", "BYE"} {
		if x.seen(start) == 0 {
			t.Errorf("no %s went through the proxy", start)
		}
	}
	for _, m := range x.messages("BYE") {
		if header(m, "Route") != "<sip:"+x.at.String()+";lr>" {
			t.Errorf("BYE without the route:\n%s", m)
		}
	}
	var said []string
	for _, m := range append(x.messages("INVITE"), x.messages("SIP/2.0 200")...) {
		if i := strings.LastIndex(m, "\r\na="); i > 0 && strings.Contains(header(m, "CSeq"), "INVITE") {
			said = append(said, strings.TrimSpace(m[i+4:]))
		}
	}
	// offers: call, alice holds, bob holds too, alice resumes; then the answers
	want := "sendrecv sendonly sendonly sendrecv sendrecv recvonly inactive recvonly"
	want = strings.Replace(want, "sendrecv recvonly inactive recvonly", "sendrecv recvonly inactive sendonly", 1)
	if got := strings.Join(said, " "); got != want {
		t.Errorf("directions %s, want %s", got, want)
	}
	empty(t, a, b)
}

func ordered(t *testing.T, who string, at Times, names ...string) {
	t.Helper()
	all := map[string]time.Time{"Invited": at.Invited, "Provisional": at.Provisional, "Ringing": at.Ringing, "Early": at.Early, "Answered": at.Answered,
		"Acked": at.Acked, "Cancelled": at.Cancelled, "ByeSent": at.ByeSent, "ByeReceived": at.ByeReceived, "ByeAnswered": at.ByeAnswered, "Ended": at.Ended}
	var last time.Time
	for _, n := range names {
		if all[n].IsZero() || all[n].Before(last) {
			t.Errorf("%s: %s at %s, after %s", who, n, all[n], last)
		}
		last = all[n]
		delete(all, n)
	}
	for n, at := range all {
		if !at.IsZero() {
			t.Errorf("%s: %s at %s, but that did not happen", who, n, at)
		}
	}
}

// Over TCP: one connection to the target, which also carries what the other side begins.
func TestCallOverTCP(t *testing.T) {
	t.Parallel()
	b := listen(t, udpHole(t), overTCP)
	a := listen(t, b.Addr(), overTCP)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	for range 3 {
		out := dial(t, alice, uriOf("bob", b))
		in := incoming(t, bob)
		if err := in.Answer(within(t)); err != nil {
			t.Fatal(err)
		}
		if err := in.HangUp(within(t)); err != nil {
			t.Fatal(err)
		}
		ends(t, out, ByRemote)
	}
	empty(t, a, b)
	if s := a.Stats(); s.Resent != 0 {
		t.Errorf("%d messages repeated over TCP", s.Resent)
	}
	b.Close()
	out := dial(t, alice, "sip:bob@"+b.Addr().String())
	ends(t, out, Failed)
	if out.Err() == nil {
		t.Error("no word about the connection")
	}
}

// Refusals, and busy when nobody takes the calls.
func TestRefusals(t *testing.T) {
	t.Parallel()
	b := listen(t, udpHole(t))
	a := listen(t, b.Addr())
	const backlog = 5
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob", Backlog: backlog})
	for _, status := range []int{486, 302, 603} {
		out := dial(t, alice, uriOf("bob", b))
		if err := incoming(t, bob).Reject(status); err != nil {
			t.Fatal(err)
		}
		ends(t, out, Declined)
		if out.Status() != status {
			t.Errorf("status %d, want %d", out.Status(), status)
		}
	}
	if err := (&Call{}).Reject(200); err == nil {
		t.Error("rejected with 200")
	}
	var all []*Call
	for range backlog + 1 {
		all = append(all, dial(t, alice, uriOf("bob", b)))
	}
	refused := func() (n int) { // which one is a matter of who opens its port first
		for _, c := range all {
			if c.Status() == 486 {
				n++
			}
		}
		return n
	}
	await(t, "one is too many", func() bool { return refused() == 1 && len(bob.Incoming()) == backlog })
	for _, c := range all {
		if err := c.HangUp(within(t)); err != nil {
			t.Error(err)
		}
	}
	for range backlog {
		ends(t, incoming(t, bob), Cancelled)
	}
	empty(t, a, b)
}

// At the bound of calls an INVITE gets 503, and Dial an error.
func TestBoundOfCalls(t *testing.T) {
	t.Parallel()
	b := listen(t, udpHole(t), func(c *EndpointConfig) { c.MaxCalls = 1 })
	a := listen(t, b.Addr())
	alice := add(t, a, Config{User: "alice"})
	bob := add(t, b, Config{User: "bob"})
	first := dial(t, alice, uriOf("bob", b))
	closed(t, "ringing", first.WhenRinging())
	second := dial(t, alice, uriOf("bob", b))
	ends(t, second, Declined)
	if second.Status() != 503 {
		t.Errorf("status %d", second.Status())
	}
	if _, err := bob.Dial(uriOf("alice", a)); err == nil {
		t.Error("a second call was dialled")
	}
}

// Codecs: the answer has what both know, in the caller's order; without any 488.
func TestCodecs(t *testing.T) {
	t.Parallel()
	b := listen(t, udpHole(t))
	a := listen(t, b.Addr())
	both := add(t, a, Config{User: "both", Codecs: []stream.Codec{stream.PCMA, stream.PCMU}})
	ulaw := add(t, a, Config{User: "ulaw"})
	alaw := add(t, b, Config{User: "alaw", Codecs: []stream.Codec{stream.PCMA}})
	out := dial(t, both, uriOf("alaw", b))
	if err := incoming(t, alaw).Answer(within(t)); err != nil {
		t.Fatal(err)
	}
	closed(t, "answered", out.WhenAnswered())
	out = dial(t, ulaw, uriOf("alaw", b))
	ends(t, out, Declined)
	if out.Status() != 488 {
		t.Errorf("status %d", out.Status())
	}
	if _, err := a.Phone(Config{User: "x", Codecs: []stream.Codec{9}}); err == nil {
		t.Error("G.722 was taken")
	}
}

// Many phones behind one address: each gets its own calls, also two of one name.
func TestManyPhones(t *testing.T) {
	t.Parallel()
	b := listen(t, udpHole(t))
	a := listen(t, b.Addr())
	alice := add(t, a, Config{User: "alice"})
	one, two := add(t, b, Config{User: "bob"}), add(t, b, Config{User: "bob"})
	if one.contact == two.contact {
		t.Fatal("one Contact for two")
	}
	dial(t, alice, uriOf("bob.2", b))
	incoming(t, two)
	dial(t, alice, uriOf("bob", b))
	incoming(t, one)
	nobody := dial(t, alice, uriOf("carol", b))
	ends(t, nobody, Declined)
	if nobody.Status() != 404 {
		t.Errorf("status %d", nobody.Status())
	}
	two.Close()
	gone := dial(t, alice, uriOf("bob.2", b))
	in := incoming(t, one) // alone again
	if err := in.Reject(480); err != nil {
		t.Fatal(err)
	}
	ends(t, gone, Declined)
	for _, user := range []string{"", "a b", "x\r\nVia: y", "<x>", "x@y"} {
		if _, err := b.Phone(Config{User: user}); err == nil {
			t.Errorf("user %q was taken", user)
		}
	}
	for _, uri := range []string{"", "5000", "sip:a b@c", "sip:x@y\r\nVia: z"} {
		if _, err := alice.Dial(uri); err == nil {
			t.Errorf("URI %q was taken", uri)
		}
	}
}
