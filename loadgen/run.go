package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
	"github.com/dialtone-cc/dialtone/loadgen/report"
)

// run is a load, as its coordinator sees it.
type run struct {
	profile   *profile.Profile
	plan      *arrival.Schedule
	limits    measure.Limits
	members   []*cluster.Member
	account   *account
	callsFile string // "": none
	progress  *report.Progress
	say       func(format string, args ...any) // for people, while it runs

	origin, start, end time.Time
	told               []tells
	cpu0               float64
	invalid            []string
}

// tells is what a worker has told of itself.
type tells struct {
	ready, called, gone bool
	second              cluster.Second
	summary             *cluster.Summary
}

// told is a message with its sender; up is nil when the worker is gone.
type told struct {
	who int
	up  *cluster.Up
}

// settleWait is how long workers may take for the summary after the last call has ended.
const settleWait = 60 * time.Second

// perform runs the load and gives the result. An error is a load that never began.
func (r *run) perform(ctx context.Context) (*measure.Result, error) {
	messages := make(chan told, 64)
	for i, m := range r.members {
		go func() {
			for up := range m.Up() {
				messages <- told{i, &up}
			}
			messages <- told{i, nil}
		}()
	}
	r.told = make([]tells, len(r.members))
	err := r.prepare(ctx, messages)
	if err == nil {
		err = r.openCalls()
	}
	if err != nil {
		r.tellAll(cluster.Down{Stop: true})
		r.drop(messages)
		return nil, err
	}
	r.launch()
	r.follow(ctx, messages)
	r.drop(messages)
	r.end = time.Now()
	r.progress.Close()
	return r.result()
}

// openCalls begins the calls file: not earlier than the load, which would cost an old one.
func (r *run) openCalls() (err error) {
	if r.callsFile != "" {
		r.account.calls, err = report.CreateCalls(r.callsFile, true)
	}
	return err
}

// prepare waits until all agents are registered.
func (r *run) prepare(ctx context.Context, messages <-chan told) error {
	n := r.profile.Agents.Count
	if n > 0 {
		r.say("registering %d agents at %s", n, r.profile.Target)
	}
	for left := len(r.members); left > 0; {
		select {
		case m := <-messages:
			name := r.members[m.who].Name
			switch {
			case m.up == nil:
				return fmt.Errorf("%s is gone before the start: %w", name, orUnknown(r.members[m.who].Cause()))
			case m.up.Failed != "" && len(r.members) == 1:
				return errors.New(m.up.Failed)
			case m.up.Failed != "":
				return fmt.Errorf("%s: %s", name, m.up.Failed)
			case m.up.Ready != nil && !r.told[m.who].ready:
				for _, took := range m.up.Ready.Registers {
					r.account.recorder.AddRegister(took)
				}
				r.told[m.who].ready = true
				left--
			}
		case <-ctx.Done():
			return errInterrupted
		}
	}
	return nil
}

func orUnknown(err error) error {
	if err == nil {
		return errors.New("it does not say why")
	}
	return err
}

// launch gives the common start: soon, and whole seconds after the origin, so that the seconds
// of the audio are those of the run.
func (r *run) launch() {
	soon := time.Since(r.origin) + 500*time.Millisecond
	r.start = r.origin.Add(soon.Truncate(time.Second) + time.Second)
	r.cpu0 = cpuTime()
	r.tellAll(cluster.Down{Start: &r.start})
	r.say("%d calls in %v, %s", r.plan.Count(), r.plan.Length().Round(time.Millisecond), r.profile.Target)
}

// follow takes what the workers tell until the last summary has come.
func (r *run) follow(ctx context.Context, messages <-chan told) {
	stopped := ctx.Done()
	var late <-chan time.Time
	finishing := false
	hurry := func() {
		if late == nil {
			late = time.After(settleWait)
		}
	}
	for !r.all(func(t tells) bool { return t.summary != nil || t.gone }) {
		select {
		case m := <-messages:
			r.hear(m)
			if !finishing && r.all(func(t tells) bool { return t.called || t.gone }) {
				finishing = true
				r.tellAll(cluster.Down{Finish: true})
				hurry()
			}
		case <-stopped:
			stopped = nil
			r.say("interrupted: hanging up; once more ends it at once")
			r.invalid = append(r.invalid, fmt.Sprintf("interrupted after %v", time.Since(r.start).Round(time.Second)))
			r.tellAll(cluster.Down{Stop: true})
			hurry()
		case <-late:
			for i, t := range r.told {
				if t.summary == nil && !t.gone {
					r.invalid = append(r.invalid, fmt.Sprintf("%s did not end", r.members[i].Name))
				}
			}
			return
		}
	}
}

func (r *run) all(is func(tells) bool) bool {
	return !slices.ContainsFunc(r.told, func(t tells) bool { return !is(t) })
}

// hear books one message.
func (r *run) hear(m told) {
	t, name := &r.told[m.who], r.members[m.who].Name
	if m.up == nil {
		if t.summary == nil && !t.gone {
			r.invalid = append(r.invalid, fmt.Sprintf("%s died: %v; its calls are missing", name, orUnknown(r.members[m.who].Cause())))
		}
		t.gone = true
		return
	}
	r.account.take(*m.up)
	if m.up.Failed != "" {
		r.invalid, t.gone = append(r.invalid, name+": "+m.up.Failed), true
	}
	t.called = t.called || m.up.Called
	for _, index := range m.up.Answered {
		if index >= 0 {
			_ = r.members[int(index%int64(len(r.members)))].Send(cluster.Down{Answered: []int64{index}})
		}
	}
	if m.up.Second != nil {
		t.second = *m.up.Second
		r.show()
	}
	if m.up.Summary != nil {
		t.summary = m.up.Summary
	}
}

