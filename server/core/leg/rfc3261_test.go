package leg

import (
	"net/netip"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
)

// bench is one leg with its peer: everything that leaves is collected.
type bench struct {
	*testing.T
	now  core.Time
	rand *core.Rand
	leg  Leg
	out  []core.Effect
	held bool // effects wait for a commit, and can be withdrawn
}

func newBench(t *testing.T) *bench {
	return &bench{T: t, now: 1e18, rand: core.NewRand([32]byte{1})}
}

func (b *bench) step(f func(*Env) Report) Report {
	b.Helper()
	env := &Env{Now: b.now, Rand: b.rand, Policy: &Policy{KeepaliveEvery: 5 * time.Second, KeepaliveTries: 3},
		Contact:  func(core.Transport) core.URI { return core.URI{Scheme: "sip", User: "dialtone", Host: "192.0.2.1"} },
		Withdraw: func(core.TxnID) bool { return b.held }}
	r := f(env)
	b.out = env.Free
	for _, w := range env.Held {
		b.out = append(b.out, w.Effect)
	}
	if err := b.leg.Valid(); err != nil {
		b.Fatal(err)
	}
	return r
}

// responses and requests list what left in the last step.
func (b *bench) responses() (statuses []int) {
	for _, e := range b.out {
		if r, ok := e.(core.Respond); ok {
			statuses = append(statuses, r.Response.Status)
		}
	}
	return statuses
}

func (b *bench) requests() (methods []string) {
	for _, e := range b.out {
		if r, ok := e.(core.SendRequest); ok {
			methods = append(methods, r.Request.Method)
		}
	}
	return methods
}

func (b *bench) expect(got Report, want Report, sent ...any) {
	b.Helper()
	if got != want {
		b.Fatalf("report %q, want %q", got, want)
	}
	var seen []any
	for _, s := range b.responses() {
		seen = append(seen, s)
	}
	for _, m := range b.requests() {
		seen = append(seen, m)
	}
	if len(seen) != len(sent) {
		b.Fatalf("sent %v, want %v", seen, sent)
	}
	for i := range sent {
		if seen[i] != sent[i] {
			b.Fatalf("sent %v, want %v", seen, sent)
		}
	}
}

var (
	home = netip.MustParseAddrPort("192.0.2.1:20000")
	far  = core.Peer{Transport: core.UDP, Addr: netip.MustParseAddrPort("192.0.2.7:5060")}
)

func uri(user, host string) core.URI { return core.URI{Scheme: "sip", User: user, Host: host} }

func describe(d sdp.Direction) []byte {
	return sdp.Local{ID: 9, Version: 1, Addr: netip.MustParseAddrPort("192.0.2.7:30000"), Direction: d, Formats: sdp.G711()}.Offer().Marshal()
}

func request(method string, cseq uint32, body []byte) *core.Request {
	r := &core.Request{Method: method, URI: uri("5000", "dialtone.example"), Message: core.Message{
		From: core.Address{URI: uri("alice", "example.net"), Params: ";tag=a"}, To: core.Address{URI: uri("5000", "dialtone.example")},
		CallID: "c1", CSeq: cseq, Contact: []core.Address{{URI: uri("alice", "192.0.2.7")}}, Body: body}}
	if body != nil {
		r.ContentType = "application/sdp"
	}
	return r
}

// answered returns a UAS leg whose 200 is out.
func answered(t *testing.T) *bench {
	b := newBench(t)
	b.step(func(e *Env) Report {
		b.leg = NewUAS(e, "i/1", "t1", request(core.INVITE, 1, describe(sdp.SendRecv)), far)
		return Nothing
	})
	b.expect(b.step(func(e *Env) Report { return b.leg.Answer(e, home) }), Nothing, 200)
	return b
}

func confirmed(t *testing.T) *bench {
	b := answered(t)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 1, nil)) }), Acked)
	return b
}

func (b *bench) wake() Report { return b.step(func(e *Env) Report { return b.leg.Wake(e) }) }

