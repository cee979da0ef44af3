package phone

import (
	"context"
	"strings"
	"testing"
	"time"
)

// CANCEL crosses 200: both are acknowledged, and the call is hung up by BYE (RFC 3261
// s.9.1, s.15).
func TestCancelCrossesAnswer(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	x.when(func(start, m string) verdict {
		if strings.HasPrefix(start, "SIP/2.0 200") && strings.Contains(header(m, "CSeq"), "INVITE") && !cancelled(x) {
			return keep
		}
		return pass
	})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	closed(t, "ringing", out.WhenRinging())
	answered := make(chan error, 1)
	go func() { answered <- in.Answer(within(t)) }()
	await(t, "the answer is on its way", func() bool { return x.seen("SIP/2.0 200") > 0 })
	if err := hangUpAnd(t, out, func() {
		await(t, "CANCEL", func() bool { return x.seen("CANCEL") > 0 })
		x.release()
	}); err != nil {
		t.Fatal(err)
	}
	ends(t, out, Cancelled)
	ends(t, in, ByRemote)
	if err := <-answered; err != nil {
		t.Errorf("the answer was not confirmed: %v", err)
	}
	if x.seen("BYE") == 0 || out.Times().ByeSent.IsZero() {
		t.Error("no BYE")
	}
	empty(t, a, b)
}

// cancelled reports whether a CANCEL was logged; the rule holds the lock already.
func cancelled(x *bend) bool {
	for _, l := range x.log {
		if strings.HasPrefix(l, "CANCEL") {
			return true
		}
	}
	return false
}

func hangUpAnd(t *testing.T, c *Call, then func()) error {
	result := make(chan error, 1)
	go func() { result <- c.HangUp(within(t)) }()
	then()
	return <-result
}

// Nothing is cancelled before the first provisional response has come (s.9.1); then it is.
func TestCancelWaitsForProvisional(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	a := listen(t, p.at, func(c *EndpointConfig) { c.T1 = time.Second })
	out := dial(t, add(t, a, Config{User: "alice"}), "sip:5000@"+p.at.String())
	invite := p.expect("INVITE")
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = out.HangUp(ctx)
	_ = out.HangUp(ctx)
	if again := p.expect("INVITE"); again != invite {
		t.Errorf("not the same INVITE:\n%s", again)
	}
	p.reply(invite, "100 Trying", "")
	cancel := p.expect("CANCEL", "INVITE")
	if header(cancel, "Via") != header(invite, "Via") || header(cancel, "CSeq") != "1 CANCEL" || header(cancel, "To") != header(invite, "To") {
		t.Errorf("CANCEL is not that of the INVITE:\n%s", cancel)
	}
	p.reply(cancel, "200 OK", "")
	p.reply(invite, "487 Request Terminated", "")
	ack := p.expect("ACK", "CANCEL")
	if header(ack, "Via") != header(invite, "Via") || !strings.HasSuffix(header(ack, "To"), ";tag=peer") {
		t.Errorf("ACK to 487:\n%s", ack)
	}
	ends(t, out, Cancelled)
	p.reply(invite, "487 Request Terminated", "") // the ACK was lost: again (timer D)
	if again := p.expect("ACK", "CANCEL"); again != ack {
		t.Errorf("another ACK:\n%s", again)
	}
}

// The caller's CANCEL: 200 to it, 487 to the INVITE, both under one tag (s.9.2), also when
// either has to be repeated; one that fits nothing gets 481.
func TestIncomingCancel(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	lost := map[string]bool{}
	x.when(func(start, m string) verdict { // each message once
		if key := start + header(m, "CSeq"); !lost[key] {
			lost[key] = true
			return drop
		}
		return pass
	})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	closed(t, "ringing", out.WhenRinging())
	if err := out.HangUp(within(t)); err != nil {
		t.Fatal(err)
	}
	ends(t, in, Cancelled)
	ends(t, out, Cancelled)
	if out.Status() != 487 || in.Times().Cancelled.IsZero() {
		t.Errorf("status %d, cancelled at %s", out.Status(), in.Times().Cancelled)
	}
	if err := in.Answer(within(t)); err == nil {
		t.Error("answered what was cancelled")
	}
	tags := map[string]bool{}
	for _, m := range append(x.messages("SIP/2.0 200"), x.messages("SIP/2.0 487")...) {
		tags[tagOf(header(m, "To"))] = true
	}
	if len(tags) != 1 {
		t.Errorf("tags %v", tags)
	}
	empty(t, a, b)

	p := newPeer(t)
	p.request(b.Addr(), "CANCEL", "sip:bob@x", "no such call", "<sip:x@y>;tag=1", "<sip:bob@x>", 1, cookie+"none", "")
	p.expect("SIP/2.0 481")
}

