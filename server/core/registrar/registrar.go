// Package registrar keeps the bindings of one address of record: where a phone can be
// reached (RFC 3261 s.10), with the instance and reg-id of RFC 5626 and the Path of RFC 3327.
//
// A Set is a value; Register and the others return a new one. Finding the Set of an AOR,
// the domain, and who may change it (steps 1, 3, 4 and 5 of s.10.3) are the caller's.
package registrar

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds of what one AOR can hold, since it is stored.
const (
	// MaxBindings is how many bindings an AOR has at most. One more replaces the one that
	// was not refreshed for longest: a phone that comes back at a new port with every
	// start would otherwise lock its person out until its own leavings expire.
	MaxBindings = 10

	maxOwn     = 3 * MaxBindings // of one node's Set, what is unbound included
	maxContact = 2048            // bytes; linphone with push parameters has 900
	maxPath    = 8
	maxCallID  = 256
)

// Binding is one contact address of an AOR.
type Binding struct {
	Contact  core.Address   `json:"contact"` // its parameters without expires
	Peer     core.Peer      `json:"peer"`    // where the REGISTER came from
	Expires  core.Time      `json:"expires"`
	CallID   string         `json:"call_id"`
	CSeq     uint32         `json:"cseq"`
	Q        float64        `json:"q"`                  // 0..1; 1 when the phone gave none
	Instance string         `json:"instance,omitempty"` // +sip.instance, without quotes
	RegID    int            `json:"reg_id,omitempty"`   // 0: none
	At       core.Time      `json:"at"`                 // last refresh
	Path     []core.Address `json:"path,omitempty"`     // Route of requests to this binding

	Unbound bool `json:"unbound,omitempty"` // it is none any more, also if another node's Set has it

	// The process that holds the phone's connection; zero when there is none to hold (UDP).
	Holder      core.NodeID   `json:"holder,omitempty"`
	Incarnation core.Revision `json:"incarnation,omitempty"`
}

// Set is the bindings of one AOR. Invariants, checked by Valid:
//  1. There are at most MaxBindings.
//  2. No binding would replace another one of the set.
//  3. Each has an expiry, a SIP contact with a host, and a Call-ID.
type Set []Binding

// Limits bound the expiry that a phone can ask for. 0 < Min <= Default <= Max.
type Limits struct {
	Min, Max, Default time.Duration
}

// Expire returns the bindings that live on after now, and whether any did not.
func (s Set) Expire(now core.Time) (Set, bool) {
	return s.without(func(b Binding) bool { return b.Expires <= now })
}

// Drop returns the bindings that do not need a connection that is gone, and whether any did.
func (s Set) Drop(flow core.FlowID) (Set, bool) {
	return s.without(func(b Binding) bool {
		return b.Peer.Transport == core.TCP && b.Peer.Flow == flow && flow != ""
	})
}

// Detached returns the bindings as they are without the connections that processes held
// which are gone: such a phone is tried at the address that it says.
func (s Set) Detached(alive func(core.NodeID, core.Revision) bool) Set {
	s = slices.Clone(s)
	for i, b := range s {
		if b.Holder != "" && !alive(b.Holder, b.Incarnation) {
			s[i].Peer.Flow, s[i].Holder, s[i].Incarnation = "", "", 0
		}
	}
	return s
}

// Merge returns what several nodes' registrations come to. Each node writes its own Set: of
// one binding the newest says where the phone is, or that it is unbound (Without).
func Merge(now core.Time, sets ...Set) Set {
	var all Set
	for _, s := range sets {
		all = append(all, s...)
	}
	slices.SortStableFunc(all, func(a, b Binding) int { return cmp.Or(cmp.Compare(b.At, a.At), cmp.Compare(b.CSeq, a.CSeq)) })
	newest := all[:0]
	for _, b := range all {
		if !slices.ContainsFunc(newest, func(n Binding) bool { return n.replaces(b) }) {
			newest = append(newest, b)
		}
	}
	live, _ := newest.without(func(b Binding) bool { return b.Expires <= now || b.Unbound })
	if len(live) > MaxBindings {
		live = live[:MaxBindings]
	}
	return live
}

// Took returns a node's own Set after a REGISTER that it took has made next of was, the
// bindings of all nodes: what the request bound, what this node had bound before, and of
// what is gone from next that it is unbound, for as long as another node's Set may say
// otherwise.
func (s Set) Took(now core.Time, by core.Member, was, next Set) Set {
	var own Set
	for _, b := range next {
		if b.At == now {
			b.Holder, b.Incarnation = "", 0
			if b.Peer.Transport != core.UDP {
				b.Holder, b.Incarnation = by.ID, by.Incarnation
			}
			own = append(own, b)
		}
	}
	for _, b := range was {
		if !slices.ContainsFunc(next, func(n Binding) bool { return n.replaces(b) }) {
			b.At, b.Unbound = now, true
			own = append(own, b)
		}
	}
	for _, b := range s {
		if b.Expires > now && !slices.ContainsFunc(own, func(n Binding) bool { return n.replaces(b) }) {
			own = append(own, b)
		}
	}
	if len(own) > maxOwn {
		slices.SortStableFunc(own, func(a, b Binding) int { return cmp.Compare(b.At, a.At) })
		own = own[:maxOwn]
	}
	return own
}

