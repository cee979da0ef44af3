package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// What the core gets beyond the drain limit to hang up, write and deliver what is left.
const drainGrace = 5 * time.Second

// ErrFenced says that the other nodes took this one for dead, and its calls over. Nothing of
// it counts any more, so it can begin again as if it were new.
var ErrFenced = errors.New("the other nodes took this one for dead and have its calls now (fenced)")

// Run keeps the node until ctx ends, then drains it: no new interactions, live ones finish
// within the drain timeout. now cuts the drain short. It returns nil after a drain, also
// one that was cut short, and an error when the node ended by itself. Close follows.
func (m *Main) Run(ctx, now context.Context) error {
	select {
	case err := <-m.broke:
		return err
	case <-m.drained:
		return ErrFenced
	case <-ctx.Done():
	}
	m.health.draining.Store(true)
	limit := m.cfg.DrainTimeout
	began := time.Now()
	g, _ := m.gauges()
	live := 0
	for _, n := range g.Calls {
		live += n
	}
	m.log.Info("draining: no new interactions, live ones may finish", "live", live, "limit", limit)
	for !m.emit(core.DrainRequested{Within: limit}) { // its inbox is full: the core is alive, room comes
		select {
		case err := <-m.broke:
			return err
		case <-now.Done():
			return nil
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-m.drained:
		m.log.Info("drained", "took", time.Since(began).Round(time.Millisecond))
		return nil
	case <-now.Done():
		m.log.Warn("ending now: live interactions are taken up at the next start", "after", time.Since(began).Round(time.Millisecond))
		return nil
	case <-time.After(limit + drainGrace):
		m.log.Warn("the drain did not end in time: what is left is taken up at the next start", "limit", limit)
		return nil
	case err := <-m.broke:
		return fmt.Errorf("while draining: %w", err)
	}
}
