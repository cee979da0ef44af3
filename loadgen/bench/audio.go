package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// load is a run of dialtone loadgen against whatever listens on sipAddr: so many calls at
// the same time, each with an agent of its own and audio in both directions.
type load struct {
	calls       int
	agents      int           // who register; a proxy spreads callers over all of them
	rate        int           // arrivals per second while it builds up
	ramp, hold  time.Duration // all calls are up after ramp, and stay for hold
	extra       []string      // further flags
	agentDomain string
}

// build is the load that has all calls up after some seconds and keeps them up.
func build(calls int, hold time.Duration) load {
	rate := max(20, calls/10)
	return load{calls: calls, agents: calls, rate: rate, ramp: time.Duration(calls) * time.Second / time.Duration(rate), hold: hold, agentDomain: "demo.localhost"}
}

// generate starts the generator. Its result is in the file it returns.
func (s *Suite) generate(dir string, l load) (*process, string, error) {
	result := filepath.Join(dir, "load.json")
	argv := append([]string{s.binary, "loadgen", "--target", "udp:" + sipAddr, "--to", "sip:5000@" + sipAddr,
		"--rate", strconv.Itoa(l.rate) + "/s", "--duration", l.ramp.String(), "--hold", (l.ramp + l.hold).String(), "--lines", strconv.Itoa(l.calls),
		"--agents", strconv.Itoa(l.agents), "--agent-uri", fmt.Sprintf("sip:{1001..%d}@%s", 1000+l.agents, l.agentDomain), "--json", result}, l.extra...)
	p, err := start(dir, "loadgen", []string{"DIALTONE_AGENT_PASSWORD=" + secret}, argv...)
	return p, result, err
}

// readResult reads what the generator has found.
func readResult(name string) (measure.Result, error) {
	var r measure.Result
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err == nil && r.Counts.Completed == 0 {
		err = fmt.Errorf("no call was completed: %v", r.Reasons)
	}
	return r, err
}

// steady is what a server costs while calls talk and nothing else happens.
type steady struct {
	cpu, machine float64 // us per relayed packet: of the server, of the whole machine
	packets      int
	result       measure.Result
}

// await waits until so many calls of a generator are up.
func (a *anchor) await(ctx context.Context, calls int, generator *process) error {
	err := until(ctx, 3*time.Minute, func() bool { return a.talking() >= calls || generator.ended() })
	if err == nil && generator.ended() {
		err = errors.New("the generator has ended")
	}
	if err != nil {
		return fmt.Errorf("%d of %d calls came up: %w\n%s", a.talking(), calls, err, generator.tail())
	}
	return nil
}

// anchored measures calls with audio through an anchor.
func (s *Suite) anchored(ctx context.Context, a *anchor, dir string, l load) (steady, error) {
	p, file, err := s.generate(dir, l)
	if err != nil {
		return steady{}, err
	}
	defer p.stop()
	// Until all calls are up and their beginnings forgotten. Registrations come first and
	// take as long as they take: what counts is that ports carry audio.
	window := l.hold / 2
	if err := a.await(ctx, l.calls, p); err != nil {
		return steady{}, err
	}
	pause(ctx, l.hold/6)
	cpu1, err1 := a.cpu()
	all1, err2 := machineCPU()
	began := time.Now()
	pause(ctx, window)
	cpu2, err3 := a.cpu()
	all2, err4 := machineCPU()
	took := time.Since(began)
	if up := a.talking(); up < l.calls {
		return steady{}, fmt.Errorf("%d of %d calls were still up after the measurement with %s:\n%s", up, l.calls, a.subject, p.tail())
	}
	for _, err := range []error{err1, err2, err3, err4, ctx.Err()} {
		if err != nil {
			return steady{}, err
		}
	}
	if err := p.wait(ctx); err != nil && p.cmd.ProcessState.ExitCode() != exitInvalid {
		return steady{}, err
	}
	r, err := readResult(file)
	if err != nil {
		return steady{}, err
	}
	// Each direction, 50 per second: all calls were up, and a generator that sent fewer than
	// 99.9% of them calls its run invalid.
	packets := float64(l.calls) * 2 * 50 * took.Seconds()
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / packets }
	return steady{cpu: us(cpu2 - cpu1), machine: us(all2 - all1), packets: int(packets), result: r}, nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// dialtoneAnchor is dialtone with one of its media paths and an agent for each call.