// Every message of a call is lost the first time it is sent: retransmission carries it all
// the same, and the call is one call (s.17, s.13.3.1.4).
func TestEveryMessageLostOnce(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	lost := map[string]int{}
	x.when(func(start, m string) verdict {
		key := start + header(m, "CSeq")
		if lost[key]++; lost[key] == 1 {
			return drop
		}
		return pass
	})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	if err := in.Answer(within(t)); err != nil {
		t.Fatal(err)
	}
	closed(t, "answered", out.WhenAnswered())
	if err := out.Hold(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := out.HangUp(within(t)); err != nil {
		t.Fatal(err)
	}
	ends(t, out, ByLocal)
	ends(t, in, ByRemote)
	select {
	case <-bob.Incoming():
		t.Error("a repeated INVITE rang as a second call")
	default:
	}
	empty(t, a, b)
}

// No ACK ever comes: BYE after 64*T1, and the call has failed (s.13.3.1.4).
func TestNoAck(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	x.when(func(start, _ string) verdict {
		if strings.HasPrefix(start, "ACK") {
			return drop
		}
		return pass
	})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	if err := in.Answer(within(t)); err == nil {
		t.Error("confirmed without an ACK")
	}
	ends(t, in, Failed)
	ends(t, out, ByRemote)
	if n := x.seen("SIP/2.0 200"); n < 5 {
		t.Errorf("200 was sent %d times", n)
	}
	empty(t, a, b)
}

// Nobody answers: the call fails after 64*T1 (timer B). A BYE that nobody answers ends the
// call all the same (timer F).
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	a := listen(t, udpHole(t))
	out := dial(t, add(t, a, Config{User: "alice"}), "sip:x@127.0.0.1")
	ends(t, out, Failed)
	if s := a.Stats(); s.Resent != 6 && s.Resent != 5 { // after 1, 3, 7, 15, 31, 63 T1; the last is close to timer B
		t.Errorf("INVITE was repeated %d times, timer A does it 6 times", s.Resent)
	}
	x := newBend(t)
	c, d := x.between(t)
	carol, dave := add(t, c, Config{User: "carol"}), add(t, d, Config{User: "dave"})
	up := dial(t, carol, uriOf("dave", d))
	in := incoming(t, dave)
	if err := in.Answer(within(t)); err != nil {
		t.Fatal(err)
	}
	closed(t, "answered", up.WhenAnswered())
	x.when(func(start, _ string) verdict {
		if strings.HasPrefix(start, "BYE") {
			return drop
		}
		return pass
	})
	if err := up.HangUp(within(t)); err == nil {
		t.Error("no word about the BYE that was not answered")
	}
	ends(t, up, ByLocal)
	x.when(func(string, string) verdict { return pass })
	if err := in.HangUp(within(t)); err == nil {
		t.Error("481 expected")
	}
	ends(t, in, ByLocal)
	empty(t, a, c, d)
}

// Both hang up at once: each BYE is answered, neither side reports an error.
func TestBothHangUp(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	if err := in.Answer(within(t)); err != nil {
		t.Fatal(err)
	}
	closed(t, "answered", out.WhenAnswered())
	x.when(func(start, _ string) verdict {
		if strings.HasPrefix(start, "BYE") && count(x, "BYE") <= 2 {
			return keep
		}
		return pass
	})
	other := make(chan error, 1)
	go func() { other <- in.HangUp(within(t)) }()
	err := hangUpAnd(t, out, func() {
		await(t, "two BYEs", func() bool { return len(x.messages("BYE "+"sip:alice")) > 0 && len(x.messages("BYE "+"sip:bob")) > 0 })
		x.release()
	})
	if err2 := <-other; err != nil || err2 != nil {
		t.Errorf("%v, %v", err, err2)
	}
	ends(t, out, ByLocal)
	ends(t, in, ByLocal)
	empty(t, a, b)
}

func count(x *bend, start string) (n int) {
	for _, l := range x.log {
		if strings.HasPrefix(l, start) {
			n++
		}
	}
	return n
}

// A second 2xx of a forked INVITE is acknowledged and hung up (s.13.2.2.4); a repeated one
// of the call is acknowledged again.
func TestForkedAnswer(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	a := listen(t, p.at, func(c *EndpointConfig) { c.T1 = time.Second })
	out := dial(t, add(t, a, Config{User: "alice"}), "sip:5000@"+p.at.String())
	invite := p.expect("INVITE")
	p.reply(invite, "200 OK", audioSDP, p.contact())
	ack := p.expect("ACK")
	closed(t, "answered", out.WhenAnswered())
	p.reply(invite, "200 OK", audioSDP, p.contact())
	if again := p.expect("ACK"); again != ack {
		t.Errorf("another ACK:\n%s", again)
	}
	p.reply(strings.Replace(invite, "To: <sip:5000@"+p.at.String()+">", "To: <sip:5000@x>;tag=fork", 1), "200 OK", audioSDP, p.contact())
	if m := p.expect("ACK"); tagOf(header(m, "To")) != "fork" {
		t.Errorf("ACK to the fork:\n%s", m)
	}
	bye := p.expect("BYE")
	if tagOf(header(bye, "To")) != "fork" || header(bye, "CSeq") != "2 BYE" {
		t.Errorf("BYE to the fork:\n%s", bye)
	}
	p.reply(bye, "200 OK", "")
	select {
	case <-out.Done():
		t.Errorf("the fork ended the call: %s", out.Cause())
	default:
	}
}

