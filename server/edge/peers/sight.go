package peers

import "time"

// verdict is what this process holds of a peer.
type verdict string

// The verdicts. Dead is final.
const (
	unheard verdict = ""       // not heard since it was named
	up      verdict = "up"     // connected and heard
	silent  verdict = "silent" // nothing heard for a window
	dead    verdict = "dead"   // its process has ended
)

// window is how long a peer may be quiet.
type window struct {
	heard   time.Duration // who was heard before
	unheard time.Duration // who never was: it may still be starting
}

// firstWords is window.unheard: a node that has claimed its name reads the whole store
// before it knows its peers, and only then speaks.
const firstWords = 3 * time.Second

func windowOf(beat time.Duration, misses int) window {
	// The last of the missed ones gets half a beat's time to come late.
	w := time.Duration(misses)*beat + beat/2
	return window{heard: w, unheard: max(firstWords, w)}
}

// sight is what is known of one peer by its heartbeats. Instants count from any epoch.
type sight struct {
	verdict verdict
	ever    bool          // it was heard
	last    time.Duration // when it was heard last, or named
	since   time.Duration // where the present window began: last, or when it began anew
	quiet   time.Duration // silent: for how long it had been, when that was noticed
}

// named begins a sight.
func named(now time.Duration) sight { return sight{last: now, since: now} }

// hear takes note of a heartbeat that came at an instant, and reports whether that changes
// the verdict.
func (s *sight) hear(at time.Duration, connected bool) bool {
	s.ever = true
	s.last, s.since = max(s.last, at), max(s.since, at)
	if !connected || s.verdict == up || s.verdict == dead {
		return false
	}
	s.verdict = up
	return true
}

// anew begins the window again: this process was not awake to hear what came meanwhile.
func (s *sight) anew(now time.Duration) { s.since = max(s.since, now) }

// judge reports whether a peer falls silent now.
func (s *sight) judge(now time.Duration, w window) bool {
	limit := w.unheard
	if s.ever {
		limit = w.heard
	}
	if s.verdict == silent || s.verdict == dead || now-s.since <= limit {
		return false
	}
	s.verdict, s.quiet = silent, now-s.last
	return true
}

// end is a death; it reports whether there was one to notice.
func (s *sight) end() bool {
	if s.verdict == dead {
		return false
	}
	s.verdict = dead
	return true
}
