package sdp

import (
	"fmt"
	"net/netip"
	"slices"
)

// Local is what we want and can on one leg; an offer or an answer is made from it.
type Local struct {
	ID, Version uint64 // of o=; the caller counts Version up with each description that differs
	Origin      string // as in Session; "" for the address of Addr
	Addr        netip.AddrPort
	Direction   Direction // what we want; "" is SendRecv
	Formats     []Format  // what we can, in order of preference
	Index       int       // place of the audio stream, and the other streams: as in the
	Others      []Stream  // descriptions before, see After
}

// packet is the length of our packets in ms: what every phone can, and what RFC 3551 s.4.2 makes the default.
const packet = 20

// After returns l as the next description of a dialog in which local and remote were the
// last ones: with as many streams in the same order (RFC 3264 s.8: an m= line is never
// taken away), the same origin, and payload numbers that keep their meaning (s.8.3.2).
func (l Local) After(local, remote Session) Local {
	shape := local
	if len(remote.Others) > len(local.Others) { // the peer added a stream in an offer that was not answered
		shape = remote
	}
	if shape.Index >= 0 {
		l.Index, l.Others = shape.Index, slices.Clone(shape.Others)
	}
	l.Origin = local.Origin
	past := slices.Concat(local.Formats, remote.Formats)
	l.Formats = slices.Clone(l.Formats)
	for i, f := range l.Formats {
		same := slices.IndexFunc(past, f.same)
		if same >= 0 {
			l.Formats[i].Payload = past[same].Payload
		}
	}
	for i, f := range l.Formats {
		clash := func(g Format) bool { return g.Payload == f.Payload && !g.same(f) }
		if slices.ContainsFunc(past, clash) || slices.ContainsFunc(l.Formats, clash) {
			l.Formats[i].Payload = unused(past, l.Formats)
		}
	}
	return l
}

// unused returns a dynamic payload number that no format of the lists has. There are 32
// of them for formats; 35 to 63 follow when a strange peer has used them up (RFC 3551 s.6).
func unused(lists ...[]Format) uint8 {
	formats := slices.Concat(lists...)
	free := func(n uint8) bool {
		return !slices.ContainsFunc(formats, func(f Format) bool { return f.Payload == n })
	}
	for n := uint8(127); n >= 96; n-- {
		if free(n) {
			return n
		}
	}
	for n := uint8(63); n > 35; n-- {
		if free(n) {
			return n
		}
	}
	return 35
}

func (l Local) want() Direction {
	if l.Direction == "" {
		return SendRecv
	}
	return l.Direction
}

// Offer returns the offer of everything that l can (RFC 3264 s.5).
func (l Local) Offer() Session {
	return Session{
		ID: l.ID, Version: l.Version, Origin: l.origin(), Addr: l.Addr, Proto: avp, Direction: l.want(),
		Formats: slices.Clone(l.Formats), Ptime: packet, Index: min(l.Index, len(l.Others)), Others: slices.Clone(l.Others),
	}
}

// origin is written down with the description, so that a later one at another address
// (after a takeover) can still repeat it, as RFC 3264 s.8 asks.
func (l Local) origin() string {
	if l.Origin != "" {
		return l.Origin
	}
	return "- " + family(l.Addr.Addr())
}

// Answer returns the answer to an offer (RFC 3264 s.6): the same streams in the same order,
// all but the audio stream refused; one codec, and telephone-event at its clock when the
// offer has it, both under the offerer's numbers; the direction that both sides want.
//
// The codec is the first of the offerer's list that we can. But G.711 goes before codecs
// that are only passed through, when the offer has both: prompts and music exist in G.711.
//
// Errors: ErrNoCodec, ErrSecured, ErrNoAudio.
func (l Local) Answer(offer Session) (Session, error) {
	switch {
	case offer.Refused():
		return Session{}, ErrNoAudio
	case offer.Proto != avp && offer.Proto != avpf:
		return Session{}, ErrSecured
	}
	codec, ok := l.choose(offer.Formats)
	if !ok {
		return Session{}, ErrNoCodec
	}
	formats := []Format{codec}
	if i := slices.IndexFunc(l.Formats, func(f Format) bool { return f.Name == telephoneEvent }); i >= 0 {
		event := Format{Name: telephoneEvent, Clock: codec.Clock}
		if j := slices.IndexFunc(offer.Formats, event.same); j >= 0 {
			event = offer.Formats[j]
			event.Params = l.Formats[i].Params
			formats = append(formats, event)
		}
	}
	return Session{
		ID: l.ID, Version: l.Version, Origin: l.origin(), Addr: l.Addr, Proto: offer.Proto,
		Direction: l.want().And(offer.Direction.Reverse()),
		Formats:   formats, Ptime: packet, Index: offer.Index, Others: slices.Clone(offer.Others),
	}, nil
}

func (l Local) choose(offered []Format) (Format, bool) {
	for _, only := range []bool{true, false} {
		for _, f := range offered {
			i := slices.IndexFunc(l.Formats, f.same)
			if i < 0 || !f.audible() || only && !f.isG711() {
				continue
			}
			f.Params = l.Formats[i].Params // what we want to receive, not what the peer does
			return f, true
		}
	}
	return Format{}, false
}

// Accept reports whether answer is a valid answer to the offer s (RFC 3264 s.6). The
// first codec of the answer must be one of the offered, for it is the one that will be
// used; formats after it that were never offered are legal (s.6.1) and mean nothing.
//
// Errors: ErrRefused (port 0, a valid answer that leaves nothing to talk in), ErrDirection,
// ErrNoCodec, or one that says how the m= lines differ. A phone that forgets the direction
// in its answer to a hold is common: on ErrDirection a call can go on with what both allow,
// s.Direction.And(answer.Direction.Reverse()).
func (s Session) Accept(answer Session) error {
	if len(answer.Others) != len(s.Others) || (answer.Index < 0) != (s.Index < 0) {
		return fmt.Errorf("the answer has %d m= lines, the offer %d", answer.lines(), s.lines())
	}
	if answer.Refused() {
		return ErrRefused
	}
	if answer.Index != s.Index {
		return fmt.Errorf("the answer has its audio in m= line %d, the offer in %d", answer.Index+1, s.Index+1)
	}
	for i, other := range s.Others {
		if answer.Others[i].Media != other.Media {
			return fmt.Errorf("the answer has m=%s where the offer has m=%s", answer.Others[i].Media, other.Media)
		}
	}
	if answer.Proto != s.Proto {
		return fmt.Errorf("the answer speaks %s, the offer %s", answer.Proto, s.Proto)
	}
	first := slices.IndexFunc(answer.Formats, Format.audible)
	if first < 0 || !slices.ContainsFunc(s.Formats, answer.Formats[first].same) {
		return ErrNoCodec
	}
	if s.Refused() { // port 0 stays port 0 (s.6)
		return ErrNoAudio
	}
	if allowed := s.Direction.Reverse(); answer.Direction.And(allowed) != answer.Direction {
		return ErrDirection
	}
	return nil
}

func (s Session) lines() int {
	if s.Index < 0 {
		return len(s.Others)
	}
	return len(s.Others) + 1
}
