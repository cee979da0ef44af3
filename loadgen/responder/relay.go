package responder

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

// relay is the audio of one call: a port for each party, and between them a flow each way.
type relay struct {
	caller, agent     *port
	toCaller, toAgent *flow
	running           sync.WaitGroup
}

// port is where one party sends its audio to, and from where it gets the other's.
type port struct {
	*socket
	mu     sync.Mutex
	remote netip.AddrPort // zero until the party has said where it listens
}

func (p *port) speakTo(remote netip.AddrPort) {
	p.mu.Lock()
	p.remote = remote
	p.mu.Unlock()
}

func (p *port) to() netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.remote
}

// flow is one direction, with its faults.
type flow struct {
	cfg    *Config
	out    *port
	held   *agenda
	hold   *hold
	recode *recode // nil: as it is

	mu       sync.Mutex
	chance   *rand.Rand
	open     bool // the call is answered and nobody has hung up
	over     bool
	received uint64 // audio packets, numbered from 0 in the order of arrival
	sent     uint64
	first    uint64 // lowest and highest number sent
	last     uint64
	extra    Flow // what is not derived from these
	pace     pace
}

// pace follows the times of sending.
type pace struct {
	first, latest time.Time
	timestamp     uint32
	gap           time.Duration
	jitter        float64 // ns
}

func (p *pace) sent(at time.Time, timestamp uint32) {
	if p.first.IsZero() {
		p.first = at
	} else {
		since := at.Sub(p.latest)
		d := since - time.Duration(int32(timestamp-p.timestamp))*(time.Second/voice.Rate)
		p.jitter += (math.Abs(float64(d)) - p.jitter) / 16
		p.gap = max(p.gap, since)
	}
	p.latest, p.timestamp = at, timestamp
}

// told is the pace as Truth tells it.
func (f *flow) told(x *exchange) Pace {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pace.first.IsZero() {
		return Pace{First: Never}
	}
	return Pace{x.micros(f.pace.first), Micros(f.pace.gap.Microseconds()), Micros(f.pace.jitter / 1000)}
}

// hold is the histogram that all flows of one direction share.
type hold struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// recode turns one law into the other.
type recode struct {
	from, to byte // payload types
	law      voice.Law
}

// openRelay opens both ports. Each direction has chances of its own, so that its faults
// depend on the seed and the number of its packets, not on who is faster.
func (x *exchange) openRelay(number uint64) (*relay, error) {
	at := netip.AddrPortFrom(x.sip.addr.Addr(), 0)
	a, err := listen(at)
	if err != nil {
		return nil, err
	}
	b, err := listen(at)
	if err != nil {
		a.close()
		return nil, err
	}
	r := &relay{caller: &port{socket: a}, agent: &port{socket: b}}
	r.toAgent = &flow{cfg: &x.cfg, out: r.agent, held: x.packets, hold: &x.toAgent, chance: rand.New(rand.NewPCG(x.cfg.Seed, 2*number))}
	r.toCaller = &flow{cfg: &x.cfg, out: r.caller, held: x.packets, hold: &x.toCaller, chance: rand.New(rand.NewPCG(x.cfg.Seed, 2*number+1))}
	if x.cfg.Transcode {
		r.toAgent.recode = &recode{pcmu, pcma, voice.ULaw}
		r.toCaller.recode = &recode{pcma, pcmu, voice.ALaw}
	}
	r.running.Go(func() { r.caller.read(r.toAgent.take) })
	r.running.Go(func() { r.agent.read(r.toCaller.take) })
	return r, nil
}

// close ends the relay and waits for its goroutines.
func (r *relay) close() {
	r.toCaller.stop()
	r.toAgent.stop()
	r.caller.close()
	r.agent.close()
	r.running.Wait()
}

func (f *flow) start() {
	f.mu.Lock()
	f.open = true
	f.mu.Unlock()
}

