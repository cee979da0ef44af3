package check

import "github.com/dialtone-cc/dialtone/server/core"

// Bounded: effects of one step, effects that wait for a commit, and media legs stay below
// their bounds: the server answers "no", it does not grow.
type Bounded struct {
	named
	setup *Setup
}

// NewBounded returns the checker.
func NewBounded(s *Setup) *Bounded { return &Bounded{"bounded", s} }

// See compares sizes with bounds.
func (c *Bounded) See(_ core.Time, fact Fact) error {
	f, ok := fact.(Stepped)
	switch {
	case !ok:
	case f.Effects > c.setup.MaxStep:
		return broken("one step gave %d effects, at most %d expected", f.Effects, c.setup.MaxStep)
	case f.Held > c.setup.MaxHeld:
		return broken("%d effects wait for a commit, at most %d expected", f.Held, c.setup.MaxHeld)
	case f.Legs > f.Phones:
		return broken("%d media legs are open for %d dialogs that phones have or lately had", f.Legs, f.Phones)
	}
	return nil
}