// without copies, since a Set is shared with whoever has it.
func (s Set) without(gone func(Binding) bool) (Set, bool) {
	if !slices.ContainsFunc(s, gone) {
		return s, false
	}
	return slices.DeleteFunc(slices.Clone(s), gone), true
}

// Live returns the bindings that can be called, the best first: by q (RFC 3261 s.16.6:
// higher is preferred), then the one refreshed last.
func (s Set) Live(now core.Time) Set {
	kept, _ := s.Expire(now)
	live := slices.Clone(kept)
	slices.SortStableFunc(live, func(a, b Binding) int {
		return cmp.Or(cmp.Compare(b.Q, a.Q), cmp.Compare(b.At, a.At))
	})
	return live
}

// Deadline returns when the first binding expires, core.Never when there is none.
func (s Set) Deadline() core.Time {
	soonest := core.Never
	for _, b := range s {
		soonest = min(soonest, b.Expires)
	}
	return soonest
}

// Target returns where a request to the binding goes:
//   - the first hop of its Path, when it registered through a proxy (RFC 3327 s.5.3);
//   - the connection it registered over, when that was TCP. The phone's own address is
//     what is tried when it is closed;
//   - over UDP the source of the REGISTER, where Contact says another address. Then a NAT
//     lies between, and only this mapping reaches the phone (as RFC 3581 has it for
//     responses). Another port of the same address is believed: phones may send from one
//     port and listen on another, and one program may register for others;
//   - else where the Contact says, over the transport that it says.
//
// A request to a binding with a Path carries it as Route.
func (b Binding) Target() core.Target {
	uri := b.Contact.URI
	if len(b.Path) > 0 {
		uri = b.Path[0].URI
	}
	t := core.Target{Transport: transport(uri), Host: uri.Host, Port: port(uri)}
	switch {
	case b.Peer.Transport == core.TCP:
		t.Transport, t.Flow = core.TCP, b.Peer.Flow
	case len(b.Path) == 0 && b.natted(t):
		source := b.Peer.Addr
		return core.Target{Transport: core.UDP, Host: source.Addr().Unmap().String(), Port: source.Port()}
	}
	return t
}

// Reach returns where a request of a node to the binding goes, and its Route. A connection
// that another node holds is reached through that node, by the token that it gave for it
// (RFC 5626 s.5.3).
func (b Binding) Reach(from core.NodeID) (core.Target, []core.Address) {
	if b.Holder == "" || b.Holder == from || b.Peer.Token == "" {
		return b.Target(), b.Path
	}
	token, err := core.ParseURI(b.Peer.Token)
	if err != nil {
		return b.Target(), b.Path
	}
	return core.Target{Transport: transport(token), Host: token.Host, Port: port(token)}, append([]core.Address{{URI: token}}, b.Path...)
}

// natted reports whether the phone is not at the address that it says. A name that nobody
// can resolve (RFC 2606) says nothing.
func (b Binding) natted(t core.Target) bool {
	if !b.Peer.Addr.IsValid() {
		return false
	}
	host, err := netip.ParseAddr(t.Host)
	if err != nil {
		return strings.HasSuffix(t.Host, ".invalid")
	}
	return host.Unmap() != b.Peer.Addr.Addr().Unmap()
}

func transport(u core.URI) core.Transport {
	if t, _ := u.Param("transport"); strings.EqualFold(t, string(core.TCP)) {
		return core.TCP
	}
	return core.UDP
}

func port(u core.URI) uint16 {
	if u.Port == 0 {
		return 5060
	}
	return u.Port
}

// keyed reports whether the binding is known by instance and reg-id (RFC 5626 s.6).
func (b Binding) keyed() bool { return b.Instance != "" && b.RegID > 0 }

// replaces reports whether b takes the place of old: the same flow of the same phone
// (RFC 5626 s.6), else the same address (RFC 3261 s.10.3 step 7).
func (b Binding) replaces(old Binding) bool {
	if b.keyed() && old.keyed() {
		return b.Instance == old.Instance && b.RegID == old.RegID
	}
	return equal(b.Contact.URI, old.Contact.URI)
}

// Valid checks the invariants.
func (s Set) Valid() error {
	if len(s) > MaxBindings {
		return fmt.Errorf("%d bindings, at most %d are kept", len(s), MaxBindings)
	}
	for i, b := range s {
		switch scheme := b.Contact.URI.Scheme; {
		case scheme != "sip" && scheme != "sips", b.Contact.URI.Host == "":
			return fmt.Errorf("binding %d: contact %.80q is not a SIP address", i, b.Contact)
		case b.Expires <= 0 || b.Expires == core.Never:
			return fmt.Errorf("binding %d: no expiry", i)
		case b.CallID == "":
			return fmt.Errorf("binding %d: no Call-ID", i)
		case b.Q < 0 || b.Q > 1:
			return fmt.Errorf("binding %d: q %v, want 0 to 1", i, b.Q)
		case b.RegID < 0:
			return fmt.Errorf("binding %d: reg-id %d, want 0 or more", i, b.RegID)
		}
		for j, other := range s[:i] {
			if b.replaces(other) {
				return fmt.Errorf("bindings %d and %d are the same one", j, i)
			}
		}
	}
	return nil
}
