package stream

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

// Codec is a voice codec by its static RTP payload type (RFC 3551 s.6).
type Codec uint8

const (
	PCMU Codec = 0 // G.711 u-law
	PCMA Codec = 8 // G.711 A-law
)

func (c Codec) law() voice.Law {
	if c == PCMA {
		return voice.ALaw
	}
	return voice.ULaw
}

// Options is who speaks in a stream and how it listens.
type Options struct {
	Voice     uint64 // who speaks: unique among all streams that may hear each other; its low 16 bits name it in a marker
	Tone      int    // of its voice, Hz, below 4000; 440 when 0
	Marker    bool   // speak and listen for markers in the sound, for paths that change the bytes; the clocks must be one
	Label     string // whose latency histogram it adds to, such as "caller_hears"
	Sound     bool   // keep the last second of audio for Heard.Sound (8 kB)
	AnySource bool   // take audio from any address, not from the remote alone (a takeover moves it); sending costs more
	Events    uint8  // payload type of telephone events (RFC 4733), 101 when 0
}

func (o *Options) check() error {
	if o.Tone == 0 {
		o.Tone = 440
	}
	if o.Events == 0 {
		o.Events = 101
	}
	switch {
	case o.Tone < 1 || o.Tone >= voice.Rate/2:
		return fmt.Errorf("tone of %d Hz: must be 1 to %d", o.Tone, voice.Rate/2-1)
	case o.Events < 96 || o.Events > 127:
		return fmt.Errorf("payload type %d for telephone events: must be 96 to 127", o.Events)
	}
	return nil
}

// Stream is the audio of one party of one call. Its methods may be called from any
// goroutine; each waits for the engine's thread, for less than 2 ms on an idle machine.
type Stream struct {
	// Of the loop alone.
	generation, slot int32
	fd               int
	ear              *ear
	sink             *sink
	gone             bool
	to               *sockaddr // remote of a socket that is not connected
	mouth            mouth

	engine  *Engine
	loop    *loop
	options Options
	at      netip.AddrPort

	mu     sync.Mutex // Talk and Close, which change the socket
	closed bool
	last   Heard // of a closed stream
}

func newStream(e *Engine, l *loop, o Options, fd int, at netip.AddrPort) *Stream {
	s := &Stream{engine: e, loop: l, options: o, fd: fd, at: at}
	r := mix(o.Voice)
	// Where sequence and timestamp begin is random (RFC 3550 s.5.1), the same for a voice.
	s.mouth = mouth{ssrc: uint32(r), sequence: uint16(r >> 32), timestamp: uint32(mix(r)), tick: notTalking, began: -1}
	s.ear = s.newEar()
	return s
}

// newEar is made outside of the loop: it is large.
func (s *Stream) newEar() *ear {
	r := newEar(s.engine.cfg.Buffer)
	if s.options.Marker {
		r.detector = voice.NewDetector()
	}
	if s.options.Sound {
		r.sound = make([]byte, 0, voice.Rate)
	}
	return r
}

// Addr is where the stream takes RTP.
func (s *Stream) Addr() netip.AddrPort { return s.at }

// Talk begins to speak to a remote, or goes on with another one; the voice runs on. From
// now on only the remote is heard, as it sends from the address at which it listens (RFC
// 4961), unless AnySource is set.
func (s *Stream) Talk(remote netip.AddrPort, codec Codec) error {
	if codec != PCMU && codec != PCMA {
		return fmt.Errorf("codec %d: must be 0 (PCMU) or 8 (PCMA)", codec)
	}
	peer := new(sockaddr)
	if !remote.IsValid() || remote.Port() == 0 || !peer.set(remote, familyOf(s.at.Addr())) {
		return fmt.Errorf("%v cannot talk to %v", s.at, remote)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errClosed
	}
	if !s.options.AnySource {
		if err := connectUDP(s.fd, peer); err != nil {
			return fmt.Errorf("talk to %v: %w", remote, err)
		}
		peer = nil
	}
	sound := s.engine.tone(s.options.Tone, codec)
	if !s.loop.ask(func() { s.loop.talk(s, peer, codec, sound) }) {
		return errClosed
	}
	return nil
}

// Mute stops speaking, or begins again: a muted stream sends nothing at all. Its RTP
// timestamp runs on and its sequence number does not, so nobody takes the pause for loss.
func (s *Stream) Mute(on bool) { s.ask(func() { s.mouth.muted = on }) }

const keys = "0123456789*#ABCD"

// SendDigit presses a key for so long (40 ms to 5 s): telephone events (RFC 4733) instead
// of the voice. Up to 32 digits wait for those before them.
func (s *Stream) SendDigit(digit byte, duration time.Duration) error {
	event := strings.IndexByte(keys, digit)
	if event < 0 {
		return fmt.Errorf("digit %q: must be one of %s", digit, keys)
	}
	if duration < 40*time.Millisecond || duration > 5*time.Second {
		return fmt.Errorf("digit for %v: must be 40ms to 5s", duration)
	}
	frames := int(math.Ceil(float64(duration) / float64(voice.FrameTime)))
	err := errClosed
	s.ask(func() { err = s.mouth.press(byte(event), frames) })
	return err
}

// Heard returns what was heard so far.
func (s *Stream) Heard() Heard {
	var then account
	if s.ask(func() { then = s.account() }) {
		return s.summary(then)
	}
	s.mu.Lock() // until whoever closes it has written it down
	defer s.mu.Unlock()
	return s.last
}

// Forget begins the account of what is heard anew, to leave out what came before: music,
// or a voice that is gone.
func (s *Stream) Forget() {
	fresh := s.newEar()
	s.ask(func() { s.ear = fresh })
}

// ask lets the loop do f with the stream, unless it is closed.
func (s *Stream) ask(f func()) bool {
	open := false
	s.loop.ask(func() {
		if open = !s.gone; open {
			f()
		}
	})
	return open
}

// Close ends the stream, frees its port, and returns what was heard. A second Close
// returns the same.
func (s *Stream) Close() Heard {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.last
	}
	s.closed = true
	s.loop.ask(func() { s.loop.drop(s) })
	then := account{s.ear, s.mouth, dropped(s.fd)}
	closeFD(s.fd)
	s.last = s.summary(then)
	s.ear = nil
	s.engine.forget(s)
	return s.last
}
