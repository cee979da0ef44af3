// Command dialtone is a contact-center server that keeps its calls, and the rig that
// proves it: one binary with a subcommand for each.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/dialtone-cc/dialtone/loadgen"
	"github.com/dialtone-cc/dialtone/loadgen/bench"
	"github.com/dialtone-cc/dialtone/server/app"
	"github.com/dialtone-cc/dialtone/server/clusterctl"
	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/telemetry"
	"github.com/dialtone-cc/dialtone/sim"
)

// The exit codes that all subcommands share.
const (
	passed   = 0
	failed   = 1 // a check failed, or a server ended by itself
	badUsage = 2 // of flags or configuration
)

const usage = `dialtone is a contact-center server that keeps its calls, and the rig that proves it.

  dialtone dev      one node with an embedded store and a demo tenant, on loopback
  dialtone server   one node, configured by a file
  dialtone cluster  several nodes: up on this machine, status, drain, undrain
  dialtone etcd     one member of an etcd cluster, for such a machine
  dialtone call     one real call over real sockets: caller, agent, audio both ways
  dialtone loadgen  a load of calls: callers, agents, both ways measured, a report
  dialtone bench    measures this machine's figures, beside peers that are installed
  dialtone sim      the same core in a virtual world, by seed
  dialtone version  what this binary is (--json)
  dialtone help     this

Each takes --help. Exit codes: 0 passed, 1 a check failed, 2 bad usage or configuration,
3 inconclusive or invalid run.
`

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(args, environ []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return badUsage
	}
	switch name, rest := args[0], args[1:]; name {
	case "dev":
		return app.Command(config.Dev, rest, environ, build(), stdout, stderr)
	case "server":
		return app.Command(config.Server, rest, environ, build(), stdout, stderr)
	case "sim":
		return interruptible(func(ctx context.Context) int { return sim.Run(ctx, rest, stdout, stderr) })
	case "call":
		return interruptible(func(ctx context.Context) int { return loadgen.Call(ctx, rest, stdout, stderr) })
	case "loadgen":
		return interruptible(func(ctx context.Context) int { return loadgen.Load(ctx, rest, environ, stdout, stderr) })
	case "cluster":
		return interruptible(func(ctx context.Context) int { return clusterctl.Command(ctx, rest, environ, stdout, stderr) })
	case "etcd":
		return interruptible(func(ctx context.Context) int { return clusterctl.Etcd(ctx, rest, stdout, stderr) })
	case "bench":
		return interruptible(func(ctx context.Context) int { return bench.Command(ctx, rest, stdout, stderr) })
	case "version", "--version":
		return version(rest, stdout, stderr)
	case "help", "--help", "-h":
		fmt.Fprint(stdout, usage)
		return passed
	default:
		fmt.Fprintf(stderr, "dialtone: %q is not a subcommand", name)
		if near := config.Nearest(name, []string{"dev", "server", "cluster", "etcd", "call", "loadgen", "bench", "sim", "version", "help"}); near != "" {
			fmt.Fprintf(stderr, "; did you mean %s?", near)
		}
		fmt.Fprint(stderr, "\n`dialtone help` lists them all.\n")
		return badUsage
	}
}

// interruptible runs a tool that Ctrl-C ends; a second Ctrl-C ends it at once.
func interruptible(tool func(context.Context) int) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return tool(ctx)
}

func version(args []string, stdout, stderr io.Writer) int {
	b := build()
	switch {
	case len(args) == 0:
		fmt.Fprintf(stdout, "dialtone %s (%s, %s)\n", b.Version, b.Revision, b.Go)
	case len(args) == 1 && strings.TrimLeft(args[0], "-") == "json":
		if err := json.NewEncoder(stdout).Encode(b); err != nil {
			fmt.Fprintf(stderr, "dialtone version: %s\n", err)
			return failed
		}
	default:
		fmt.Fprintf(stderr, "dialtone version: only --json is allowed\n")
		return badUsage
	}
	return passed
}

// build is what the Go linker knows of this binary.
func build() telemetry.Build {
	b := telemetry.Build{Version: "devel", Revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Go = info.GoVersion
	if v := info.Main.Version; v != "" && v != "(devel)" {
		b.Version = v
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			b.Revision = setting.Value
		}
	}
	return b
}
