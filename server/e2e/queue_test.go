package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// Who waits hears the music; an agent who comes later gets the call.
func TestCallerWaitsWithMusicForAnAgent(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	mine, theirs := newMouth(t, pcmu(), callerTone), newMouth(t, pcmu(), agentTone)
	caller := sippCaller(t, d, scenario{file: "caller", mouth: mine})
	heard := listenFor(mine.all, func(s samples) bool { return s.seconds() > 4 })
	hearsMusic(t, "the caller", heard)
	if silent := heard.seconds() - heard.loud(); silent > 1 {
		t.Errorf("%.1f of %.1f s of waiting were silent", silent, heard.seconds())
	}
	if n := d.waiting(t); n != 1 {
		t.Errorf("%d wait", n)
	}
	agent := startSipp(t, scenario{file: "agent", mouth: theirs})
	registerSipp(t, d.s, d.agents[0], agent.port, false)
	d.reaches(t, 0, "ready", "talking")
	answered := time.Now()
	hearsTone(t, "the caller", listenFor(func() samples { return mine.sound(answered) }, enoughTone(agentTone, 1)), agentTone, 1)
	if s := mine.sound(answered.Add(time.Second)); s.seconds() > 0.5 {
		whole, err := music()
		if err != nil {
			t.Fatal(err)
		}
		if cut, of := s.cutFrom(whole); cut > 0 {
			t.Errorf("the music plays on under the agent's voice: %d of %d", cut, of)
		}
	}
	caller.cue()
	caller.succeeds()
	agent.succeeds()
	d.record(t)
}

// First come, first served (signalwire/freeswitch#2511: the eighth caller was first).
func TestCallersAreServedInTheirOrder(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	var waiting []*phone.Call
	for i := range 3 {
		waiting = append(waiting, dials(t, d, fmt.Sprintf("caller%d", i), callerTone))
		eventually(t, "the caller waits", func() bool { return d.waiting(t) == i+1 })
	}
	agent := joins(t, d, 0, agentTone)
	for i, c := range waiting {
		call := answers(t, agent)
		soon(t, fmt.Sprintf("caller %d", i), hearing(c), agentTone, 0.8)
		for _, other := range waiting[i+1:] {
			if heard := hearing(other)().tone(agentTone); heard > 0 {
				t.Errorf("a caller who waits hears the agent for %.1f s", heard)
			}
		}
		hangsUp(t, call)
		over(t, c)
	}
	d.records(t, 3)
}

// signalwire/freeswitch#2529, livekit/sip#106: the caller has gone and the agent is still rung.
func TestAbandonedCallStopsRinging(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := sippAgent(t, d, 0, scenario{file: "agent-rings"})
	caller := sippCaller(t, d, scenario{file: "caller"})
	d.reaches(t, 0, "ready", "ringing")
	caller.cue()
	caller.succeeds()
	agent.succeeds() // CANCEL, 487, ACK
	d.reaches(t, 0, "ready", "idle")
	if r := d.record(t); r.Termination.Result != "abandoned" || r.Termination.Reason != "caller_hangup" || r.did("answered") != 0 {
		t.Errorf("the record: %s", r)
	}
	if n := d.waiting(t); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// asterisk/asterisk#1557: the caller goes just when the agent answers. Both phones must
// agree with the record, whatever came first, and both must be free.
func TestAnswerCrossesTheHangUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := phoneAgent(t, d, 0, agentTone)
	const calls = 8
	bridged := 0
	for i := range calls {
		caller := dials(t, d, "caller", callerTone)
		call := rings(t, agent)
		answered := make(chan error, 1)
		go func() { answered <- call.Answer(soonish(t)) }()
		time.Sleep(time.Duration(i) * 500 * time.Microsecond) // what is measured, not waited for
		hangsUp(t, caller)
		if err := <-answered; err == nil {
			bridged++
		}
		if cause := over(t, call); cause != "remote" && cause != "cancelled" {
			t.Errorf("call %d ended for the agent by %s", i, cause)
		}
		d.reaches(t, 0, "ready", "idle")
	}
	t.Logf("%d of %d were answered in time", bridged, calls)
	for _, r := range d.records(t, calls) {
		if result := r.Termination.Result; result != "completed" && result != "abandoned" || (result == "completed") != (r.did("answered") == 1) {
			t.Errorf("the record: %s", r)
		}
	}
}

