package media

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ports are the port pairs of a Media: an even RTP port and the odd RTCP port above it
// (RFC 3550 s.11). A pair is in exactly one place: free, resting, or taken by a leg. A
// pair that was given back rests, so that late packets of one call do not reach the next,
// and goes behind all free ones.
//
// The pairs are taken by the goroutine of Do and given back by the loops.
type ports struct {
	addr netip.Addr
	rest time.Duration

	mu      sync.Mutex
	free    []uint16 // RTP ports; a queue, taken from the front
	resting []restingPort
	count   int
}

type restingPort struct {
	port  uint16
	until time.Time
}

var (
	errNoPort = errors.New("all media ports are taken or resting: widen the port range")
	errNoFile = errors.New("no file descriptors left: raise LimitNOFILE")
)

// bindTries bounds how many ports held by foreign sockets one call of take passes over,
// since it runs on the goroutine that must not block. Those rest like any other, so the
// next call begins behind them.
const bindTries = 64

func newPorts(addr netip.Addr, from, to uint16, rest time.Duration) (*ports, error) {
	first, last := int(from)+int(from)&1, int(to)
	if first == 0 || first+1 > last {
		return nil, fmt.Errorf("media: ports %d to %d: need at least one pair, an even port from 2 on and the odd one above it", from, to)
	}
	p := &ports{addr: addr, rest: rest}
	for port := first; port+1 <= last; port += 2 {
		p.free = append(p.free, uint16(port))
	}
	p.count = len(p.free)
	// In a seeded order a stranger who sprays RTP could walk in step with the calls.
	rand.Shuffle(len(p.free), func(i, j int) { p.free[i], p.free[j] = p.free[j], p.free[i] })
	return p, p.probe()
}

// probe binds one pair and frees it, so that an address that is not of this machine is
// refused at start and not at the first call.
func (p *ports) probe() error {
	var err error
	for _, port := range p.free {
		var rtp, rtcp int
		if rtp, rtcp, err = p.bind(port); err == nil {
			unix.Close(rtp)
			unix.Close(rtcp)
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return fmt.Errorf("media: cannot bind a UDP port of %v in the range given (the address must be one of this machine, ports below 1024 need CAP_NET_BIND_SERVICE): %w", p.addr, err)
}

// take binds the two sockets of a free pair.
func (p *ports) take(now time.Time) (port uint16, rtp, rtcp int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeRested(now)
	for range bindTries {
		if len(p.free) == 0 {
			return 0, -1, -1, errNoPort
		}
		port, p.free = p.free[0], p.free[1:]
		rtp, rtcp, err = p.bind(port)
		if err == nil {
			return port, rtp, rtcp, nil
		}
		p.resting = append(p.resting, restingPort{port, now.Add(p.rest)})
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) {
			return 0, -1, -1, errNoFile
		}
	}
	return 0, -1, -1, fmt.Errorf("%d ports in a row are held by other processes: %w", bindTries, err)
}

func (p *ports) bind(port uint16) (rtp, rtcp int, err error) {
	if rtp, err = bindUDP(netip.AddrPortFrom(p.addr, port), false); err != nil {
		return -1, -1, err
	}
	if rtcp, err = bindUDP(netip.AddrPortFrom(p.addr, port+1), false); err != nil {
		unix.Close(rtp)
		return -1, -1, err
	}
	return rtp, rtcp, nil
}

// give returns a pair whose sockets are closed.
func (p *ports) give(port uint16, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resting = append(p.resting, restingPort{port, now.Add(p.rest)})
}

// wakeRested frees the pairs that have rested. All rest equally long, so the list is in
// the order of their ends.
func (p *ports) wakeRested(now time.Time) {
	n := 0
	for n < len(p.resting) && !p.resting[n].until.After(now) {
		p.free = append(p.free, p.resting[n].port)
		n++
	}
	p.resting = append(p.resting[:0], p.resting[n:]...)
}

func (p *ports) gauges(now time.Time) (free, resting int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeRested(now)
	return len(p.free), len(p.resting)
}
