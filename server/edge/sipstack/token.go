package sipstack

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"net/netip"
	"strings"
	"sync"
)

// A seal names one connection of this process to somebody else, who hands it back: 6 bytes of
// its number and a MAC over them (RFC 5626 s.5.2, with SHA-256), as 24 letters of base64url.
// The key is made at the birth of a process, and so are the numbers: a seal of another process
// is not genuine here, one of a connection that is gone names none, for no number is used twice.
const (
	macSize    = 12 // bytes: a guess is right once in 2^96
	numberSize = 6
	sealText   = (numberSize + macSize) * 8 / 6
)

// The things that are sealed. Each has a letter in its MAC: one can't be passed off as another.
const (
	asToken  = 't' // a connection, in a Route
	asHop    = 'h' // where a request came from, in our Via; bound to its branch
	asBranch = 'b' // no connection: a branch that follows from the request (RFC 3261 s.16.11)
)

// seals makes and checks them.
type seals struct{ macs sync.Pool } // of *mac

// mac is an HMAC with room for what goes in and comes out.
type mac struct {
	hash.Hash
	in  []byte
	sum []byte
}

func (s *seals) init() {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	s.macs.New = func() any { return &mac{Hash: hmac.New(sha256.New, key)} }
}

// sum writes the MAC of a number and of texts, each with its length.
func (s *seals) sum(out []byte, as byte, number uint64, texts ...string) {
	m := s.macs.Get().(*mac)
	defer s.macs.Put(m)
	m.Reset()
	m.in = binary.BigEndian.AppendUint64(append(m.in[:0], as), number)
	for _, t := range texts {
		m.in = append(binary.BigEndian.AppendUint32(m.in, uint32(len(t))), t...)
	}
	m.Write(m.in)
	m.sum = m.Sum(m.sum[:0])
	copy(out, m.sum)
}

// seal returns the text that open takes.
func (s *seals) seal(as byte, number uint64, texts ...string) string {
	var raw [numberSize + macSize]byte
	var wide [8]byte
	binary.BigEndian.PutUint64(wide[:], number)
	copy(raw[:], wide[8-numberSize:])
	s.sum(raw[numberSize:], as, number, texts...)
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// open returns the number in a seal of this process. The comparison takes the same time
// wherever the texts differ.
func (s *seals) open(as byte, text string, texts ...string) (number uint64, genuine bool) {
	var raw [numberSize + macSize]byte
	if !sealed(text) {
		return 0, false
	}
	if n, err := base64.RawURLEncoding.Decode(raw[:], []byte(text)); err != nil || n != len(raw) {
		return 0, false
	}
	var wide [8]byte
	copy(wide[8-numberSize:], raw[:])
	number = binary.BigEndian.Uint64(wide[:])
	var want [macSize]byte
	s.sum(want[:], as, number, texts...)
	return number, hmac.Equal(want[:], raw[numberSize:])
}

// sealed reports a text of the form of a seal, whoever made it.
func sealed(text string) bool {
	if len(text) != sealText {
		return false
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// tokenURI is the address of a connection: what comes to contact with it as topmost Route
// goes on there. Over TCP: what is lost on a datagram's way nobody would repeat, since the
// phone trusts its connection.
func (s *seals) tokenURI(number uint64, contact netip.AddrPort) string {
	return "sip:" + s.seal(asToken, number) + "@" + contact.String() + ";transport=tcp;lr"
}

// passedCookie begins the branch of a request that was passed on. The core makes none with
// a tilde.
const passedCookie = cookie + "~"

// branchOf is the branch under which a request is passed on. It follows from what all
// messages of one transaction share, a CANCEL and the ACK to a refusal included (RFC 3261
// s.16.11, item 1), and not from the connection: a node that takes over may cancel what the
// dead one sent.
func (s *seals) branchOf(m *parsed) string {
	var sum [macSize]byte
	r := m.request
	s.sum(sum[:], asBranch, uint64(r.CSeq), m.via.branch, m.via.sentBy(), r.CallID, r.From.Tag())
	return passedCookie + base64.RawURLEncoding.EncodeToString(sum[:])
}

// hopParam is the Via parameter that says which connection a request came on.
const hopParam = "i"

// hopOf returns what that parameter holds.
func hopOf(v *via) string {
	for p := range eachParam(v.params) {
		if name, value, _ := strings.Cut(p, "="); strings.EqualFold(name, hopParam) {
			return value
		}
	}
	return ""
}
