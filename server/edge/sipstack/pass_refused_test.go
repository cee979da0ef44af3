package sipstack

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// incoming is a request by a token, in bytes, as somebody sends it over a connection.
func (p *phone) incoming(method string, token core.URI, callID, more string) string {
	return fmt.Sprintf("%s sip:1001@192.0.2.7 SIP/2.0\r\nVia: %s\r\nRoute: <%s>\r\nFrom: <sip:5000@example.com>;tag=ours\r\n"+
		"To: <sip:1001@example.com>\r\nCall-ID: %s\r\nCSeq: 1 %s\r\n%sContent-Length: 0\r\n\r\n", method, p.via(callID), token, callID, method, more)
}

// Who may reach a phone by a token, and with which: everybody else is refused, and the phone
// hears nothing of it.
func TestTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	before := newNode(t, 2, nil) // another process at the same address, as after a restart
	_, foreign := registered(before)
	foreign.Port = token.Port

	forged := func(i int) core.URI {
		u, other := token, byte('A')
		if u.User[i] == other {
			other = 'B'
		}
		u.User = u.User[:i] + string(other) + u.User[i+1:]
		return u
	}
	gone, old := registered(b)
	gone.close()
	want[core.FlowClosed](b)

	member, stranger := dialFrom(b, nodeAddr(3)), dialFrom(b, outsider())
	for name, c := range map[string]struct {
		from   *phone
		token  core.URI
		status string
	}{
		"stranger, right token":                {stranger, token, "403 Forbidden"},
		"stranger, wrong token":                {stranger, forged(20), "403 Forbidden"},
		"stranger, connection gone":            {stranger, old, "430 Flow Failed"},
		"member, token of the process before":  {member, foreign, "430 Flow Failed"},
		"member, connection gone":              {member, old, "430 Flow Failed"},
		"member, another number":               {member, forged(5), "430 Flow Failed"},
		"member, another MAC":                  {member, forged(8), "430 Flow Failed"},
		"member, the last letter":              {member, forged(23), "430 Flow Failed"},
		"another phone, as if it were inbound": {dialFrom(b, outsider()), token, "403 Forbidden"},
	} {
		callID := strings.NewReplacer(" ", "-", ",", "").Replace(name)
		c.from.send(c.from.incoming("INVITE", c.token, callID, ""))
		text := c.from.expect("SIP/2.0 " + c.status)
		if callIDOf(text) != callID || !strings.Contains(field1(text, "To"), ";tag="+statelessTag) || len(all(text, "Record-Route")) != 0 {
			t.Errorf("%s:\n%s", name, text)
		}
		ack := strings.ReplaceAll(c.from.incoming("INVITE", c.token, callID, ""), "INVITE", "ACK")
		c.from.send(strings.Replace(ack, "To: <sip:1001@example.com>", "To: "+field1(text, "To"), 1))
	}
	for _, by := range []netip.Addr{outsider(), nodeAddr(3)} { // over UDP: a member is told, a stranger not
		q := newPhoneFrom(b, by)
		q.send(q.incoming("INVITE", token, "datagram", ""))
		if by == nodeAddr(3) {
			q.expect("SIP/2.0 403")
		} else if text := q.recv(100 * time.Millisecond); text != "" {
			t.Errorf("a stranger's datagram is answered:\n%s", text)
		}
	}
	a.hears(p, token, "end")
	b.nothing()
	if g := b.Gauges(); g.PassRefused != 11 {
		t.Errorf("%d requests were refused, want 11", g.PassRefused)
	}
}

// A user part that is no token, or another host: the Route is not for this machinery and the
// request is the core's, as it was without a cluster.
func TestRoutesThatNameNoConnection(t *testing.T) {
	t.Parallel()
	b := newNode(t, 2, nil)
	p, token := registered(b)
	short, elsewhere, nobody := token, token, token
	short.User = short.User[1:]
	elsewhere.Host = "192.0.2.1"
	nobody.User = ""
	for i, u := range []core.URI{short, elsewhere, nobody} {
		p.send(p.incoming("OPTIONS", u, fmt.Sprint("c", i), ""))
		if e := want[core.RequestReceived](b); e.Request.CallID != fmt.Sprint("c", i) || len(e.Request.Route) != 1 || e.From.Token != "" {
			t.Errorf("%v: event %+v", u, e)
		}
	}
	// Outside a dialog a phone's request is this node's own, whatever its Route.
	p.send(p.incoming("INVITE", token, "new", ""))
	if e := want[core.RequestReceived](b); e.Request.CallID != "new" {
		t.Errorf("event %+v", e)
	}
}

