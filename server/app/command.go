package app

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

// Command runs `dialtone dev` or `dialtone server` until it is told to end and returns the
// exit code: 0 after a drain, 1 when the node ended by itself, 2 when it cannot start.
func Command(command config.Command, args, environ []string, build telemetry.Build, stdout, stderr io.Writer) int {
	cfg, err := config.Parse(command, args, environ, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "dialtone %s: %s\n(dialtone %s --help lists what is allowed)\n", command, err, command)
		return 2
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	soft, drain := context.WithCancel(context.Background())
	defer drain()
	hard, now := context.WithCancel(context.Background())
	defer now()
	go func() { // the first signal drains, the second ends
		<-signals
		drain()
		<-signals
		now()
	}()

	dump := make(chan os.Signal, 1)
	signal.Notify(dump, syscall.SIGUSR1)
	defer signal.Stop(dump)
	for first := true; ; first = false {
		m := New(cfg, build, stderr)
		over := make(chan struct{})
		go func() {
			for {
				select {
				case <-over:
					return
				case <-dump:
					file, err := m.DumpFlight()
					m.log.Info("flight record written", "file", file, "err", err)
				}
			}
		}()
		again, code := m.live(soft, hard, stdout, stderr, first)
		close(over)
		if !again {
			return code
		}
	}
}

// live is one life of a node, from its start to its end; again: it was fenced, and joins as
// a new process would. It waits a moment before, so that a node that is taken for dead over
// and over does not take calls only to lose them.
func (m *Main) live(soft, hard context.Context, stdout, stderr io.Writer, first bool) (again bool, code int) {
	if err := m.Start(soft); err != nil {
		m.Close()
		if soft.Err() != nil {
			return false, 0
		}
		fmt.Fprintf(stderr, "dialtone %s: %s\n", m.cfg.Command, err)
		return false, 2
	}
	if first {
		if err := m.Announce(stdout); err != nil {
			m.log.Warn("nobody reads what is printed at start", "err", err)
		}
	}
	switch err := m.Run(soft, hard); {
	case err == nil:
		m.Close()
		return false, 0
	case errors.Is(err, ErrFenced) && m.cfg.Command == config.Server:
		m.log.Warn("joining again", "why", err)
		m.Close()
		select {
		case <-soft.Done():
			return false, 0
		case <-time.After(rejoinAfter):
		}
		return true, 0
	default:
		m.lines.Close()
		fmt.Fprintf(stderr, "dialtone %s: %s\n", m.cfg.Command, err)
		return false, 1 // without Close: what is in memory can't be trusted
	}
}

const rejoinAfter = time.Second