// stop ends the flow: its receiver has hung up or is told to.
func (f *flow) stop() {
	f.mu.Lock()
	f.open, f.over = false, true
	f.mu.Unlock()
}

// truth is the flow's account.
func (f *flow) truth() Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.extra
	t.Received, t.Sent, t.Lost = f.received, f.sent, f.received-f.sent
	switch {
	case f.sent > 0:
		t.Edge = f.first + f.received - 1 - f.last
	default:
		t.Edge = t.Lost
	}
	return t
}

const (
	rtpHeader   = 12 // bytes, without CSRC and extension
	longestRTP  = 1500
	overtakenBy = 30 * time.Millisecond // one frame and a half
)

// audioType returns the payload type of an RTP packet (RFC 3550 s.5.1), false when the
// packet is none; RTCP on the same port (RFC 5761 s.4) is none.
func audioType(b []byte) (byte, bool) {
	if len(b) < rtpHeader || len(b) > longestRTP || b[0]>>6 != 2 || b[1] >= 192 && b[1] <= 223 {
		return 0, false
	}
	return b[1] & 0x7f, true
}

// take decides the fate of a packet that has just come.
func (f *flow) take(b []byte, _ netip.AddrPort, arrived time.Time) {
	kind, ok := audioType(b)
	if !ok {
		return
	}
	audio := kind == pcmu || kind == pcma
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.open {
		if !f.over && audio {
			f.extra.Early++
		}
		return
	}
	number := f.received
	if audio {
		f.received++
	}
	// Always the same draws per packet, so that one fault does not move the others.
	lost, twice, slow := f.chance.Float64() < f.cfg.Loss, f.chance.Float64() < f.cfg.Duplicate, f.chance.Float64() < f.cfg.Reorder
	span := time.Duration((2*f.chance.Float64() - 1) * float64(f.cfg.Jitter))
	if lost {
		return
	}
	wait := f.cfg.Delay + span
	if slow {
		wait += overtakenBy + 2*f.cfg.Jitter
	}
	p := packet{bytes: append([]byte(nil), b...), number: number, audio: audio, twice: twice, arrived: arrived}
	f.convert(p.bytes)
	if wait <= 0 {
		f.deliver(p)
		return
	}
	f.held.at(arrived.Add(wait), func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.deliver(p)
	})
}

type packet struct {
	bytes   []byte
	number  uint64
	audio   bool
	twice   bool
	arrived time.Time
}

// deliver sends a packet whose time has come; f.mu is held.
func (f *flow) deliver(p packet) {
	to := f.out.to()
	if !f.open || !to.IsValid() {
		return
	}
	now := time.Now()
	if f.out.send(p.bytes, to) != nil {
		return
	}
	if p.audio {
		f.count(p.number, now.Sub(p.arrived))
		f.pace.sent(now, binary.BigEndian.Uint32(p.bytes[4:]))
	}
	if p.twice && f.out.send(p.bytes, to) == nil && p.audio {
		f.extra.Duplicated++
	}
}

func (f *flow) count(number uint64, held time.Duration) {
	if f.sent == 0 {
		f.first, f.last = number, number
	} else if number < f.last {
		f.extra.Reordered++
	}
	f.first, f.last = min(f.first, number), max(f.last, number)
	f.sent++
	f.hold.mu.Lock()
	_ = f.hold.h.RecordValue(min(max(1, held.Microseconds()), f.hold.h.HighestTrackableValue()))
	f.hold.mu.Unlock()
}

// convert changes the law of the audio, in place.
func (f *flow) convert(b []byte) {
	if f.recode == nil || b[1]&0x7f != f.recode.from {
		return
	}
	start := rtpHeader + 4*int(b[0]&0x0f)
	if b[0]&0x10 != 0 { // header extension
		if start+4 > len(b) {
			return
		}
		start += 4 + 4*(int(b[start+2])<<8|int(b[start+3]))
	}
	if start > len(b) {
		return
	}
	b[1] = b[1]&0x80 | f.recode.to
	f.recode.law.Recode(b[start:])
}
