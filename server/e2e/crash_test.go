package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// restart kills the server as a power cut would and starts it again on the same data.
func (s *server) restart(t testing.TB) time.Duration {
	t.Helper()
	began := time.Now()
	s.kill()
	s.start(t)
	return time.Since(began)
}

// kill -9 in the middle of conversations: of our own phones, of baresip with linphone, of
// sipp with sipp. They go on, can be ended, and are on record once.
func TestConversationsOutliveTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	own, makers, sipps := newDesk(t, s, 1, ""), newDesk(t, s, 1, ""), newDesk(t, s, 1, "")

	ownAgent := phoneAgent(t, own, 0, agentTone)
	ownCaller := dials(t, own, "caller", callerTone)
	ownCall := answers(t, ownAgent)
	lin := linphoneAgent(t, makers, 0, account{tone: agentTone})
	bare := startBaresip(t, account{server: s, user: "caller", tone: callerTone})
	bare.dial(makers.uri())
	mine, theirs := newMouth(t, pcmu(), callerTone), newMouth(t, pcma(), agentTone)
	sippCallee := sippAgent(t, sipps, 0, scenario{file: "agent", mouth: theirs})
	sippDialler := sippCaller(t, sipps, scenario{file: "caller", mouth: mine})
	for _, d := range []desk{own, makers, sipps} {
		d.reaches(t, 0, "ready", "talking")
	}
	soon(t, "our caller", hearing(ownCaller), agentTone, 0.8)
	soon(t, "baresip", bare.heard, agentTone, 1)
	soon(t, "sipp's caller", mine.all, agentTone, 1)

	died := time.Now()
	t.Logf("ready again %s after kill -9", s.restart(t).Round(time.Millisecond))
	back := time.Now()
	ownCaller.Media.Forget()
	ownCall.Media.Forget()
	soon(t, "our caller after the crash", hearing(ownCaller), agentTone, 0.8)
	soon(t, "our agent after the crash", hearing(ownCall), callerTone, 0.8)
	t.Logf("our phones heard each other again %s and %s after kill -9", firstHeard(ownCaller).Sub(died).Round(time.Millisecond),
		firstHeard(ownCall).Sub(died).Round(time.Millisecond))
	soon(t, "baresip after the crash", since(bare.heard), agentTone, 2)
	soon(t, "sipp's caller after the crash", func() samples { return mine.sound(back) }, agentTone, 1)
	soon(t, "sipp's agent after the crash", func() samples { return theirs.sound(back) }, callerTone, 1)
	for _, d := range []desk{own, makers, sipps} {
		d.reaches(t, 0, "ready", "talking")
	}
	bare.hangUp()
	lin.shows("ended")
	soon(t, "linphone, of the whole call", lin.heard, callerTone, 2.5) // 1 s before the crash, 2 s after it
	hangsUp(t, ownCall)
	if cause := over(t, ownCaller); cause != "remote" {
		t.Errorf("our caller's call ended by %s", cause)
	}
	sippDialler.cue()
	sippDialler.succeeds()
	sippCallee.succeeds()
	for _, d := range []desk{own, makers, sipps} {
		if r := d.record(t); r.Termination.Result != "completed" || r.did("recovered") != 1 || r.did("answered") != 1 || len(r.Legs) != 2 {
			t.Errorf("the record: %s", r)
		}
		d.reaches(t, 0, "ready", "idle")
	}
}

// Who waits when the server dies keeps the place; whose phone died meanwhile is on record.
func TestQueueOutlivesTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d, lost := newDesk(t, s, 1, ""), newDesk(t, s, 1, "")
	var waiting []*phone.Call
	for i := range 3 {
		waiting = append(waiting, dials(t, d, fmt.Sprintf("caller%d", i), callerTone))
		eventually(t, "the caller waits", func() bool { return d.waiting(t) == i+1 })
	}
	deadPhone := newPhone(t, s, lost.agents[0], demoDomain, agentTone)
	if err := deadPhone.Register(soonish(t), 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	left := dials(t, lost, "left", callerTone)
	answers(t, deadPhone)
	lost.reaches(t, 0, "", "talking")
	arrived := map[string]time.Time{}
	for _, i := range s.interactions(t, "live", d.queue) {
		arrived[i.ID] = i.ArrivedAt
	}

	s.kill()
	deadPhone.Close()
	s.start(t)
	back := time.Now()
	if n := d.waiting(t); n != 3 {
		t.Errorf("%d wait after the restart", n)
	}
	for _, c := range waiting {
		c.Media.Forget()
	}
	musicPlays(t, "who waits after the restart", hearing(waiting[0]))
	agent := joins(t, d, 0, agentTone)
	for i, c := range waiting {
		call := answers(t, agent)
		soon(t, fmt.Sprintf("caller %d", i), hearing(c), agentTone, 0.8)
		hangsUp(t, call)
		over(t, c)
	}
	for _, r := range d.records(t, 3) {
		if !r.ArrivedAt.Equal(arrived[r.ID]) || r.did("recovered") != 1 {
			t.Errorf("arrived %s: %s", arrived[r.ID], r)
		}
	}
	within(t, 35*time.Second, "the dead phone's agent is free", func() bool { return lost.agent(t, 0).State == "idle" })
	t.Logf("the call of the dead phone ended %.1f s after the restart", time.Since(back).Seconds())
	if cause := over(t, left); cause != "remote" {
		t.Errorf("the caller whose agent died: %s", cause)
	}
	lost.record(t)
}

