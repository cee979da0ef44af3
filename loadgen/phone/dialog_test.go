package phone

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answeredBy has a peer call a phone and the phone answer; it returns the call, the 200,
// and the tag of the phone.
func answeredBy(t *testing.T, p *peer, bob *Phone, body string, ackBody string, extra ...string) (in *Call, answer string) {
	t.Helper()
	from, to := "Peer <sip:peer@example.com>;tag=1", "<sip:bob@example.com>"
	uri := "sip:bob@" + bob.Addr().String()
	p.request(bob.Addr(), "INVITE", uri, "call-1", from, to, 1, cookie+"1", body, extra...)
	p.expect("SIP/2.0 180")
	in = incoming(t, bob)
	up := make(chan error, 1)
	go func() { up <- in.Answer(within(t)) }()
	answer = p.expect("SIP/2.0 200")
	p.request(bob.Addr(), "ACK", uri, "call-1", from, header(answer, "To"), 1, cookie+"2", ackBody)
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	return in, answer
}

func inDialog(p *peer, bob *Phone, answer, method string, seq int, body string, extra ...string) {
	p.t.Helper()
	p.request(bob.Addr(), method, "sip:bob@"+bob.Addr().String(), "call-1", header(answer, "From"), header(answer, "To"), seq, cookie+token(), body, extra...)
}

func slowEndpoint(t *testing.T, p *peer) *Endpoint {
	return listen(t, p.at, func(c *EndpointConfig) { c.T1 = 2 * time.Second })
}

// What the caller says of itself reaches the callee, Record-Route comes back as it was (RFC
// 3261 s.12.1.1), Via gets received (s.18.2.1), and a BYE follows the route set.
func TestIncomingCall(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := slowEndpoint(t, p)
	bob := add(t, e, Config{User: "bob"})
	route := "Record-Route: <sip:" + p.at.String() + ";lr;x=\"a,b\">, <sip:192.0.2.7;lr>"
	in, answer := answeredBy(t, p, bob, audioSDP, "", route, `P-Asserted-Identity: "A, B" <sip:+4930@example.com>, <tel:+4930>`, "Remote-Party-ID: <tel:+4931;x=y>;party=calling")
	if got, want := in.Remote(), (Remote{From: "peer", Asserted: "+4930", PartyID: "+4931"}); got != want {
		t.Errorf("remote %+v, want %+v", got, want)
	}
	for i, want := range []string{"peer", "+4930", "+4931"} {
		if got := []Remote{{From: "peer"}, {"peer", "+4930", "+4931"}, {From: "peer", PartyID: "+4931"}}[i].Number(); got != want {
			t.Errorf("number %q, want %q", got, want)
		}
	}
	var routes []string
	for line := range strings.SplitSeq(answer, "\r\n") {
		if r, ok := strings.CutPrefix(line, "Record-Route: "); ok {
			routes = append(routes, r)
		}
	}
	if got := strings.Join(routes, ", "); got != strings.TrimPrefix(route, "Record-Route: ") {
		t.Errorf("Record-Route %s", got)
	}
	go func() { _ = in.HangUp(context.Background()) }()
	bye := p.expect("BYE sip:peer@" + p.at.String())
	if header(bye, "Route") != routes[0] || !strings.Contains(bye, "Route: "+routes[1]) || header(bye, "From") != header(answer, "To") || header(bye, "To") != header(answer, "From") {
		t.Errorf("BYE:\n%s", bye)
	}
	p.reply(bye, "200 OK", "")
	ends(t, in, ByLocal)
}

