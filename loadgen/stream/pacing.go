package stream

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Pacing is how exactly an engine has worked: how far its results are to be trusted.
type Pacing struct {
	Lateness *hdrhistogram.Histogram // us, from the instant at which each packet was due to the call that sends it
	ReadLag  *hdrhistogram.Histogram // us, from each packet's arrival to its reading; no part of any latency
	Sent     uint64                  // packets handed to the kernel
	Received uint64                  // datagrams of any kind
	Lost     uint64                  // packets that the emulated network swallowed
	Missed   uint64                  // frames never sent since the engine was held up for too long
	Refused  uint64                  // packets for which nobody listens: usual for a moment after a call
	Errors   uint64                  // other packets that the kernel did not take
	Overrun  uint64                  // datagrams that the kernel threw away since the engine read too late
	Stall    time.Duration           // the longest that a thread overslept
	CPU      time.Duration           // user and system time of the engine's threads
}

// pacing is the part of one thread.
type pacing struct {
	late, lag                    *hdrhistogram.Histogram
	sent, received, lost, missed uint64
	refused, errors, overrun     uint64
	stall                        int64
	cpu                          time.Duration // of a thread that has ended
}

func newPacing() pacing { return pacing{late: newHDR(), lag: newHDR()} }

// Pacing returns how exactly the engine has worked so far.
func (e *Engine) Pacing() Pacing {
	out := Pacing{Lateness: newHDR(), ReadLag: newHDR()}
	for _, l := range e.loops {
		var p pacing
		copied := func() {
			p = l.pacing
			p.late, p.lag = p.late.Clone(), p.lag.Clone()
			p.cpu = threadTime()
		}
		if !l.ask(copied) {
			p = l.pacing // the thread has ended
		}
		out.Lateness.Merge(p.late)
		out.ReadLag.Merge(p.lag)
		out.Sent += p.sent
		out.Received += p.received
		out.Lost += p.lost
		out.Missed += p.missed
		out.Refused += p.refused
		out.Errors += p.errors
		out.Overrun += p.overrun
		out.Stall = max(out.Stall, time.Duration(p.stall))
		out.CPU += p.cpu
	}
	e.mu.Lock()
	open := make([]*Stream, 0, len(e.streams))
	for s := range e.streams {
		open = append(open, s)
	}
	e.mu.Unlock()
	for _, s := range open {
		if s.mu.TryLock() { // one that is closing just now has been counted, or will be
			if !s.closed {
				out.Overrun += dropped(s.fd)
			}
			s.mu.Unlock()
		}
	}
	return out
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