func (s *Suite) dialtoneAnchor(ctx context.Context, path string, agents int) (*anchor, error) {
	d, err := s.startDialtone(ctx, "--media-path", path)
	if err != nil {
		return nil, err
	}
	if err := d.employ(1021, max(0, agents-20), "support"); err != nil {
		d.close()
		return nil, err
	}
	return &anchor{subject: "dialtone, " + path + " path", parts: []*process{d.process}, close: d.close, talking: func() int {
		n, _ := d.sum(`dialtone_live_interactions{phase="bridged"}`)
		return int(n)
	}}, nil
}

// anchors are the servers that the audio experiments compare.
func (s *Suite) anchors(ctx context.Context, what string, agents int) []func() (*anchor, error) {
	all := []func() (*anchor, error){
		func() (*anchor, error) { return s.dialtoneAnchor(ctx, "portable", agents) },
		func() (*anchor, error) { return s.dialtoneAnchor(ctx, "kernel", agents) },
	}
	if names := missing("kamailio", "rtpengine"); len(names) > 0 {
		s.leave(what+" of Kamailio + rtpengine", names)
		return all
	}
	return append(all, func() (*anchor, error) { return s.startKamailio(ctx, agents) })
}

// each runs a measurement of every anchor, s.runs times: in turn, so that a neighbour's
// moment hits all. It returns the subjects in their order, and what was found of each.
func each[T any](s *Suite, what string, anchors []func() (*anchor, error), one func(*anchor, string) (T, error)) ([]string, map[string][]T, error) {
	found, names := map[string][]T{}, []string{}
	for run := range s.runs {
		for _, open := range anchors {
			a, err := open()
			if err != nil {
				return nil, nil, err
			}
			s.say("%s: run %d of %d, %s", what, run+1, s.runs, a.subject)
			dir, err := os.MkdirTemp(s.work, "load-")
			var figure T
			if err == nil {
				figure, err = one(a, dir)
			}
			a.close()
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", a.subject, err)
			}
			if run == 0 {
				names = append(names, a.subject)
			}
			found[a.subject] = append(found[a.subject], figure)
		}
	}
	return names, found, nil
}

// relay compares the anchors: CPU per packet and the time that a packet takes.
func (s *Suite) relay(ctx context.Context) error {
	calls, hold := 300, 24*time.Second
	if s.quick {
		calls, hold = 50, 6*time.Second
	}
	names, found, err := each(s, "relay", s.anchors(ctx, "relay", calls), func(a *anchor, dir string) (steady, error) {
		return s.anchored(ctx, a, dir, build(calls, hold))
	})
	if err == nil {
		s.relayRows(calls, names, found)
	}
	return err
}

// memory compares what a call that talks costs in resident memory: from the first tenth of
// the calls, when everything that is made once is there, to all of them.
func (s *Suite) memory(ctx context.Context) error {
	calls := 1000
	if s.quick {
		calls = 100
	}
	names, found, err := each(s, "memory", s.anchors(ctx, "memory", calls), func(a *anchor, dir string) (float64, error) {
		p, _, err := s.generate(dir, build(calls, 20*time.Second))
		if err != nil {
			return 0, err
		}
		defer p.stop()
		var at [2]int64
		for i, n := range []int{calls / 10, calls} {
			if err := a.await(ctx, n, p); err != nil {
				return 0, err
			}
			if at[i], err = a.memory(); err != nil {
				return 0, err
			}
		}
		return float64(at[1]-at[0]) / float64(calls-calls/10) / 1000, nil
	})
	for _, name := range names {
		row := Row{Experiment: "memory per bridged call", Condition: fmt.Sprintf("from %d to %d calls with audio", calls/10, calls), Subject: name, Unit: "kB", Runs: found[name], Samples: calls * len(found[name])}
		if name != "Kamailio + rtpengine" {
			row.Goal = AtMost(50)
		}
		s.add(row)
	}
	return err
}