// The caller's route set is Record-Route in reverse (s.12.1.2), the callee's as it is.
func TestRouteSet(t *testing.T) {
	m := &message{from: "<sip:a@x>;tag=1", to: "<sip:b@y>;tag=2", recordRoute: []string{"<sip:1;lr>", "<sip:2;lr>"}, contacts: []string{"<sip:b@192.0.2.9:5062;x=y>;q=1"}}
	var caller, callee dialog
	caller.asCaller(m)
	callee.asCallee(m, "t")
	if got := strings.Join(caller.routes, " "); got != "<sip:2;lr> <sip:1;lr>" || caller.target != "sip:b@192.0.2.9:5062;x=y" {
		t.Errorf("caller: %s to %s", got, caller.target)
	}
	if got := strings.Join(callee.routes, " "); got != "<sip:1;lr> <sip:2;lr>" {
		t.Errorf("callee: %s", got)
	}
	m.recordRoute = nil
	caller.asCaller(m)
	if at := caller.next().String(); at != "192.0.2.9:5062" {
		t.Errorf("without a route to %s", at)
	}
}

// Where a response goes, and what its Via says (s.18.2.1, s.18.2.2, RFC 3581 s.4).
func TestAnswerTo(t *testing.T) {
	for _, c := range []struct{ via, from, to, stamped string }{
		{"SIP/2.0/UDP 192.0.2.1:5062;branch=b", "192.0.2.1:4000", "192.0.2.1:5062", "SIP/2.0/UDP 192.0.2.1:5062;branch=b"},
		{"SIP/2.0/UDP 192.0.2.1;branch=b", "192.0.2.7:4000", "192.0.2.7:5060", "SIP/2.0/UDP 192.0.2.1;branch=b;received=192.0.2.7"},
		{"SIP/2.0/UDP h.example.com:5062;rport;branch=b, SIP/2.0/UDP x", "192.0.2.7:4000", "192.0.2.7:4000",
			"SIP/2.0/UDP h.example.com:5062;rport=4000;branch=b;received=192.0.2.7, SIP/2.0/UDP x"},
		{"SIP/2.0/UDP [2001:db8::1];rport;received=1.2.3.4;branch=b", "192.0.2.7:4000", "192.0.2.7:4000", "SIP/2.0/UDP [2001:db8::1];rport=4000;branch=b;received=192.0.2.7"},
	} {
		m := &message{method: "BYE", vias: []string{c.via}, from: "a", to: "b", callID: "c", back: way{addr: netip.MustParseAddrPort(c.from)}}
		if err := m.complete(); err != nil {
			t.Fatal(err)
		}
		if got := m.answerTo().addr.String(); got != c.to || m.via.branch != "b" {
			t.Errorf("%s: to %s, want %s", c.via, got, c.to)
		}
		if got := stamped(c.via, m); got != c.stamped {
			t.Errorf("%s: %s, want %s", c.via, got, c.stamped)
		}
	}
}

// The time of a message is that of its arrival in the kernel, not of its reading.
func TestTimeOfArrival(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := slowEndpoint(t, p)
	bob := add(t, e, Config{User: "bob"})
	const held = 300 * time.Millisecond
	e.mu.Lock() // the reader waits with the first one in its hands, the second stays in the kernel
	for i := range 2 {
		p.request(e.Addr(), "INVITE", "sip:bob@x", "id"+strconv.Itoa(i), "<sip:a@b>;tag=1", "<sip:bob@x>", 1, cookie+strconv.Itoa(i), audioSDP)
	}
	sent := time.Now()
	time.Sleep(held) // what is measured, not awaited
	e.mu.Unlock()
	incoming(t, bob)
	if late := incoming(t, bob).Times().Invited.Sub(sent); late > held/2 {
		t.Errorf("stamped %s after it was sent", late)
	}
	if lag := e.Stats().Lag; lag < held/2 {
		t.Errorf("lag %s", lag)
	}
}

// A strict router gets the request itself, the target comes last in Route (s.12.2.1.1).
func TestStrictRoute(t *testing.T) {
	d := dialog{target: "sip:peer@192.0.2.9", routes: []string{"<sip:192.0.2.1:5070>", "<sip:192.0.2.2;lr>"}}
	r := d.request("BYE")
	if r.uri != "sip:192.0.2.1:5070" || strings.Join(r.routes, " ") != "<sip:192.0.2.2;lr> <sip:peer@192.0.2.9>" || d.next().String() != "192.0.2.1:5070" {
		t.Errorf("%s %v to %s", r.uri, r.routes, d.next())
	}
}

