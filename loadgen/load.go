package loadgen

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
	"github.com/dialtone-cc/dialtone/loadgen/report"
	"github.com/dialtone-cc/dialtone/loadgen/responder"
	"github.com/dialtone-cc/dialtone/loadgen/slo"
)

const exitInvalid = 3 // inconclusive or invalid run

// Environment variables besides those of a profile.
const tokenVariable = "DIALTONE_JOIN_TOKEN"

const loadHelp = `dialtone loadgen makes calls, serves them as agents, and measures both ends: SIP and RTP
alone, so it judges any server.

  export DIALTONE_AGENT_PASSWORD=...     # of the agents; as a flag it could be read in the list of processes
  dialtone loadgen --target udp:127.0.0.1:5060 --to sip:5000@demo.localhost --rate 20/s --duration 60s \
      --hold 20s --agents 20 --agent-uri 'sip:{1001..1020}@demo.localhost'

  dialtone loadgen --profile load.yaml --json out.json --html out.html --junit out.xml
  dialtone loadgen --profile load.yaml --slo 'media_one_way_p99<60ms,setup_p99<200ms,dropped==0'
  dialtone loadgen --target udp:pbx.example:5060 --to sip:600@pbx.example --rate poisson:5/s --duration 10m   # its own agents
  dialtone loadgen --profile load.yaml --workers 4                                 # four processes
  DIALTONE_JOIN_TOKEN=... dialtone loadgen --profile load.yaml --coordinate 10.0.0.1:7000 --await 2
  DIALTONE_JOIN_TOKEN=... dialtone loadgen --join 10.0.0.1:7000                    # on two others
  dialtone loadgen recompute out.json      # every figure again from the calls file beside it
  dialtone loadgen respond --help          # a small call center with stated delay, loss and refusals, to test this with

Calls arrive by an absolute schedule, however the server answers (open model). Ctrl-C hangs up
and writes what was measured; a second one ends at once.

Exit codes: 0 passed, 1 an objective was missed, 2 bad usage, 3 invalid: interrupted, or the
generator itself was too slow to tell. loadgen/README.md says what is measured and how.

`

// options are what the command line says besides the profile.
type options struct {
	json, html, junit string
	workers, await    int
	coordinate, join  string
	quiet             bool

	profile profile.Profile
	slo     slo.Set
	token   string
	environ []string
}

// Load runs `dialtone loadgen`.
func Load(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "recompute":
			return recompute(args[1:], stdout, stderr)
		case "respond":
			return responder.Command(ctx, args[1:], stdout, stderr)
		case "worker": // started by a coordinator; it ends with it, not by a signal to all
			return serveSeat(context.WithoutCancel(ctx), environ, stderr)
		}
	}
	o, code := parseLoad(args, environ, stderr)
	if o == nil {
		return code
	}
	usage := func(err error) int {
		fmt.Fprintln(stderr, "dialtone loadgen:", err)
		return exitUsage
	}
	if o.join != "" {
		return o.joinOthers(ctx, stderr)
	}
	plan, err := o.profile.Schedule()
	if err != nil {
		return usage(err)
	}
	if err := o.writable(); err != nil {
		return usage(err)
	}
	res, err := o.load(ctx, plan, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "dialtone loadgen:", err)
		return exitInvalid
	}
	return o.publish(res, stdout, stderr)
}

// parseLoad reads the command line. Without options the code is the exit code.
func parseLoad(args, environ []string, stderr io.Writer) (*options, int) {
	o := &options{environ: environ}
	fs := flag.NewFlagSet("loadgen", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, loadHelp)
		fs.VisitAll(func(f *flag.Flag) {
			hint, text := flag.UnquoteUsage(f)
			fmt.Fprintf(stderr, "  --%-24s %s\n", strings.TrimSpace(f.Name+" "+hint), strings.TrimPrefix(text, hint+" "))
		})
		fmt.Fprintf(stderr, "\nObjectives: %s\n", slo.Allowed())
	}
	flags := profile.Bind(fs)
	fs.StringVar(&o.json, "json", "", "`FILE` the result as JSON; each call as a line beside it, in FILE with .calls.jsonl")
	fs.StringVar(&o.html, "html", "", "`FILE` the result as one HTML page with plots")
	fs.StringVar(&o.junit, "junit", "", "`FILE` the objectives as JUnit XML")
	fs.IntVar(&o.workers, "workers", 1, "`N` processes on this machine that share the load; default 1")
	fs.StringVar(&o.coordinate, "coordinate", "", "`HOST:PORT` where workers of other machines join; the token is in "+tokenVariable)
	fs.IntVar(&o.await, "await", 1, "`N` workers of other machines to wait for, with --coordinate; default 1")
	fs.StringVar(&o.join, "join", "", "`HOST:PORT` be a worker of the coordinator there; its profile is used, --local and the agents' password are one's own")
	fs.BoolVar(&o.quiet, "quiet", false, "no progress and no summary: the exit code, and the files")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil, exitPassed
	case err != nil:
		return nil, exitUsage
	}
	if err := o.complete(fs, flags); err != nil {
		fmt.Fprintf(stderr, "dialtone loadgen: %s\n`dialtone loadgen --help` shows examples.\n", err)
		return nil, exitUsage
	}
	return o, exitPassed
}