func (b *bench) receive(method string, cseq uint32, body []byte) Report {
	return b.step(func(e *Env) Report { return b.leg.Request(e, "t9", request(method, cseq, body), far) })
}

// s.13.3.1.4: the 2xx is repeated at T1, doubling up to T2, until the ACK; without one
// for 64*T1 the dialog is left with BYE.
func TestSection13_3_1_4(t *testing.T) {
	b := answered(t)
	var gaps []time.Duration
	last := b.now
	for {
		at, _ := b.leg.Deadline()
		b.now = at
		r := b.wake()
		if r == Unacked {
			b.expect(r, Unacked, core.BYE)
			break
		}
		b.expect(r, Nothing, 200)
		gaps = append(gaps, b.now.Sub(last))
		last = b.now
	}
	want := []time.Duration{500, 1000, 2000, 4000, 4000, 4000, 4000, 4000, 4000, 4000}
	if len(gaps) < len(want) {
		t.Fatalf("repeated after %v", gaps)
	}
	for i, ms := range want {
		if gaps[i] != ms*time.Millisecond {
			t.Fatalf("repeated after %v", gaps)
		}
	}
}

// The ACK ends the repetition; another CSeq is not our ACK; a repeated one is harmless.
func TestAckEndsRepetition(t *testing.T) {
	b := answered(t)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 2, nil)) }), Nothing)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 1, nil)) }), Acked)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 1, nil)) }), Nothing)
	if at, why := b.leg.Deadline(); at != core.Never {
		t.Fatalf("wants to be woken for %q", why)
	}
}

// s.15: the callee sends no BYE before the ACK.
func TestSection15NoByeBeforeAck(t *testing.T) {
	b := answered(t)
	b.expect(b.step(func(e *Env) Report { b.leg.HangUp(e, 480, 16); return Nothing }), Nothing)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 1, nil)) }), Nothing, core.BYE)
}

// s.9.2: a CANCEL that finds no final response sent ends in 487; one that comes after the
// 200 has left gets its own 200 and changes nothing.
func TestSection9_2(t *testing.T) {
	cancel := func(b *bench) Report {
		return b.step(func(e *Env) Report { return b.leg.Cancel(e, "t2", request(core.CANCEL, 1, nil), far) })
	}
	b := answered(t)
	b.held = true
	b.expect(cancel(b), HungUp, 200, 487)
	b = answered(t)
	b.expect(cancel(b), Nothing, 200)
	if b.leg.State != Answering {
		t.Fatalf("state %s", b.leg.State)
	}
}

// s.14.2: a re-INVITE while ours is open meets 491; one that is too old meets 500.
func TestSection14_2(t *testing.T) {
	b := confirmed(t)
	b.expect(b.receive(core.INVITE, 1, describe(sdp.SendRecv)), Nothing, 500)
	b.expect(b.step(func(e *Env) Report { b.leg.Reinvite(e); return Nothing }), Nothing, core.INVITE)
	b.expect(b.receive(core.INVITE, 5, describe(sdp.SendRecv)), Nothing, 491)
}

// s.14.2: a re-INVITE that cannot be agreed on leaves what was agreed before.
func TestReinviteRefusedKeepsMedia(t *testing.T) {
	b := confirmed(t)
	codec := b.leg.Codec
	g729 := []byte("v=0\r\no=- 9 2 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\nm=audio 30000 RTP/AVP 18\r\na=rtpmap:18 G729/8000\r\n")
	b.expect(b.receive(core.INVITE, 2, g729), Nothing, 488)
	if b.leg.Codec != codec || !b.leg.Remote.Addr.IsValid() {
		t.Fatalf("codec %v, remote %v", b.leg.Codec, b.leg.Remote.Addr)
	}
}

