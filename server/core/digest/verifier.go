package digest

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Lifetime is how long a nonce is taken. After it the client is told "stale" and tries
// again with a new one, without asking a person for the password (RFC 7616 s.3.3).
const Lifetime = 5 * time.Minute

// remembered bounds the nonces in use of one generation, about 10 MB when full.
const remembered = 1 << 17

// Verifier challenges and verifies. A nonce is not remembered when it is made, only signed,
// so a flood of requests without credentials costs no memory. What is remembered is the
// highest nonce count of each nonce that was used with the right password, in two
// generations that last a Lifetime or longer: a nonce that still lives was made in one of them.
//
// Generations are told apart by serial number and not by time, so that a clock that is set
// back neither makes an old request good again nor locks anyone out.
type Verifier struct {
	key    [32]byte
	born   core.Time // is signed too: a nonce of the life before a restart is stale, for its counts are lost
	serial uint64    // of the nonce made last
	turned core.Time // when the current generation began
	after  [2]uint64 // the nonces of the current generation, and of the one before, come after these serials
	counts [2]map[uint64]uint32
	limit  int
}

// nonce identifies one that we made.
type nonce struct {
	at     core.Time
	serial uint64
}

// New returns a Verifier whose nonces are signed with key. A second node must not have the
// same key: it doesn't know which counts were used here.
func New(key [32]byte) *Verifier {
	return &Verifier{key: key, counts: [2]map[uint64]uint32{{}, {}}, limit: remembered}
}

// Challenge returns the fields of a 401, one per algorithm, SHA-256 first: a client takes
// the first that it knows (RFC 8760 s.2.4).
func (v *Verifier) Challenge(now core.Time, realm string, stale bool) []core.Field {
	return v.challenge(now, realm, stale, shaTwo, md5Sum)
}

// ChallengeFor is Challenge in an order that the client of req can bear. RFC 8760 s.2.4
// has a client skip an algorithm that it doesn't know; two that are in wide use do not:
//   - baresip before 3.12 gives up when any challenge is not MD5, wherever it stands;
//   - sipp before 3.7 reads the first challenge and no other. It sends no User-Agent, like
//     no phone that is sold; whoever is silent about itself gets MD5 first.
//
// This gives nothing away: whoever can change a User-Agent on its way can also remove a
// challenge (RFC 8760 s.3), and the lesser algorithm is accepted from everyone anyway.
func (v *Verifier) ChallengeFor(now core.Time, req *core.Request, realm string, stale bool) []core.Field {
	agent := req.Get("User-Agent")
	switch {
	case oldBaresip(agent):
		return v.challenge(now, realm, stale, md5Sum)
	case agent == "":
		return v.challenge(now, realm, stale, md5Sum, shaTwo)
	}
	return v.Challenge(now, realm, stale)
}

// oldBaresip recognises "baresip v1.0.0 (x86_64/linux)" up to version 3.11.
func oldBaresip(agent string) bool {
	version, ok := strings.CutPrefix(agent, "baresip v")
	if !ok {
		return false
	}
	parts := strings.SplitN(version, ".", 3)
	major, err := strconv.Atoi(parts[0])
	if err != nil || len(parts) < 2 {
		return false
	}
	minor, err := strconv.Atoi(parts[1])
	return err == nil && (major < 3 || major == 3 && minor < 12)
}

func (v *Verifier) challenge(now core.Time, realm string, stale bool, algorithms ...algorithm) []core.Field {
	v.turn(now)
	v.serial++
	text := v.sign(nonce{now, v.serial}, realm)
	var fields []core.Field
	for _, a := range algorithms {
		value := `Digest realm=` + quote(realm) + `, nonce="` + text + `", algorithm=` + string(a) + `, qop="auth"`
		if stale {
			value += ", stale=true"
		}
		fields = append(fields, core.Field{Name: "WWW-Authenticate", Value: value})
	}
	return fields
}

// Outcome is what Verify found.
type Outcome string

// The outcomes, and what to answer.
const (
	OK        Outcome = "ok"
	Missing   Outcome = "missing"   // no credentials for the realm: 401
	Stale     Outcome = "stale"     // right, but the nonce is used up: 401 with stale=true
	Wrong     Outcome = "wrong"     // unknown user or wrong password: 401 or 403, as for each other
	Malformed Outcome = "malformed" // 400; also qop other than auth, an algorithm that was not offered, a foreign uri
)