func (o *options) complete(fs *flag.FlagSet, flags *profile.Flags) (err error) {
	for _, line := range o.environ {
		if value, ok := strings.CutPrefix(line, tokenVariable+"="); ok {
			o.token = value
		}
	}
	switch {
	case fs.NArg() > 0:
		return fmt.Errorf("%.80q: takes flags only, or one of the commands recompute and respond", fs.Arg(0))
	case (o.coordinate != "" || o.join != "") && len(o.token) < 16:
		return fmt.Errorf("several machines need a common secret of at least 16 characters in %s", tokenVariable)
	case o.coordinate != "" && o.join != "":
		return errors.New("--coordinate and --join exclude each other")
	case o.join != "":
		o.profile, err = flags.Own(o.environ)
		return err
	case o.workers < 0 || o.workers > 256 || o.workers == 0 && o.coordinate == "":
		return fmt.Errorf("--workers %d: must be 1 to 256, or 0 with --coordinate", o.workers)
	case o.coordinate != "" && (o.await < 1 || o.await > 256):
		return fmt.Errorf("--await %d: must be 1 to 256", o.await)
	}
	if o.profile, err = flags.Profile(o.environ); err != nil {
		return err
	}
	o.slo, err = slo.ParseList(o.profile.SLO)
	return err
}

