package peers

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"net/netip"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The three messages with which a connection begins, D dialing R:
//
//	D -> R  hello    D's nonce and tag, who D is      sealed with the secret
//	R -> D  welcome  R's nonce, who R is              sealed over hello and welcome
//	D -> R  confirm  nothing                          sealed over hello and welcome
//
// The welcome proves that R knows the secret now, since D's nonce is new; the confirm
// proves the same of D, so a recorded hello makes R believe nothing. From both follow two
// keys that no other connection has: one for the heartbeats that R sends to D, one for what
// D says on the connection. What was recorded elsewhere or before opens neither.
const (
	labelHello   = "hello"
	labelWelcome = "welcome"
	labelConfirm = "confirm"
	labelBeats   = "beats"
	labelFrames  = "frames"
)

// handshakeMagic begins a hello and a welcome; its last byte is the version.
const handshakeMagic = "dtn\x01"

const (
	nonceSize = 16
	sealSize  = sha256.Size
	maxFrame  = 512 // bytes of a message on a connection, without its length
)

type nonce [nonceSize]byte

// tag is by which a receiver finds the connection that a heartbeat belongs to. The receiver
// chose it at random.
type tag uint32

var (
	errMalformed = errors.New("not a message of this protocol")
	errForged    = errors.New("the seal is wrong; do both nodes have the same secret?")
)

// seal is HMAC-SHA-256 over label and parts, each with its length before it, so that no
// two lists of parts read the same.
func seal(key []byte, label string, parts ...[]byte) []byte {
	mac := hmac.New(sha256.New, key)
	write := func(b []byte) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(b)))
		mac.Write(n[:])
		mac.Write(b)
	}
	write([]byte(label))
	for _, part := range parts {
		write(part)
	}
	return mac.Sum(nil)
}

// keys are those of one connection.
type keys struct{ beats, frames []byte }

func keysOf(secret, hello, welcome []byte) keys {
	return keys{seal(secret, labelBeats, hello, welcome), seal(secret, labelFrames, hello, welcome)}
}

// greeting is what a hello and a welcome say. The tag is the hello's alone.
type greeting struct {
	nonce nonce
	tag   tag
	who   process
}

// appendHello writes a hello with its seal.
func appendHello(b, secret []byte, g greeting) []byte {
	start := len(b)
	b = appendGreeting(b, g)
	return append(b, seal(secret, labelHello, b[start:])...)
}

// readHello returns what a hello says; its seal is right.
func readHello(b, secret []byte) (greeting, error) {
	g, body, err := readGreeting(b)
	if err == nil && !hmac.Equal(b[len(body):], seal(secret, labelHello, body)) {
		err = errForged
	}
	return g, err
}

// appendWelcome writes the answer to a hello.
func appendWelcome(b, secret, hello []byte, g greeting) []byte {
	start := len(b)
	b = appendGreeting(b, g)
	return append(b, seal(secret, labelWelcome, hello, b[start:])...)
}

// readWelcome returns what the answer to this very hello says.
func readWelcome(b, secret, hello []byte) (greeting, error) {
	g, body, err := readGreeting(b)
	if err == nil && !hmac.Equal(b[len(body):], seal(secret, labelWelcome, hello, body)) {
		err = errForged
	}
	return g, err
}

func confirmOf(secret, hello, welcome []byte) []byte {
	return seal(secret, labelConfirm, hello, welcome)
}

func appendGreeting(b []byte, g greeting) []byte {
	b = append(b, handshakeMagic...)
	b = append(b, g.nonce[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(g.tag))
	b = binary.BigEndian.AppendUint64(b, uint64(g.who.incarnation))
	b = append(b, byte(len(g.who.id)))
	return append(b, g.who.id...)
}

// readGreeting reads a whole message and returns it without its seal, too.
func readGreeting(b []byte) (g greeting, body []byte, err error) {
	const fixed = len(handshakeMagic) + nonceSize + 4 + 8 + 1
	if len(b) < fixed+sealSize || string(b[:len(handshakeMagic)]) != handshakeMagic {
		return g, nil, errMalformed
	}
	r := b[len(handshakeMagic):]
	copy(g.nonce[:], r)
	r = r[nonceSize:]
	g.tag = tag(binary.BigEndian.Uint32(r))
	g.who.incarnation = core.Revision(binary.BigEndian.Uint64(r[4:]))
	length := int(r[12])
	if length == 0 || length > maxID || len(b) != fixed+length+sealSize || g.who.incarnation < 0 {
		return greeting{}, nil, errMalformed
	}
	g.who.id = core.NodeID(b[fixed : fixed+length])
	return g, b[:fixed+length], nil
}

// frames seals what is said on a connection after its handshake, or checks it: each frame
// with its number, so that none can be left out, repeated or exchanged.
type frames struct {
	mac    hash.Hash
	number uint64
}

func newFrames(key []byte) frames { return frames{mac: hmac.New(sha256.New, key)} }

// sealNext returns the seal of the next frame.
func (f *frames) sealNext(body []byte) []byte {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], f.number)
	f.number++
	f.mac.Reset()
	f.mac.Write(n[:])
	f.mac.Write(body)
	return f.mac.Sum(nil)
}

// open returns the body of the next frame.
func (f *frames) open(b []byte) ([]byte, error) {
	if len(b) < sealSize {
		return nil, errMalformed
	}
	body := b[:len(b)-sealSize]
	if !hmac.Equal(b[len(body):], f.sealNext(body)) {
		return nil, errForged
	}
	return body, nil
}

// The kinds of frames.
const (
	frameAsk      = 'a'
	frameHears    = 'y'
	frameHearsNot = 'n'
)

func appendAsk(b []byte, about core.Member) []byte { return appendMember(append(b, frameAsk), about) }

func appendTell(b []byte, about core.Member, hears bool) []byte {
	kind := byte(frameHearsNot)
	if hears {
		kind = frameHears
	}
	return appendMember(append(b, kind), about)
}

// readFrame returns the event that a frame of from is.
func readFrame(body []byte, from core.Member) (core.Event, error) {
	if len(body) == 0 {
		return nil, errMalformed
	}
	about, err := readMember(body[1:])
	if err != nil {
		return nil, err
	}
	switch body[0] {
	case frameAsk:
		return core.PeerAsked{From: from, About: about}, nil
	case frameHears, frameHearsNot:
		return core.PeerTold{From: from, About: about, Hears: body[0] == frameHears}, nil
	}
	return nil, errMalformed
}

func appendMember(b []byte, m core.Member) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(m.Incarnation))
	b = append(b, byte(len(m.ID)))
	b = append(b, m.ID...)
	if m.Addr.IsValid() {
		b = m.Addr.AppendTo(b)
	}
	return b
}

// readMember reads what appendMember wrote, to the end of b.
func readMember(b []byte) (m core.Member, err error) {
	if len(b) < 9 || b[8] == 0 || b[8] > maxID || len(b) < 9+int(b[8]) {
		return m, errMalformed
	}
	m.Incarnation = core.Revision(binary.BigEndian.Uint64(b))
	m.ID = core.NodeID(b[9 : 9+int(b[8])])
	if addr := b[9+int(b[8]):]; len(addr) > 0 {
		if m.Addr, err = netip.ParseAddrPort(string(addr)); err != nil {
			return core.Member{}, errMalformed
		}
	}
	if m.Incarnation < 0 {
		return core.Member{}, errMalformed
	}
	return m, nil
}
