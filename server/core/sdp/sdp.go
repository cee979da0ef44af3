// Package sdp describes one audio stream in SDP (RFC 8866) and agrees on it by offer and
// answer (RFC 3264). A description is a value, Session, that is stored in call records.
//
// Only what dialtone carries is understood: one RTP/AVP or RTP/AVPF audio stream with
// G.711, and with G.722 or Opus passed through, plus telephone-event (RFC 4733). Every
// other stream of a description is remembered just well enough to be refused in its
// place, as RFC 3264 s.6 demands.
package sdp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Direction says which way audio flows, seen from whoever wrote the description.
type Direction string

// The directions (RFC 8866 s.6.7). The empty one lets nothing flow.
const (
	SendRecv Direction = "sendrecv"
	SendOnly Direction = "sendonly"
	RecvOnly Direction = "recvonly"
	Inactive Direction = "inactive"
)

// Reverse returns the direction as the other side sees it.
func (d Direction) Reverse() Direction { return direction(d.Receives(), d.Sends()) }

// Sends reports whether the writer of the description sends.
func (d Direction) Sends() bool { return d == SendRecv || d == SendOnly }

// Receives reports whether the writer of the description receives.
func (d Direction) Receives() bool { return d == SendRecv || d == RecvOnly }

// And returns what both d and e allow.
func (d Direction) And(e Direction) Direction {
	return direction(d.Sends() && e.Sends(), d.Receives() && e.Receives())
}

func direction(sends, receives bool) Direction {
	switch {
	case sends && receives:
		return SendRecv
	case sends:
		return SendOnly
	case receives:
		return RecvOnly
	}
	return Inactive
}

// Format is one entry of the m= line with its rtpmap and fmtp.
type Format struct {
	Payload  uint8  `json:"payload"`            // 0..127
	Name     string `json:"name"`               // upper case; "" when the description does not say
	Clock    uint32 `json:"clock"`              // RTP clock in Hz
	Channels uint8  `json:"channels,omitempty"` // 0 means 1
	Params   string `json:"params,omitempty"`   // fmtp, without the payload number
}

// The names that the rules of this package turn on.
const (
	pcmu           = "PCMU"
	pcma           = "PCMA"
	telephoneEvent = "TELEPHONE-EVENT"
	comfortNoise   = "CN"
)

// same reports whether f and g are the same encoding, whatever their payload numbers.
func (f Format) same(g Format) bool {
	return f.Name == g.Name && f.Name != "" && f.Clock == g.Clock && max(f.Channels, 1) == max(g.Channels, 1)
}

// audible reports whether f is a codec: a name we know, and not an event or comfort noise.
func (f Format) audible() bool {
	return f.Name != "" && f.Name != telephoneEvent && f.Name != comfortNoise
}

func (f Format) isG711() bool { return f.Name == pcmu || f.Name == pcma }

// G711 lists what the media edge can play, mix and transcode, with telephone-event.
func G711() []Format {
	return []Format{
		{Payload: 0, Name: pcmu, Clock: 8000, Channels: 1},
		{Payload: 8, Name: pcma, Clock: 8000, Channels: 1},
		{Payload: 101, Name: telephoneEvent, Clock: 8000, Channels: 1, Params: "0-16"},
	}
}

// PassThrough lists what is only carried from one leg to another: G.722, whose RTP clock
// is 8000 Hz by an old mistake (RFC 3551 s.4.5.2), and Opus (RFC 7587 s.7: always 48000/2).
func PassThrough() []Format {
	return []Format{
		{Payload: 9, Name: "G722", Clock: 8000, Channels: 1},
		{Payload: 107, Name: "OPUS", Clock: 48000, Channels: 2},
	}
}

// Stream is an m= line that is not ours: enough of it to refuse it (RFC 3264 s.6).
type Stream struct {
	Media  string `json:"media"`
	Proto  string `json:"proto"`
	Format string `json:"format"` // the first of its formats; one must be named, none counts
}

// Session is the audio stream of one description. Everything that Parse returns can be
// marshalled, and parses again to the same value.
type Session struct {
	ID      uint64 `json:"id"`
	Version uint64 `json:"version"`
	// Origin is what o= holds beside id and version: user, net type, address type, address.
	// It must not change within a dialog (RFC 3264 s.8). "" when marshalled: "- IN IP4 <Addr>".
	Origin    string         `json:"origin,omitempty"`
	Addr      netip.AddrPort `json:"addr"`          // where the writer receives RTP; port 0: stream refused
	RTCP      netip.AddrPort `json:"rtcp,omitzero"` // RFC 3605; zero: one port above Addr
	Proto     string         `json:"proto"`         // "RTP/AVP", or what else the m= line says
	Direction Direction      `json:"direction"`
	Formats   []Format       `json:"formats,omitempty"`
	Ptime     int            `json:"ptime,omitempty"`  // ms, 0: not said
	Index     int            `json:"index"`            // place of the audio stream among the m= lines; -1: there is none
	Others    []Stream       `json:"others,omitempty"` // the other m= lines, in order
}

// Refused reports whether the description carries no audio stream that is in use.
func (s Session) Refused() bool { return s.Index < 0 || s.Addr.Port() == 0 }

// Codec returns the codec that s settles on, s being an answer (the peer's or our own):
// the first of its formats that is audio. Telephone is the payload type of the
// telephone-event with the codec's clock, 0 for none. It is false for a refused stream.
//
// Send with the numbers of the peer's description. They equal ours in every sane answer
// (RFC 3264 s.6.1 says SHOULD), but an answerer may number dynamic formats anew.
func (s Session) Codec() (codec core.Codec, telephone uint8, ok bool) {
	i := slices.IndexFunc(s.Formats, Format.audible)
	if i < 0 || s.Refused() {
		return core.Codec{}, 0, false
	}
	f := s.Formats[i]
	codec = core.Codec{Name: f.Name, Payload: f.Payload, Clock: f.Clock}
	for _, g := range s.Formats {
		if g.Name == telephoneEvent && g.Clock == f.Clock {
			return codec, g.Payload, true
		}
	}
	return codec, 0, true
}

// The reasons for which an offer or an answer is not acceptable. ErrSecured and ErrNoAudio
// are kinds of ErrNoCodec: errors.Is finds all three by it, and 488 answers all three.
var (
	ErrNoCodec   = errors.New("no codec in common: offer PCMU, PCMA, G722 or opus")
	ErrSecured   = fmt.Errorf("%w, and on plain RTP: SRTP is not carried here", ErrNoCodec)
	ErrNoAudio   = fmt.Errorf("%w, in an audio stream: the description has none in use", ErrNoCodec)
	ErrRefused   = errors.New("the answer refuses the audio stream")
	ErrDirection = errors.New("the answer's direction does not fit the offer's (RFC 3264 s.6.1)")
)