// RONA: an agent who does not answer is not ready any more, the caller is offered on
// (2600hz/kazoo#6609: for ever; it ends when the agent says so).
func TestUnansweredCallGoesToTheNextAgent(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 2, `{"ring_timeout_s":2}`)
	away := sippAgent(t, d, 0, scenario{file: "agent-rings"})
	caller := dials(t, d, "caller", callerTone)
	d.reaches(t, 0, "", "ringing")
	there := joins(t, d, 1, agentTone)
	call := answers(t, there)
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	away.succeeds() // CANCEL, 487, ACK
	if a := d.agent(t, 0); a.Status != "not_ready" || a.Reason != "rona" {
		t.Errorf("the agent who did not answer: %+v", a)
	}
	hangsUp(t, call)
	over(t, caller)
	if r := d.record(t); r.Agent != d.agents[1] || r.did("offered") != 2 || r.did("offer_failed") != 1 {
		t.Errorf("the record: %s", r)
	}
	d.s.demo(t, "PUT", "/v1/agents/"+d.agents[0]+"/status", `{"status":"ready"}`, nil)
	d.reaches(t, 0, "ready", "idle")
}

// The server's own limit goes before the queue's.
func TestRingTimeoutOfTheCommandLine(t *testing.T) {
	t.Parallel()
	d := newDesk(t, newServer(t, "--ring-timeout", "1s"), 1, `{"ring_timeout_s":100}`)
	agent := phoneAgent(t, d, 0, agentTone)
	began := time.Now()
	dials(t, d, "caller", callerTone)
	call := rings(t, agent)
	if cause := over(t, call); cause != "cancelled" {
		t.Errorf("the ringing ended by %s", cause)
	}
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("the phone rang for %s", took)
	}
	d.reaches(t, 0, "not_ready", "idle")
}

// amazon-connect/amazon-connect-streams#292: a rejected call keeps ringing the same agent.
func TestRejectedCallGoesToTheNextAgent(t *testing.T) {
	t.Parallel()
	for status, reason := range map[int]string{486: "busy", 603: "rejected", 480: "rejected"} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			d := newDesk(t, commonServer(t), 2, "")
			unwilling := sippAgent(t, d, 0, scenario{file: "agent-rejects", status: status})
			caller := dials(t, d, "caller", callerTone)
			unwilling.succeeds()
			d.reaches(t, 0, "not_ready", "idle")
			if a := d.agent(t, 0); a.Reason != reason {
				t.Errorf("the agent who refused: %+v", a)
			}
			if n := d.waiting(t); n != 1 {
				t.Errorf("%d wait after the refusal", n)
			}
			call := answers(t, joins(t, d, 1, agentTone))
			soon(t, "the caller", hearing(caller), agentTone, 0.8)
			hangsUp(t, caller)
			over(t, call)
			if r := d.record(t); r.Agent != d.agents[1] {
				t.Errorf("the record: %s", r)
			}
		})
	}
}

// A phone that registered and is gone: the caller goes to somebody else.
func TestUnreachablePhoneCostsNobodyTheCall(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 2, `{"ring_timeout_s":3}`)
	gone := phoneAgent(t, d, 0, agentTone)
	gone.Close()
	caller := dials(t, d, "caller", callerTone)
	eventually(t, "the phone that is gone is found out", func() bool { return d.agent(t, 0).Status == "not_ready" })
	call := answers(t, joins(t, d, 1, agentTone))
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	hangsUp(t, call)
	over(t, caller)
	d.record(t)
}

// OpenSIPS/opensips#2530, #3123: the agent's BYE is lost and the agent is in a call for
// ever; signalwire/freeswitch#1973: shown as answered hours after the call. Here the whole
// phone is killed; nobody is told.
func TestAgentIsFreeAfterItsPhoneDied(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := baresipAgent(t, d, 0, account{tone: agentTone})
	caller := dials(t, d, "caller", callerTone)
	d.reaches(t, 0, "ready", "talking")
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	agent.kill()
	died := time.Now()
	within(t, 32*time.Second, "the agent is free", func() bool { return d.agent(t, 0).State == "idle" })
	t.Logf("free after %.1f s", time.Since(died).Seconds())
	if cause := over(t, caller); cause != "remote" {
		t.Errorf("the caller's call ended by %s", cause)
	}
	if r := d.record(t); r.Termination.Reason != "agent_silent" && r.Termination.Reason != "agent_lost" {
		t.Errorf("the record: %s", r)
	}
}

// The same on the other side: a caller who vanished does not hold the agent.
func TestAgentIsFreeAfterTheCallersPhoneDied(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := phoneAgent(t, d, 0, agentTone)
	caller := startBaresip(t, account{server: d.s, user: "caller", tone: callerTone})
	caller.dial(d.uri())
	call := answers(t, agent)
	soon(t, "the agent", hearing(call), callerTone, 0.8)
	caller.kill()
	within(t, 32*time.Second, "the agent is free", func() bool { return d.agent(t, 0).State == "idle" })
	over(t, call)
	if r := d.record(t); r.Termination.Reason != "caller_silent" && r.Termination.Reason != "caller_lost" {
		t.Errorf("the record: %s", r)
	}
}