// The phone connects again: its old token is void, the new one is another.
func TestPhoneReconnects(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, old := registered(b)
	p.close()
	want[core.FlowClosed](b)
	a.Do(a.towards(old, core.INVITE, "c", "one", 1))
	if e := a.got(430); e.Txn != cookie+"one" {
		t.Errorf("event %+v", e)
	}
	q, token := registered(b)
	if token == old {
		t.Fatalf("token %v again", token)
	}
	a.hears(q, token, "new")
	// In the middle of a call the phone's requests still carry the old token.
	q.send(q.from("BYE", a.uri().String(), "<"+old.String()+">", "c", "bye", 2, ""))
	q.expect("SIP/2.0 430")
	a.hears(q, token, "end")
	b.nothing()
}

// What a phone sends through goes to a member, in a dialog, by one hop; nowhere else.
func TestNeverAnOpenRelay(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	q, others := registered(b)
	_, distant := registered(a)
	route, uri := "<"+token.String()+">", a.uri().String()
	victim := newPhoneAt(a) // somebody with a socket who is no member
	for name, c := range map[string]struct{ text, status string }{
		"no member":            {p.from("BYE", "sip:x@"+victim.local().String(), route, "c", "1", 2, ""), "403"},
		"a name":               {p.from("BYE", "sip:x@localhost", route, "c", "2", 2, ""), "403"},
		"no member by Route":   {p.from("BYE", uri, route+", <sip:"+victim.local().String()+";lr>", "c", "3", 2, ""), "403"},
		"another's token":      {p.from("BYE", uri, route+", <"+others.String()+">", "c", "4", 2, ""), "403"},
		"two, apart":           {p.from("BYE", uri, route+"\r\nRoute: <"+others.String()+">", "c", "5", 2, ""), "403"},
		"another's elsewhere":  {p.from("BYE", uri, route+", <"+distant.String()+">", "c", "11", 2, ""), "403"},
		"only another's":       {p.from("BYE", uri, "<"+others.String()+">", "c", "6", 2, ""), "403"},
		"no hops left":         {strings.Replace(p.from("BYE", uri, route, "c", "7", 2, ""), "Forwards: 70", "Forwards: 0", 1), "483"},
		"seen before":          {p.from("BYE", uri, route, "c", "8", 2, "Via: "+writeVia(core.TCP, b.Addr(core.TCP), passedCookie+"x")+"\r\n"), "482"},
		"a line feed":          {strings.Replace(p.from("BYE", uri, route, "c", "9", 2, ""), "Max-Forwards", "\nMax-Forwards", 1), "400"},
		"folded before fields": {strings.Replace(p.from("BYE", uri, route, "c", "10", 2, ""), "\r\nVia", "\r\n Via", 1), "400"},
	} {
		p.send(c.text)
		if text := p.recv(patience); !strings.HasPrefix(text, "SIP/2.0 "+c.status) {
			t.Errorf("%s: got\n%s", name, text)
		}
	}
	if text := victim.recv(50 * time.Millisecond); text != "" {
		t.Errorf("passed on:\n%s", text)
	}
	a.hears(q, others, "end")
	b.nothing()
}

// Responses go back only to requests that came through, and only by what this node sealed.
func TestResponsesThatAreNotPassedBack(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	a.Do(a.towards(token, core.INVITE, "c", "inv", 1))
	invite := p.expect("INVITE")
	a.Do(a.towards(token, core.INVITE, "d", "other", 1))
	other := p.expect("INVITE")
	hop := func(text string) string { _, h, _ := strings.Cut(all(text, "Via")[0], ";i="); return h }
	ok := answer(invite, "200 OK", "")
	for _, text := range []string{
		strings.Replace(ok, hop(invite), hop(other), 1),                                   // that of another transaction
		strings.Replace(ok, hop(invite), strings.Repeat("A", sealText), 1),                // made up
		strings.Replace(ok, ";i="+hop(invite), "", 1),                                     // none
		strings.Replace(ok, passedCookie, passedCookie+"x", 1),                            // another branch
		strings.Replace(ok, "Via: "+all(ok, "Via")[1]+"\r\n", "", 1),                      // nobody to pass it to
		strings.Replace(ok, "TCP "+b.Addr(core.TCP).String(), "TCP 192.0.2.1:5060", 1),    // not our Via
		strings.Replace(ok, hop(invite), b.flows.seals.seal(asToken, 1, passedCookie), 1), // a seal of another kind
	} {
		p.send(text)
	}
	stray := newPhoneAt(b)
	stray.send(ok) // from anybody
	p.send(answer(other, "486 Busy Here", ""))
	if e := a.got(486); e.Response.CallID != "d" {
		t.Fatalf("event %+v", e)
	}
	p.expect("ACK")
	b.nothing()
	if g := b.Gauges(); g.StrayResponses != 8 {
		t.Errorf("%d strays, want 8", g.StrayResponses)
	}
	p.send(ok)
	a.got(200)
}

