package loadgen

import (
	"context"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// agent is a phone that serves calls.
type agent struct {
	index int
	user  string
	phone *phone.Phone
	busy  atomic.Bool
}

// serve takes what rings until nobody calls any more, and ends with the last call.
func (a *agent) serve(w *worker) {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		select {
		case call := <-a.phone.Incoming():
			serving.Go(func() { a.take(w, call) })
		case <-w.finish:
			return
		case <-w.halt.Done():
			return
		}
	}
}

// service is a call that an agent is offered.
type service struct {
	*agent
	w           *worker
	call        *phone.Call
	from        int64 // index of the caller; -1: not known
	half        measure.Call
	act         profile.Behaviour
	transferred bool
}

// take serves one call.
func (a *agent) take(w *worker, call *phone.Call) {
	p := &w.job.Profile
	s := &service{agent: a, w: w, call: call, from: -1}
	remote := call.Remote()
	for _, number := range []string{remote.From, remote.Asserted, remote.PartyID} {
		if i, ok := p.Caller.Index(number); ok && i < w.plan.Count() {
			s.from = i
			break
		}
	}
	s.half = w.blank(s.from)
	if s.half.Agent, s.half.Offers = a.user, 1; s.from < 0 {
		s.half.Caller = remote.Number()
	}
	defer s.close()
	if !a.busy.CompareAndSwap(false, true) {
		// A second call on a phone with one line. The server must not do that; it is told as
		// any phone would.
		_ = call.Reject(486)
		s.half.Reason = "the agent was offered a second call"
		return
	}
	w.outbox.move(w.micros(call.Times().Invited), cluster.Offered, s.from)
	s.act = a.behaviour(p, s.from, remote.Number())
	answered := s.answer()
	if answered {
		s.talk()
	}
	a.busy.Store(false)
	ended := w.micros(call.Times().Ended)
	if !answered {
		w.outbox.move(ended, cluster.Declined, s.from)
		return
	}
	// By the generator's own count the agent is free when it has wrapped up.
	if wrapUp := draw(p, "wrap up", s.from, p.Agents.WrapUp); wrapUp > 0 {
		time.AfterFunc(wrapUp, func() { w.outbox.move(w.micros(time.Now()), cluster.Freed, s.from) })
		return
	}
	w.outbox.move(ended, cluster.Freed, s.from)
}

// behaviour is what the agent does with this call: chance decides, by agent and caller.
func (a *agent) behaviour(p *profile.Profile, index int64, number string) profile.Behaviour {
	if index < 0 {
		h := fnv.New64a()
		_, _ = h.Write([]byte(number))
		index = int64(h.Sum64() >> 1)
	}
	x := arrival.Chance(p.Seed, fmt.Sprintf("agent %d", a.index), index).Float64()
	for _, b := range p.Agents.Behaviours {
		if x -= float64(b.Share); x < 0 {
			return b
		}
	}
	return profile.Behaviour{Do: profile.Answer}
}

// wait is false when the call ends before the time is over.
func (s *service) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.call.Done():
	case <-s.w.halt.Done():
	case <-ctx.Done():
	}
	return false
}

// answer rings and picks up, unless the agent behaves otherwise or the caller gives up.
func (s *service) answer() bool {
	p := &s.w.job.Profile
	rings := draw(p, "answer after", max(s.from, 0), p.Agents.AnswerAfter)
	if s.act.Do == profile.Ignore {
		select {
		case <-s.call.Done():
		case <-s.w.halt.Done():
			_ = s.call.Reject(480)
		}
		return false
	}
	if !s.wait(s.w.halt, rings) {
		_ = s.call.Reject(480) // after an end it does nothing
		return false
	}
	if s.act.Do == profile.Reject {
		_ = s.call.Reject(s.act.Status)
		return false
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(s.w.halt), byeWait)
	defer stop()
	if err := s.call.Answer(ctx); err != nil {
		if s.call.Times().Answered.IsZero() {
			return false // the caller gave up in the same moment
		}
		s.half.Outcome, s.half.Reason = measure.Failed, "the agent's answer: "+firstLine(err)
		s.hangUp()
	}
	return true
}

