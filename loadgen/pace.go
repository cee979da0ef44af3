package loadgen

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// A wait shorter than this is the kernel's: a thread of its own that sleeps by the clock is
// woken within some 50 us, also when Go's own timers are served late. A longer one is left
// to a timer first, so that it can be interrupted.
const kernelSleep = 5 * time.Millisecond

// pace waits for due times, on a thread of its own.
type pace struct{ start time.Time }

// newPace locks the goroutine to its thread.
func newPace(start time.Time) pace {
	runtime.LockOSThread()
	// The kernel may delay the wake-up of a thread by 50 us to save power; not of this one.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return pace{start}
}

// until waits for a time after the start. It is false when the context ended first.
func (p pace) until(ctx context.Context, due time.Duration) bool {
	at := p.start.Add(due)
	for {
		left := time.Until(at)
		switch {
		case ctx.Err() != nil:
			return false
		case left <= 0:
			return true
		case left > 2*kernelSleep:
			timer := time.NewTimer(left - kernelSleep)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
		default:
			ts := unix.NsecToTimespec(int64(left))
			_ = unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil) // woken early by a signal: the loop looks again
		}
	}
}

// anchored is an instant of the wall clock with the reading of the monotonic clock that goes
// with it. A process that is put aside between its looks at the two clocks would be wrong by as
// much, for the whole run: so it looks several times and takes the reading with the least delay.
func anchored(at time.Time) time.Time {
	at = at.Round(0)
	var best time.Time
	for i := range 16 {
		now := time.Now() // the wall clock first, then the monotonic one
		if it := now.Add(at.Sub(now.Round(0))); i == 0 || it.Before(best) {
			best = it
		}
	}
	return best
}

// cpuTime is the user and system time that this process has used, in seconds.
func cpuTime() float64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// raiseFiles lets the process open as many files as the system allows it, and says how many.
func raiseFiles() uint64 {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	if limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			return raised.Cur
		}
	}
	return limit.Cur
}