// One phone that floods is held to MaxPassed a second; another one's requests pass meanwhile.
func TestFloodThroughAnotherNode(t *testing.T) {
	t.Parallel()
	const most = 100
	a, b := newNode(t, 1, nil), newNode(t, 2, func(c *Config) { c.MaxPassed = most })
	p, token := registered(b)
	route, uri := "<"+token.String()+">", a.uri().String()
	start := time.Now()
	const sent = 50 * most
	go func() { // the answers are read below
		for i := range sent {
			if _, err := p.tcp.Write([]byte(p.from("INFO", uri, route, fmt.Sprint("f", i), fmt.Sprint("f", i), 2, ""))); err != nil {
				return
			}
		}
	}()
	refused, last := 0, p.from("INFO", uri, route, "last", "last", 2, "")
	for refused < most/4 {
		if text := p.recv(patience); strings.HasPrefix(text, "SIP/2.0 503") && field1(text, "Retry-After") == "1" {
			refused++
		} else {
			t.Fatalf("got\n%s", text)
		}
	}
	go func() {
		for p.recv(patience) != "" {
		}
	}()
	q, others := registered(b)
	q.send(q.from("BYE", uri, "<"+others.String()+">", "calm", "calm", 2, ""))
	eventually(t, "the flood is over", func() bool { return b.Gauges().RequestsReceived[core.INFO] == sent })
	seconds := int(time.Since(start)/time.Second) + 2
	passed, calm := 0, false
	for deadline := time.After(patience); !calm || len(a.events) > 0; {
		select {
		case e := <-a.events:
			if e := e.(core.RequestReceived); e.Request.CallID == "calm" {
				calm = true
			} else {
				passed++
			}
		case <-deadline:
			t.Fatal("the other phone's request never came")
		}
	}
	if passed == 0 || passed > seconds*most || passed+refused > sent {
		t.Errorf("%d of %d passed in %d s", passed, sent, seconds)
	}
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 10*time.Millisecond))) // the next second is counted anew
	p.send(last)
	if e := want[core.RequestReceived](a); e.Request.CallID != "last" {
		t.Errorf("event %+v", e.Request)
	}
	b.nothing()
}

// A member that comes when strangers hold every connection is let in.
func TestMembersHaveRoom(t *testing.T) {
	t.Parallel()
	a := newNode(t, 1, nil)
	b := newNode(t, 2, func(c *Config) { c.MaxFlows, c.MaxFlowsPerSource = 4, 4 })
	p, token := registered(b)
	for range 3 {
		q := dialFrom(b, outsider())
		q.send(q.request("OPTIONS", "a", ""))
		want[core.RequestReceived](b)
	}
	a.hears(p, token, "in")
}

// What waits for a member may be more than for anybody else: hundreds of calls share the
// connection, and none of them is the one that is slow.
func TestMembersMayBeSlow(t *testing.T) {
	t.Parallel()
	b := newNode(t, 2, nil)
	for from, held := range map[netip.Addr]int{nodeAddr(1): maxUnsentMember, outsider(): maxUnsent} {
		dialFrom(b, from) // and does not read
		var f *flow
		eventually(t, "the connection is there", func() bool {
			for _, f = range b.flows.all() {
				if f.remote.Addr() == from {
					return true
				}
			}
			return false
		})
		written, kernel := 0, 16<<20 // more than its buffers take
		for piece := make([]byte, 1<<16); f.write(piece) == nil && written < held+kernel; written += len(piece) {
		}
		if written < held-1<<16 || written >= held+kernel {
			t.Errorf("%v: closed after %d bytes", from, written)
		}
	}
}

// SetMembers replaces what was told before; this node itself always counts.
func TestSetMembers(t *testing.T) {
	t.Parallel()
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	p, token := registered(b)
	a.hears(p, token, "member")
	b.SetMembers([]netip.Addr{nodeAddr(3)})
	a.Do(a.towards(token, core.OPTIONS, "no-more", "x", 1))
	a.got(403)
	p.send(p.from("BYE", a.uri().String(), "<"+token.String()+">", "c", "y", 2, ""))
	p.expect("SIP/2.0 403")
	b.SetMembers(nil)
	b.Do(b.towards(token, core.OPTIONS, "own", "z", 1))
	p.send(answer(p.expect("OPTIONS"), "200 OK", ""))
	b.got(200)
	b.SetMembers([]netip.Addr{nodeAddr(1)})
	a.hears(p, token, "again")
}
