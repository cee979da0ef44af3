package sipstack

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

// through checks what the node that holds the phone's connection made of a request.
func through(t *testing.T, b *rig, text string) {
	t.Helper()
	vias := all(text, "Via")
	if len(vias) != 2 || !strings.HasPrefix(vias[0], fmt.Sprintf("SIP/2.0/TCP %s;branch=%s", b.Addr(core.TCP), passedCookie)) {
		t.Errorf("Via %q", vias)
	}
	if route, forwards := all(text, "Route"), all(text, "Max-Forwards"); len(route) != 0 || !slices.Equal(forwards, []string{"69"}) {
		t.Errorf("Route %q, Max-Forwards %q", route, forwards)
	}
}

// got checks that an event of a node's core is a response, and returns it.
func (r *rig) got(status int) core.ResponseReceived {
	r.t.Helper()
	e := want[core.ResponseReceived](r)
	if e.Response.Status != status || len(e.Response.Via) != 1 {
		r.t.Fatalf("event %+v", e.Response)
	}
	return e
}

// A whole call between node A, which anchors it, and a phone that is connected to node B: as
// RFC 5626 s.5.3 has it. B's core hears of the REGISTER alone.
func TestCallThroughAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	record := "<" + token.String() + ">"

	a.Do(a.towards(token, core.INVITE, "c", "inv", 1))
	invite := p.expect("INVITE sip:1001@192.0.2.7:5060;transport=tcp SIP/2.0")
	through(t, b, invite)
	if got := all(invite, "Record-Route"); !slices.Equal(got, []string{record}) {
		t.Errorf("Record-Route %q, want %s", got, record)
	}
	contact := "Record-Route: " + record + "\r\nContact: <sip:1001@192.0.2.7:5060;transport=tcp>\r\n"
	p.send(answer(invite, "180 Ringing", contact))
	a.got(180)
	p.send(answer(invite, "200 OK", contact))
	if e := a.got(200); e.Txn != cookie+"inv" || len(e.Response.RecordRoute) != 1 || e.Response.RecordRoute[0].URI != token {
		t.Fatalf("event %+v", e.Response)
	}
	a.Do(within(a.towards(token, core.ACK, "c", "ack", 1)))
	through(t, b, p.expect("ACK"))

	a.Do(within(a.towards(token, core.INVITE, "c", "re", 2))) // a re-INVITE of the anchor
	again := p.expect("INVITE")
	through(t, b, again)
	p.send(answer(again, "200 OK", contact))
	a.got(200)
	a.Do(within(a.towards(token, core.ACK, "c", "ack2", 2)))
	through(t, b, p.expect("ACK"))

	uri := a.uri() // a re-INVITE of the phone
	p.send(p.from("INVITE", uri.String(), record, "c", "theirs", 1, ""))
	e := want[core.RequestReceived](a)
	if e.Request.Method != core.INVITE || len(e.Request.Via) != 2 || len(e.Request.Route) != 0 || e.Request.URI != uri || e.From.Addr.Addr() != nodeAddr(2) {
		t.Fatalf("event %+v %+v", e.From, e.Request)
	}
	a.reply(e, 200)
	if ok := p.expect("SIP/2.0 200"); len(all(ok, "Via")) != 1 || !strings.Contains(field1(ok, "Via"), "rport="+fmt.Sprint(p.local().Port())) {
		t.Errorf("response\n%s", ok)
	}
	p.send(p.from("ACK", uri.String(), record, "c", "theirack", 1, ""))
	if e := want[core.RequestReceived](a); e.Request.Method != core.ACK || e.Txn != "" {
		t.Fatalf("event %+v", e)
	}

	p.send(p.from("BYE", uri.String(), record, "c", "bye", 2, ""))
	bye := want[core.RequestReceived](a)
	a.reply(bye, 200)
	p.expect("SIP/2.0 200")
	b.nothing()
	a.hears(p, token, "end")
	if g := b.Gauges(); g.ServerInvite+g.ClientInvite+g.ClientOther != 0 || g.Passed != 14 {
		t.Errorf("node B keeps something: %+v", g)
	}
}

