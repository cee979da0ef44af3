package phone

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/icholy/digest"
)

// proofs are the challenges that a phone has been given, for requests of one class. They
// are used again with a higher count, as phones do, until the server wants a fresh nonce.
type proofs struct {
	server, proxy *proof // 401 and 407
}

type proof struct {
	challenge *digest.Challenge
	count     int
}

// asking is a request of a phone with its answers, over challenges.
type asking struct {
	p        *Phone
	r        *request
	proofs   *proofs
	next     func() uint32 // CSeq
	addr     func() (to way)
	progress func(m *message)
	done     func(m *message, err error)

	plain  []field // extra fields without credentials
	txn    *clientTxn
	told   [2]int // challenges so far, of server and proxy
	closed bool   // no further try: the caller has given up
}

// ask sends the request. The lock is held.
func (p *Phone) ask(a *asking) {
	a.p, a.plain = p, a.r.extra
	a.send()
}

func (a *asking) send() {
	a.r.seq = a.next()
	a.r.extra = a.plain
	for _, known := range []struct {
		header string
		proof  *proof
	}{{"Authorization", a.proofs.server}, {"Proxy-Authorization", a.proofs.proxy}} {
		if known.proof == nil {
			continue
		}
		value, err := a.p.credentials(known.proof, a.r)
		if err != nil {
			a.done(nil, err)
			return
		}
		a.r.extra = append(a.r.extra[:len(a.r.extra):len(a.r.extra)], field{known.header, value})
	}
	a.txn = a.p.e.send(a.r, newBranch(), a.addr(), a.heard, func(err error) { a.done(nil, err) })
}

func (a *asking) heard(m *message) {
	switch {
	case m.status < 200:
		if a.progress != nil {
			a.progress(m)
		}
	case (m.status == 401 || m.status == 407) && !a.closed && a.take(m):
		a.send()
	default:
		a.done(m, nil)
	}
}

// take takes a challenge, and reports whether another try makes sense: the first time (what
// was sent unasked may have been out of date), and when the nonce had only become stale
// (RFC 7616 s.3.3).
func (a *asking) take(m *message) bool {
	slot, name, told := &a.proofs.server, "WWW-Authenticate", &a.told[0]
	if m.status == 407 {
		slot, name, told = &a.proofs.proxy, "Proxy-Authenticate", &a.told[1]
	}
	if a.p.cfg.Password == "" || *told >= 3 {
		return false
	}
	fresh := pick(m, name)
	if fresh == nil {
		return false
	}
	*slot = &proof{challenge: fresh}
	*told++
	return *told == 1 || fresh.Stale
}

// pick returns the first challenge that can be met: the server lists the best first (RFC
// 8760 s.2.4).
func pick(m *message, name string) *digest.Challenge {
	for _, f := range m.other {
		if len(f.name) != len(name) || !strings.EqualFold(f.name, name) || !digest.IsDigest(f.value) {
			continue
		}
		if c, err := digest.ParseChallenge(f.value); err == nil && digest.CanDigest(c) {
			return c
		}
	}
	return nil
}

func (p *Phone) credentials(proof *proof, r *request) (string, error) {
	user := p.cfg.AuthUser
	if user == "" {
		user = p.cfg.User
	}
	proof.count++
	c, err := digest.Digest(proof.challenge, digest.Options{Method: r.method, URI: r.uri, Count: proof.count,
		Username: user, Password: p.cfg.Password, GetBody: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(r.body)), nil }})
	if err != nil {
		return "", fmt.Errorf("credentials of %s: %w", user, err)
	}
	return c.String(), nil
}
