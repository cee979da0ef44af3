// Package check holds what must be true of every simulated world, one property a file.
//
// A checker sees facts in the order in which they happened: what left the node, what
// reached it, what phones heard, what the records store kept. Facts are what an observer
// outside would know; the word of the server is used only where it is the thing that is
// checked (a CDR) or where nothing else can be (the times of a timeline).
package check

import (
	"fmt"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Checker watches one property. See takes the facts in order and returns an error at the
// first that breaks the property; End is called once, after the last.
type Checker interface {
	Name() string
	See(at core.Time, fact Fact) error
	End(at core.Time) error
}

// Seen is one fact with its instant.
type Seen struct {
	At   core.Time
	Fact Fact
}

// All returns a fresh checker of every property.
func All(s *Setup) []Checker {
	return []Checker{
		NewOneOffer(s), NewOneBridge(s), NewConservation(s), NewPlace(s), NewIsolation(s),
		NewCommit(s), NewOutcome(s), NewSequence(s), NewTags(s), NewAck(s), NewAfterBye(s),
		NewOneFinal(s), NewAnswers(s), NewAudio(s), NewRing(s), NewRONA(s), NewWrapUp(s),
		NewSilence(s), NewLeftBehind(s), NewBounded(s), NewConsistency(s), NewAccess(s), NewFindable(s),
		NewOneActor(s), NewReservation(s),
	}
}

// Over runs a checker over a whole history.
func Over(c Checker, history []Seen) error {
	var last core.Time
	for _, s := range history {
		last = s.At
		if err := c.See(s.At, s.Fact); err != nil {
			return err
		}
	}
	return c.End(last)
}

// broken is the error of a property that does not hold.
func broken(format string, args ...any) error { return fmt.Errorf(format, args...) }

// named gives a checker its name; most have nothing left to say at the end.
type named string

func (n named) Name() string        { return string(n) }
func (named) End(_ core.Time) error { return nil }

// calm knows since when nothing outside kept the node from its work: a bound in time
// holds only while the process runs and its store answers.
type calm struct {
	troubles int
	since    core.Time
}

func (c *calm) see(at core.Time, fact Fact) {
	switch f := fact.(type) {
	case Disturbed:
		if f.On {
			c.troubles++
		} else {
			c.troubles--
		}
		c.since = at
	case Crashed:
		c.troubles++
		c.since = at
	case Restarted:
		c.troubles--
		c.since = at
	}
}

// late reports whether a thing that was due so long after start is overdue at this
// instant, not counting the time before the last trouble ended.
func (c *calm) late(at, start core.Time, bound core.Millis) bool {
	if c.troubles > 0 {
		return false
	}
	return at > max(start, c.since)+core.Time(bound)*1e6
}
