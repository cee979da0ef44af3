package phone

import "net/netip"

// dialog is what both sides remember of each other (RFC 3261 s.12).
type dialog struct {
	callID    string
	localTag  string
	remoteTag string
	local     string // From of our requests, with the tag
	remote    string // To of our requests, with the tag
	target    string // URI: the other's Contact
	routes    []string
	seq       uint32 // of our last request
	heardSeq  uint32 // of their last one
}

func callKey(callID, localTag string) string { return callID + " " + localTag }

// asCaller takes the dialog from a response to our INVITE (s.12.1.2).
func (d *dialog) asCaller(m *message) {
	d.remote, d.remoteTag = m.to, m.toTag
	d.routes = nil
	for i := len(m.recordRoute) - 1; i >= 0; i-- {
		d.routes = append(d.routes, m.recordRoute[i])
	}
	d.retarget(m)
}

// asCallee takes the dialog from an INVITE that gets this tag (s.12.1.1).
func (d *dialog) asCallee(m *message, tag string) {
	d.callID = m.callID
	d.local, d.localTag = m.to+";tag="+tag, tag
	d.remote, d.remoteTag = m.from, m.fromTag
	d.routes = m.recordRoute
	d.heardSeq = m.cseq
	d.retarget(m)
}

// retarget follows the Contact of an INVITE, or of the 2xx to one (s.12.2).
func (d *dialog) retarget(m *message) {
	if uri := m.contact(); uri != "" {
		d.target = uri
	}
}

func (d *dialog) nextSeq() uint32 {
	d.seq++
	return d.seq
}

// request makes a request inside the dialog, without a CSeq (s.12.2.1.1).
func (d *dialog) request(method string) *request {
	r := &request{method: method, uri: d.target, from: d.local, to: d.remote, callID: d.callID, routes: d.routes}
	if len(d.routes) > 0 && !loose(d.routes[0]) {
		r.uri, _ = splitAddress(d.routes[0])
		r.routes = append(append([]string(nil), d.routes[1:]...), "<"+d.target+">")
	}
	return r
}

// next is where the dialog's requests go; not valid when that is a name.
func (d *dialog) next() netip.AddrPort {
	if len(d.routes) > 0 {
		uri, _ := splitAddress(d.routes[0])
		return addrOf(uri)
	}
	return addrOf(d.target)
}

// loose reports whether a route is to a loose router (s.19.1.1).
func loose(route string) bool {
	uri, _ := splitAddress(route)
	i := scan(uri, ';')
	if i < 0 {
		return false
	}
	_, ok := param(uri[i:], "lr")
	return ok
}
