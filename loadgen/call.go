// Package loadgen measures a contact center from outside, by SIP and RTP alone.
package loadgen

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// Exit codes, the same for every command of the rig.
const (
	exitPassed = 0
	exitFailed = 1
	exitUsage  = 2
)

// Report is what `dialtone call` has measured. Times are in milliseconds.
type Report struct {
	Passed       bool      `json:"passed"`
	Failure      string    `json:"failure,omitempty"`
	Target       string    `json:"target"`
	Agent        string    `json:"agent"`
	RegisterMs   float64   `json:"register_ms"`
	SetupMs      float64   `json:"setup_ms"`   // caller's INVITE to its 200
	RoutingMs    float64   `json:"routing_ms"` // caller's INVITE to the agent's INVITE
	AnswerMs     float64   `json:"answer_ms"`  // agent's 200 to its ACK
	CallerHears  Direction `json:"caller_hears_agent"`
	AgentHears   Direction `json:"agent_hears_caller"`
	HangupMs     float64   `json:"hangup_ms"` // caller's BYE to the agent's BYE
	TalkSeconds  float64   `json:"talk_s"`
	MusicPackets uint64    `json:"queue_audio_packets"` // what the caller heard before the agent
}

// Direction is what one side has heard of the other.
type Direction struct {
	Packets      uint64  `json:"packets"`
	Lost         uint64  `json:"lost"`
	FirstAudioMs float64 `json:"first_audio_ms"` // from the agent's answer
	LatencyP50Ms float64 `json:"latency_p50_ms"` // one way, packet by packet
	LatencyP99Ms float64 `json:"latency_p99_ms"`
	LatencyMaxMs float64 `json:"latency_max_ms"`
	LongestGapMs float64 `json:"longest_gap_ms"`
}

type callOptions struct {
	server, domain, to, agent, password, data string
	ring, talk                                time.Duration
	asJSON                                    bool
}

const callHelp = `dialtone call places one real call: a caller phone and an agent phone, SIP and audio
over real sockets, through the server that runs at --server. It prints what was measured.

  dialtone call
  DIALTONE_AGENT_PASSWORD=... dialtone call --server 127.0.0.1:5060 --to 5000 --agent 1001 --talk 5s
  dialtone call --server 127.0.0.2:5060 --domain demo.localhost
  dialtone call --json

Exit code 0: both parties heard each other; 1: they did not; 2: bad usage.

`

// Call runs the command.
func Call(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o callOptions
	fs := flag.NewFlagSet("call", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, callHelp)
		fs.PrintDefaults()
	}
	fs.StringVar(&o.server, "server", "127.0.0.1:5060", "the server's SIP address, HOST:PORT over UDP")
	fs.StringVar(&o.domain, "domain", "", "the SIP domain of agent and number (default: the server's address)")
	fs.StringVar(&o.to, "to", "5000", "the number to dial, or a SIP URI")
	fs.StringVar(&o.agent, "agent", "1001", "the agent who answers")
	fs.StringVar(&o.password, "agent-password", os.Getenv("DIALTONE_AGENT_PASSWORD"), "its `PW`, which others can see in the list of processes: better set DIALTONE_AGENT_PASSWORD; default: that of the server whose data is under --data")
	fs.StringVar(&o.data, "data", "./.dialtone", "data directory of a local `dialtone dev`")
	fs.DurationVar(&o.ring, "ring", 300*time.Millisecond, "how long the agent's phone rings before it answers")
	fs.DurationVar(&o.talk, "talk", 3*time.Second, "how long the two talk")
	fs.BoolVar(&o.asJSON, "json", false, "print the result as JSON")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitPassed
	case err != nil:
		return exitUsage
	}
	server, err := o.complete(fs.NArg())
	if err != nil {
		fmt.Fprintln(stderr, "dialtone call:", err)
		return exitUsage
	}
	progress := stderr
	if o.asJSON {
		progress = io.Discard
	}
	r, err := place(ctx, server, o, progress)
	if r.Passed = err == nil; err != nil {
		r.Failure = err.Error()
	}
	if o.asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		_ = enc.Encode(r)
	} else {
		r.print(stdout)
	}
	if err != nil {
		return exitFailed
	}
	return exitPassed
}

