package stream

import (
	"fmt"
	"time"
)

// Network is an emulated one-way network between a stream and its remote: what a result
// with a stated network delay is measured with. A packet is stamped, held back, and sent;
// the stamp is that of the departure less the delay drawn for it, so that the engine's own
// lateness in letting it go is no part of the latency.
type Network struct {
	Delay   time.Duration // of every packet, 0 to 2 s
	Jitter  time.Duration // the delay is even between Delay-Jitter and Delay+Jitter; at most Delay
	Reorder bool          // whether a packet may overtake an earlier one; false: a line, first in, first out
	Loss    float64       // share of packets that never leave, 0 to 1, each by itself
	Seed    uint64        // the same seed and voice: the same fate for every packet
}

const mostDelay = 2 * time.Second

func (n Network) check() error {
	switch {
	case n.Delay < 0 || n.Delay > mostDelay:
		return fmt.Errorf("network delay %v: must be 0 to %v", n.Delay, mostDelay)
	case n.Jitter < 0 || n.Jitter > n.Delay:
		return fmt.Errorf("network jitter %v: must be 0 to the delay, %v", n.Jitter, n.Delay)
	case !(n.Loss >= 0 && n.Loss <= 1):
		return fmt.Errorf("network loss %v: must be 0 to 1", n.Loss)
	}
	return nil
}

// fate is what becomes of packet number count of a voice.
func (n *Network) fate(voice, count uint64) (delay int64, lost bool) {
	r := mix(n.Seed ^ mix(voice) ^ mix(^count))
	if n.Loss > 0 && unit(r) < n.Loss {
		return 0, true
	}
	delay = int64(n.Delay)
	if n.Jitter > 0 {
		delay += int64((2*unit(mix(r)) - 1) * float64(n.Jitter))
	}
	return delay, false
}

// unit makes a number from 0 to below 1 of random bits.
func unit(r uint64) float64 { return float64(r>>11) / (1 << 53) }
