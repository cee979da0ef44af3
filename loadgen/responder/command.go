package responder

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Exit codes, the same for every command of the rig.
const (
	exitPassed = 0
	exitFailed = 1
	exitUsage  = 2
)

const help = `dialtone loadgen respond is a call center that misbehaves to order, for proofs that a load
generator tells the truth: agents register with it, callers dial any number, and audio and
signalling are delayed, lost, doubled and reordered by a seed. It runs until Ctrl-C and then
says what it has really done.

  dialtone loadgen respond --listen udp:127.0.0.1:5070
  dialtone loadgen respond --listen udp:127.0.0.1:5070 --delay 30ms --jitter 5ms --loss 1% --seed 7 --json truth.json
  dialtone loadgen respond --listen udp:127.0.0.1:5070 --invite-delay 50ms --refuse 503:10%,486:5%

Exit code 0: it ran; 1: it could not; 2: bad usage.

`

// Command runs `dialtone loadgen respond` until ctx ends. The first line of stdout says
// where it listens.
func Command(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cfg, file, err := flags(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitPassed
	case errors.Is(err, errReported):
		return exitUsage
	case err != nil:
		fmt.Fprintln(stderr, "dialtone loadgen respond:", err)
		return exitUsage
	}
	r, err := Start(cfg)
	if err != nil {
		fmt.Fprintln(stderr, "dialtone loadgen respond:", err)
		return exitFailed
	}
	defer r.Close()
	fmt.Fprintf(stdout, "listening on udp:%s\n", r.Addr())
	<-ctx.Done()
	r.Close()
	t := r.Truth()
	t.print(stdout)
	if file == "" {
		return exitPassed
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o644)
	}
	if err != nil {
		fmt.Fprintf(stderr, "dialtone loadgen respond: --json: %s\n", err)
		return exitFailed
	}
	return exitPassed
}

var errReported = errors.New("already reported")

func flags(args []string, stderr io.Writer) (cfg Config, file string, err error) {
	fs := flag.NewFlagSet("respond", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, help)
		fs.PrintDefaults()
	}
	at := fs.String("listen", "udp:127.0.0.1:5070", "where to take SIP, udp:ADDRESS:PORT; port 0 is any")
	fs.StringVar(&file, "json", "", "write what was done to this file at the end")
	fs.Uint64Var(&cfg.Seed, "seed", 1, "of all chance")
	fs.DurationVar(&cfg.Delay, "delay", 0, "each packet of audio is held so long")
	fs.DurationVar(&cfg.Jitter, "jitter", 0, "plus or minus so much, evenly; at most --delay")
	share(fs, &cfg.Loss, "loss", "share of audio packets that vanish, such as 1%")
	share(fs, &cfg.Duplicate, "duplicate", "share of audio packets sent twice")
	share(fs, &cfg.Reorder, "reorder", "share of audio packets held 30ms + 2 x jitter longer, so that others overtake them")
	fs.BoolVar(&cfg.Transcode, "transcode", false, "agents are offered A-law, callers mu-law")
	fs.DurationVar(&cfg.InviteDelay, "invite-delay", 0, "caller's INVITE to its 100 and to the agent's INVITE")
	fs.DurationVar(&cfg.RingDelay, "ring-delay", 0, "agent's 180 to the caller's")
	fs.DurationVar(&cfg.AnswerDelay, "answer-delay", 0, "agent's 200 to the caller's")
	fs.DurationVar(&cfg.ByeDelay, "bye-delay", 0, "BYE of one party to that of the other")
	share(fs, &cfg.DropSIP, "drop-sip", "share of SIP messages that vanish, in and out")
	fs.Func("refuse", "calls that are refused, STATUS:SHARE[,STATUS:SHARE...], such as 503:10%", func(s string) (err error) {
		cfg.Refuse, err = refusals(s)
		return err
	})
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return cfg, "", err
		}
		return cfg, "", errReported // with the usage, by the flag package
	}
	if fs.NArg() > 0 {
		return cfg, "", fmt.Errorf("%q: takes no arguments, see --help", fs.Arg(0))
	}
	// Not a flag: a command line is there for all to read.
	cfg.Password = os.Getenv("DIALTONE_AGENT_PASSWORD")
	address, ok := strings.CutPrefix(*at, "udp:")
	if cfg.Listen, err = netip.ParseAddrPort(address); err != nil || !ok {
		return cfg, "", fmt.Errorf("--listen %q: must be udp:ADDRESS:PORT, such as udp:127.0.0.1:5070", *at)
	}
	if err := cfg.check(); err != nil {
		return cfg, "", fmt.Errorf("--%w", err)
	}
	return cfg, file, nil
}

func share(fs *flag.FlagSet, to *float64, name, usage string) {
	fs.Func(name, usage, func(s string) (err error) {
		*to, err = parseShare(s)
		return err
	})
}

// parseShare reads 1% or 0.01.
func parseShare(s string) (float64, error) {
	number, percent := strings.CutSuffix(s, "%")
	v, err := strconv.ParseFloat(number, 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v >= 0 && v <= 1) {
		return 0, fmt.Errorf("must be 0%% to 100%%, or 0 to 1")
	}
	return v, nil
}

func refusals(s string) (all []Refusal, err error) {
	for part := range strings.SplitSeq(s, ",") {
		status, of, ok := strings.Cut(part, ":")
		r := Refusal{}
		if r.Status, err = strconv.Atoi(status); err != nil || !ok {
			return nil, fmt.Errorf("%q: must be STATUS:SHARE, such as 503:10%%", part)
		}
		if r.Share, err = parseShare(of); err != nil {
			return nil, fmt.Errorf("%q: the share %w", part, err)
		}
		all = append(all, r)
	}
	return all, nil
}

func (t Truth) print(w io.Writer) {
	answered, refused := 0, 0
	for _, c := range t.Calls {
		switch {
		case c.Status == 200:
			answered++
		case c.Status != 0:
			refused++
		}
	}
	fmt.Fprintf(w, "\n  %d calls: %d answered, %d refused\n", uint64(len(t.Calls))+t.Untold, answered, refused)
	fmt.Fprintf(w, "  SIP: %d received (%d dropped, %d malformed), %d sent (%d dropped)\n", t.Received, t.LostIn, t.Malformed, t.Sent, t.LostOut)
	row := func(name string, f Flow, h Held) {
		fmt.Fprintf(w, "  audio to %-7s %8d packets, %d lost (%d at an edge), %d doubled, %d reordered; held p50 %.3f, p99 %.3f, max %.3f ms\n", name,
			f.Received, f.Lost, f.Edge, f.Duplicated, f.Reordered, float64(h.P50)/1000, float64(h.P99)/1000, float64(h.Max)/1000)
	}
	row("callers", t.ToCaller, t.HeldA)
	row("agents", t.ToAgent, t.HeldB)
}