// RFC 3264 s.8.4: sendonly is a hold, answered with recvonly; sendrecv ends it.
// livekit/sip#779: pressing hold must not hang up.
func TestHoldAndResume(t *testing.T) {
	b := confirmed(t)
	b.expect(b.receive(core.INVITE, 2, describe(sdp.SendOnly)), Changed, 200)
	if !b.leg.Holds() || b.leg.Local.Direction != sdp.RecvOnly {
		t.Fatalf("holds %v, we are %s", b.leg.Holds(), b.leg.Local.Direction)
	}
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 2, nil)) }), Changed)
	b.expect(b.receive(core.INVITE, 3, describe(sdp.SendRecv)), Changed, 200)
	if b.leg.Holds() || b.leg.Local.Direction != sdp.SendRecv {
		t.Fatalf("holds %v, we are %s", b.leg.Holds(), b.leg.Local.Direction)
	}
}

// A re-INVITE that overtook the ACK to our 200 proves that the ACK was sent.
func TestReinviteBeforeAck(t *testing.T) {
	b := answered(t)
	b.expect(b.receive(core.INVITE, 2, describe(sdp.SendOnly)), Changed, 200)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 1, nil)) }), Nothing)
	b.expect(b.step(func(e *Env) Report { return b.leg.Acknowledge(e, request(core.ACK, 2, nil)) }), Changed)
}

// A BYE is honoured in every state and whatever its CSeq.
func TestByeAlways(t *testing.T) {
	b := answered(t)
	b.expect(b.receive(core.BYE, 1, nil), HungUp, 200)
	b = confirmed(t)
	b.expect(b.step(func(e *Env) Report { b.leg.HangUp(e, 480, 16); return Nothing }), Nothing, core.BYE)
	b.expect(b.receive(core.BYE, 2, nil), Nothing, 200) // both left at once
	if b.leg.State != Gone {
		t.Fatalf("state %s", b.leg.State)
	}
}

// s.8.2.1: a method that the dialog does not take is answered with 405.
func TestOtherMethods(t *testing.T) {
	b := confirmed(t)
	b.expect(b.receive(core.OPTIONS, 2, nil), Nothing, 200)
	b.expect(b.receive(core.REFER, 3, nil), Nothing, 405)
}

// called returns a UAC leg whose INVITE is out.
func called(t *testing.T) *bench {
	b := newBench(t)
	b.expect(b.step(func(e *Env) Report {
		b.leg = NewUAC(e, Outgoing{ID: "i/2", Agent: "1001", URI: uri("1001", "192.0.2.9"), To: core.Address{URI: uri("1001", "demo.localhost")},
			From: core.Address{URI: uri("alice", "demo.localhost")}, Target: core.Target{Transport: core.UDP, Host: "192.0.2.9", Port: 5060},
			Formats: sdp.G711(), Address: home})
		return Nothing
	}), Nothing, core.INVITE)
	return b
}

func (b *bench) responds(status int, tag string, body []byte) Report {
	var invite *core.Request
	if b.leg.Invite != nil {
		invite = b.leg.Invite
	} else {
		d := b.leg.Dialog
		invite = &core.Request{Method: core.INVITE, Message: core.Message{From: d.Local, To: core.Address{URI: d.Remote.URI}, CallID: d.CallID, CSeq: d.LocalSeq}}
	}
	resp := invite.Reply(status, tag)
	resp.Method, resp.Body = core.INVITE, body
	if body != nil {
		resp.ContentType, resp.Contact = "application/sdp", []core.Address{{URI: uri("1001", "192.0.2.9")}}
	}
	return b.step(func(e *Env) Report { return b.leg.Response(e, b.leg.Txn, resp, far) })
}

// s.13.2.2.4: an ACK for each 2xx, also for a repeated one; a second dialog of a fork is
// acknowledged and left.
func TestSection13_2_2_4(t *testing.T) {
	b := called(t)
	b.expect(b.responds(180, "p", nil), Rang)
	b.expect(b.responds(200, "p", describe(sdp.SendRecv)), Accepted, core.ACK)
	b.expect(b.responds(200, "p", describe(sdp.SendRecv)), Nothing, core.ACK)
	b.expect(b.responds(200, "q", describe(sdp.SendRecv)), Nothing, core.ACK, core.BYE)
	if b.leg.State != Confirmed {
		t.Fatalf("state %s", b.leg.State)
	}
}