// livekit/sip#812: a call of people who are silent goes on, while their phones answer.
func TestMutedPhonesStayConnected(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := phoneAgent(t, d, 0, agentTone)
	caller := dials(t, d, "caller", callerTone)
	call := answers(t, agent)
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	caller.Media.Mute(true)
	call.Media.Mute(true)
	select {
	case <-caller.Done():
		t.Errorf("the call of silent people ended by %s", caller.Cause())
	case <-time.After(27 * time.Second): // longer than what a dead phone gets
	}
	call.Media.Mute(false)
	caller.Media.Forget()
	soon(t, "the caller after the silence", hearing(caller), agentTone, 0.8)
	hangsUp(t, caller)
	over(t, call)
	d.record(t)
}

// Wrap-up keeps an agent free of calls for its time, and no longer (asterisk/asterisk#1006).
func TestWrapUpEnds(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, `{"wrap_up_s":1.5}`)
	agent := phoneAgent(t, d, 0, agentTone)
	caller := dials(t, d, "caller", callerTone)
	call := answers(t, agent)
	hangsUp(t, caller)
	over(t, call)
	ended := time.Now()
	d.reaches(t, 0, "ready", "wrap_up")
	next := dials(t, d, "next", callerTone)
	second := rings(t, agent)
	if took := second.Times().Invited.Sub(ended); took < 1300*time.Millisecond {
		t.Errorf("the next call came after %s, within the wrap-up of 1.5 s", took)
	}
	if err := second.Answer(soonish(t)); err != nil {
		t.Fatal(err)
	}
	hangsUp(t, next)
	over(t, second)
	d.records(t, 2)
}

// The API hangs up both.
func TestHangUpByTheAPI(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := phoneAgent(t, d, 0, agentTone)
	caller := dials(t, d, "caller", callerTone)
	call := answers(t, agent)
	d.reaches(t, 0, "ready", "talking")
	live := d.s.interactions(t, "live", d.queue)
	if len(live) != 1 || live[0].Phase != "bridged" || live[0].Agent != d.agents[0] {
		t.Fatalf("live: %v", live)
	}
	d.s.demo(t, "POST", "/v1/interactions/"+live[0].ID+"/hangup", "", nil)
	if a, b := over(t, caller), over(t, call); a != "remote" || b != "remote" {
		t.Errorf("the calls ended by %s and %s", a, b)
	}
	if r := d.record(t); r.Termination.Reason != "api_hangup" || r.ID != live[0].ID {
		t.Errorf("the record: %s", r)
	}
}

// Full queues and queues without anybody refuse or announce instead of keeping people waiting.
func TestOverflow(t *testing.T) {
	t.Parallel()
	s := commonServer(t)
	full := newDesk(t, s, 0, `{"max_waiting":1}`)
	dials(t, full, "first", callerTone)
	eventually(t, "the caller waits", func() bool { return full.waiting(t) == 1 })
	var refused *phone.Refused
	if _, err := newPhone(t, s, "second", demoDomain, callerTone).Call(soonish(t), full.uri()); err == nil {
		t.Error("a full queue took a second caller")
	} else if !asRefused(err, &refused) || refused.Status/100 < 4 {
		t.Errorf("a full queue: %v", err)
	}

	nobody := newDesk(t, s, 0, `{"overflow":{"when_nobody":true,"announce":"nobody"}}`)
	w, err := readWav("../edge/media/audio/nobody.wav")
	if err != nil {
		t.Fatal(err)
	}
	ear := newMouth(t, pcmu(), callerTone)
	caller := sippCaller(t, nobody, scenario{file: "caller", mouth: ear})
	caller.succeeds()
	if cut, of := ear.all().cutFrom(w); cut < 2 {
		t.Errorf("the caller heard %d of %d half seconds of the announcement (%.1f s heard)", cut, of, ear.all().seconds())
	}
	if r := nobody.record(t); r.Termination.Result != "overflowed" || r.Termination.Reason != "nobody_logged_in" {
		t.Errorf("the record: %s", r)
	}
}