// complete checks the options and fills in what was left out.
func (o *callOptions) complete(extra int) (netip.AddrPort, error) {
	server, err := netip.ParseAddrPort(o.server)
	switch {
	case err != nil:
		return server, fmt.Errorf("--server %q: must be an address and a port, such as 127.0.0.1:5060", o.server)
	case extra > 0:
		return server, errors.New("takes no arguments; see dialtone call --help")
	case o.talk < 100*time.Millisecond || o.talk > time.Hour:
		return server, fmt.Errorf("--talk %v: must be 100ms to 1h", o.talk)
	}
	if o.password == "" {
		var node struct {
			AgentPassword string `json:"agent_password"`
		}
		text, err := os.ReadFile(filepath.Join(o.data, "node.json"))
		if err == nil {
			err = json.Unmarshal(text, &node)
		}
		if err == nil && node.AgentPassword == "" {
			err = errors.New("node.json has none")
		}
		if err != nil {
			return server, fmt.Errorf("no agent password: set DIALTONE_AGENT_PASSWORD, or give --data of the running `dialtone dev` (%w)", err)
		}
		o.password = node.AgentPassword
	}
	if !strings.HasPrefix(o.to, "sip:") {
		o.to = "sip:" + o.to + "@" + cmp.Or(o.domain, o.server)
	}
	return server, nil
}

// place makes the call and measures it.
func place(ctx context.Context, server netip.AddrPort, o callOptions, progress io.Writer) (Report, error) {
	ctx, stop := context.WithTimeout(ctx, 30*time.Second+o.ring+o.talk)
	defer stop()
	r := Report{Target: o.to, Agent: o.agent}
	start := time.Now()
	agent, err := phone.New(phone.Config{User: o.agent, Domain: o.domain, Password: o.password, Server: server, Tone: 880, Start: start})
	if err != nil {
		return r, err
	}
	defer agent.Close()
	caller, err := phone.New(phone.Config{User: "caller", Server: server, Tone: 440, Start: start})
	if err != nil {
		return r, err
	}
	defer caller.Close()
	registering := time.Now()
	if err := agent.Register(ctx, 2*time.Minute); err != nil {
		return r, err
	}
	r.RegisterMs = ms(time.Since(registering))
	defer func() {
		bye, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer stop()
		_ = agent.Unregister(bye)
	}()
	fmt.Fprintf(progress, "agent %s is registered, the caller dials %s\n", o.agent, o.to)
	out, err := caller.Call(ctx, o.to)
	if err != nil {
		return r, fmt.Errorf("the caller's call: %w", err)
	}
	setup := out.Times()
	r.SetupMs = ms(setup.Answered.Sub(setup.Invited))
	fmt.Fprintln(progress, "the caller is answered and waits")
	var in *phone.Call
	select {
	case in = <-agent.Incoming():
	case <-out.Done():
		return r, fmt.Errorf("the call ended before an agent was offered: %s", out.Cause())
	case <-ctx.Done():
		return r, errors.New("the call was not offered to the agent: is another agent ready, or this one busy?")
	}
	r.RoutingMs = ms(in.Times().Invited.Sub(setup.Invited))
	fmt.Fprintln(progress, "the agent's phone rings")
	return r, r.talk(ctx, o, out, in, start, progress)
}