// A server holds, resumes and moves the audio by re-INVITE; directions are mirrored (RFC
// 3264 s.6.1), also without an SDP in the request (s.14.2: the ACK has the answer).
func TestReinvited(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := slowEndpoint(t, p)
	bob := add(t, e, Config{User: "bob"})
	in, answer := answeredBy(t, p, bob, "", audioSDP) // late offer already in the first
	if !strings.Contains(answer, "a=sendrecv") {
		t.Errorf("our offer:\n%s", answer)
	}
	seq := 1
	said := func(offer string) string {
		t.Helper()
		seq++
		inDialog(p, bob, answer, "INVITE", seq, offer)
		m := p.expect("SIP/2.0 ")
		if strings.HasPrefix(m, "SIP/2.0 200") {
			inDialog(p, bob, answer, "ACK", seq, "")
		} else {
			return m[8:11]
		}
		i := strings.LastIndex(m, "\r\na=")
		return strings.TrimSpace(m[i+4:])
	}
	wants := func() sound { e.mu.Lock(); defer e.mu.Unlock(); return in.want }
	for _, c := range []struct {
		offer, answer string
		silent        bool
	}{{"sendonly", "recvonly", true}, {"recvonly", "sendonly", false}, {"inactive", "inactive", true}, {"sendrecv", "sendrecv", false}} {
		if got := said(audioSDP + "a=" + c.offer + "\r\n"); got != c.answer {
			t.Errorf("%s was answered with %s", c.offer, got)
		}
		if got := wants(); got.silent != c.silent {
			t.Errorf("%s: silent %t", c.offer, got.silent)
		}
	}
	if said(strings.Replace(audioSDP, "m=audio 9", "m=audio 19", 1)); wants().to.Port() != 19 {
		t.Errorf("audio goes to %s", wants().to)
	}
	if said(strings.Replace(audioSDP, "c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0", 1)); !wants().silent {
		t.Error("0.0.0.0 is no hold")
	}
	if got := said("v=0\r\n"); got != "488" {
		t.Errorf("a broken offer: %s", got)
	}
	p.expect("SIP/2.0 488") // until its ACK, which nobody sends here
	inDialog(p, bob, answer, "OPTIONS", 99, "")
	p.expect("SIP/2.0 200", "SIP/2.0 488")
	inDialog(p, bob, answer, "UPDATE", 100, "")
	p.expect("SIP/2.0 405", "SIP/2.0 488")
	inDialog(p, bob, answer, "INFO", 50, "") // s.12.2.2: older than what came
	p.expect("SIP/2.0 500", "SIP/2.0 488")
	inDialog(p, bob, answer, "BYE", 101, "")
	p.expect("SIP/2.0 200", "SIP/2.0 488")
	ends(t, in, ByRemote)
	inDialog(p, bob, answer, "OPTIONS", 102, "")
	p.expect("SIP/2.0 481", "SIP/2.0 488")
}