func (s *Suite) relayRows(calls int, names []string, found map[string][]steady) {
	latency := func(pick func(measure.Distribution) float64) func(steady) float64 {
		return func(one steady) float64 { return pick(one.result.Metrics["media_one_way"]) / 1000 }
	}
	figures := []struct {
		what, unit string
		of         func(steady) float64
		goal       func(subject string) Goal
	}{
		{"CPU of the server per relayed packet", "us", func(one steady) float64 { return one.cpu }, func(subject string) Goal {
			switch subject {
			case "dialtone, portable path":
				return AtMost(2.5)
			case "dialtone, kernel path":
				return AtMost(0.3)
			}
			return Goal{}
		}},
		{"CPU of the whole machine per relayed packet, generator included", "us", func(one steady) float64 { return one.machine }, nil},
		{"one way through the server, p50", "ms", latency(func(d measure.Distribution) float64 { return d.P50 }), nil},
		{"one way through the server, p99", "ms", latency(func(d measure.Distribution) float64 { return d.P99 }), nil},
		{"one way through the server, p99.9", "ms", latency(func(d measure.Distribution) float64 { return d.P999 }), nil},
		{"packets lost", "%", func(one steady) float64 { return 100 * one.result.Media.LossRatio() }, nil},
	}
	for _, f := range figures {
		for _, name := range names {
			row := Row{Experiment: f.what, Condition: fmt.Sprintf("%d calls, G.711, 20 ms", calls), Subject: name, Unit: f.unit}
			for _, one := range found[name] {
				row.Runs = append(row.Runs, f.of(one))
				row.Samples += one.packets
				row.doubt(one.result)
			}
			if f.goal != nil && name != "Kamailio + rtpengine" {
				row.Goal = f.goal(name)
			}
			s.add(row)
		}
	}
}

// routing measures how long a caller's INVITE takes to an agent who is free.
func (s *Suite) routing(ctx context.Context) error {
	seconds := 60
	if s.quick {
		seconds = 5
	}
	r, err := s.through(ctx, []string{"--rate", "20/s", "--duration", fmt.Sprint(seconds, "s"), "--hold", "500ms", "--lines", "200", "--answer-after", "0s"})
	if err != nil {
		return err
	}
	for _, metric := range []struct {
		name, what string
		p50, p99   Goal
	}{
		{"setup", "caller's INVITE to its 200", Goal{}, Goal{}},
		{"routing", "caller's INVITE to the agent's INVITE", AtMost(2), AtMost(10)},
		{"teardown", "BYE to the other party's BYE", Goal{}, Goal{}},
	} {
		d := r.Metrics[metric.name]
		s.add(Row{Experiment: metric.what + ", p50", Condition: "20 calls/s, a free agent", Subject: "dialtone", Unit: "ms", Runs: []float64{d.P50 / 1000}, Samples: int(d.Count), Goal: metric.p50}.of(r))
		s.add(Row{Experiment: metric.what + ", p99", Condition: "20 calls/s, a free agent", Subject: "dialtone", Unit: "ms", Runs: []float64{d.P99 / 1000}, Samples: int(d.Count), Goal: metric.p99}.of(r))
	}
	return nil
}

// ear measures from mouth to ear, over an emulated network.
func (s *Suite) ear(ctx context.Context) error {
	seconds := 60
	if s.quick {
		seconds = 5
	}
	const network = "delay=20ms,jitter=5ms"
	r, err := s.through(ctx, []string{"--rate", "5/s", "--duration", fmt.Sprint(seconds, "s"), "--hold", "10s", "--lines", "100", "--network", network})
	if err != nil {
		return err
	}
	d := r.Metrics["mouth_to_ear"]
	s.add(Row{Experiment: "mouth to ear, p99", Condition: "G.711, 20 ms packets, " + network, Subject: "dialtone", Unit: "ms",
		Runs: []float64{d.P99 / 1000}, Samples: int(d.Count), Goal: AtMost(60)}.of(r))
	return nil
}

// through runs the generator with some flags against a fresh dialtone with 100 agents.
func (s *Suite) through(ctx context.Context, flags []string) (measure.Result, error) {
	a, err := s.dialtoneAnchor(ctx, "auto", 100)
	if err != nil {
		return measure.Result{}, err
	}
	defer a.close()
	dir, err := os.MkdirTemp(s.work, "load-")
	if err != nil {
		return measure.Result{}, err
	}
	file := filepath.Join(dir, "load.json")
	argv := append([]string{s.binary, "loadgen", "--target", "udp:" + sipAddr, "--to", "sip:5000@" + sipAddr,
		"--agents", "100", "--agent-uri", "sip:{1001..1100}@demo.localhost", "--json", file}, flags...)
	p, err := start(dir, "loadgen", []string{"DIALTONE_AGENT_PASSWORD=" + secret}, argv...)
	if err != nil {
		return measure.Result{}, err
	}
	defer p.stop()
	if err := p.wait(ctx); err != nil && p.cmd.ProcessState.ExitCode() != exitInvalid {
		return measure.Result{}, err
	}
	return readResult(file)
}