// talk answers, lets the two talk, hangs up and accounts for it.
func (r *Report) talk(ctx context.Context, o callOptions, out, in *phone.Call, start time.Time, progress io.Writer) error {
	select {
	case <-time.After(o.ring):
	case <-in.Done():
		return fmt.Errorf("the offer ended while the phone rang: %s", in.Cause())
	}
	if err := in.Answer(ctx); err != nil {
		return err
	}
	answer := in.Times()
	r.AnswerMs = ms(answer.Acked.Sub(answer.Answered))
	fmt.Fprintln(progress, "they talk")
	select {
	case <-time.After(o.talk):
	case <-out.Done():
	case <-in.Done():
	case <-ctx.Done():
	}
	r.TalkSeconds = time.Since(answer.Answered).Seconds()
	heardCaller, heardAgent := in.Media.Heard().Audio, out.Media.Heard().Audio
	answered := measure.Micros(answer.Answered.Sub(start).Microseconds())
	r.CallerHears = direction(heardAgent, answered)
	r.AgentHears = direction(heardCaller, answered)
	r.MusicPackets = heardAgent.Received - heardAgent.Voice
	if err := out.HangUp(ctx); err != nil {
		return fmt.Errorf("the caller hangs up: %w", err)
	}
	select {
	case <-in.Done():
		r.HangupMs = ms(in.Times().ByeReceived.Sub(out.Times().ByeSent))
	case <-time.After(5 * time.Second):
		return errors.New("the agent's phone was not hung up within 5 s")
	}
	switch least := uint64(o.talk / (40 * time.Millisecond)); {
	case r.CallerHears.Packets < least:
		return fmt.Errorf("the caller heard %d packets of the agent, expected at least %d", r.CallerHears.Packets, least)
	case r.AgentHears.Packets < least:
		return fmt.Errorf("the agent heard %d packets of the caller, expected at least %d", r.AgentHears.Packets, least)
	}
	return nil
}

func direction(a measure.Audio, answered measure.Micros) Direction {
	d := Direction{Packets: a.Voice, Lost: a.Lost, LongestGapMs: millis(a.LongestGap)}
	if d.Packets > 0 {
		d.FirstAudioMs = millis(a.First - answered)
		d.LatencyP50Ms, d.LatencyP99Ms, d.LatencyMaxMs = millis(a.LatencyP50), millis(a.LatencyP99), millis(a.LatencyMax)
	}
	return d
}

func millis(m measure.Micros) float64 { return float64(m) / 1000 }

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r Report) print(w io.Writer) {
	fmt.Fprintf(w, "\n  %s through agent %s\n\n", r.Target, r.Agent)
	fmt.Fprintf(w, "  setup      %8.2f ms   caller's INVITE to 200\n", r.SetupMs)
	fmt.Fprintf(w, "  routing    %8.2f ms   caller's INVITE to the agent's INVITE\n", r.RoutingMs)
	fmt.Fprintf(w, "  answer     %8.2f ms   agent's 200 to its ACK\n", r.AnswerMs)
	fmt.Fprintf(w, "  hang-up    %8.2f ms   caller's BYE to the agent's\n", r.HangupMs)
	fmt.Fprintf(w, "  queue audio %7d packets heard by the caller before the agent\n\n", r.MusicPackets)
	fmt.Fprintf(w, "  %-24s %8s %6s %12s %26s %9s\n", "", "packets", "lost", "first audio", "one way p50 / p99 / max", "gap")
	row := func(name string, d Direction) {
		fmt.Fprintf(w, "  %-24s %8d %6d %9.1f ms %7.3f / %.3f / %.3f ms %6.1f ms\n", name, d.Packets, d.Lost, d.FirstAudioMs, d.LatencyP50Ms, d.LatencyP99Ms, d.LatencyMaxMs, d.LongestGapMs)
	}
	row("caller hears agent", r.CallerHears)
	row("agent hears caller", r.AgentHears)
	if r.Passed {
		fmt.Fprintf(w, "\n  passed: both heard each other for %.1f s\n", r.TalkSeconds)
		return
	}
	fmt.Fprintf(w, "\n  FAILED: %s\n", r.Failure)
}
