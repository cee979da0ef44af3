package loadgen

import (
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// outbox gathers what a worker tells, so that no call waits for the coordinator.
type outbox struct {
	seat *cluster.Seat
	wake chan struct{}

	mu   sync.Mutex
	next cluster.Up
	lost int // what did not fit
	dead error
}

const (
	flushEvery = 100 * time.Millisecond
	mostBatch  = 200     // halves in a message: some kB each
	mostHeld   = 200_000 // entries that wait for a coordinator that is slow
)

func newOutbox(seat *cluster.Seat) *outbox {
	return &outbox{seat: seat, wake: make(chan struct{}, 1)}
}

// put adds to the next message; the function must be quick.
func (o *outbox) put(size func(*cluster.Up) int, add func(*cluster.Up)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if size(&o.next) >= mostHeld {
		o.lost++
		return
	}
	add(&o.next)
}

func (o *outbox) move(at measure.Micros, what string, index int64) {
	o.put(func(up *cluster.Up) int { return len(up.Moves) }, func(up *cluster.Up) {
		up.Moves = append(up.Moves, cluster.Move{At: at, What: what, Index: index})
	})
}

func (o *outbox) half(c measure.Call) {
	o.put(func(up *cluster.Up) int { return len(up.Halves) }, func(up *cluster.Up) { up.Halves = append(up.Halves, c) })
}

// answered goes out at once: a caller elsewhere begins to count its time.
func (o *outbox) answered(index int64) {
	o.put(func(up *cluster.Up) int { return len(up.Answered) }, func(up *cluster.Up) { up.Answered = append(up.Answered, index) })
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run sends until stopped is closed, and then what is left.
func (o *outbox) run(stopped <-chan struct{}) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-o.wake:
		case <-stopped:
			o.flush()
			return
		}
		o.flush()
	}
}

func (o *outbox) flush() {
	o.mu.Lock()
	up := o.next
	o.next = cluster.Up{}
	dead := o.dead
	o.mu.Unlock()
	if dead != nil {
		return
	}
	halves := up.Halves
	for first := true; first || len(halves) > 0; first = false {
		n := min(len(halves), mostBatch)
		up.Halves, halves = halves[:n], halves[n:]
		if len(up.Moves)+len(up.Answered)+len(up.Halves) == 0 {
			return
		}
		if err := o.seat.Send(up); err != nil {
			o.mu.Lock()
			o.dead = err
			o.mu.Unlock()
			return
		}
		up = cluster.Up{}
	}
}