// Who hangs up between its 200 and the ACK waits for the ACK (s.15); a BYE that comes there
// ends the call, and the 200 is repeated no more.
func TestHangUpWhileAnswering(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := listen(t, p.at, func(c *EndpointConfig) { c.T1 = 200 * time.Millisecond })
	bob := add(t, e, Config{User: "bob"})
	answering := func(id string) (in *Call, answer string, result chan error) {
		p.request(e.Addr(), "INVITE", "sip:bob@x", id, "<sip:a@b>;tag=1", "<sip:bob@x>", 1, cookie+id, audioSDP)
		p.expect("SIP/2.0 180", "SIP/2.0 200")
		in, result = incoming(t, bob), make(chan error, 1)
		go func() { result <- in.Answer(within(t)) }()
		return in, p.expect("SIP/2.0 200"), result
	}
	in, answer, result := answering("local")
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = in.HangUp(ctx)
	if again := p.expect("SIP/2.0 200"); again != answer { // and no BYE before it
		t.Errorf("not the same 200:\n%s", again)
	}
	p.request(e.Addr(), "ACK", "sip:bob@x", "local", "<sip:a@b>;tag=1", header(answer, "To"), 1, cookie+"ack", "")
	p.reply(p.expect("BYE", "SIP/2.0 200"), "200 OK", "")
	ends(t, in, ByLocal)
	if err := <-result; err != nil {
		t.Error(err)
	}
	in, answer, result = answering("remote")
	p.request(e.Addr(), "BYE", "sip:bob@x", "remote", "<sip:a@b>;tag=1", header(answer, "To"), 2, cookie+"bye", "")
	ends(t, in, ByRemote)
	if <-result == nil {
		t.Error("answered without an ACK")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.servers) != 0 {
		t.Error("200 is still repeated")
	}
}

// After a provisional response the INVITE is not repeated (s.17.1.1.2); after the ACK a late
// copy of it is no second call (RFC 6026 s.7.1).
func TestRepeatedInvite(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := slowEndpoint(t, p)
	alice := add(t, e, Config{User: "alice"})
	out := dial(t, alice, "sip:5000@"+p.at.String())
	p.reply(p.expect("INVITE"), "180 Ringing", "")
	closed(t, "ringing", out.WhenRinging())
	e.mu.Lock()
	if len(e.alarms) != 0 {
		t.Errorf("%d alarms", len(e.alarms))
	}
	e.mu.Unlock()
	in, answer := answeredBy(t, p, alice, audioSDP, "")
	p.request(e.Addr(), "INVITE", "sip:bob@"+e.Addr().String(), "call-1", header(answer, "From"), "<sip:bob@example.com>", 1, cookie+"1", audioSDP)
	inDialog(p, alice, answer, "OPTIONS", 2, "")
	if m := p.next(); header(m, "CSeq") != "2 OPTIONS" {
		t.Errorf("a late INVITE was answered:\n%s", m)
	}
	inDialog(p, alice, answer, "BYE", 3, "")
	ends(t, in, ByRemote)
}

// Re-INVITEs that cross are refused with 491 by both, and tried again (s.14.1, s.14.2).
func TestGlare(t *testing.T) {
	t.Parallel()
	x := newBend(t)
	a, b := x.between(t)
	alice, bob := add(t, a, Config{User: "alice"}), add(t, b, Config{User: "bob"})
	out := dial(t, alice, uriOf("bob", b))
	in := incoming(t, bob)
	if err := in.Answer(within(t)); err != nil {
		t.Fatal(err)
	}
	closed(t, "answered", out.WhenAnswered())
	x.when(func(start, m string) verdict {
		if strings.HasPrefix(start, "INVITE") && count(x, "SIP/2.0 491") == 0 {
			return keep
		}
		return pass
	})
	result := make(chan error, 2)
	go func() { result <- out.Hold(within(t)) }()
	go func() { result <- in.Hold(within(t)) }()
	await(t, "two re-INVITEs", func() bool { return len(x.messages("INVITE sip:alice")) > 0 && x.seen("INVITE sip:bob") > 1 })
	x.release()
	for range 2 {
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
	if x.seen("SIP/2.0 491") == 0 {
		t.Error("no glare")
	}
	if err := out.HangUp(within(t)); err != nil {
		t.Error(err)
	}
	ends(t, in, ByRemote)
}
