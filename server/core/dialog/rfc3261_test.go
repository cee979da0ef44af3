package dialog

import (
	"net/netip"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

func address(t *testing.T, uri, params string) core.Address {
	t.Helper()
	u, err := core.ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	return core.Address{URI: u, Params: params}
}

func peer(transport core.Transport, at string) core.Peer {
	return core.Peer{Transport: transport, Addr: netip.MustParseAddrPort(at), Flow: core.FlowID(string(transport) + " " + at)}
}

func invite(t *testing.T) *core.Request {
	return &core.Request{Method: core.INVITE, URI: address(t, "sip:5000@dialtone.example", "").URI, Message: core.Message{
		From: address(t, "sip:alice@example.net", ";tag=a"), To: address(t, "sip:5000@dialtone.example", ""),
		CallID: "c1", CSeq: 314159, Contact: []core.Address{address(t, "sip:alice@192.0.2.7:5062", "")},
		RecordRoute: []core.Address{address(t, "sip:p1.example;lr", ""), address(t, "sip:p2.example;lr", "")},
	}}
}

// RFC 3261 s.12.1.1: the UAS takes the route set in order, the remote target from Contact,
// the remote sequence number from CSeq; its own is empty.
func TestSection12_1_1(t *testing.T) {
	d := Answered(invite(t), "b", peer(core.UDP, "192.0.2.7:5062"))
	if d.Local.Tag() != "b" || d.Remote.Tag() != "a" || d.CallID != "c1" {
		t.Errorf("identity: %+v", d)
	}
	if d.RemoteSeq != 314159 || d.LocalSeq != 0 {
		t.Errorf("sequence numbers: local %d, remote %d", d.LocalSeq, d.RemoteSeq)
	}
	if d.RemoteTarget.Host != "192.0.2.7" || d.RouteSet[0].URI.Host != "p1.example" || d.RouteSet[1].URI.Host != "p2.example" {
		t.Errorf("target %v, routes %v", d.RemoteTarget, d.RouteSet)
	}
}

// s.12.1.2: the UAC takes the route set in reverse order.
func TestSection12_1_2(t *testing.T) {
	req := invite(t)
	resp := req.Reply(200, "b")
	resp.Contact = []core.Address{address(t, "sip:1001@192.0.2.9", "")}
	d := Calling(req).Established(resp, peer(core.UDP, "192.0.2.9:5060"))
	if d.RouteSet[0].URI.Host != "p2.example" || d.RouteSet[1].URI.Host != "p1.example" {
		t.Errorf("routes %v", d.RouteSet)
	}
	if d.Remote.Tag() != "b" || d.RemoteTarget.Host != "192.0.2.9" || d.LocalSeq != 314159 {
		t.Errorf("dialog %+v", d)
	}
}

// s.12.2.1.1: CSeq grows by one with each request but ACK; a loose route leaves the target
// in the Request-URI.
func TestSection12_2_1_1(t *testing.T) {
	d := Answered(invite(t), "b", peer(core.UDP, "192.0.2.7:5062"))
	d.LocalSeq = 7
	bye := d.Request(core.BYE)
	if bye.CSeq != 8 || bye.URI.Host != "192.0.2.7" || len(bye.Route) != 2 || bye.From.Tag() != "b" || bye.To.Tag() != "a" {
		t.Errorf("%+v", bye)
	}
	if ack := d.Ack(8); ack.CSeq != 8 || d.LocalSeq != 8 {
		t.Errorf("ACK %d, local %d", ack.CSeq, d.LocalSeq)
	}
	if to := d.Target(); to.Host != "p1.example" || to.Port != 5060 {
		t.Errorf("goes to %+v, not to the first route", to)
	}
}

// s.12.2.1.1: a strict router becomes the Request-URI, the target goes last.
func TestStrictRoute(t *testing.T) {
	req := invite(t)
	req.RecordRoute = []core.Address{address(t, "sip:strict.example", ""), address(t, "sip:p2.example;lr", "")}
	d := Answered(req, "b", peer(core.UDP, "192.0.2.7:5062"))
	bye := d.Request(core.BYE)
	if bye.URI.Host != "strict.example" || len(bye.Route) != 2 || bye.Route[1].URI.Host != "192.0.2.7" {
		t.Errorf("URI %v, routes %v", bye.URI, bye.Route)
	}
}

// s.12.2.2: a request with a lower CSeq than the last is out of order; a gap is not.
func TestSection12_2_2(t *testing.T) {
	from := peer(core.UDP, "192.0.2.7:5062")
	d := Answered(invite(t), "b", from)
	for _, c := range []struct {
		cseq uint32
		ok   bool
	}{{314160, true}, {314160, false}, {314159, false}, {400000, true}} {
		if got := d.Receive(&core.Request{Message: core.Message{CSeq: c.cseq}}, from); got != c.ok {
			t.Errorf("CSeq %d: %v", c.cseq, got)
		}
	}
}

// RFC 5626 s.5.3 and NAT: over a connection the flow is used; a UDP peer whose Contact
// names another address than it sends from is reached where it sends from.
func TestTarget(t *testing.T) {
	plain := invite(t)
	plain.RecordRoute = nil
	for _, c := range []struct {
		name string
		from core.Peer
		host string
		port uint16
		flow bool
	}{
		{"UDP", peer(core.UDP, "192.0.2.7:5062"), "192.0.2.7", 5062, false},
		{"UDP from another port of the same host", peer(core.UDP, "192.0.2.7:40000"), "192.0.2.7", 5062, false},
		{"UDP behind a NAT", peer(core.UDP, "203.0.113.1:40000"), "203.0.113.1", 40000, false},
		{"TCP", peer(core.TCP, "203.0.113.1:40000"), "192.0.2.7", 5062, true},
	} {
		d := Answered(plain, "b", c.from)
		to := d.Target()
		if to.Host != c.host || to.Port != c.port || (to.Flow != "") != c.flow || to.Transport != c.from.Transport {
			t.Errorf("%s: %+v", c.name, to)
		}
	}
}
