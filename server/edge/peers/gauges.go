package peers

import (
	"slices"
	"time"
)

// Gauges is what Peers counts, for telemetry. Counters only grow.
type Gauges struct {
	Members       int               // that are watched
	Connected     int               // of these, with a TCP connection that this process opened
	Up            int               // of these, connected and heard
	RoundTripP50  time.Duration     // of the last 1,024 heartbeats and their echo, without the time in which they lay at the peer
	RoundTripP99  time.Duration     //
	Silences      uint64            // peers that fell silent
	Deaths        uint64            // peers whose process ended
	Refused       map[string]uint64 // datagrams by reason: malformed, unknown, forged, replayed; kernel: dropped before they were read, for the same reasons or for want of room
	RefusedHellos uint64            // connections that were closed: no secret, no room, or another incarnation was looked for
	Unsent        uint64            // heartbeats that the kernel did not take
	Unsaid        uint64            // questions and answers to who was not connected
	Unheard       uint64            // questions and answers of who is no member, or that the core had no room for
	Lag           time.Duration     // how late the latest of the last 512 beats was
	Restarts      uint64            // beats so late that all windows began anew
}

// The figures that percentiles and Lag are taken of.
const (
	roundTrips = 1024
	lags       = 512
)

// tally is guarded by Peers.mu.
type tally struct {
	silences, deaths, hellos, unsent, unsaid, unheard, restarts uint64

	refused map[refusal]uint64

	trips   [roundTrips]time.Duration
	tripped int // so many in all
	late    [lags]time.Duration
	beats   int
}

func (t *tally) refuse(why refusal) {
	if t.refused == nil {
		t.refused = map[refusal]uint64{}
	}
	t.refused[why]++
}

func (t *tally) roundTrip(d time.Duration) {
	t.trips[t.tripped%roundTrips] = max(0, d)
	t.tripped++
}

// lag takes note of the time between two beats, and reports whether this process was awake
// meanwhile: not more than a beat late.
func (t *tally) lag(between, beat time.Duration) bool {
	late := max(0, between-beat)
	t.late[t.beats%lags] = late
	t.beats++
	if late <= beat {
		return true
	}
	t.restarts++
	return false
}

// Gauges returns the present figures.
func (p *Peers) Gauges() Gauges {
	g, trips := p.figures()
	slices.Sort(trips) // without the lock that the beats need
	if n := len(trips); n > 0 {
		g.RoundTripP50, g.RoundTripP99 = trips[n/2], trips[n*99/100]
	}
	return g
}

func (p *Peers) figures() (g Gauges, trips []time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &p.tally
	g = Gauges{
		Members: len(p.order), Silences: t.silences, Deaths: t.deaths, RefusedHellos: t.hellos, Unsent: t.unsent,
		Unsaid: t.unsaid, Unheard: t.unheard, Restarts: t.restarts, Lag: slices.Max(t.late[:]),
		Refused: map[string]uint64{},
	}
	for _, why := range [...]refusal{malformed, unknown, forged, replayed} {
		g.Refused[string(why)] = t.refused[why]
	}
	if p.ctx.Err() == nil {
		g.Refused["kernel"] = p.socket.drops()
	}
	for _, q := range p.order {
		if q.out != nil {
			g.Connected++
		}
		if q.sight.verdict == up {
			g.Up++
		}
	}
	return g, slices.Clone(t.trips[:min(t.tripped, roundTrips)])
}