// s.9.1: no CANCEL before a provisional response; a 2xx that crossed it is acknowledged
// and left.
func TestSection9_1(t *testing.T) {
	b := called(t)
	b.expect(b.step(func(e *Env) Report { b.leg.HangUp(e, 487, 16); return Nothing }), Nothing)
	b.expect(b.responds(100, "", nil), Nothing, core.CANCEL)
	b.expect(b.responds(200, "p", describe(sdp.SendRecv)), Nothing, core.ACK, core.BYE)
	if b.leg.State != Leaving {
		t.Fatalf("state %s", b.leg.State)
	}
}

// An INVITE that never left is taken back without a word.
func TestWithdrawnInvite(t *testing.T) {
	b := called(t)
	b.held = true
	b.expect(b.step(func(e *Env) Report { b.leg.HangUp(e, 487, 16); return Nothing }), Nothing)
	if b.leg.State != Gone {
		t.Fatalf("state %s", b.leg.State)
	}
}

// s.8.1.3.1: a timeout counts as 408, a transport error as 503.
func TestSection8_1_3_1(t *testing.T) {
	for cause, status := range map[core.FailCause]int{core.TimedOut: 408, core.Undelivered: 503} {
		b := called(t)
		b.expect(b.step(func(e *Env) Report { return b.leg.Failed(e, b.leg.Txn, cause) }), Refused)
		if b.leg.Status != status {
			t.Errorf("%s: status %d", cause, b.leg.Status)
		}
	}
}

// s.12.2.1.2: 481 to a request in the dialog ends it; any other answer proves life.
// livekit/sip#812: silence alone ends nothing.
func TestKeepalive(t *testing.T) {
	b := confirmed(t)
	b.expect(b.step(func(e *Env) Report { return b.leg.Quiet(e) }), Nothing, core.OPTIONS)
	answer := func(status int) Report {
		return b.step(func(e *Env) Report {
			return b.leg.Response(e, b.leg.keepalive.txn, &core.Response{Method: core.OPTIONS, Status: status}, far)
		})
	}
	b.expect(answer(405), Nothing)
	for range 10 { // muted for long, but there
		b.now, _ = b.leg.Deadline()
		b.expect(b.wake(), Nothing, core.OPTIONS)
		b.expect(answer(200), Nothing)
	}
	b.now, _ = b.leg.Deadline()
	b.expect(b.wake(), Nothing, core.OPTIONS)
	b.expect(answer(481), Lost, core.BYE)
}

// A peer that answers nothing is gone after three questions.
func TestKeepaliveUnanswered(t *testing.T) {
	b := confirmed(t)
	b.expect(b.step(func(e *Env) Report { return b.leg.Quiet(e) }), Nothing, core.OPTIONS)
	start := b.now
	for range 2 {
		b.now, _ = b.leg.Deadline()
		b.expect(b.wake(), Nothing, core.OPTIONS)
	}
	b.now, _ = b.leg.Deadline()
	b.expect(b.wake(), Silent, core.BYE)
	if took := b.now.Sub(start); took != 15*time.Second {
		t.Fatalf("took %v", took)
	}
}

// s.14.1: ours goes again after 491, with a number that has not been used.
func TestOursMeets491(t *testing.T) {
	b := confirmed(t)
	b.expect(b.step(func(e *Env) Report { b.leg.Reinvite(e); return Nothing }), Nothing, core.INVITE)
	seq := b.leg.Dialog.LocalSeq
	txn := b.leg.ExchangeTxn
	b.expect(b.step(func(e *Env) Report {
		return b.leg.Response(e, txn, &core.Response{Method: core.INVITE, Status: 491}, far)
	}), Nothing)
	b.now, _ = b.leg.Deadline()
	b.expect(b.wake(), Nothing, core.INVITE)
	if b.leg.Dialog.LocalSeq != seq+1 {
		t.Fatalf("CSeq %d after %d", b.leg.Dialog.LocalSeq, seq)
	}
}

