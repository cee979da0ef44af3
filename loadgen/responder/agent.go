package responder

import (
	"crypto/md5"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// agent is a registered phone. It takes one call at a time.
type agent struct {
	user    string
	target  string // its Contact
	addr    netip.AddrPort
	expires time.Time
	busy    bool
}

const longestRegistration = 24 * time.Hour

// register takes a REGISTER (RFC 3261 s.10.3): one binding per address of record, the
// newest.
func (x *exchange) register(m *message) {
	if x.cfg.Password != "" && !x.authorised(m) {
		x.reply(m, 401, "Unauthorized", x.name(), fmt.Sprintf(`WWW-Authenticate: Digest realm="responder", nonce="%s", algorithm=MD5, qop="auth"`, x.nonce))
		return
	}
	lifetime := expiresOf(m)
	a := x.agents[m.callee]
	switch {
	case lifetime <= 0:
		if a != nil {
			x.dismiss(a)
		}
		x.reply(m, 200, "OK", x.name())
		return
	case m.contact == "":
		x.reply(m, 400, "Contact is missing", x.name())
		return
	case a == nil && len(x.agents) >= mostAgents:
		x.reply(m, 503, "Too many agents", x.name(), "Retry-After: 60")
		return
	case a == nil:
		a = &agent{user: m.callee}
		x.agents[m.callee] = a
		x.free = append(x.free, a)
	}
	a.target, a.addr, a.expires = m.contact, m.from, time.Now().Add(lifetime)
	x.reply(m, 200, "OK", x.name(), fmt.Sprintf("Contact: <%s>;expires=%d", a.target, int(lifetime.Seconds())))
	x.dispatch()
}

// expiresOf is how long the binding shall live (RFC 3261 s.10.2.1.1).
func expiresOf(m *message) time.Duration {
	text := ""
	if h := m.request.GetHeader("expires"); h != nil {
		text = h.Value()
	}
	if h := m.request.Contact(); h != nil && h.Params != nil {
		if v, ok := h.Params.Get("expires"); ok {
			text = v
		}
	}
	seconds, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
	if err != nil {
		seconds = 3600
	}
	return min(time.Duration(seconds)*time.Second, longestRegistration)
}

// dismiss forgets an agent; a call it is in goes on.
func (x *exchange) dismiss(a *agent) {
	delete(x.agents, a.user)
	x.free = slices.DeleteFunc(x.free, func(b *agent) bool { return a == b })
}

// release makes an agent free again, behind all others.
func (x *exchange) release(a *agent) {
	if a == nil || !a.busy {
		return
	}
	a.busy = false
	if x.agents[a.user] == a {
		x.free = append(x.free, a)
		x.dispatch()
	}
}

// nextFree takes the agent who is idle longest, nil when there is none.
func (x *exchange) nextFree() *agent {
	for len(x.free) > 0 {
		a := x.free[0]
		x.free = x.free[1:]
		if time.Now().After(a.expires) {
			delete(x.agents, a.user)
			continue
		}
		a.busy = true
		return a
	}
	return nil
}

// authorised checks the digest (RFC 2617 s.3.2.2, with or without qop=auth). There is one
// nonce for the life of the responder: it keeps mistakes apart from load, not attackers.
func (x *exchange) authorised(m *message) bool {
	h := m.request.GetHeader("authorization")
	if h == nil {
		return false
	}
	p := digestParams(h.Value())
	if p["username"] != m.callee || p["nonce"] != x.nonce || p["response"] == "" {
		return false
	}
	sum := func(s string) string { return fmt.Sprintf("%x", md5.Sum([]byte(s))) }
	ha1 := sum(p["username"] + ":responder:" + x.cfg.Password)
	ha2 := sum("REGISTER:" + p["uri"])
	want := sum(ha1 + ":" + x.nonce + ":" + ha2)
	if p["qop"] == "auth" {
		want = sum(strings.Join([]string{ha1, x.nonce, p["nc"], p["cnonce"], "auth", ha2}, ":"))
	}
	return p["response"] == want
}

// digestParams reads name=value, name="value", ...
func digestParams(s string) map[string]string {
	s, ok := strings.CutPrefix(strings.TrimSpace(s), "Digest ")
	p := map[string]string{}
	for ok && s != "" && len(p) < 20 {
		var name, value string
		name, s, _ = strings.Cut(s, "=")
		if s = strings.TrimSpace(s); strings.HasPrefix(s, `"`) {
			value, s, _ = strings.Cut(s[1:], `"`)
			_, s, _ = strings.Cut(s, ",")
		} else {
			value, s, _ = strings.Cut(s, ",")
		}
		p[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
	}
	return p
}
