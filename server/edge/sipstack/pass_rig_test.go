package sipstack

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Addresses of the tests that need several: nodes of a cluster, and a phone that is none.
func nodeAddr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 6, n}) }

func outsider() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 7, 1}) }

// newNode is a Stack on an address of its own, in a cluster of the nodes 1 to 3.
func newNode(t testing.TB, n byte, change func(*Config)) *rig {
	t.Helper()
	return newRig(t, func(c *Config) {
		c.Listen = []Listen{{Transport: core.UDP, Addr: netip.AddrPortFrom(nodeAddr(n), 0)}, {Transport: core.TCP, Addr: netip.AddrPortFrom(nodeAddr(n), 0)}}
		c.Members = []netip.Addr{nodeAddr(1), nodeAddr(2), nodeAddr(3)}
		if change != nil {
			change(c)
		}
	})
}

// dialFrom connects a phone to a node from an address.
func dialFrom(r *rig, from netip.Addr) *phone {
	r.t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}}
	conn, err := dialer.Dial("tcp4", r.Addr(core.TCP).String())
	if err != nil {
		r.t.Fatal(err)
	}
	return phoneOn(r, conn)
}

func phoneOn(r *rig, conn net.Conn) *phone {
	p := &phone{t: r.t, tcp: conn, server: r.Addr(core.TCP), frames: framer{limit: 1 << 16}}
	r.t.Cleanup(p.close)
	p.name = fmt.Sprintf("%s-%d", strings.ReplaceAll(p.local().String(), ":", "."), r.phones.Add(1))
	return p
}

// registered returns a phone that is connected to a node, and the token URI that the node's
// core was given with its REGISTER.
func registered(r *rig) (*phone, core.URI) {
	r.t.Helper()
	p := dialFrom(r, outsider())
	return p, register(r, p)
}

func register(r *rig, p *phone) core.URI {
	r.t.Helper()
	p.send(p.request("REGISTER", fmt.Sprint("reg", p.cseq), ""))
	e := want[core.RequestReceived](r)
	u, err := core.ParseURI(e.From.Token)
	if err != nil || e.Request.Method != core.REGISTER {
		r.t.Fatalf("token %q: %v", e.From.Token, err)
	}
	r.reply(e, 200)
	p.expect("SIP/2.0 200")
	return u
}

// uri is where a node's Contact points over TCP.
func (r *rig) uri() core.URI {
	a := r.Addr(core.TCP)
	return core.URI{Scheme: "sip", User: "dialtone", Host: a.Addr().String(), Port: a.Port(), Params: ";transport=tcp"}
}

// towards is a request of a node's core to a phone by its token.
func (r *rig) towards(token core.URI, method, callID, branch string, cseq uint32) core.SendRequest {
	q := &core.Request{Method: method, URI: core.URI{Scheme: "sip", User: "1001", Host: "192.0.2.7", Port: 5060, Params: ";transport=tcp"},
		Message: core.Message{
			From: core.Address{URI: core.URI{Scheme: "sip", User: "5000", Host: "example.com"}, Params: ";tag=ours"},
			To:   core.Address{URI: core.URI{Scheme: "sip", User: "1001", Host: "example.com"}}, CallID: callID, CSeq: cseq,
			Contact: []core.Address{{URI: r.uri()}}, Route: []core.Address{{URI: token}},
		}}
	return core.SendRequest{Txn: core.TxnID(cookie + branch), To: core.Target{Transport: core.TCP, Host: token.Host, Port: token.Port}, Request: q}
}

// within sets the phone's tag: the request is inside the dialog.
func within(e core.SendRequest) core.SendRequest {
	e.Request.To = e.Request.To.WithTag("theirs")
	return e
}

// from is a request of a phone in its dialog with a node, by the route that it was given.
func (p *phone) from(method, uri, route, callID, branch string, cseq int, more string) string {
	if route != "" {
		route = "Route: " + route + "\r\n"
	}
	return fmt.Sprintf("%s %s SIP/2.0\r\nVia: %s;rport\r\n%sMax-Forwards: 70\r\nFrom: <sip:1001@example.com>;tag=theirs\r\n"+
		"To: <sip:5000@example.com>;tag=ours\r\nCall-ID: %s\r\nCSeq: %d %s\r\n%sContent-Length: 0\r\n\r\n",
		method, uri, p.via(branch), route, callID, cseq, method, more)
}

// all returns every value of a header field, in order.
func all(text, name string) (values []string) {
	head, _, _ := strings.Cut(text, "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			values = append(values, v)
		}
	}
	return values
}

// hears checks that nothing came for a phone until now: a request by its token is the next.
func (r *rig) hears(p *phone, token core.URI, mark string) {
	r.t.Helper()
	r.Do(r.towards(token, core.OPTIONS, mark, mark, 1))
	text := p.expect("OPTIONS")
	if callIDOf(text) != mark {
		r.t.Fatalf("the phone got\n%s", text)
	}
	p.send(answer(text, "200 OK", ""))
	if e := want[core.ResponseReceived](r); e.Response.CallID != mark || e.Response.Status != 200 {
		r.t.Fatalf("event %+v", e)
	}
}

// nothing checks that a node's core heard nothing until now.
func (r *rig) nothing() {
	r.t.Helper()
	r.quiet(newPhoneAt(r))
}

func newPhoneAt(r *rig) *phone { return newPhoneFrom(r, outsider()) }

// newPhoneFrom is a phone with a datagram socket on an address.
func newPhoneFrom(r *rig, from netip.Addr) *phone {
	r.t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
	if err != nil {
		r.t.Fatal(err)
	}
	p := &phone{t: r.t, udp: conn, server: r.Addr(core.UDP)}
	r.t.Cleanup(p.close)
	p.name = fmt.Sprintf("%s-%d", strings.ReplaceAll(p.local().String(), ":", "."), r.phones.Add(1))
	return p
}
