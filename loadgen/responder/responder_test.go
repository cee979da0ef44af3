package responder

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	msec         = time.Millisecond
	digestByHand = "58040c54a96339e9e0b455fe99152d67"
)

func TestACallIsCarriedAndWrittenDown(t *testing.T) {
	r := start(t, Config{InviteDelay: 30 * msec, RingDelay: 20 * msec, AnswerDelay: 40 * msec, ByeDelay: 25 * msec})
	p := connect(t, r, "one", "0 101")
	p.caller.speak(p.toAgent, 0, 0, 20, 0)
	p.agent.speak(p.toward, 0, 0, 30, 0)
	p.agent.hear(20)
	p.caller.hear(30)
	p.hangUp()
	eventually(t, "the call ends", func() bool { return r.Truth().Calls[0].ByeSent != Never })
	truth := r.Truth()
	c := truth.Calls[0]
	if len(truth.Calls) != 1 || c.Caller != "caller-one" || c.Agent != "agent-one" || c.Status != 200 || c.Offers != 1 || truth.Agents != 1 {
		t.Fatalf("%+v", truth)
	}
	for _, held := range []struct {
		what     string
		from, to Micros
		least    time.Duration
	}{
		{"INVITE to 100", c.Invited, c.Trying, 30 * msec}, {"INVITE to offer", c.Invited, c.Offered, 30 * msec},
		{"agent's 180 to caller's", c.AgentRang, c.Ringing, 20 * msec}, {"agent's 200 to caller's", c.AgentAnswered, c.Answered, 40 * msec},
		{"BYE to BYE", c.Bye, c.ByeSent, 25 * msec}, {"ringing to answer", c.AgentRang, c.AgentAnswered, 0}, {"answer to BYE", c.Answered, c.Bye, 0},
	} {
		// It can't be early; how late a busy machine makes it is what the truth is for.
		if span := held.to - held.from; held.from < 0 || held.to < 0 || span < Micros(held.least.Microseconds()) || span > Micros(patience.Microseconds()) {
			t.Errorf("%s: %d us, told %v", held.what, span, held.least)
		}
	}
	if want := (Flow{Received: 20, Sent: 20}); c.ToAgent != want || truth.ToAgent != want {
		t.Errorf("to the agent: %+v, in all %+v", c.ToAgent, truth.ToAgent)
	}
	if want := (Flow{Received: 30, Sent: 30}); c.ToCaller != want || truth.ToCaller != want {
		t.Errorf("to the caller: %+v, in all %+v", c.ToCaller, truth.ToCaller)
	}
}

func TestTheAgentHangsUp(t *testing.T) {
	r := start(t, Config{})
	p := connect(t, r, "two", "0")
	p.agent.send(p.agent.request("BYE", "sip:responder@test", p.invite.field("Call-ID"), p.invite.field("From"), 1, ""))
	p.agent.expect("SIP/2.0 200")
	p.caller.respond(p.caller.expect("BYE"), "200 OK", "")
	// The agent is free again.
	p.caller.dial("two-again")
	p.agent.expect("INVITE")
}

// What is counted is what the phones see, packet by packet.
func TestAudioFaultsAreCountedAsTheyAreHeard(t *testing.T) {
	for name, cfg := range map[string]Config{
		"none":      {},
		"loss":      {Loss: 0.2},
		"copies":    {Duplicate: 0.2},
		"reordered": {Delay: 20 * msec, Reorder: 0.1},
		"jitter":    {Delay: 15 * msec, Jitter: 15 * msec},
		"all":       {Delay: 30 * msec, Jitter: 10 * msec, Loss: 0.1, Duplicate: 0.1, Reorder: 0.1},
		"A-law":     {Loss: 0.05, Transcode: true},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Seed = 5
			r := start(t, cfg)
			kind := "0"
			if cfg.Transcode {
				kind = "8"
			}
			p := connect(t, r, "c", kind)
			const end = 300
			p.caller.speak(p.toAgent, 0, 0, end, msec)
			eventually(t, "all came", func() bool { return r.Truth().ToAgent.Received == end })
			eventually(t, "none is held", func() bool { return r.x.packets.length() == 0 })
			last := make(chan struct{})
			r.x.packets.at(time.Now(), func() { close(last) })
			<-last
			truth := r.Truth().Calls[0].ToAgent
			got := p.agent.hear(int(truth.Sent + truth.Duplicated))
			seen, newest, copies, overtaken := map[int]bool{}, -1, uint64(0), uint64(0)
			lowest := end
			for _, h := range got {
				if seen[h.number] {
					copies++
					continue
				}
				seen[h.number] = true
				if h.number < newest {
					overtaken++
				}
				newest, lowest = max(newest, h.number), min(lowest, h.number)
			}
			inside := uint64(newest-lowest+1) - uint64(len(seen))
			if truth.Received != end || truth.Sent != uint64(len(seen)) || truth.Duplicated != copies || truth.Reordered != overtaken || truth.Lost-truth.Edge != inside {
				t.Errorf("%+v; heard %d, %d copies, %d overtaken, %d missing in between", truth, len(seen), copies, overtaken, inside)
			}
			if cfg.Loss > 0 && (truth.Lost < end*uint64(cfg.Loss*1000)/3000 || truth.Lost > end*uint64(cfg.Loss*1000)/400) {
				t.Errorf("%d of %d lost, told %v", truth.Lost, end, cfg.Loss)
			}
			if cfg.Duplicate > 0 && truth.Duplicated == 0 || cfg.Reorder > 0 && truth.Reordered == 0 || cfg.Loss == 0 && truth.Lost != 0 {
				t.Errorf("%+v of %+v", truth, cfg)
			}
		})
	}
}