// kill -9 at any moment: what was answered with 200 is on record exactly once.
func TestEachCallIsOnRecordOnceThroughTenCrashes(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	s := newServer(t)
	d := newDesk(t, s, 2, "")
	ctx, end := context.WithCancel(t.Context())
	defer end()
	for n := range d.agents {
		agent := phoneAgent(t, d, n, agentTone)
		go func() { // takes every call for a moment
			for {
				select {
				case c := <-agent.Incoming():
					go func() {
						if c.Answer(ctx) == nil {
							_ = c.HangUp(ctx)
						}
					}()
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var mu sync.Mutex
	answered := map[string]bool{}
	var callers sync.WaitGroup
	const rounds, perRound = 10, 4
	for round := range rounds {
		for n := range perRound {
			name := fmt.Sprintf("r%dc%dx", round, n)
			p := newPhone(t, s, name, demoDomain, callerTone)
			pause := time.Duration(chance.IntN(300)) * time.Millisecond
			callers.Go(func() {
				time.Sleep(pause)
				dialling, stop := context.WithTimeout(ctx, 4*time.Second)
				defer stop()
				if _, err := p.Call(dialling, d.uri()); err == nil {
					mu.Lock()
					answered[name] = true
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(chance.IntN(350)) * time.Millisecond)
		s.restart(t)
	}
	callers.Wait()
	for _, i := range s.interactions(t, "live", d.queue) {
		status, body := s.ask("POST", "/v1/interactions/"+i.ID+"/hangup", "", operatorKey, demo)
		if status/100 != 2 && status != 404 {
			t.Errorf("hang up %s: %d %s", i, status, body)
		}
	}
	var records []interaction
	eventually(t, "nothing lives and the outbox is empty", func() bool {
		for _, i := range s.interactions(t, "live", d.queue) {
			if i.Phase != "ending" {
				return false
			}
		}
		records = s.interactions(t, "ended", d.queue)
		return s.metric(t, "dialtone_outbox_records") == 0 && len(records) >= len(answered)
	})
	seen, ids := map[string]int{}, map[string]bool{}
	for _, r := range records {
		if ids[r.ID] {
			t.Errorf("two records of %s", r.ID)
		}
		ids[r.ID] = true
		user, _, _ := strings.Cut(strings.TrimPrefix(r.Caller, "sip:"), "@")
		seen[user]++
	}
	for name := range answered {
		if seen[name] != 1 {
			t.Errorf("%s was answered and is on record %d times", name, seen[name])
		}
	}
	for name, n := range seen {
		if n > 1 {
			t.Errorf("%s called once and is on record %d times", name, n)
		}
	}
	t.Logf("%d calls, %d answered, %d on record", rounds*perRound, len(answered), len(records))
	for n := range d.agents {
		d.reaches(t, n, "", "idle")
	}
}

// SIGTERM: nothing new from now on, what lives may finish, then exit code 0
// (jambonz/jambonz-feature-server#401: a drain that never ends).
func TestDrainOnSIGTERM(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	d := newDesk(t, s, 1, "")
	agent := phoneAgent(t, d, 0, agentTone)
	caller := dials(t, d, "caller", callerTone)
	call := answers(t, agent)
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	if err := s.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server is not ready", func() bool {
		status, _ := s.ask("GET", "/readyz", "", "", "")
		return status == 503
	})
	eventually(t, "new calls are refused", func() bool {
		var refused *phone.Refused
		late := newPhone(t, s, "late", demoDomain, callerTone)
		_, err := late.Call(soonish(t), d.uri())
		return errors.As(err, &refused) && refused.Status == 503
	})
	caller.Media.Forget()
	soon(t, "the caller during the drain", hearing(caller), agentTone, 0.8)
	hangsUp(t, caller)
	if cause := over(t, call); cause != "remote" {
		t.Errorf("the agent's call ended by %s", cause)
	}
	if code := s.status(t, patience); code != 0 {
		t.Errorf("exit code %d\n%s", code, tail(s.log, 10))
	}
	s.start(t)
	if r := d.record(t); r.Termination.Reason != "caller_hangup" {
		t.Errorf("the record: %s", r)
	}
}