// asterisk/asterisk#176: one call, answered by two agents; signalwire/freeswitch#2540: agents
// stuck. Many callers and few agents, all at once: nobody talks with two, everybody is served.
func TestNobodyTalksWithTwo(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 3, "")
	ctx := soonish(t)
	var mu sync.Mutex
	talking, most := map[int]int{}, 0
	count := func(agent, calls int) {
		mu.Lock()
		defer mu.Unlock()
		talking[agent] += calls
		most = max(most, talking[agent])
	}
	busy := func(agent int) bool {
		mu.Lock()
		defer mu.Unlock()
		return talking[agent] > 0
	}
	var voices []uint64
	for n := range d.agents {
		agent := phoneAgent(t, d, n, agentTone)
		voices = append(voices, agent.Voice())
		go func() {
			for {
				var c *phone.Call
				select {
				case c = <-agent.Incoming():
				case <-ctx.Done():
					return
				}
				// The next INVITE leaves right behind the last call's BYE and may pass it.
				for end := time.Now().Add(time.Second); busy(n) && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				go func() {
					count(n, 1)
					_ = c.Answer(ctx)
					<-c.Done()
					count(n, -1)
				}()
			}
		}()
	}
	const calls = 9
	var all sync.WaitGroup
	for i := range calls {
		p := newPhone(t, d.s, fmt.Sprintf("crowd%d", i), demoDomain, callerTone)
		all.Go(func() {
			c, err := p.Call(ctx, d.uri())
			if err != nil {
				t.Errorf("caller %d: %v", i, err)
				return
			}
			for c.Media.Heard().Audio.Voice < 15 && ctx.Err() == nil { // 300 ms of an agent
				time.Sleep(20 * time.Millisecond)
			}
			heard := c.Media.Heard().Voices
			agents := 0
			for _, v := range voices {
				if heard[v] > 0 {
					agents++
				}
			}
			if agents != 1 {
				t.Errorf("caller %d talked with %d agents", i, agents)
			}
			if err := c.HangUp(ctx); err != nil {
				t.Errorf("caller %d hangs up: %v", i, err)
			}
		})
	}
	all.Wait()
	mu.Lock()
	if most > 1 {
		t.Errorf("an agent had %d calls at a time", most)
	}
	mu.Unlock()
	for _, r := range d.records(t, calls) {
		if r.did("answered") != 1 || r.Termination.Reason != "caller_hangup" {
			t.Errorf("the record: %s", r)
		}
	}
	for n := range d.agents {
		d.reaches(t, n, "ready", "idle")
	}
}

// 2600hz/kazoo#2464: an agent with two devices. One call rings one of them after the other,
// and the one that answers has it alone.
func TestAgentWithTwoPhones(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	gone := phoneAgent(t, d, 0, agentTone)
	there := newPhone(t, d.s, d.agents[0], demoDomain, agentTone)
	if err := there.Register(soonish(t), 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both phones are registered", func() bool { return d.agent(t, 0).Registered == 2 })
	caller := dials(t, d, "caller", callerTone)
	var call *phone.Call
	select {
	case call = <-gone.Incoming():
		if err := call.Reject(500); err != nil { // this phone can't, its owner did not say no
			t.Fatal(err)
		}
		call = rings(t, there)
	case call = <-there.Incoming():
		if err := call.Reject(500); err != nil {
			t.Fatal(err)
		}
		call = rings(t, gone)
	case <-time.After(patience):
		t.Fatal("no phone rang")
	}
	if err := call.Answer(soonish(t)); err != nil {
		t.Fatal(err)
	}
	soon(t, "the caller", hearing(caller), agentTone, 0.8)
	hangsUp(t, caller)
	over(t, call)
	d.reaches(t, 0, "ready", "idle")
	if r := d.record(t); r.did("answered") != 1 || r.did("offered") != 1 {
		t.Errorf("the record: %s", r)
	}
}

// A queue that asks for a skill gets who has it.
func TestSkillsDecideWhoRings(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 2, `{"skills":{"french":5}}`)
	body, err := json.Marshal(map[string]any{"password": password, "queues": []string{d.queue}, "ready_on_register": true, "skills": map[string]int{"french": 7}})
	if err != nil {
		t.Fatal(err)
	}
	d.s.demo(t, "PUT", "/v1/agents/"+d.agents[1], string(body), nil)
	english, french := phoneAgent(t, d, 0, agentTone), phoneAgent(t, d, 1, agentTone)
	caller := dials(t, d, "caller", callerTone)
	call := answers(t, french)
	select {
	case <-english.Incoming():
		t.Error("an agent without the skill was rung")
	default:
	}
	hangsUp(t, caller)
	over(t, call)
	if r := d.record(t); !slices.Contains(d.agents, r.Agent) || r.Agent != d.agents[1] {
		t.Errorf("the record: %s", r)
	}
}