// The recorded holding time is what a phone measures by its own clock, less the way.
func TestHoldingTimesAreThoseThatAPhoneMeasures(t *testing.T) {
	r := start(t, Config{Delay: 40 * msec, Jitter: 10 * msec, Seed: 1})
	p := connect(t, r, "h", "0")
	p.caller.speak(p.toAgent, 0, 0, 200, 2*msec)
	got := p.agent.hear(200)
	held := r.Truth().HeldB
	var transits []int64
	for _, h := range got {
		transits = append(transits, h.transit.Microseconds())
	}
	slices.Sort(transits)
	if held.N != 200 || held.Min < 30_000 || held.P50 < 30_000 || held.Max > patience.Microseconds() {
		t.Errorf("%+v", held)
	}
	// A transit holds the holding time and the reading phone's own lag; no packet can be faster
	// than it was held (0.2% is the histogram's step).
	for _, q := range []struct {
		name       string
		held, seen int64
	}{{"min", held.Min, transits[0]}, {"p50", held.P50, transits[99]}, {"p90", held.P90, transits[179]}} {
		if q.seen < q.held*998/1000 {
			t.Errorf("%s: held %d us, seen after %d us", q.name, q.held, q.seen)
		}
	}
}

// The same seed and traffic: the same packets vanish, whatever else happens.
func TestTheSeedDecides(t *testing.T) {
	run := func(seed uint64, cfg Config) (numbers []int) {
		cfg.Seed = seed
		r := start(t, cfg)
		p := connect(t, r, "s", "0")
		p.caller.speak(p.toAgent, 0, 0, 200, 0)
		eventually(t, "all came", func() bool { return r.Truth().ToAgent.Received == 200 })
		for _, h := range p.agent.hear(int(r.Truth().ToAgent.Sent)) {
			numbers = append(numbers, h.number)
		}
		return numbers
	}
	a, b, c := run(1, Config{Loss: 0.2}), run(1, Config{Loss: 0.2, Duplicate: 1e-9}), run(2, Config{Loss: 0.2})
	if !slices.Equal(a, b) {
		t.Errorf("seed 1 twice: %v and %v", a, b)
	}
	if slices.Equal(a, c) {
		t.Errorf("seeds 1 and 2 are the same: %v", a)
	}
}

func TestTranscoding(t *testing.T) {
	r := start(t, Config{Transcode: true})
	p := connect(t, r, "t", "8 101")
	if !strings.Contains(p.invite.body(), "RTP/AVP 8 101") || !strings.Contains(p.ok.body(), "RTP/AVP 0 101") {
		t.Fatalf("offered to the agent %q, answered to the caller %q", p.invite.body(), p.ok.body())
	}
	p.caller.speak(p.toAgent, 0, 0, 1, 0)
	p.caller.speak(p.toAgent, 101, 1, 1, 0)
	got := p.agent.hear(2)
	for _, h := range got {
		switch changed := h.payload[100] != 100; { // 100 is the code that speak has put there
		case h.number == 0 && (h.kind != 8 || !changed):
			t.Errorf("audio has type %d, code %d", h.kind, h.payload[100])
		case h.number == 1 && (h.kind != 101 || changed):
			t.Errorf("a telephone-event has type %d, byte %d", h.kind, h.payload[100])
		}
	}
	p.agent.speak(p.toward, 8, 0, 1, 0)
	if h := p.caller.hear(1)[0]; h.kind != 0 || h.payload[100] == 100 {
		t.Errorf("back: type %d, code %d", h.kind, h.payload[100])
	}
}