// What is no call: OPTIONS is answered, what is unknown is refused, an extension that is
// required is named (s.8.2.2.3), a retransmission is answered as before.
func TestOutOfDialog(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := slowEndpoint(t, p)
	bob := add(t, e, Config{User: "bob", Quiet: true})
	for method, want := range map[string]string{"OPTIONS": "200", "MESSAGE": "405", "NOTIFY": "481", "BYE": "481"} {
		branch := cookie + method
		p.request(e.Addr(), method, "sip:bob@x", "id", "<sip:a@b>;tag=1", "<sip:bob@x>", 1, branch, "")
		m := p.expect("SIP/2.0 " + want)
		p.request(e.Addr(), method, "sip:bob@x", "id", "<sip:a@b>;tag=1", "<sip:bob@x>", 1, branch, "")
		if again := p.expect("SIP/2.0 " + want); again != m {
			t.Errorf("%s, repeated:\n%s", method, again)
		}
	}
	p.request(e.Addr(), "INVITE", "sip:bob@x", "id", "<sip:a@b>;tag=1", "<sip:bob@x>", 1, cookie+"100rel", audioSDP, "Require: 100rel")
	if m := p.expect("SIP/2.0 420"); header(m, "Unsupported") != "100rel" {
		t.Errorf("420:\n%s", m)
	}
	p.request(e.Addr(), "INVITE", "sip:bob@x", "quiet", "<sip:a@b>;tag=1", "<sip:bob@x>", 1, cookie+"quiet", audioSDP)
	p.expect("SIP/2.0 100", "SIP/2.0 420")
	in := incoming(t, bob)
	if at := in.Times(); !at.Ringing.IsZero() {
		t.Errorf("a quiet phone rang at %s", at.Ringing)
	}
	if err := in.Ring(); err != nil {
		t.Fatal(err)
	}
	p.expect("SIP/2.0 180", "SIP/2.0 420")
	closed(t, "ringing", in.WhenRinging())
	go func() { _ = in.HangUp(context.Background()) }()
	p.expect("SIP/2.0 603", "SIP/2.0 420")
	ends(t, in, Rejected)
	if in.Ring() == nil {
		t.Error("rang when over")
	}
}

// A blind transfer (RFC 3515): the final status of the NOTIFY comes back; 202 alone is not
// an outcome; a refusal and a hang-up before the news are errors.
func TestTransfer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, answer string
		news         []string
		bye          bool
		status       int
		fails        bool
	}{
		{"succeeds", "202 Accepted", []string{"SIP/2.0 100 Trying\r\n", "SIP/2.0 180 Ringing\r\n", "SIP/2.0 200 OK\r\n"}, false, 200, false},
		{"fails", "202 Accepted", []string{"SIP/2.0 486 Busy Here"}, false, 486, false},
		{"is refused", "603 Decline", nil, false, 0, true},
		{"is never told", "202 Accepted", []string{"SIP/2.0 100 Trying"}, true, 0, true},
		{"is told by garbage", "202 Accepted", []string{"", "SIP/2.0", "SIP/2.0 9", "HTTP/1.1 200 OK"}, true, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t)
			bob := add(t, slowEndpoint(t, p), Config{User: "bob", Domain: "example.com"})
			in, answer := answeredBy(t, p, bob, audioSDP, "")
			type outcome struct {
				status int
				err    error
			}
			result := make(chan outcome, 1)
			go func() {
				status, err := in.Transfer(within(t), "sip:carol@example.com;x=y")
				result <- outcome{status, err}
			}()
			m := p.expect("REFER sip:peer@")
			if header(m, "Refer-To") != "<sip:carol@example.com;x=y>" || header(m, "Referred-By") != "<sip:bob@example.com>" {
				t.Errorf("REFER:\n%s", m)
			}
			p.reply(m, c.answer, "", p.contact())
			for i, line := range c.news {
				inDialog(p, bob, answer, "NOTIFY", i+2, line, "Event: refer;id=1", "Subscription-State: active")
				p.expect("SIP/2.0 200")
			}
			inDialog(p, bob, answer, "NOTIFY", 20, "", "Event: presence")
			p.expect("SIP/2.0 489")
			if c.bye {
				inDialog(p, bob, answer, "BYE", 21, "")
				p.expect("SIP/2.0 200")
			}
			if got := <-result; got.status != c.status || (got.err != nil) != c.fails {
				t.Errorf("%d, %v", got.status, got.err)
			}
		})
	}
}

// A 200 without audio that can be used is acknowledged and hung up.
func TestAnswerWithoutAudio(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	out := dial(t, add(t, slowEndpoint(t, p), Config{User: "alice"}), "sip:5000@"+p.at.String())
	m := p.expect("INVITE")
	p.reply(m, "200 OK", strings.Replace(audioSDP, "m=audio 9", "m=audio 0", 1), p.contact())
	p.expect("ACK")
	bye := p.expect("BYE")
	p.reply(bye, "200 OK", "")
	ends(t, out, Failed)
	if out.Err() == nil {
		t.Error("no reason")
	}
}
