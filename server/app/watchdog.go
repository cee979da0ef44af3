package app

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// watchdog tells the supervisor (sd_notify(3)) that the node is up, and then, for as long as
// its core answers, that it lives. A core that is stalled is ended by the supervisor within
// WatchdogSec: its peers hear a process that does nothing, and would never claim it. Without
// a supervisor that asks for it nothing is told.
func (m *Main) watchdog() {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(interval / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, alive := m.gauges(); alive {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			} else {
				m.log.Error("the core does not answer: the supervisor is not told that the node lives", "watchdog", interval)
			}
		}
	}()
	m.undo = append(m.undo, func() { cancel(); <-ended })
}
