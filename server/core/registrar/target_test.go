package registrar

import (
	"net/netip"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

func peer(transport core.Transport, addr string, flow core.FlowID) core.Peer {
	return core.Peer{Transport: transport, Addr: netip.MustParseAddrPort(addr), Flow: flow}
}

func TestTarget(t *testing.T) {
	udp, tcp := core.UDP, core.TCP
	for _, test := range []struct {
		name, contact string
		from          core.Peer
		want          core.Target
	}{
		{"at home", "<sip:a@192.0.2.10:5070>", peer(udp, "192.0.2.10:5070", "u1"), core.Target{Transport: udp, Host: "192.0.2.10", Port: 5070}},
		{"default port", "<sip:a@192.0.2.10>", peer(udp, "192.0.2.10:5060", ""), core.Target{Transport: udp, Host: "192.0.2.10", Port: 5060}},
		{"mapped source", "<sip:a@192.0.2.10>", peer(udp, "[::ffff:192.0.2.10]:5060", ""), core.Target{Transport: udp, Host: "192.0.2.10", Port: 5060}},
		{"IPv6", "<sip:a@[2001:DB8::1]:5070>", peer(udp, "[2001:db8::1]:5070", ""), core.Target{Transport: udp, Host: "2001:db8::1", Port: 5070}},
		{"behind a NAT", "<sip:a@10.0.0.5:5060>", peer(udp, "203.0.113.9:41234", ""), core.Target{Transport: udp, Host: "203.0.113.9", Port: 41234}},
		{"another port of the same host", "<sip:a@192.0.2.10:5060>", peer(udp, "192.0.2.10:41234", ""), core.Target{Transport: udp, Host: "192.0.2.10", Port: 5060}},
		{"a name", "<sip:a@phone.example:5070>", peer(udp, "203.0.113.9:5060", ""), core.Target{Transport: udp, Host: "phone.example", Port: 5070}},
		{"a name of nobody", "<sip:a@phone.invalid>", peer(udp, "203.0.113.9:5060", ""), core.Target{Transport: udp, Host: "203.0.113.9", Port: 5060}},
		{"TCP wanted, no NAT", "<sip:a@192.0.2.10:5071;transport=TCP>", peer(udp, "192.0.2.10:5060", ""), core.Target{Transport: tcp, Host: "192.0.2.10", Port: 5071}},
		{"TCP wanted, NAT", "<sip:a@10.0.0.5;transport=tcp>", peer(udp, "203.0.113.9:41234", ""), core.Target{Transport: udp, Host: "203.0.113.9", Port: 41234}},
		{"over TCP", "<sip:a@10.0.0.5:5070;transport=tcp>", peer(tcp, "203.0.113.9:41234", "f7"), core.Target{Transport: tcp, Host: "10.0.0.5", Port: 5070, Flow: "f7"}},
		{"over TCP, not said", "<sip:a@10.0.0.5>", peer(tcp, "203.0.113.9:41234", "f7"), core.Target{Transport: tcp, Host: "10.0.0.5", Port: 5060, Flow: "f7"}},
	} {
		b := Binding{Contact: address(test.contact), Peer: test.from}
		if got := b.Target(); got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

// A phone on TCP is gone with its connection; the others stay. OpenSIPS/opensips#3903.
func TestDrop(t *testing.T) {
	s := Set{
		{Contact: address("<sip:a@h>"), Peer: peer(core.TCP, "192.0.2.1:1", "f1")},
		{Contact: address("<sip:b@h>"), Peer: peer(core.TCP, "192.0.2.1:2", "f2")},
		{Contact: address("<sip:c@h>"), Peer: peer(core.UDP, "192.0.2.1:3", "f1")},
		{Contact: address("<sip:d@h>"), Peer: peer(core.TCP, "192.0.2.1:4", "")},
	}
	left, changed := s.Drop("f1")
	if !changed || len(left) != 3 || left[0].Contact.URI.User != "b" || s[0].Contact.URI.User != "a" {
		t.Errorf("%v %v", changed, left)
	}
	for _, flow := range []core.FlowID{"f9", ""} {
		if left, changed := s.Drop(flow); changed || len(left) != 4 {
			t.Errorf("%q: %v %v", flow, changed, left)
		}
	}
}

func TestLive(t *testing.T) {
	b := func(name string, q float64, at, expires int) Binding {
		return Binding{Contact: address("<sip:" + name + "@h>"), Q: q, At: start.Add(time.Duration(at)), Expires: start.Add(time.Duration(expires))}
	}
	s := Set{b("low", 0.1, 9, 100), b("old", 1, 1, 100), b("gone", 1, 8, 50), b("new", 1, 5, 100), b("same", 1, 5, 60)}
	got := ""
	for _, b := range s.Live(start.Add(50)) {
		got += b.Contact.URI.User + " "
	}
	if got != "new same old low " || s[0].Contact.URI.User != "low" {
		t.Errorf("live: %s", got)
	}
	if s.Live(start); s[0].Contact.URI.User != "low" {
		t.Error("sorting changed the set that was given")
	}
	if s.Deadline() != start.Add(50) || (Set)(nil).Deadline() != core.Never {
		t.Errorf("deadline %v", s.Deadline())
	}
	left, changed := s.Expire(start.Add(60))
	if !changed || len(left) != 3 {
		t.Errorf("%v", left)
	}
	if _, changed := s.Expire(start.Add(49)); changed {
		t.Error("expired too early")
	}
}

// Each broken invariant is named.
func TestValid(t *testing.T) {
	good := Binding{Contact: address("<sip:a@h>"), Expires: start, CallID: "c", Q: 1}
	for name, wrong := range map[string]func(*Set){
		"too many":   func(s *Set) { *s = append(*s, make(Set, MaxBindings)...) },
		"twice":      func(s *Set) { *s = append(*s, good) },
		"no scheme":  func(s *Set) { (*s)[0].Contact.URI.Scheme = "tel" },
		"no host":    func(s *Set) { (*s)[0].Contact.URI.Host = "" },
		"no expiry":  func(s *Set) { (*s)[0].Expires = 0 },
		"for ever":   func(s *Set) { (*s)[0].Expires = core.Never },
		"no Call-ID": func(s *Set) { (*s)[0].CallID = "" },
		"q":          func(s *Set) { (*s)[0].Q = 2 },
		"reg-id":     func(s *Set) { (*s)[0].RegID = -1 },
	} {
		s := Set{good}
		wrong(&s)
		if s.Valid() == nil {
			t.Errorf("%s: valid", name)
		}
	}
	if err := (Set{good}).Valid(); err != nil {
		t.Error(err)
	}
}