// RFC 3261 s.16.11: a CANCEL and the ACK to a refusal have the branch of their INVITE at the
// phone too, also when a refused re-INVITE is the phone's own.
func TestCancelThroughAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	a.Do(a.towards(token, core.INVITE, "c", "inv", 1))
	invite := p.expect("INVITE")
	p.send(answer(invite, "180 Ringing", ""))
	a.got(180)
	a.Do(a.towards(token, core.CANCEL, "c", "inv", 1))
	cancel := p.expect("CANCEL")
	if !slices.Equal(all(cancel, "Via"), all(invite, "Via")) || len(all(cancel, "Record-Route")) != 0 {
		t.Errorf("CANCEL\n%sof\n%s", cancel, invite)
	}
	p.send(answer(cancel, "200 OK", ""))
	if e := a.got(200); e.Txn != cookie+"inv/CANCEL" {
		t.Errorf("event %+v", e)
	}
	p.send(answer(invite, "487 Request Terminated", ""))
	if e := a.got(487); e.Txn != cookie+"inv" {
		t.Errorf("event %+v", e)
	}
	if ack := p.expect("ACK"); all(ack, "Via")[0] != all(invite, "Via")[0] {
		t.Errorf("ACK\n%s", ack)
	}

	uri, record := a.uri().String(), "<"+token.String()+">"
	p.send(p.from("INVITE", uri, record, "c", "re", 7, ""))
	e := want[core.RequestReceived](a)
	a.reply(e, 491)
	p.expect("SIP/2.0 491")
	p.send(p.from("ACK", uri, record, "c", "re", 7, ""))
	eventually(t, "the refusal is acknowledged", func() bool { return a.Gauges().ServerInvite == 0 })
	p.send(p.from("INVITE", uri, record, "c", "re2", 8, ""))
	e = want[core.RequestReceived](a)
	p.send(p.from("CANCEL", uri, record, "c", "re2", 8, ""))
	if c := want[core.RequestReceived](a); c.Request.Method != core.CANCEL || c.Cancels != e.Txn {
		t.Errorf("event %+v, cancels %q, want %q", c.Request, c.Cancels, e.Txn)
	}
	a.hears(p, token, "end")
}

// A phone's large INVITE with a body in pieces, many messages in one write, both ways.
func TestManyMessagesThroughAnotherNode(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	a.hears(p, token, "connected") // what waits for the connection has no order
	const n = 200
	for i := range n {
		q := a.towards(token, core.MESSAGE, fmt.Sprint("m", i), fmt.Sprint("m", i), 1)
		q.Request.ContentType, q.Request.Body = "text/plain", []byte(strings.Repeat(fmt.Sprint(i%10), 20*(i%40)))
		a.Do(q)
	}
	for i := range n {
		text := p.expect("MESSAGE")
		_, body, _ := strings.Cut(text, "\r\n\r\n")
		if callIDOf(text) != fmt.Sprint("m", i) || body != strings.Repeat(fmt.Sprint(i%10), 20*(i%40)) {
			t.Fatalf("number %d is\n%s", i, text)
		}
		p.send(answer(text, "200 OK", ""))
	}
	for i := range n {
		if e := a.got(200); e.Response.CallID != fmt.Sprint("m", i) {
			t.Fatalf("response %d is of %s", i, e.Response.CallID)
		}
	}
}

// When the connection between the nodes ends, the answer to what came over it goes to where
// the other node listens (RFC 3261 s.18.2.2). Its transaction is over by then; a 2xx to INVITE
// is the core's all the same.
func TestAnswerAfterTheConnectionBetweenNodesEnded(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	a.Do(a.towards(token, core.INVITE, "c", "inv", 1))
	invite := p.expect("INVITE")
	for _, f := range a.flows.all() {
		f.close()
	}
	closed := 0
	for range 2 {
		switch e := (<-a.events).(type) {
		case core.TransactionFailed:
			if e.Txn != cookie+"inv" || e.Cause != core.Undelivered {
				t.Errorf("event %+v", e)
			}
		case core.FlowClosed:
			closed++
		}
	}
	eventually(t, "node B has noticed", func() bool { return b.Gauges().Flows == 1 })
	want[core.FlowClosed](b)
	p.send(answer(invite, "200 OK", ""))
	if e := a.got(200); e.Txn != cookie+"inv" || closed != 1 {
		t.Errorf("event %+v, %d connections ended", e, closed)
	}
}