// s.8.2.2.3 and s.8.2.3: what we do not understand is named, not guessed.
func TestScreen(t *testing.T) {
	required := request(core.INVITE, 1, describe(sdp.SendRecv))
	required.Header = []core.Field{{Name: "Require", Value: "100rel"}}
	other := request(core.INVITE, 1, []byte("hello"))
	other.ContentType = "text/plain"
	for name, c := range map[string]struct {
		req    *core.Request
		status int
	}{
		"required extension": {required, 420}, "other body": {other, 415},
		"broken SDP": {request(core.INVITE, 1, []byte("v=0\r\nm=audio")), 400},
		"no body":    {request(core.INVITE, 1, nil), 0}, "fine": {request(core.INVITE, 1, describe(sdp.SendRecv)), 0},
	} {
		if status, _ := Screen(c.req); status != c.status {
			t.Errorf("%s: %d, want %d", name, status, c.status)
		}
	}
}

// Our re-INVITE is a question like any other: a peer that answers neither it nor anything
// else is gone after as long as one that lets our keepalives go unanswered, not after the
// 64*T1 that the transaction would wait.
func TestKeepaliveWhileReinviting(t *testing.T) {
	b := confirmed(t)
	b.expect(b.step(func(e *Env) Report { b.leg.Reinvite(e); return Nothing }), Nothing, core.INVITE)
	b.expect(b.step(func(e *Env) Report { return b.leg.Quiet(e) }), Nothing)
	start := b.now
	for range 2 {
		b.now, _ = b.leg.Deadline()
		b.expect(b.wake(), Nothing)
	}
	b.now, _ = b.leg.Deadline()
	b.expect(b.wake(), Silent, core.BYE)
	if took := b.now.Sub(start); took != 15*time.Second {
		t.Fatalf("took %v", took)
	}
}

// One that says at least that it works on it is there.
func TestReinviteAnsweredSlowly(t *testing.T) {
	b := confirmed(t)
	b.expect(b.step(func(e *Env) Report { b.leg.Reinvite(e); return Nothing }), Nothing, core.INVITE)
	b.expect(b.step(func(e *Env) Report { return b.leg.Quiet(e) }), Nothing)
	for range 6 {
		b.now, _ = b.leg.Deadline()
		b.expect(b.wake(), Nothing)
		b.expect(b.step(func(e *Env) Report {
			return b.leg.Response(e, b.leg.ExchangeTxn, &core.Response{Method: core.INVITE, Status: 183}, far)
		}), Nothing)
	}
}

// The tag of a phone that is no longer wanted is kept: if our process dies between the ACK
// and the BYE of a 200 that crossed the CANCEL, the next one knows what to leave.
func TestUnwantedIsLeftAfterRestart(t *testing.T) {
	b := called(t)
	b.expect(b.step(func(e *Env) Report { b.leg.HangUp(e, 487, 16); return Nothing }), Nothing)
	rings := &core.Response{Method: core.INVITE, Status: 180, Message: core.Message{CSeq: b.leg.Invite.CSeq,
		From: b.leg.Invite.From, To: b.leg.Invite.To.WithTag("phone"), Contact: []core.Address{{URI: uri("a", "192.0.2.7")}}}}
	b.expect(b.step(func(e *Env) Report { return b.leg.Response(e, b.leg.Txn, rings, far) }), Nothing, core.CANCEL)
	b.expect(b.step(func(e *Env) Report { b.leg.Recover(e, time.Second); return Nothing }), Nothing, core.CANCEL, core.BYE)
	if tag := b.leg.Dialog.Remote.Tag(); tag != "phone" {
		t.Fatalf("tag %q", tag)
	}
}
