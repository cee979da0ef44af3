package loadgen

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// How agents register.
const (
	registerRate  = 100 // in a second, all workers together: a server may take more for a flood
	registerAtime = 16  // that wait for an answer
	registerWait  = 8 * time.Second
	registerFor   = 10 * time.Minute // and again after half of what is granted
)

// register registers the agents. The first one goes ahead, so that a wrong password or address
// is told at once and only once.
func (w *worker) register() (agents []*agent, took []measure.Micros, err error) {
	p := &w.job.Profile
	for _, i := range w.agents() {
		user, domain, _ := strings.Cut(strings.TrimPrefix(p.Agents.URI.At(int64(i)), "sip:"), "@")
		domain, _, _ = strings.Cut(domain, ";")
		ph, err := w.endpoint.Phone(phone.Config{User: user, Domain: domain, Password: string(p.Agents.Password), Voice: agentVoice(i),
			Label: measure.MediaAgentHears, Codecs: w.codecs(), Marker: p.Media.Latency == profile.Marker, Tone: 880, Refresh: 0.5})
		if err != nil {
			return agents, nil, fmt.Errorf("agent %s: %w", user, err)
		}
		agents = append(agents, &agent{index: i, user: user, phone: ph})
	}
	if len(agents) == 0 {
		return nil, nil, nil
	}
	took = make([]measure.Micros, len(agents))
	if took[0], err = w.enrol(agents[0]); err != nil {
		return agents, nil, err
	}
	tick := time.NewTicker(time.Second * time.Duration(w.job.Of) / registerRate)
	defer tick.Stop()
	var group sync.WaitGroup
	slots, failed := make(chan struct{}, registerAtime), make(chan error, len(agents))
	for i, a := range agents[1:] {
		select {
		case <-tick.C:
		case <-w.halt.Done():
		}
		slots <- struct{}{}
		if len(failed) > 0 || w.halt.Err() != nil {
			break
		}
		group.Go(func() {
			defer func() { <-slots }()
			var err error
			if took[i+1], err = w.enrol(a); err != nil {
				failed <- err
			}
		})
	}
	group.Wait()
	close(failed)
	if err := <-failed; err != nil {
		return agents, nil, err
	}
	return agents, took, context.Cause(w.halt)
}

// enrol registers one agent, and tries again where the server is busy.
func (w *worker) enrol(a *agent) (measure.Micros, error) {
	for try := 1; ; try++ {
		ctx, stop := context.WithTimeout(w.halt, registerWait)
		begin := time.Now()
		err := a.phone.Register(ctx, registerFor)
		took, expired := time.Since(begin), ctx.Err() != nil
		stop()
		var refused *phone.Refused
		switch busy := errors.As(err, &refused) && (refused.Status == 503 || refused.Status == 480); {
		case err == nil:
			return micros(took), nil
		case w.halt.Err() != nil:
			return 0, context.Cause(w.halt)
		case busy && try < 5:
			select {
			case <-time.After(time.Duration(try) * time.Second):
			case <-w.halt.Done():
			}
		default:
			return 0, w.explain(a, refused, expired, err)
		}
	}
}

// explain says why an agent cannot register and what to do about it.
func (w *worker) explain(a *agent, refused *phone.Refused, expired bool, err error) error {
	target := w.job.Profile.Target
	if refused != nil {
		switch refused.Status {
		case 401, 403, 407:
			if w.job.Profile.Agents.Password == "" {
				return fmt.Errorf("agent %s is refused (%d): the server wants a password; set DIALTONE_AGENT_PASSWORD or give --agent-password-file", a.user, refused.Status)
			}
			return fmt.Errorf("agent %s is refused (%d): is its password right?", a.user, refused.Status)
		case 404:
			return fmt.Errorf("agent %s is not known to %s (404): does --agent-uri name agents that exist there, with the right domain?", a.user, target)
		}
		return fmt.Errorf("agent %s cannot register at %s: %d %.100s", a.user, target, refused.Status, refused.Reason)
	}
	if expired {
		return fmt.Errorf("agent %s cannot register: no answer from %s within %v; is the server running there, and the port right?", a.user, target, registerWait)
	}
	return fmt.Errorf("agent %s cannot register at %s: %s", a.user, target, firstLine(err))
}

// unregister removes the bindings, as far as the server still answers.
func (w *worker) unregister(agents []*agent) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(w.halt), 5*time.Second)
	defer stop()
	var group sync.WaitGroup
	slots := make(chan struct{}, registerAtime)
	for _, a := range agents {
		if a.phone.Registered() != nil {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			_ = a.phone.Unregister(ctx)
		})
	}
	group.Wait()
}
