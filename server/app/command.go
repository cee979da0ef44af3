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

	m := New(cfg, build, stderr)
	dump := make(chan os.Signal, 1)
	signal.Notify(dump, syscall.SIGUSR1)
	defer signal.Stop(dump)
	go func() {
		for range dump {
			file, err := m.DumpFlight()
			m.log.Info("flight record written", "file", file, "err", err)
		}
	}()
	if err := m.Start(soft); err != nil {
		m.Close()
		if soft.Err() != nil {
			return 0
		}
		fmt.Fprintf(stderr, "dialtone %s: %s\n", command, err)
		return 2
	}
	if err := m.Announce(stdout); err != nil {
		m.log.Warn("nobody reads what is printed at start", "err", err)
	}
	if err := m.Run(soft, hard); err != nil {
		m.lines.Close()
		fmt.Fprintf(stderr, "dialtone %s: %s\n", command, err)
		return 1 // without Close: what is in memory can't be trusted
	}
	m.Close()
	return 0
}