// Audio before the answer and after a hang-up is no part of the account.
func TestAudioBeforeTheAnswerIsEarly(t *testing.T) {
	r := start(t, Config{AnswerDelay: 300 * msec})
	agent, caller := newTelephone(t, r, "agent"), newTelephone(t, r, "caller")
	agent.register()
	agent.expect("SIP/2.0 200")
	caller.dial("early")
	invite := agent.expect("INVITE")
	agent.respond(invite, "200 OK", agent.sdp("0"))
	agent.expect("ACK")
	agent.speak(agent.remote(invite), 0, 0, 5, 0)
	eventually(t, "they came", func() bool { return r.Truth().ToCaller.Early == 5 })
	caller.ack(caller.expect("SIP/2.0 200"))
	agent.speak(agent.remote(invite), 0, 5, 5, 0)
	if got := caller.hear(5); len(got) != 5 || got[0].number != 5 {
		t.Errorf("%d packets, the first is %d", len(got), got[0].number)
	}
	if got, want := r.Truth().ToCaller, (Flow{Received: 5, Sent: 5, Early: 5}); got != want {
		t.Errorf("%+v", got)
	}
}

// After its BYE a party gets no audio, though the other one still talks.
func TestAudioEndsWithTheBye(t *testing.T) {
	r := start(t, Config{ByeDelay: 300 * msec})
	p := connect(t, r, "end", "0")
	p.agent.speak(p.toward, 0, 0, 3, 0)
	p.caller.hear(3)
	p.caller.bye(p.ok)
	p.caller.expect("SIP/2.0 200")
	p.agent.speak(p.toward, 0, 3, 3, 0)
	p.agent.respond(p.agent.expect("BYE"), "200 OK", "")
	eventually(t, "the call is over", func() bool {
		r.x.mu.Lock()
		defer r.x.mu.Unlock()
		return len(r.x.alive()) == 0
	})
	if got, want := r.Truth().ToCaller, (Flow{Received: 3, Sent: 3}); got != want || len(p.caller.hear(3)) != 3 {
		t.Errorf("%+v, the caller heard %d", got, len(p.caller.hear(3)))
	}
}

func TestRefusals(t *testing.T) {
	r := start(t, Config{Refuse: []Refusal{{503, 0.3}, {486, 0.3}}, Seed: 3})
	caller := newTelephone(t, r, "caller")
	got := map[string]int{}
	const n = 100
	for i := range n {
		id := fmt.Sprint("r", i)
		caller.dial(id)
		for waits := false; !waits; {
			m := caller.expect("SIP/2.0 ")
			if m.field("Call-ID") != id {
				continue
			}
			switch status := string(m[8:11]); status {
			case "100":
				// Without an agent a call that is not refused stays in the queue.
				waits = r.Truth().Calls[i].Status == 0
				if waits {
					got["queued"]++
				}
			default:
				got[status]++
				caller.send(caller.request("ACK", "sip:5000@test", id, m.field("To"), 1, ""))
				waits = true
			}
		}
	}
	count := map[string]int{}
	for _, c := range r.Truth().Calls {
		switch c.Status {
		case 0:
			count["queued"]++
		default:
			count[fmt.Sprint(c.Status)]++
		}
	}
	for _, what := range []string{"503", "486", "queued"} {
		if got[what] != count[what] || got[what] < 15 || got[what] > 60 {
			t.Errorf("%s: %d seen, %d in the truth, of %d", what, got[what], count[what], n)
		}
	}
}