// talk lasts as long as the call holds, with what the agent does meanwhile.
func (s *service) talk() {
	w, p := s.w, &s.w.job.Profile
	if s.from < 0 {
		s.listen()
	}
	since := s.call.Times().Answered
	if s.from >= 0 {
		if int(s.from%int64(w.job.Of)) == w.job.Worker {
			w.answered(s.from)
		} else {
			w.outbox.answered(s.from)
		}
	}
	mine := s.from < 0 || agentEnds(p, s.from)
	left := func(extra time.Duration) time.Duration {
		return time.Until(since.Add(holdOf(p, max(s.from, 0)) + extra))
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(w.halt))
	defer stop()
	acted := make(chan struct{})
	go func() { defer close(acted); s.behave(ctx) }()
	extra := time.Duration(0)
	if !mine {
		extra = grace
	}
	waited := s.wait(ctx, left(extra))
	stop()
	<-acted
	if waited && !mine {
		s.half.Outcome, s.half.Reason = measure.Failed, "the caller's BYE did not come"
	}
	s.hangUp()
}

// behave holds or transfers, until the talk is over.
func (s *service) behave(ctx context.Context) {
	if s.act.Do != profile.Hold && s.act.Do != profile.Transfer || !s.wait(ctx, s.act.After) {
		return
	}
	within := func(what string, act func(context.Context) error) bool {
		ctx, stop := context.WithTimeout(ctx, byeWait)
		defer stop()
		err := act(ctx)
		if err != nil {
			s.half.Reason = what + " failed: " + firstLine(err)
		}
		return err == nil
	}
	if s.act.Do == profile.Hold {
		if within("hold", s.call.Hold) && s.wait(ctx, s.act.For) {
			within("resume", s.call.Resume)
		}
		return
	}
	s.transferred = within("transfer", func(ctx context.Context) error {
		status, err := s.call.Transfer(ctx, s.act.To.At(max(s.from, 0)))
		if err == nil && status >= 300 {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	if s.transferred {
		s.hangUp()
	}
}

// listen finds out who calls by the voice, where the number did not come through.
func (s *service) listen() {
	p, count := &s.w.job.Profile, s.w.plan.Count()
	marker := p.Media.Latency == profile.Marker
	for range 50 {
		for voice := range s.call.Media.Heard().Voices {
			if index, ok := callerOf(voice, marker, count); ok {
				s.from = index
				s.half.Caller, s.half.Index = p.Caller.At(index), index
				return
			}
		}
		if !s.wait(s.w.halt, 100*time.Millisecond) {
			return
		}
	}
}

// hangUp ends the call if it is still up.
func (s *service) hangUp() {
	select {
	case <-s.call.Done():
		return
	default:
	}
	s.w.hangUp(s.call, &s.half)
}

// close writes down the agent's half.
func (s *service) close() {
	t := s.call.Times()
	h, w := &s.half, s.w
	h.Offered, h.AgentRang, h.AgentAnswer, h.AgentAck = w.micros(t.Invited), w.micros(t.Ringing), w.micros(t.Answered), w.micros(t.Acked)
	h.HungUp, h.OtherBye, h.Ended = w.micros(t.ByeSent), w.micros(t.ByeReceived), w.micros(t.Ended)
	if s.transferred && h.HungUp < 0 { // the server ended this leg: a transfer ends so
		h.HungUp = h.OtherBye
	}
	if !t.Answered.IsZero() {
		h.AgentEar = w.shifted(s.call.Media.Heard())
	}
	w.outbox.half(*h)
}

func firstLine(err error) string {
	if err == nil {
		return ""
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Sprintf("%.200s", line)
}
