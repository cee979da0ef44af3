// Package dialog is the dialog of RFC 3261 section 12: what two user agents must both
// remember to talk inside a call. It is a value: it can be stored and taken up elsewhere.
package dialog

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Dialog is one dialog as one side sees it. What always holds:
//  1. CallID, the local tag and the remote target's host are not empty.
//  2. LocalSeq is the CSeq of our last request but ACK and CANCEL, and below 2^31.
//  3. RemoteSeq is the highest CSeq that the peer was answered for; 0: none yet.
type Dialog struct {
	CallID       string         `json:"call_id"`
	Local        core.Address   `json:"local"`  // our From or To, with our tag
	Remote       core.Address   `json:"remote"` // theirs
	LocalSeq     uint32         `json:"local_seq"`
	RemoteSeq    uint32         `json:"remote_seq"`
	RouteSet     []core.Address `json:"route_set,omitempty"`
	RemoteTarget core.URI       `json:"remote_target"`
	Peer         core.Peer      `json:"peer"` // where the last message of the peer came from
}

// Answered returns the dialog that a UAS has with the sender of invite (s.12.1.1).
func Answered(invite *core.Request, tag string, from core.Peer) Dialog {
	d := Dialog{
		CallID: invite.CallID, Local: invite.To.WithTag(tag), Remote: invite.From,
		RemoteSeq: invite.CSeq, RouteSet: invite.RecordRoute, Peer: from,
		RemoteTarget: invite.From.URI, // an INVITE without Contact is answered where it came from
	}
	if len(invite.Contact) > 0 {
		d.RemoteTarget = invite.Contact[0].URI
	}
	return d
}

// Calling returns what a UAC knows before any response: half a dialog, without remote tag.
func Calling(invite *core.Request) Dialog {
	return Dialog{CallID: invite.CallID, Local: invite.From, Remote: invite.To,
		LocalSeq: invite.CSeq, RemoteTarget: invite.URI, RouteSet: invite.Route}
}

// Established returns the dialog that a response to our invite makes (s.12.1.2).
func (d Dialog) Established(resp *core.Response, from core.Peer) Dialog {
	d.Remote, d.Peer = resp.To, from
	if len(resp.Contact) > 0 {
		d.RemoteTarget = resp.Contact[0].URI
	}
	d.RouteSet = make([]core.Address, len(resp.RecordRoute))
	for i, r := range resp.RecordRoute { // reversed for the UAC
		d.RouteSet[len(d.RouteSet)-1-i] = r
	}
	return d
}

// Request returns our next request in the dialog and counts it (s.12.2.1.1).
func (d *Dialog) Request(method string) *core.Request {
	d.LocalSeq++
	return d.request(method, d.LocalSeq)
}

// Ack returns the ACK to a 2xx of our INVITE with that CSeq (s.13.2.2.4).
func (d *Dialog) Ack(cseq uint32) *core.Request { return d.request(core.ACK, cseq) }

func (d *Dialog) request(method string, cseq uint32) *core.Request {
	r := &core.Request{Method: method, URI: d.RemoteTarget, Message: core.Message{
		From: d.Local, To: d.Remote, CallID: d.CallID, CSeq: cseq, Route: d.RouteSet,
	}}
	if len(d.RouteSet) > 0 && !loose(d.RouteSet[0].URI) {
		// A strict router wants itself as the Request-URI and the target last (s.12.2.1.1).
		r.URI = d.RouteSet[0].URI
		r.Route = append(append([]core.Address(nil), d.RouteSet[1:]...), core.Address{URI: d.RemoteTarget})
	}
	return r
}

func loose(u core.URI) bool { _, ok := u.Param("lr"); return ok }

// Target returns where our requests of the dialog go: to the first route, else to the
// remote target. A peer on a connection is reached over that connection. A UDP peer whose
// Contact names another address than the one it sends from is behind a NAT, and only
// the latter is open to us.
func (d *Dialog) Target() core.Target {
	next := d.RemoteTarget
	if len(d.RouteSet) > 0 {
		next = d.RouteSet[0].URI
	}
	t := core.Target{Transport: TransportOf(next, d.Peer.Transport), Host: next.Host, Port: next.Port}
	if t.Port == 0 {
		t.Port = 5060
	}
	switch {
	case d.Peer.Transport != core.UDP && d.Peer.Transport != "":
		t.Transport, t.Flow = d.Peer.Transport, d.Peer.Flow
	case len(d.RouteSet) == 0 && d.Peer.Addr.IsValid():
		if ip, err := netip.ParseAddr(next.Host); err == nil && ip.Unmap() != d.Peer.Addr.Addr().Unmap() {
			t.Host, t.Port = d.Peer.Addr.Addr().String(), d.Peer.Addr.Port()
		}
	}
	return t
}

// TransportOf returns the transport that a URI asks for, or the given one.
func TransportOf(u core.URI, otherwise core.Transport) core.Transport {
	if v, ok := u.Param("transport"); ok {
		return core.Transport(strings.ToLower(v))
	}
	if otherwise == "" {
		return core.UDP
	}
	return otherwise
}

// Receive checks the order of a request of the peer and counts it (s.12.2.2): it returns
// false for one that is older than what was already answered, which gets 500. A gap is
// no error. ACK is not counted: it repeats the CSeq of its INVITE.
func (d *Dialog) Receive(req *core.Request, from core.Peer) bool {
	if req.CSeq <= d.RemoteSeq {
		return false
	}
	d.RemoteSeq = req.CSeq
	d.Peer = from
	return true
}

// Refresh takes the peer's new Contact from a target refresh request or its response.
func (d *Dialog) Refresh(contact []core.Address) {
	if len(contact) > 0 {
		d.RemoteTarget = contact[0].URI
	}
}

// Valid checks the numbered invariants above.
func (d *Dialog) Valid() error {
	switch {
	case d.CallID == "" || d.Local.Tag() == "" || d.RemoteTarget.Host == "":
		return fmt.Errorf("dialog %q: no Call-ID, local tag or remote target", d.CallID)
	case d.LocalSeq >= 1<<31:
		return fmt.Errorf("dialog %q: local CSeq %d is not below 2^31", d.CallID, d.LocalSeq)
	}
	return nil
}