// writable finds out before the load whether its results can be written.
func (o *options) writable() error {
	for _, path := range []string{o.json, o.html, o.junit} {
		if path == "" {
			continue
		}
		f, err := os.CreateTemp(filepath.Dir(path), ".dialtone-*")
		if err != nil {
			return fmt.Errorf("%s cannot be written: %w", path, err)
		}
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	return nil
}

// load brings the workers together and runs the load.
func (o *options) load(ctx context.Context, plan *arrival.Schedule, stderr io.Writer) (*measure.Result, error) {
	p := &o.profile
	say := func(format string, args ...any) {
		if !o.quiet {
			fmt.Fprintf(stderr, format+"\n", args...)
		}
	}
	server := newServerAPI(p)
	if err := server.ready(ctx); err != nil {
		return nil, err
	}
	origin := time.Now()
	members, err := o.gather(ctx, origin, stderr, say)
	defer func() {
		for _, m := range members {
			m.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	planned := plan.Length() + p.Hold.Mean() + p.Agents.AnswerAfter.Mean()
	r := &run{profile: p, plan: plan, limits: o.slo.Limits(measure.DefaultLimits()), members: members, account: newAccount(p), say: say, origin: origin,
		progress: &report.Progress{}}
	if o.json != "" {
		r.callsFile = callsPath(o.json)
	}
	if file, ok := stderr.(*os.File); ok && !o.quiet {
		r.progress = report.NewProgress(file, planned)
	}
	res, err := r.perform(ctx)
	r.progress.Close()
	if err != nil {
		return nil, err
	}
	file, err := r.account.finish()
	if err != nil {
		res.Invalidate("the calls file: " + err.Error())
	}
	res.Calls = file
	res.Verdicts = o.slo.Judge(res)
	if verdict, ok := server.compare(ctx, r); ok {
		res.Verdicts = append(res.Verdicts, verdict)
	}
	for _, odd := range r.account.unlikely {
		say("note: %s", odd)
	}
	return res, nil
}

// callsPath is FILE.calls.jsonl beside FILE.json.
func callsPath(path string) string { return strings.TrimSuffix(path, ".json") + ".calls.jsonl" }

// gather starts the workers of this machine and waits for those of others.
func (o *options) gather(ctx context.Context, origin time.Time, stderr io.Writer, say func(string, ...any)) ([]*cluster.Member, error) {
	job := cluster.Job{Profile: o.profile, Of: o.workers, Origin: origin}
	if o.coordinate == "" && o.workers == 1 {
		m, seat := cluster.Here(job)
		go func() { _ = work(context.WithoutCancel(ctx), seat) }() // the error comes as a message too
		return []*cluster.Member{m}, nil
	}
	var members []*cluster.Member
	for k := range o.workers {
		m, err := o.start(k, stderr)
		if err != nil {
			return members, err
		}
		members = append(members, m)
	}
	if o.coordinate != "" {
		listener, err := net.Listen("tcp", o.coordinate)
		if err != nil {
			return members, fmt.Errorf("--coordinate: %w", err)
		}
		say("waiting for %d workers to join at %s", o.await, listener.Addr())
		joined, err := cluster.Gather(ctx, listener, o.await, o.token, func(text string) { say("%s", text) })
		if err != nil {
			return members, err
		}
		members = append(members, joined...)
	}
	job.Of = len(members)
	for k, m := range members {
		job.Worker = k
		if err := m.Send(cluster.Down{Job: &job}); err != nil {
			return members, fmt.Errorf("%s: %w", m.Name, err)
		}
		if m.Uncertain > time.Millisecond {
			say("note: the clock of %s is known to %v only; times from one machine to another are off by so much", m.Name, m.Uncertain)
		}
	}
	return members, nil
}

// start starts a worker as a process. What is secret goes by the environment, which other
// users cannot read.
func (o *options) start(k int, stderr io.Writer) (*cluster.Member, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	token := rand.Text()
	cmd := exec.Command(program, "loadgen", "worker")
	cmd.Stderr = stderr
	cmd.Env = append(append([]string{}, o.environ...), tokenVariable+"="+token, "DIALTONE_AGENT_PASSWORD="+string(o.profile.Agents.Password))
	return cluster.Start(fmt.Sprintf("worker %d", k+1), cmd, token)
}

// serveSeat is a worker that a coordinator has started.
func serveSeat(ctx context.Context, environ []string, stderr io.Writer) int {
	o := &options{environ: environ}
	fs := flag.NewFlagSet("worker", flag.ContinueOnError)
	if err := o.completeSeat(profile.Bind(fs)); err != nil {
		fmt.Fprintln(stderr, "dialtone loadgen worker:", err)
		return exitUsage
	}
	seat, err := cluster.Attach(os.Stdin, os.Stdout, o.token)
	if err != nil {
		fmt.Fprintln(stderr, "dialtone loadgen worker: is started by dialtone loadgen --workers:", err)
		return exitUsage
	}
	return o.sit(ctx, seat, stderr)
}

func (o *options) completeSeat(flags *profile.Flags) (err error) {
	for _, line := range o.environ {
		if value, ok := strings.CutPrefix(line, tokenVariable+"="); ok {
			o.token = value
		}
	}
	o.profile, err = flags.Own(o.environ)
	return err
}

// joinOthers is a worker on another machine than its coordinator.
func (o *options) joinOthers(ctx context.Context, stderr io.Writer) int {
	seat, err := cluster.Join(ctx, o.join, o.token)
	if err != nil {
		fmt.Fprintln(stderr, "dialtone loadgen:", err)
		return exitInvalid
	}
	if !o.quiet {
		fmt.Fprintf(stderr, "joined %s as worker %d of %d\n", o.join, seat.Job.Worker+1, seat.Job.Of)
	}
	return o.sit(ctx, seat, stderr)
}

// sit does the seat's job with what is this process's own: the password and the address.
func (o *options) sit(ctx context.Context, seat *cluster.Seat, stderr io.Writer) int {
	seat.Job.Profile.Agents.Password = o.profile.Agents.Password
	if o.join != "" {
		seat.Job.Profile.Local = o.profile.Local
	}
	if err := work(ctx, seat); err != nil {
		if o.join != "" {
			fmt.Fprintln(stderr, "dialtone loadgen:", err)
		}
		return exitInvalid
	}
	return exitPassed
}

// publish writes the reports.
func (o *options) publish(res *measure.Result, stdout, stderr io.Writer) int {
	code := res.ExitCode()
	for _, out := range []struct {
		path  string
		write func(io.Writer, *measure.Result) error
	}{{o.json, report.JSON}, {o.html, report.HTML}, {o.junit, report.JUnit}} {
		if out.path == "" {
			continue
		}
		if err := report.WriteFile(out.path, res, out.write); err != nil {
			fmt.Fprintln(stderr, "dialtone loadgen:", err)
			code = exitInvalid
		}
	}
	if !o.quiet {
		file, _ := stdout.(*os.File)
		if err := report.Summary(stdout, res, file != nil && report.Colourful(file)); err != nil {
			fmt.Fprintln(stderr, "dialtone loadgen:", err)
		}
	}
	return code
}

// recompute computes a result again from its calls file.
func recompute(args []string, stdout, stderr io.Writer) int {
	if len(args) != 1 || strings.HasPrefix(args[0], "-") {
		fmt.Fprintln(stderr, "usage: dialtone loadgen recompute FILE\n\nFILE is what --json has written; the calls file is beside it. Exit code 0: every figure follows from the calls; 1: some do not.")
		return exitUsage
	}
	problem := func(err error) int {
		fmt.Fprintln(stderr, "dialtone loadgen recompute:", err)
		return exitInvalid
	}
	file, err := os.Open(args[0])
	if err != nil {
		return problem(err)
	}
	defer file.Close()
	res, err := measure.Read(file)
	if err != nil {
		return problem(fmt.Errorf("%s: %w", args[0], err))
	}
	calls, err := os.Open(callsPath(args[0]))
	if err != nil {
		return problem(err)
	}
	defer calls.Close()
	found, err := measure.Recompute(calls, res)
	if err != nil {
		return problem(err)
	}
	fmt.Fprintf(stdout, "%d calls, compared: counts, series, %s\n", found.Lines, strings.Join(found.Compared, ", "))
	for _, skipped := range found.Skipped {
		fmt.Fprintln(stdout, "not compared:", skipped)
	}
	for _, d := range found.Differences {
		fmt.Fprintln(stdout, "DIFFERS:", d)
	}
	if len(found.Differences) > 0 {
		return exitFailed
	}
	fmt.Fprintln(stdout, "every figure follows from the calls")
	return exitPassed
}
