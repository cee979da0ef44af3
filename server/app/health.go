package app

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core/node"
)

// health is what readiness asks about.
type health struct {
	up, draining atomic.Bool
	answered     atomic.Int64 // when the store last answered, Unix nanoseconds
	writable     func() error // nil: nothing is known beside the answers
	end          context.CancelFunc
	wait         sync.WaitGroup
}

// How often the store is asked, and how long its silence is borne.
const (
	storeEvery  = time.Second
	storeSilent = 4 * time.Second
)

// watch asks the store for a key that need not exist: a read through the quorum succeeds
// exactly when a write would be decided.
func (h *health) watch(client *clientv3.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	h.end = cancel
	h.answered.Store(time.Now().UnixNano())
	h.wait.Go(func() {
		tick := time.NewTicker(storeEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			try, cancel := context.WithTimeout(ctx, storeSilent)
			if _, err := client.Get(try, "health", clientv3.WithCountOnly()); err == nil {
				h.answered.Store(time.Now().UnixNano())
			}
			cancel()
		}
	})
}

func (h *health) close() {
	h.end()
	h.wait.Wait()
}

func (h *health) storeAnswers() bool {
	return time.Since(time.Unix(0, h.answered.Load())) < storeSilent
}

// Ready returns nil when calls can be taken, else why not.
func (m *Main) Ready() error {
	switch {
	case m.health.draining.Load():
		return errors.New("the node is draining")
	case !m.health.up.Load():
		return errors.New("the node is starting")
	case !m.health.storeAnswers():
		return errors.New("the store does not answer")
	case m.store != nil && m.store.Gauges().InFlight > storeSilent: // it may answer reads
		return errors.New("the store does not take writes")
	}
	if m.health.writable != nil {
		if err := m.health.writable(); err != nil {
			return err
		}
	}
	switch g, ok := m.gauges(); {
	case !ok:
		return errors.New("the core does not answer")
	case g.Life == node.Draining:
		return errors.New("the node is draining")
	}
	return nil
}