func TestCancelFreesTheAgent(t *testing.T) {
	r := start(t, Config{})
	agent, caller := newTelephone(t, r, "agent"), newTelephone(t, r, "caller")
	agent.register()
	agent.expect("SIP/2.0 200")
	caller.dial("x1")
	invite := agent.expect("INVITE")
	agent.respond(invite, "180 Ringing", "")
	caller.expect("SIP/2.0 180")
	caller.send(strings.Replace(caller.request("CANCEL", "sip:5000@test", "x1", "<sip:5000@test>", 1, ""), "-CANCEL-", "-INVITE-", 1))
	refused := caller.expect("SIP/2.0 487")
	caller.send(caller.request("ACK", "sip:5000@test", "x1", refused.field("To"), 1, ""))
	cancel := agent.expect("CANCEL")
	if cancel.field("Via") != invite.field("Via") || cancel.field("CSeq") != "1 CANCEL" { // RFC 3261 s.9.1
		t.Errorf("%s", cancel)
	}
	caller.dial("x2")
	caller.expect("SIP/2.0 100")
	agent.respond(cancel, "200 OK", "")
	agent.respond(invite, "487 Request Terminated", "")
	if ack := agent.never("INVITE", "ACK"); !strings.Contains(ack.field("To"), "of-agent") { // s.17.1.1.3
		t.Errorf("%s", ack)
	}
	if again := agent.expect("INVITE"); again.field("Call-ID") == invite.field("Call-ID") {
		t.Errorf("%s", again)
	}
	if c := r.Truth().Calls[0]; c.Status != 487 || c.Answered == Never {
		t.Errorf("%+v", c)
	}
}

// A CANCEL that crosses the 200: the agent is told by BYE (RFC 3261 s.9.1).
func TestCancelThatCrossesTheAnswer(t *testing.T) {
	r := start(t, Config{AnswerDelay: 500 * msec})
	agent, caller := newTelephone(t, r, "agent"), newTelephone(t, r, "caller")
	agent.register()
	agent.expect("SIP/2.0 200")
	caller.dial("x")
	invite := agent.expect("INVITE")
	agent.respond(invite, "200 OK", agent.sdp("0"))
	agent.expect("ACK")
	caller.send(strings.Replace(caller.request("CANCEL", "sip:5000@test", "x", "<sip:5000@test>", 1, ""), "-CANCEL-", "-INVITE-", 1))
	caller.expect("SIP/2.0 487")
	agent.respond(agent.expect("BYE"), "200 OK", "")
	caller.dial("y")
	agent.expect("INVITE")
}

// A CANCEL after the final response has no effect (RFC 3261 s.9.2).
func TestCancelOfACallThatIsUp(t *testing.T) {
	r := start(t, Config{})
	p := connect(t, r, "up", "0")
	p.caller.send(strings.Replace(p.caller.request("CANCEL", "sip:5000@test", "up", "<sip:5000@test>", 1, ""), "-CANCEL-", "-INVITE-", 1))
	p.caller.expect("SIP/2.0 200")
	p.caller.speak(p.toAgent, 0, 0, 3, 0)
	p.agent.hear(3)
	if c := r.Truth().Calls[0]; c.Status != 200 || c.Bye != Never {
		t.Errorf("%+v", c)
	}
}

func TestCallersWaitForAnAgentInTheirOrder(t *testing.T) {
	r := start(t, Config{})
	first, second := newTelephone(t, r, "first"), newTelephone(t, r, "second")
	first.dial("q1")
	first.expect("SIP/2.0 100")
	second.dial("q2")
	second.expect("SIP/2.0 100")
	agent := newTelephone(t, r, "agent")
	agent.register()
	agent.expect("SIP/2.0 200")
	invite := agent.expect("INVITE")
	if !strings.Contains(invite.field("From"), "first") {
		t.Fatalf("%s", invite)
	}
	// The agent refuses, and rests for a second: meanwhile another one comes.
	agent.respond(invite, "486 Busy Here", "")
	agent.expect("ACK")
	other := newTelephone(t, r, "other")
	other.register()
	other.expect("SIP/2.0 200")
	if again := other.expect("INVITE"); !strings.Contains(again.field("From"), "first") {
		t.Fatalf("%s", again)
	}
	if next := agent.expect("INVITE"); !strings.Contains(next.field("From"), "second") {
		t.Fatalf("%s", next)
	}
	if c := r.Truth().Calls[0]; c.Offers != 2 {
		t.Errorf("%+v", c)
	}
}

func TestAnAgentMustKnowThePassword(t *testing.T) {
	r := start(t, Config{Password: "open sesame"})
	agent := newTelephone(t, r, "agent")
	agent.register()
	challenge := agent.expect("SIP/2.0 401")
	nonce := digestParams(challenge.field("WWW-Authenticate"))["nonce"]
	agent.register(`Authorization: Digest username="agent", realm="responder", nonce="` + nonce + `", uri="sip:test", response="00000000000000000000000000000000"`)
	agent.expect("SIP/2.0 401")
	// RFC 2617 s.3.2.2: by md5sum for this password, realm and a nonce of our own.
	r.x.mu.Lock()
	r.x.nonce = "abc"
	r.x.mu.Unlock()
	agent.register(`Authorization: Digest username="agent",realm="responder",nonce="abc",uri="sip:test",response="` + digestByHand + `"`)
	if ok := agent.expect("SIP/2.0"); !strings.HasPrefix(string(ok), "SIP/2.0 200") || !strings.Contains(ok.field("Contact"), "expires=3600") {
		t.Fatalf("%s", ok)
	}
	agent.register(`Authorization: Digest username="agent",realm="responder",nonce="abc",uri="sip:test",response="`+digestByHand+`"`, "Expires: 0")
	agent.expect("SIP/2.0 200")
	if n := r.Truth().Agents; n != 0 {
		t.Errorf("%d agents", n)
	}
}

