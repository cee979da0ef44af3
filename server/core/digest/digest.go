// Package digest is HTTP digest authentication for SIP (RFC 7616, RFC 3261 s.22, RFC 8760):
// algorithms SHA-256 and MD5, always with qop=auth.
package digest

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// algorithm is a name as it stands in header fields and in tenant.Credential.
type algorithm string

const (
	shaTwo  algorithm = "SHA-256"
	md5Sum  algorithm = "MD5"
	unknown algorithm = ""
)

// named returns the algorithm of a header field; without one it is MD5 (RFC 7616 s.3.3).
func named(text string) algorithm {
	switch {
	case text == "" || strings.EqualFold(text, string(md5Sum)):
		return md5Sum
	case strings.EqualFold(text, string(shaTwo)):
		return shaTwo
	}
	return unknown
}

// hash is H of RFC 7616 s.3.1, in hex, of the parts joined by colons.
func (a algorithm) hash(parts ...string) string {
	data := []byte(strings.Join(parts, ":"))
	if a == md5Sum {
		sum := md5.Sum(data)
		return hex.EncodeToString(sum[:])
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Credentials returns what is kept of a password: A1 for each algorithm. The realm and the
// user are part of it, so they cannot change without the password.
func Credentials(user, realm string, password core.Secret) []tenant.Credential {
	all := make([]tenant.Credential, 0, 2)
	for _, a := range []algorithm{shaTwo, md5Sum} {
		all = append(all, tenant.Credential{Algorithm: string(a), Hash: a.hash(user, realm, password.Reveal())})
	}
	return all
}

// claim is an Authorization field taken apart, unquoted.
type claim struct {
	algorithm             algorithm
	user, uri             string
	nonce, cnonce, answer string
	count                 string // nc as it came: it is hashed as text
	nc                    uint32
}

// read takes an Authorization field's parameters. It asks for qop=auth: we always offer
// it, and an answer in the way of RFC 2069, without nc and cnonce, could be replayed for as
// long as its nonce lives.
func read(p params) (claim, bool) {
	c := claim{
		algorithm: named(p.get("algorithm")),
		user:      p.get("username"), uri: p.get("uri"),
		nonce: p.get("nonce"), cnonce: p.get("cnonce"), count: p.get("nc"),
		answer: strings.ToLower(p.get("response")),
	}
	nc, err := strconv.ParseUint(c.count, 16, 32)
	c.nc = uint32(nc)
	switch {
	case c.algorithm == unknown, !strings.EqualFold(p.get("qop"), "auth"),
		strings.EqualFold(p.get("userhash"), "true"),
		c.user == "", c.uri == "", c.nonce == "", c.cnonce == "",
		len(c.count) != 8, err != nil, nc == 0,
		len(c.answer) != len(c.algorithm.hash()):
		return claim{}, false
	}
	return c, true
}

// expect returns the response that the holder of A1 gives (RFC 7616 s.3.4.1).
func (c claim) expect(a1, method string) string {
	return c.algorithm.hash(a1, c.nonce, c.count, c.cnonce, "auth", c.algorithm.hash(method, c.uri))
}

// fits reports whether the digest was made for this Request-URI. The two texts differ in
// real life: baresip and many others leave parameters out of one of them, proxies rewrite
// ports, and sipp puts its server's "sip:address:port". So only user and host count; a user
// that is missing on one side and a host that is an IP address are let pass. What guards
// against the use of a captured digest elsewhere is that its nonce count is good for once.
func (c claim) fits(target core.URI) bool {
	u, err := core.ParseURI(c.uri)
	if err != nil {
		return false
	}
	if u.User != "" && target.User != "" && u.User != target.User {
		return false
	}
	if strings.EqualFold(u.Host, target.Host) {
		return true
	}
	_, err = netip.ParseAddr(u.Host)
	return err == nil
}

// Answer returns the value of the Authorization field that answers a challenge, the value
// of one WWW-Authenticate or Proxy-Authenticate field. The nonce count nc begins at 1 for
// each nonce. Of several challenges answer the first that gives no error (RFC 8760 s.2.4).
func Answer(method, uri, user string, password core.Secret, challenge string, cnonce string, nc uint32) (string, error) {
	p, ok := parse(challenge)
	if !ok {
		return "", errors.New("challenge: not a Digest challenge (RFC 7616 s.3.3); try the next one")
	}
	a, realm, nonce := named(p.get("algorithm")), p.get("realm"), p.get("nonce")
	if a == unknown {
		return "", fmt.Errorf("challenge: algorithm %.20q is none of MD5 and SHA-256; try the next one", p.get("algorithm"))
	}
	if nonce == "" {
		return "", errors.New("challenge: no nonce; try the next one")
	}
	for _, text := range []string{uri, user, cnonce} {
		if strings.ContainsFunc(text, control) {
			return "", errors.New("uri, user and cnonce must not hold control characters")
		}
	}
	a1, a2 := a.hash(user, realm, password.Reveal()), a.hash(method, uri)
	var b strings.Builder
	fmt.Fprintf(&b, "Digest username=%s, realm=%s, nonce=%s, uri=%s", quote(user), quote(realm), quote(nonce), quote(uri))
	switch {
	case !p.has("qop"): // a peer of RFC 2069, as old trunks are
		fmt.Fprintf(&b, `, response="%s"`, a.hash(a1, nonce, a2))
	case p.offers("auth"):
		count := fmt.Sprintf("%08x", nc)
		fmt.Fprintf(&b, `, response="%s", cnonce=%s, nc=%s, qop=auth`,
			a.hash(a1, nonce, count, cnonce, "auth", a2), quote(cnonce), count)
	default:
		return "", fmt.Errorf("challenge: qop %.40q does not offer auth; try the next one", p.get("qop"))
	}
	if p.has("algorithm") {
		b.WriteString(", algorithm=" + string(a))
	}
	if p.has("opaque") {
		b.WriteString(", opaque=" + quote(p.get("opaque")))
	}
	return b.String(), nil
}
