// Package clusterctl is what an operator of a cluster types: a cluster on one machine, what
// etcd says of a cluster, a node to be emptied, and a member of etcd in a process of its own.
package clusterctl

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/dialtone-cc/dialtone/server/config"
)

// The exit codes, which all subcommands of dialtone share.
const (
	exitWell    = 0
	exitWrong   = 1 // something is wrong with the cluster, or a process of it ended
	exitUsage   = 2
	exitUnknown = 3 // etcd cannot be read, so nothing can be said
)

const clusterHelp = `dialtone cluster is for the operator of several nodes that share one etcd.

  dialtone cluster up             a cluster on this machine: three etcd members, three nodes
  dialtone cluster status         nodes, shards, calls, etcd, and what is wrong, read from etcd
  dialtone cluster drain NODE     take no new calls at a node, and move what it owns
  dialtone cluster undrain NODE   let it take calls again

Each takes --help. Exit codes: 0 all is well, 1 something is wrong, 2 bad usage, 3 etcd cannot
be read.
`

// Command runs `dialtone cluster up|status|drain|undrain` until it is done or ctx ends, and
// returns the exit code: 0 all is well, 1 something is wrong, 2 bad usage, 3 etcd cannot be read.
func Command(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, clusterHelp)
		return exitUsage
	}
	switch name, rest := args[0], args[1:]; name {
	case "up":
		return up(ctx, rest, environ, stdout, stderr)
	case "status":
		return status(ctx, rest, environ, stdout, stderr)
	case "drain":
		return drain(ctx, rest, environ, stdout, stderr)
	case "undrain":
		return undrain(ctx, rest, environ, stdout, stderr)
	case "help", "--help", "-help", "-h":
		fmt.Fprint(stdout, clusterHelp)
		return exitWell
	default:
		fmt.Fprintf(stderr, "dialtone cluster: %q is not a subcommand; allowed are up, status, drain, undrain", name)
		if near := config.Nearest(name, []string{"up", "status", "drain", "undrain"}); near != "" {
			fmt.Fprintf(stderr, "; did you mean %s?", near)
		}
		fmt.Fprintln(stderr)
		return exitUsage
	}
}

// commandLine is the arguments of one subcommand.
type commandLine struct {
	*flag.FlagSet
	name   string // as in `dialtone NAME`
	intro  string // the help above the flags
	after  string // the help below them
	stdout io.Writer
	stderr io.Writer
}

func newCommandLine(name, intro string, stdout, stderr io.Writer) *commandLine {
	c := &commandLine{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), name: name, intro: intro, stdout: stdout, stderr: stderr}
	c.SetOutput(io.Discard)
	return c
}

// read parses flags and, anywhere among them, at most max words, which it returns. When it
// says false the command ends with the code.
func (c *commandLine) read(args []string, max int) (words []string, code int, ok bool) {
	for {
		switch err := c.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			c.help()
			return nil, exitWell, false
		case err != nil:
			return nil, c.refuse("%s", c.explain(err)), false
		case c.NArg() == 0:
			return words, exitWell, true
		case len(words) == max:
			return nil, c.refuse("%q is not expected", c.Arg(0)), false
		}
		words = append(words, c.Arg(0))
		args = c.Args()[1:]
	}
}

// refuse says what is wrong with the arguments and returns the exit code.
func (c *commandLine) refuse(format string, args ...any) int {
	fmt.Fprintf(c.stderr, "dialtone %s: %s\n(dialtone %s --help lists what is allowed)\n", c.name, fmt.Sprintf(format, args...), c.name)
	return exitUsage
}

// fail says what went wrong and returns the code.
func (c *commandLine) fail(code int, format string, args ...any) int {
	fmt.Fprintf(c.stderr, "dialtone %s: %s\n", c.name, fmt.Sprintf(format, args...))
	return code
}

func (c *commandLine) help() {
	fmt.Fprintln(c.stdout, c.intro)
	width := 0
	c.VisitAll(func(f *flag.Flag) { width = max(width, len(shape(f))) })
	c.VisitAll(func(f *flag.Flag) {
		_, text := flag.UnquoteUsage(f)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0s" {
			text += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(c.stdout, "  %-*s  %s\n", width, shape(f), text)
	})
	if c.after != "" {
		fmt.Fprint(c.stdout, "\n"+c.after)
	}
}

// shape is how a flag is written, with the form of its value.
func shape(f *flag.Flag) string {
	form, _ := flag.UnquoteUsage(f)
	return strings.TrimSpace("--" + f.Name + " " + form)
}

// explain adds the nearest flag to the standard library's text.
func (c *commandLine) explain(err error) string {
	wrong, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err.Error()
	}
	var names, all []string
	c.VisitAll(func(f *flag.Flag) { names, all = append(names, f.Name), append(all, "--"+f.Name) })
	text := fmt.Sprintf("--%s is not a flag of this command", wrong)
	if near := config.Nearest(wrong, names); near != "" {
		return text + "; did you mean --" + near + "?"
	}
	return text + "; allowed are " + strings.Join(all, ", ")
}
