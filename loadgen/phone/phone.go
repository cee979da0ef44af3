package phone

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// Config is who a phone is.
type Config struct {
	User, Password string
	AuthUser       string         // of the digest, default User
	Domain         string         // of its address; the target's host when empty
	Tone           float64        // Hz of its voice, whole, below 4000; default 440
	Voice          uint64         // in its stamps; made of User when 0
	Label          string         // of its latency histogram, see stream.Options
	Codecs         []stream.Codec // that it speaks, best first; default PCMU
	Marker         bool           // speaks and listens for markers in the sound, see stream.Options
	Sound          bool           // its calls keep the last second they heard
	AnySource      bool           // its calls hear audio from any address: a failover moves it
	Quiet          bool           // sends no 180 by itself: Ring does
	Backlog        int            // calls that may wait in Incoming, default 64: more are refused with 486
	Refresh        float64        // registers again after this part of what the registrar grants, such as 0.5; 0: never by itself

	// For New alone, which makes an endpoint and an engine for this phone.
	Server netip.AddrPort // registrar and outbound proxy, over UDP
	Addr   netip.Addr     // where it listens; default: the address from which the server is reached
	Start  time.Time      // from which the measure.Micros of what it hears count; now when zero
	Log    *slog.Logger
}

// Phone is one phone. Its calls arrive in Incoming.
type Phone struct {
	cfg         Config
	e           *Endpoint
	own         bool // the endpoint is for this phone alone
	contact     string
	contactUser string
	incoming    chan *Call

	// Under the endpoint's lock.
	binding        registration
	registerProofs proofs
	callProofs     proofs
	calls          map[*Call]struct{}
	closed         bool
}

// New starts a phone with an endpoint and an audio engine of its own, which Close ends. It
// hears audio from any source and keeps its sound.
func New(cfg Config) (*Phone, error) {
	e, err := Listen(EndpointConfig{Target: Target{Addr: cfg.Server}, Addr: cfg.Addr, Start: cfg.Start, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	cfg.Sound, cfg.AnySource = true, true
	p, err := e.Phone(cfg)
	if err != nil {
		e.Close()
		return nil, err
	}
	p.own = true
	return p, nil
}

// Phone adds a phone. Two with the same User get different Contacts.
func (e *Endpoint) Phone(cfg Config) (*Phone, error) {
	if cfg.Domain == "" {
		cfg.Domain = e.cfg.Target.Addr.Addr().String()
		if e.cfg.Target.Addr.Addr().Is6() {
			cfg.Domain = "[" + cfg.Domain + "]"
		}
	}
	if cfg.Tone == 0 {
		cfg.Tone = 440
	}
	if cfg.Voice == 0 {
		cfg.Voice = voiceOf(cfg.User)
	}
	if len(cfg.Codecs) == 0 {
		cfg.Codecs = []stream.Codec{stream.PCMU}
	}
	if cfg.Backlog <= 0 {
		cfg.Backlog = 64
	}
	for _, c := range cfg.Codecs {
		if c != stream.PCMU && c != stream.PCMA {
			return nil, fmt.Errorf("phone: codec %d: must be PCMU or PCMA", c)
		}
	}
	if cfg.User == "" || !plain(cfg.User+cfg.Domain) || strings.Contains(cfg.User+cfg.Domain, "@") {
		return nil, fmt.Errorf("phone: user %q at %q: must be the two parts of a SIP address", cfg.User, cfg.Domain)
	}
	p := &Phone{cfg: cfg, e: e, incoming: make(chan *Call, cfg.Backlog), calls: map[*Call]struct{}{}}
	p.binding.refresh.ring = p.refresh
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	p.contactUser = cfg.User
	for i := 2; e.phones[p.contactUser] != nil; i++ {
		p.contactUser = cfg.User + "." + strconv.Itoa(i)
	}
	e.phones[p.contactUser] = p
	p.contact = "<sip:" + p.contactUser + "@" + e.sentBy + e.transport + ">"
	return p, nil
}

// voiceOf makes a number of a name, to be told apart in stamps (FNV-1a).
func voiceOf(user string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(user) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// Voice is the number by which others know this phone's voice.
func (p *Phone) Voice() uint64 { return p.cfg.Voice }

// Incoming gives the calls that ring here. It is never closed, by Close neither: one who reads it
// selects on its own end beside it and does not range over it.
func (p *Phone) Incoming() <-chan *Call { return p.incoming }

// Addr is where the phone takes SIP.
func (p *Phone) Addr() netip.AddrPort { return p.e.local }

// Close ends the phone, as a power cut does: nobody is told. Unregister first to leave in
// order.
func (p *Phone) Close() {
	if p.own {
		p.e.Close()
		return
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	for c := range p.calls {
		c.finish(Closed, time.Now())
	}
	p.stop()
	if p.e.phones[p.contactUser] == p {
		delete(p.e.phones, p.contactUser)
	}
}

func (p *Phone) stop() {
	p.closed = true
	p.e.unset(&p.binding.refresh)
}

// phoneOf finds whom a request is for.
func (e *Endpoint) phoneOf(m *message) *Phone {
	if p := e.phones[userOf(m.uri)]; p != nil {
		return p
	}
	if len(e.phones) == 1 {
		for _, p := range e.phones {
			return p
		}
	}
	return e.phones[userOf(m.to)]
}

// Refused is a final response other than 2xx.
type Refused struct {
	Status int
	Reason string
}

func (r *Refused) Error() string { return fmt.Sprintf("refused: %d %s", r.Status, r.Reason) }

var errNoURI = errors.New("must be a sip: or tel: URI without white space")