// Verify checks the credentials that a request carries for the realm. Lookup returns what
// is kept of a user's password in this realm, nil for a user that does not exist; it is
// called once. The user is the one that is claimed; only OK and Stale prove it.
func (v *Verifier) Verify(now core.Time, req *core.Request, realm string,
	lookup func(user string) []tenant.Credential) (user string, o Outcome) {
	v.turn(now)
	c, o := pick(req, realm)
	if o != OK {
		return "", o
	}
	if !c.fits(req.URI) {
		return c.user, Malformed
	}
	// An unknown user costs the same hashes as a known one, so that time tells nothing.
	a1, known := c.algorithm.hash(), 0
	for _, credential := range lookup(c.user) {
		if algorithm(credential.Algorithm) == c.algorithm && len(credential.Hash) == len(a1) {
			a1, known = credential.Hash, 1
		}
	}
	right := subtle.ConstantTimeCompare([]byte(c.expect(a1, req.Method)), []byte(c.answer))
	if right&known != 1 {
		return c.user, Wrong
	}
	// Stale is said only to who knows the password: to others nonces are all the same.
	if !v.use(now, realm, c) {
		return c.user, Stale
	}
	return c.user, OK
}

// pick finds the credentials of our realm; a client sends one field per realm that has
// challenged it (RFC 3261 s.22.3).
func pick(req *core.Request, realm string) (claim, Outcome) {
	fields := req.Values("Authorization")
	o := Missing
	for _, field := range fields[:min(len(fields), maxFields)] {
		p, ok := parse(field)
		if !ok {
			if scheme, _, _ := strings.Cut(field, " "); strings.EqualFold(scheme, "Digest") {
				o = Malformed
			}
			continue
		}
		if p.get("realm") != realm {
			continue
		}
		if c, ok := read(p); ok {
			return c, OK
		}
		o = Malformed
	}
	return claim{}, o
}

// use reports whether the nonce of c is ours, alive, and its count not used before; then it is now.
func (v *Verifier) use(now core.Time, realm string, c claim) bool {
	n, ok := v.signed(c.nonce, realm)
	if !ok || n.at > now || now.Sub(n.at) > Lifetime || n.serial <= v.after[1] {
		return false
	}
	counts := v.counts[0]
	if n.serial <= v.after[0] {
		counts = v.counts[1]
	}
	last, seen := counts[n.serial]
	if c.nc <= last {
		return false
	}
	if !seen && len(counts) >= v.limit {
		// Forget all, and take no nonce of those that were made until now: each client that
		// is still there needs one more round trip, and no old request becomes good again.
		v.after, v.counts = [2]uint64{v.serial, v.serial}, [2]map[uint64]uint32{{}, {}}
		return true
	}
	counts[n.serial] = c.nc
	return true
}

// turn begins a new generation when the current one has lasted a Lifetime.
func (v *Verifier) turn(now core.Time) {
	if v.born == 0 {
		v.born, v.turned = now, now
	}
	if now < v.turned { // the clock was set back: the generation lasts that much longer
		v.turned = now
	}
	if now.Sub(v.turned) > Lifetime {
		v.turned = now
		v.after = [2]uint64{v.serial, v.after[0]}
		v.counts = [2]map[uint64]uint32{{}, v.counts[0]}
	}
}

// The length of a nonce's parts in bytes: instant, serial, signature (128 bits).
const (
	stamp     = 8 + 8
	signature = 16
)

// sign returns the text of a nonce. The realm is signed with it: one tenant's is not another's.
func (v *Verifier) sign(n nonce, realm string) string {
	raw := make([]byte, 0, stamp+sha256.Size)
	raw = binary.BigEndian.AppendUint64(raw, uint64(n.at))
	raw = binary.BigEndian.AppendUint64(raw, n.serial)
	h := hmac.New(sha256.New, v.key[:])
	h.Write(raw)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(v.born)))
	h.Write([]byte(realm))
	return base64.RawURLEncoding.EncodeToString(h.Sum(raw)[:stamp+signature])
}

// signed reads a nonce and reports whether it is ours and of this realm.
func (v *Verifier) signed(text, realm string) (nonce, bool) {
	if len(text) != base64.RawURLEncoding.EncodedLen(stamp+signature) {
		return nonce{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nonce{}, false
	}
	n := nonce{core.Time(binary.BigEndian.Uint64(raw)), binary.BigEndian.Uint64(raw[8:])}
	return n, hmac.Equal([]byte(text), []byte(v.sign(n, realm)))
}
