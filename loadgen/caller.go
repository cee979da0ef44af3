package loadgen

import (
	"context"
	"fmt"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// How long the rig waits for others.
const (
	// byeWait is for the answer to a BYE or CANCEL: half of what RFC 3261 s.17.1.2.2 allows,
	// and ten repetitions by then.
	byeWait = 16 * time.Second
	// haltWait is the same when the run is interrupted.
	haltWait = 3 * time.Second
	// grace is how long after its time a party waits for the other one's BYE.
	grace = 20 * time.Second
)

// caller is an arrival that is on the line.
type caller struct {
	talks chan time.Time // an agent has answered
}

func (w *worker) enlist(index int64) *caller {
	c := &caller{talks: make(chan time.Time, 4)}
	w.mu.Lock()
	w.callers[index] = c
	w.mu.Unlock()
	return c
}

// answered tells the caller of this worker that an agent talks to it now.
func (w *worker) answered(index int64) {
	w.mu.Lock()
	c := w.callers[index]
	w.mu.Unlock()
	if c == nil {
		return // it has just hung up
	}
	select {
	case c.talks <- time.Now():
	default:
	}
}

// draw is chance, by arrival: the same for caller and agent, whichever process they are in.
func draw(p *profile.Profile, purpose string, index int64, s profile.Span) time.Duration {
	return s.Draw(arrival.Chance(p.Seed, purpose, index))
}

func holdOf(p *profile.Profile, index int64) time.Duration { return draw(p, "hold", index, p.Hold) }

// agentEnds says whether it is the agent who hangs up.
func agentEnds(p *profile.Profile, index int64) bool {
	return p.Agents.Count > 0 && arrival.Chance(p.Seed, "hang up", index).Float64() < float64(p.HangUp)
}

// call is an arrival, from the INVITE to the end.
func (w *worker) call(index int64, due time.Duration) {
	p := &w.job.Profile
	half := w.blank(index)
	half.Due = micros(due)
	c := w.enlist(index)
	w.live.Add(1)
	defer func() {
		w.mu.Lock()
		delete(w.callers, index)
		w.mu.Unlock()
		w.live.Add(-1)
		half.Ended = max(half.Ended, half.Due)
		w.outbox.move(half.Ended, cluster.Left, index)
		w.outbox.half(half)
	}()
	dialled, err := w.dial(index, half.Caller)
	if err != nil {
		half.Outcome, half.Reason, half.Ended = measure.Failed, "the generator could not dial: "+err.Error(), w.micros(time.Now())
		return
	}
	defer dialled.phone.Close()
	call := dialled.call
	w.outbox.move(w.micros(time.Now()), cluster.Dialled, index)
	transferred := w.attend(c, call, index, &half)
	t := call.Times()
	half.Invited, half.Provisional, half.Ringing, half.Answered = w.micros(t.Invited), w.micros(t.Provisional), w.micros(t.Ringing), w.micros(t.Answered)
	half.HungUp, half.OtherBye, half.Ended = w.micros(t.ByeSent), w.micros(t.ByeReceived), w.micros(t.Ended)
	if half.HungUp < 0 {
		half.HungUp = w.micros(t.Cancelled)
	}
	if half.Ended < 0 { // given up
		half.Ended = w.micros(time.Now())
	}
	if transferred { // the BYE came from the second agent, the one it is compared with from the first
		half.OtherBye = measure.Never
	}
	half.Status = call.Status()
	if !t.Answered.IsZero() {
		half.CallerEar = w.shifted(call.Media.Heard())
	}
	judge(p, call, t, &half)
}

type dialled struct {
	phone *phone.Phone
	call  *phone.Call
}

func (w *worker) dial(index int64, number string) (d dialled, err error) {
	p := &w.job.Profile
	d.phone, err = w.endpoint.Phone(phone.Config{User: number, Domain: p.Domain, Voice: callerVoice(index), Label: measure.MediaCallerHears,
		Codecs: w.codecs(), Marker: p.Media.Latency == profile.Marker, Tone: 440})
	if err != nil {
		return d, err
	}
	if d.call, err = d.phone.Dial(p.To.At(index)); err != nil {
		d.phone.Close()
	}
	return d, err
}

// attend is what the caller does until the call is over. It says whether a second agent has
// answered.
func (w *worker) attend(c *caller, call *phone.Call, index int64, half *measure.Call) (transferred bool) {
	p := &w.job.Profile
	var patience, hold <-chan time.Time
	if !p.Patience.Zero() {
		timer := time.NewTimer(draw(p, "patience", index, p.Patience))
		defer timer.Stop()
		patience = timer.C
	}
	talking, mine := false, !agentEnds(p, index)
	begin := func(since time.Time) func() bool {
		talking, patience = true, nil
		length := holdOf(p, index)
		if !mine {
			length += grace
		}
		timer := time.NewTimer(time.Until(since.Add(length)))
		hold = timer.C
		return timer.Stop
	}
	answered, drained := call.WhenAnswered(), w.drained
	given := make(chan struct{}) // closed when hanging up has led to nothing
	talks := c.talks
	hangUp := func() { // once: nothing that leads to it is looked at any more
		patience, drained, hold, talks, answered = nil, nil, nil, nil, nil
		if !w.hangUp(call, half) {
			close(given)
		}
	}
	for {
		select {
		case <-call.Done():
			return transferred
		case <-given: // it does not end; nobody waits longer for it
			return transferred
		case <-answered:
			answered = nil
			if p.Agents.Count == 0 { // whoever answered is who the caller wants
				defer begin(time.Now())()
				drained = nil
			}
		case since := <-talks:
			if transferred = transferred || talking; !talking {
				defer begin(since)()
				drained = nil
			}
		case <-patience:
			half.Outcome = measure.Abandoned
			hangUp()
		case <-drained:
			half.Outcome, half.Reason = measure.Abandoned, "the run ended while it waited"
			hangUp()
		case <-hold:
			if !mine {
				half.Outcome, half.Reason = measure.Failed, "the agent's BYE did not come"
			}
			hangUp()
		case <-w.halt.Done():
			if half.Reason == "" && !talking {
				half.Outcome, half.Reason = measure.Abandoned, "the run was interrupted"
			}
			w.hangUp(call, half)
			return transferred
		}
	}
}

// hangUp ends a call and waits for the answer, so that nothing is left in the server. It is
// false when none came in time.
func (w *worker) hangUp(call *phone.Call, half *measure.Call) bool {
	wait := byeWait
	if w.halt.Err() != nil {
		wait = haltWait
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(w.halt), wait)
	defer stop()
	if err := call.HangUp(ctx); err != nil && half.Outcome != measure.Failed {
		t := call.Times()
		if !t.ByeSent.IsZero() && t.ByeAnswered.IsZero() && t.ByeReceived.IsZero() {
			half.Outcome, half.Reason = measure.Failed, "no answer to BYE"
		}
	}
	select {
	case <-call.Done():
		return true
	default:
		return false
	}
}

// judge says how the call ended, as far as the caller can know.
func judge(p *profile.Profile, call *phone.Call, t phone.Times, half *measure.Call) {
	switch {
	case half.Status == 0 && t.Provisional.IsZero() && t.Answered.IsZero(): // also of one who gave up: it was not the caller's doing
		half.Outcome, half.Reason = measure.Failed, "no answer to INVITE"
	case half.Outcome != "":
	case half.Status >= 300:
		half.Outcome, half.Reason = measure.Refused, fmt.Sprintf("%d %.80s", half.Status, call.Reason())
	case t.Answered.IsZero():
		half.Outcome, half.Reason = measure.Failed, "no final answer to INVITE"
	case p.Agents.Count > 0: // the agent's half is needed
	case !t.ByeSent.IsZero():
		half.Outcome = measure.Completed
	default:
		half.Outcome, half.Reason = measure.Cut, "the server hung up"
	}
}