// show updates the progress.
func (r *run) show() {
	c := r.account.recorder.Counts()
	now := report.Moment{Elapsed: time.Since(r.start), Started: c.Attempted, Completed: c.Completed, Dropped: c.Dropped,
		Failed: c.Refused + c.Unanswered + c.Cut + c.Failed}
	for _, t := range r.told {
		now.Live += int64(t.second.Live)
	}
	_, now.SetupP99, _ = r.account.recorder.Quantiles(measure.Setup)
	_, now.OneWayP99, _ = r.account.recorder.Quantiles(measure.MediaOneWay)
	r.progress.Update(now)
}

func (r *run) tellAll(down cluster.Down) {
	for i, m := range r.members {
		if !r.told[i].gone {
			_ = m.Send(down)
		}
	}
}

// drop ends the connections, and reads on so that nobody waits for us.
func (r *run) drop(messages <-chan told) {
	timeout := time.After(2 * time.Second)
	for i, m := range r.members {
		m.Close()
		if r.told[i].gone {
			continue
		}
		for gone := false; !gone; {
			select {
			case got := <-messages:
				if got.up == nil {
					r.told[got.who].gone = true
				}
				gone = r.told[i].gone
			case <-timeout:
				go func() { // a worker that hangs; the process ends soon
					for range messages {
					}
				}()
				return
			}
		}
	}
}

// result closes the account.
func (r *run) result() (*measure.Result, error) {
	a, p := r.account, r.profile
	a.close()
	pacing := measure.Pacing{Clock: measure.SharedClock}
	for i, t := range r.told {
		if t.summary != nil {
			r.add(r.members[i].Name, t.summary, &pacing)
		}
	}
	if len(r.members) > 1 { // the coordinator works too
		pacing.CPUSeconds += cpuTime() - r.cpu0
	}
	machines := r.machines()
	for _, m := range machines {
		pacing.Cores += float64(m.GOMAXPROCS)
	}
	pacing.CPUCores = pacing.CPUSeconds / max(r.end.Sub(r.start).Seconds(), 0.001)
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	res, err := a.recorder.Result(measure.Run{Started: r.start, Finished: r.end, Target: p.Target.String(), Profile: text, Generator: measure.ThisGenerator(),
		Machine: machines[0], Stated: stated(p), Pacing: pacing, Limits: r.limits})
	if err != nil {
		return nil, err
	}
	res.Machines, res.Workers = machines, len(r.members)
	for _, reason := range append(r.invalid, a.invalid...) {
		res.Invalidate(reason)
	}
	if planned := r.plan.Count(); res.Counts.Offered != planned && len(r.invalid)+len(a.invalid) == 0 {
		res.Invalidate(fmt.Sprintf("%d of %d arrivals are accounted for", res.Counts.Offered, planned))
	}
	if c := res.Counts; c.Attempted > 0 && c.Failed == c.Attempted {
		res.Invalidate(fmt.Sprintf("no call got an answer from %s: nothing has been measured of the server", p.Target))
	}
	return res, nil
}

// add books what a worker measured of itself.
func (r *run) add(name string, s *cluster.Summary, sum *measure.Pacing) {
	sum.Packets += s.Pacing.Packets
	sum.MissedTicks += s.Pacing.MissedTicks
	sum.CPUSeconds += s.Pacing.CPUSeconds
	r.account.recorder.AddSendJitter(s.SendJitter)
	r.account.recorder.AddMouthToEar(s.MouthToEar)
	for _, l := range s.Latencies {
		if l.Second >= 0 && l.Second < int64(31*24*3600) {
			r.account.recorder.AddSecond(l.Second, l.Tally)
		}
	}
	if s.Overrun > 0 {
		r.invalid = append(r.invalid, fmt.Sprintf("%s: the kernel threw away %d RTP packets that the generator read too late", name, s.Overrun))
	}
	if s.Interrupted && !slices.ContainsFunc(r.invalid, func(reason string) bool { return strings.HasPrefix(reason, "interrupted") }) {
		r.invalid = append(r.invalid, name+" was interrupted")
	}
	for _, note := range s.Notes {
		r.invalid = append(r.invalid, name+": "+note)
	}
	if s.Lost > 0 {
		r.account.wonder(fmt.Errorf("%d agents were no longer registered at the end", s.Lost))
	}
}

// machines are those that the workers run on, each once.
func (r *run) machines() []measure.Machine {
	var machines []measure.Machine
	for _, m := range r.members {
		if !slices.Contains(machines, m.Machine) {
			machines = append(machines, m.Machine)
		}
	}
	return machines
}

// stated is what the profile declares of the way from mouth to ear.
func stated(p *profile.Profile) measure.Stated {
	n := p.Media.Network
	s := measure.Stated{Packetisation: micros(20 * time.Millisecond), Network: micros(n.Delay), NetworkJitter: micros(n.Jitter), JitterBuffer: micros(p.Media.JitterBuffer),
		Buffer: fmt.Sprintf("fixed, %v, plays by the clock", p.Media.JitterBuffer), OnWire: true, Emulation: "none"}
	if n != (profile.Network{}) {
		s.Emulation = fmt.Sprintf("delay %v, jitter +-%v (even), loss %v (random), once in each direction, by the sender", n.Delay, n.Jitter, n.Loss)
	}
	return s
}