// A hold is answered, and audio goes where the new SDP says.
func TestReinvite(t *testing.T) {
	r := start(t, Config{})
	p := connect(t, r, "re", "0")
	moved := newTelephone(t, r, "moved")
	body := strings.Replace(moved.sdp("0"), "sendrecv", "sendonly", 1)
	p.caller.send(p.caller.request("INVITE", "sip:responder@test", "re", p.ok.field("To"), 2, body))
	ok := p.caller.expect("SIP/2.0 200")
	if !strings.Contains(ok.body(), "a=recvonly") || p.caller.remote(ok) != p.toAgent {
		t.Errorf("%s", ok)
	}
	p.caller.send(p.caller.request("ACK", "sip:responder@test", "re", p.ok.field("To"), 2, ""))
	p.agent.speak(p.toward, 0, 0, 3, 0)
	moved.hear(3)
}

// What is lost on the way is repeated: by us until it is answered, and our answers when
// the phone repeats.
func TestRepetitions(t *testing.T) {
	r := start(t, Config{})
	agent, caller := newTelephone(t, r, "agent"), newTelephone(t, r, "caller")
	agent.register()
	agent.expect("SIP/2.0 200")
	caller.dial("w")
	invite := agent.expect("INVITE")
	if again := agent.expect("INVITE"); again != invite {
		t.Errorf("repeated as %q, was %q", again, invite)
	}
	caller.dial("w")
	caller.expect("SIP/2.0 100")
	agent.respond(invite, "200 OK", agent.sdp("0"))
	ack := agent.expect("ACK")
	agent.respond(invite, "200 OK", agent.sdp("0"))
	agent.respond(invite, "200 OK", agent.sdp("0"))
	for range 2 {
		if again := agent.never("BYE", "ACK"); again.field("CSeq") != ack.field("CSeq") {
			t.Errorf("%s", again)
		}
	}
	ok := caller.expect("SIP/2.0 200")
	if again := caller.expect("SIP/2.0 200"); again != ok {
		t.Errorf("repeated as %q, was %q", again, ok)
	}
	caller.ack(ok)
	caller.bye(ok)
	bye := agent.expect("BYE")
	if again := agent.expect("BYE"); again != bye {
		t.Errorf("repeated as %q, was %q", again, bye)
	}
	agent.respond(bye, "200 OK", "")
	caller.bye(ok)
	caller.never("SIP/2.0 481", "SIP/2.0 200 OK")
	if n := len(r.Truth().Calls); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestWhatIsNotACallIsRefused(t *testing.T) {
	r := start(t, Config{})
	p := newTelephone(t, r, "p")
	p.send(p.request("INVITE", "sip:5000@test", "n1", "<sip:5000@test>", 1, ""))
	p.expect("SIP/2.0 488")
	p.send(p.request("BYE", "sip:5000@test", "n2", "<sip:5000@test>;tag=x", 1, ""))
	p.expect("SIP/2.0 481")
	p.send(p.request("INVITE", "sip:5000@test", "n3", "<sip:5000@test>;tag=x", 1, p.sdp("0")))
	p.expect("SIP/2.0 481")
	p.send(p.request("INFO", "sip:5000@test", "n4", "<sip:5000@test>", 1, ""))
	p.expect("SIP/2.0 501")
	p.send(p.request("CANCEL", "sip:5000@test", "n5", "<sip:5000@test>", 1, ""))
	p.expect("SIP/2.0 481")
	p.send("rubbish\r\n\r\n")
	p.send("SIP/2.0 200 OK\r\nCSeq: x\r\n\r\n")
	p.send(p.request("OPTIONS", "sip:5000@test", "n6", "<sip:5000@test>", 1, ""))
	p.expect("SIP/2.0 200")
	if truth := r.Truth(); truth.Malformed != 2 || len(truth.Calls) != 0 {
		t.Errorf("%+v", truth)
	}
}
