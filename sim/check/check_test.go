package check

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Histories by hand: each checker accepts a good one and rejects at least two bad ones. A
// checker that accepts everything would make every world pass.

var (
	ann    = Far{Phone: "ann", Tenant: "t"}
	bob    = Far{Phone: "bob", Tenant: "t"}
	agent1 = Far{Phone: "a1", Tenant: "t", Agent: "1001"}
	zoe    = Far{Phone: "zoe", Tenant: "u"}
)

func testSetup() *Setup {
	return &Setup{Lossless: true, Slack: 100, MaxHeld: 10, MaxStep: 10, Tenants: []Tenant{{ID: "t",
		Queues:  []tenant.Queue{{ID: "q", RingTimeoutS: 5, WrapUpS: 3, AgeingS: 60}},
		Agents:  []tenant.Agent{{ID: "1001", Queues: []core.QueueID{"q"}}},
		Numbers: []tenant.Number{{Number: "5000", Queue: "q"}, {Number: "6000", Queue: "q", Priority: 5}},
	}}}
}

const start = core.Time(1_000_000 * 1e9)

// at is an instant in milliseconds after the start of a history.
func at(ms int) core.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func see(ms int, f Fact) Seen { return Seen{at(ms), f} }

func address(user, tag string) core.Address {
	a := core.Address{URI: core.URI{Scheme: "sip", User: user, Host: "h"}}
	if tag != "" {
		a = a.WithTag(tag)
	}
	return a
}

// ask is a request; the caller's name is in From, as on every INVITE.
func ask(method, callID string, cseq uint32, fromTag, toTag string) *core.Request {
	return &core.Request{Method: method, Message: core.Message{CallID: callID, CSeq: cseq,
		From: address("ann", fromTag), To: address("x", toTag)}}
}

func reply(method string, status int, callID string, cseq uint32, fromTag, toTag string) *core.Response {
	return &core.Response{Status: status, Method: method, Message: core.Message{CallID: callID, CSeq: cseq,
		From: address("ann", fromTag), To: address("x", toTag)}}
}

func from(who string, r *core.Request) *core.Request {
	r.From.URI.User = who
	return r
}

func sdp(r *core.Request, body string) *core.Request {
	r.ContentType, r.Body = "application/sdp", []byte(body)
	return r
}

func sdpR(r *core.Response, body string) *core.Response {
	r.ContentType, r.Body = "application/sdp", []byte(body)
	return r
}

func offer(direction string, formats string, version int) string {
	return fmt.Sprintf("v=0\r\no=- 7 %d IN IP4 h\r\nm=audio 4000 RTP/AVP %s\r\na=%s\r\n", version, formats, direction)
}

func cdr(id, callID string, change func(*core.CDR)) *core.CDR {
	c := &core.CDR{ID: core.InteractionID(id), Tenant: "t", Called: "5000", ArrivedAt: at(0), EndedAt: at(9000),
		Termination: core.Termination{Result: core.Abandoned, Reason: core.CallerHangup, HungUpBy: core.Caller},
		Timeline:    []core.Moment{{At: at(0), What: core.Arrived}, {At: at(10), What: core.Queued, Queue: "q"}, {At: at(9000), What: core.Ended}},
		Legs:        []core.LegReport{{Party: core.Caller, SIPCallID: callID}}}
	if change != nil {
		change(c)
	}
	return c
}

var (
	inviteAnn  = Received{Far: ann, Txn: "i", Request: ask(core.INVITE, "c1", 1, "f", "")}
	byeAnn     = Received{Far: ann, Txn: "b", Request: ask(core.BYE, "c1", 2, "f", "n")}
	okAnn      = Sent{Far: ann, Txn: "i", Response: reply(core.INVITE, 200, "c1", 1, "f", "n"), Covered: true}
	ringAnn    = Sent{Far: agent1, Txn: "r", Request: ask(core.INVITE, "a1", 10, "m", ""), Covered: true}
	rings      = Received{Far: agent1, Txn: "r", Response: reply(core.INVITE, 180, "a1", 10, "m", "p")}
	answer     = Received{Far: agent1, Txn: "r", Known: true, Response: reply(core.INVITE, 200, "a1", 10, "m", "p")}
	cancel     = Sent{Far: agent1, Txn: "r", Request: ask(core.CANCEL, "a1", 10, "m", "")}
	ack        = Sent{Far: agent1, Request: ask(core.ACK, "a1", 10, "m", "p")}
	byeAgent   = Sent{Far: agent1, Txn: "b2", Request: ask(core.BYE, "a1", 11, "m", "p")}
	ringBob    = Sent{Far: agent1, Txn: "r2", Request: from("bob", ask(core.INVITE, "a2", 30, "m2", ""))}
	optionsAnn = Sent{Far: ann, Txn: "o", Request: ask(core.OPTIONS, "c1", 1, "n", "f")}
	tick       = Stepped{}
	annUp      = Talking{Far: ann, CallID: "c1", Caller: "ann", Up: true, Sends: true}
	agentUp    = Talking{Far: agent1, CallID: "a1", Caller: "ann", Up: true, Sends: true}
	annHears   = Hears{Far: ann, CallID: "c1", Voice: "a1", Speaker: agent1, Readable: true}
	agentHears = Hears{Far: agent1, CallID: "a1", Voice: "c1", Speaker: ann, Readable: true}
)

func hold(t Talking) Talking { t.Hold = true; return t }

func file(h Hears, name string) Hears { h.File, h.Voice, h.Speaker = name, "", Far{}; return h }

type history struct {
	name string
	seen []Seen
	bad  string // a part of the error; "" for a history that must be accepted
}

// run checks the histories of one property.
func run(t *testing.T, make func(*Setup) Checker, all ...history) {
	t.Helper()
	bad := 0
	for _, h := range all {
		err := Over(make(testSetup()), h.seen)
		switch {
		case h.bad == "" && err != nil:
			t.Errorf("%s: a good history is rejected: %v", h.name, err)
		case h.bad != "" && err == nil:
			t.Errorf("%s: a bad history is accepted", h.name)
		case h.bad != "" && !strings.Contains(err.Error(), h.bad):
			t.Errorf("%s: rejected, but for another reason: %v", h.name, err)
		}
		if h.bad != "" {
			bad++
		}
	}
	if bad < 2 || bad == len(all) {
		t.Errorf("%d bad histories of %d: at least two bad ones and a good one are needed", bad, len(all))
	}
}

func TestEveryCheckerHasAName(t *testing.T) {
	names := map[string]bool{}
	for _, c := range All(testSetup()) {
		if c.Name() == "" || names[c.Name()] {
			t.Errorf("name %q is empty or taken", c.Name())
		}
		names[c.Name()] = true
		if err := c.End(start); err != nil {
			t.Errorf("%s rejects an empty world: %v", c.Name(), err)
		}
	}
}

// asterisk/asterisk#176, signalwire/freeswitch#2540
func TestOneOffer(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewOneOffer(s) },
		history{"cancelled before the next", []Seen{see(0, ringAnn), see(100, rings), see(5000, cancel), see(5001, ringBob)}, ""},
		history{"talked and ended", []Seen{see(0, ringAnn), see(100, answer), see(101, ack), see(9000, byeAgent), see(9001, ringBob)}, ""},
		history{"second phone, same caller", []Seen{see(0, ringAnn), see(10, rings), see(20, Sent{Far: agent1, Txn: "r3", Request: ask(core.INVITE, "a3", 1, "m3", "")})}, ""},
		history{"two at once", []Seen{see(0, ringAnn), see(100, rings), see(200, ringBob)}, "is offered bob while"},
		history{"while talking", []Seen{see(0, ringAnn), see(100, answer), see(101, ack), see(9000, ringBob)}, "is offered bob while"},
		history{"silent at first", []Seen{see(0, ringAnn), see(10, ringBob), see(20, Received{Far: agent1, Txn: "r2",
			Response: reply(core.INVITE, 180, "a2", 30, "m2", "p2")}), see(30, rings), see(3000, tick)}, "rings for"},
	)
}

func TestOneBridge(t *testing.T) {
	other := agentUp
	other.CallID, other.Caller = "a2", "bob"
	run(t, func(s *Setup) Checker { return NewOneBridge(s) },
		history{"a conversation", []Seen{see(0, annUp), see(1, agentUp), see(2, annHears), see(3, agentHears)}, ""},
		history{"a stranger's tenant", []Seen{see(0, annUp), see(1, Hears{Far: agent1, CallID: "a1", Voice: "z", Speaker: zoe})}, "of tenant u"},
		history{"another caller's agent", []Seen{see(0, annUp), see(1, other), see(2, Hears{Far: ann, CallID: "c1", Voice: "a2", Speaker: agent1})}, "in the call of bob"},
		history{"two callers", []Seen{see(0, annUp), see(1, Hears{Far: ann, CallID: "c1", Voice: "c2", Speaker: bob})}, "two callers"},
		history{"two listeners", []Seen{see(0, annUp), see(1, agentUp), see(2, Talking{Far: agent1, CallID: "a3", Caller: "ann", Up: true}), see(3, agentHears),
			see(4, Hears{Far: agent1, CallID: "a3", Voice: "c1", Speaker: ann})}, "heard in 2 dialogs"},
	)
}

func TestConservation(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewConservation(s) },
		history{"one call, one CDR, delivered twice", []Seen{see(0, inviteAnn), see(1, okAnn), see(2, Recorded{CDR: cdr("i1", "c1", nil)}),
			see(3, Recorded{CDR: cdr("i1", "c1", nil), Again: true})}, ""},
		history{"a refused call has none", []Seen{see(0, inviteAnn), see(1, Sent{Far: ann, Response: reply(core.INVITE, 503, "c1", 1, "f", "n")})}, ""},
		history{"lost", []Seen{see(0, inviteAnn), see(1, okAnn)}, "has no CDR"},
		history{"twice", []Seen{see(0, inviteAnn), see(1, okAnn), see(2, Recorded{CDR: cdr("i1", "c1", nil)}), see(3, Recorded{CDR: cdr("i2", "c1", nil)})}, "two CDRs"},
		history{"changed", []Seen{see(0, inviteAnn), see(1, okAnn), see(2, Recorded{CDR: cdr("i1", "c1", nil)}),
			see(3, Recorded{CDR: cdr("i1", "c1", func(c *core.CDR) { c.EndedAt++ }), Again: true})}, "different content"},
		history{"invented", []Seen{see(2, Recorded{CDR: cdr("i1", "c9", nil)})}, "never arrived"},
		history{"resurrected", []Seen{see(0, inviteAnn), see(1, okAnn), see(2, Recorded{CDR: cdr("i1", "c1", nil)}),
			see(3, Sent{Far: ann, Request: ask(core.INVITE, "c1", 5, "n", "f")})}, "after the CDR"},
	)
}

// fusionpbx/fusionpbx#313
func TestIsolation(t *testing.T) {
	no := func(detail string) *core.Problem { return &core.Problem{Kind: core.NotFound, Detail: detail} }
	asked := func(id string, absent bool, p *core.Problem) Answered {
		return Answered{Tenant: "t", Do: command.GetQueue{ID: core.QueueID(id)}, Foreign: id, Absent: absent, Problem: p}
	}
	run(t, func(s *Setup) Checker { return NewIsolation(s) },
		history{"alike", []Seen{see(0, asked("nobody", true, no("there is no nobody"))), see(1, asked("theirs", false, no("there is no theirs")))}, ""},
		history{"told apart", []Seen{see(0, asked("nobody", true, no("there is none"))), see(1, asked("theirs", false, no("not yours")))}, "a foreign id answers"},
		history{"given", []Seen{see(0, asked("theirs", false, nil))}, "got a value"},
		history{"named", []Seen{see(0, Written{Tenant: "t", Where: "a record", Names: "u"})}, "names tenant u"},
	)
}

func TestCommit(t *testing.T) {
	early := func(s Sent) Sent { s.Covered = false; return s }
	run(t, func(s *Setup) Checker { return NewCommit(s) },
		history{"written down first", []Seen{see(0, okAnn), see(1, ringAnn), see(2, early(Sent{Far: ann, Response: reply(core.BYE, 200, "c1", 2, "f", "n")}))}, ""},
		history{"answered early", []Seen{see(0, early(okAnn))}, "200 to INVITE"},
		history{"rung early", []Seen{see(0, early(ringAnn))}, "INVITE (Call-ID a1"},
		history{"registered early", []Seen{see(0, Sent{Far: agent1, Response: reply(core.REGISTER, 200, "r", 1, "f", "n")})}, "200 to REGISTER"},
	)
}

func TestOutcome(t *testing.T) {
	told := func(status int) Sent {
		return Sent{Far: ann, Txn: "i", Response: reply(core.INVITE, status, "c1", 1, "f", "n")}
	}
	run(t, func(s *Setup) Checker { return NewOutcome(s) },
		history{"200 repeated", []Seen{see(0, told(200)), see(500, told(200))}, ""},
		history{"a refusal is forgotten by a crash", []Seen{see(0, told(503)), see(1, Crashed{}), see(2, told(200))}, ""},
		history{"200 and 487", []Seen{see(0, told(200)), see(1, told(487))}, "was told 200 and then 487"},
		history{"487 and 200", []Seen{see(0, told(487)), see(1, told(200))}, "was told 487 and then 200"},
		history{"200, a crash, 487", []Seen{see(0, told(200)), see(1, Crashed{}), see(2, told(487))}, "was told 200 and then 487"},
	)
}

// signalwire/freeswitch#1833
func TestSequence(t *testing.T) {
	reinvite := func(cseq uint32) Sent {
		return Sent{Far: agent1, Request: ask(core.INVITE, "a1", cseq, "m", "p")}
	}
	run(t, func(s *Setup) Checker { return NewSequence(s) },
		history{"rising, with a gap", []Seen{see(0, ringAnn), see(1, ack), see(2, reinvite(11)), see(3, Crashed{}), see(4, reinvite(5000))}, ""},
		history{"again the same", []Seen{see(0, ringAnn), see(1, reinvite(11)), see(2, reinvite(11))}, "has CSeq 11 after 11"},
		history{"reset by a restart", []Seen{see(0, ringAnn), see(1, reinvite(11)), see(2, Crashed{}), see(3, reinvite(2))}, "has CSeq 2 after 11"},
		history{"an ACK to nothing", []Seen{see(0, ringAnn), see(1, Sent{Far: agent1, Request: ask(core.ACK, "a1", 12, "m", "p")})}, "which no INVITE had"},
	)
}

func TestTags(t *testing.T) {
	told := func(status int, tag string) Sent {
		return Sent{Far: ann, Txn: "i", Response: reply(core.INVITE, status, "c1", 1, "f", tag)}
	}
	run(t, func(s *Setup) Checker { return NewTags(s) },
		history{"one tag", []Seen{see(0, inviteAnn), see(1, told(100, "")), see(2, told(180, "n")), see(3, told(200, "n"))}, ""},
		history{"two tags", []Seen{see(0, inviteAnn), see(2, told(180, "n")), see(3, told(200, "k"))}, "an earlier response had"},
		history{"another after a crash", []Seen{see(0, inviteAnn), see(3, told(200, "n")), see(4, Crashed{}), see(5, told(200, "k"))}, "an earlier response had"},
		history{"none", []Seen{see(0, inviteAnn), see(3, told(200, ""))}, "no To tag"},
		history{"in a dialog", []Seen{see(0, byeAnn), see(1, Sent{Far: ann, Txn: "b", Response: reply(core.BYE, 200, "c1", 2, "f", "k")})}, "the request had"},
	)
}

func TestAck(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewAck(s) },
		history{"each one", []Seen{see(0, answer), see(50, ack), see(500, answer), see(501, ack), see(9000, tick)}, ""},
		history{"never", []Seen{see(0, answer), see(9000, tick)}, "got no ACK"},
		history{"not the repeated one", []Seen{see(0, answer), see(50, ack), see(500, answer), see(9000, tick)}, "got no ACK"},
		history{"another dialog's", []Seen{see(0, answer), see(50, Sent{Far: agent1, Request: ask(core.ACK, "a1", 10, "m", "q")}), see(9000, tick)}, "got no ACK"},
	)
}

// livekit/sip#106
func TestAfterBye(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewAfterBye(s) },
		history{"the end is the end", []Seen{see(0, optionsAnn), see(1, byeAnn), see(2, ack), see(3, byeAgent)}, ""},
		history{"forgotten in a crash", []Seen{see(1, byeAnn), see(2, Crashed{}), see(3, Restarted{}), see(9000, optionsAnn)}, ""},
		history{"a question after it", []Seen{see(1, byeAnn), see(9000, optionsAnn)}, "OPTIONS (CSeq 1) leaves"},
		history{"our BYE, then more", []Seen{see(0, byeAgent), see(9000, Sent{Far: agent1, Request: ask(core.INVITE, "a1", 12, "m", "p")})}, "the node ended"},
		history{"a crash long after it", []Seen{see(1, byeAnn), see(60_000, Crashed{}), see(60_001, Restarted{}), see(69_000, optionsAnn)}, "OPTIONS (CSeq 1) leaves"},
	)
}

func TestOneFinal(t *testing.T) {
	told := func(method string, status int) Sent {
		return Sent{Far: ann, Txn: "x", Response: reply(method, status, "c1", 1, "f", "n")}
	}
	run(t, func(s *Setup) Checker { return NewOneFinal(s) },
		history{"180, 200, 200", []Seen{see(0, told(core.INVITE, 180)), see(1, told(core.INVITE, 200)), see(2, told(core.INVITE, 200))}, ""},
		history{"two refusals", []Seen{see(0, told(core.INVITE, 486)), see(1, told(core.INVITE, 487))}, "answered 487 after 486"},
		history{"180 after 200", []Seen{see(0, told(core.INVITE, 200)), see(1, told(core.INVITE, 180))}, "answered 180 after 200"},
		history{"BYE twice", []Seen{see(0, told(core.BYE, 200)), see(1, told(core.BYE, 200))}, "answered 200 after 200"},
	)
}

// livekit/sip#779
func TestAnswers(t *testing.T) {
	asked := func(body string) Received {
		return Received{Far: ann, Txn: "x", Request: sdp(ask(core.INVITE, "c1", 2, "f", "n"), body)}
	}
	told := func(body string) Sent {
		return Sent{Far: ann, Txn: "x", Response: sdpR(reply(core.INVITE, 200, "c1", 2, "f", "n"), body)}
	}
	run(t, func(s *Setup) Checker { return NewAnswers(s) },
		history{"a hold", []Seen{see(0, asked(offer("sendonly", "0 8", 1))), see(1, told(offer("recvonly", "0", 1)))}, ""},
		history{"sendrecv to sendonly", []Seen{see(0, asked(offer("sendonly", "0 8", 1))), see(1, told(offer("sendrecv", "0", 1)))}, "sendonly was offered and sendrecv answered"},
		history{"a format of its own", []Seen{see(0, asked(offer("sendrecv", "8", 1))), see(1, told(offer("sendrecv", "0", 1)))}, "format 0"},
		history{"a line too few", []Seen{see(0, asked(offer("sendrecv", "8", 1)+"m=video 1 RTP/AVP 99\r\n")), see(1, told(offer("sendrecv", "8", 1)))}, "2 media lines"},
		history{"an older version", []Seen{see(0, told(offer("sendrecv", "8", 10))), see(1, told(offer("sendrecv", "8", 9)))}, "went back from 10 to 9"},
	)
}

// jambonz/sbc-outbound#123
func TestAudio(t *testing.T) {
	talk := []Seen{see(0, annUp), see(1, agentUp), see(2, annHears), see(3, agentHears)}
	with := func(more ...Seen) []Seen { return append(append([]Seen(nil), talk...), more...) }
	lateOffer := Received{Far: ann, Request: ask(core.INVITE, "c1", 1, "f", "")}
	lateAnswer := Received{Far: ann, Request: ask(core.ACK, "c1", 1, "f", "n")}
	run(t, func(s *Setup) Checker { s.Lossless = false; return NewAudio(s) },
		history{"a conversation", with(see(9000, tick)), ""},
		history{"a hold with music", with(see(1000, hold(annUp)), see(1001, file(agentHears, "music")), see(9000, tick)), ""},
		history{"trouble excuses", []Seen{see(0, Disturbed{What: "pause", On: true}), see(1, annUp), see(2, agentUp), see(9000, tick)}, ""},
		history{"the ACK with the answer is lost", []Seen{see(0, lateOffer), see(0, annUp), see(1, agentUp), see(2, annHears), see(9000, tick)}, ""},
		history{"the answer came, and still nothing", []Seen{see(0, lateOffer), see(0, annUp), see(1, agentUp), see(2, annHears), see(3, lateAnswer), see(9000, tick)}, "does not hear"},
		history{"one way", []Seen{see(0, annUp), see(1, agentUp), see(2, annHears), see(9000, tick)}, "does not hear"},
		history{"a hold in silence", with(see(1000, hold(annUp)), see(1001, file(agentHears, "")), see(9000, tick)), "hears no music"},
		history{"after a hold", with(see(1000, hold(annUp)), see(1001, file(agentHears, "music")), see(3000, annUp), see(9000, tick)), "does not hear"},
		history{"not to be decoded", []Seen{see(0, annUp), see(1, agentUp), see(2, annHears), see(3, Hears{Far: agent1, CallID: "a1", Voice: "c1", Speaker: ann}), see(9000, tick)}, "format"},
		history{"waiting in silence", []Seen{see(0, annUp), see(9000, tick)}, "waits in silence"},
	)
}

// signalwire/freeswitch#2529
func TestRing(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewRing(s) },
		history{"in time", []Seen{see(0, ringAnn), see(100, rings), see(5000, cancel), see(20_000, tick)}, ""},
		history{"nothing heard, nothing to cancel", []Seen{see(0, ringAnn), see(20_000, tick)}, ""},
		history{"too long", []Seen{see(0, ringAnn), see(100, rings), see(20_000, tick)}, "longer than the ring timeout"},
		history{"the caller has left", []Seen{see(0, ringAnn), see(100, rings), see(1000, byeAnn), see(4000, tick)}, "who left at"},
	)
}

// asterisk/asterisk#66
func TestRONA(t *testing.T) {
	missed := func(c *core.CDR) {
		c.Timeline = append(c.Timeline, core.Moment{At: at(5000), What: core.OfferFailed, Agent: "1001", Detail: "no_answer"})
		c.Legs = append(c.Legs, core.LegReport{Party: core.Callee, SIPCallID: "a1"})
	}
	end := see(30_000, Recorded{CDR: cdr("i1", "c1", missed)})
	run(t, func(s *Setup) Checker { return NewRONA(s) },
		history{"made ready", []Seen{see(0, ringAnn), see(100, rings), see(5001, cancel), see(6000, Asked{Tenant: "t", Do: command.SetStatus{Agent: "1001", Status: acd.Ready}}), see(7000, ringBob), end}, ""},
		history{"the caller left", []Seen{see(0, ringAnn), see(100, rings), see(5000, byeAnn), see(5001, cancel), see(7000, ringBob), end}, ""},
		history{"the CANCEL of a phone that seemed gone", []Seen{see(0, ringAnn), see(5001, Asked{Tenant: "t", Do: command.SetStatus{Agent: "1001", Status: acd.Ready}}), see(5500, rings), see(5500, cancel), see(7000, ringBob), end}, ""},
		history{"rung again", []Seen{see(0, ringAnn), see(100, rings), see(5001, cancel), see(7000, ringBob), end}, "was rung again"},
		history{"rung after a restart", []Seen{see(0, ringAnn), see(100, rings), see(5001, cancel), see(6000, Crashed{}), see(7000, ringBob), end}, "was rung again"},
	)
}

// asterisk/asterisk#1006
func TestWrapUp(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewWrapUp(s) },
		history{"left alone", []Seen{see(0, agentHears), see(1000, byeAgent), see(4001, ringBob)}, ""},
		history{"said ready", []Seen{see(0, agentHears), see(1000, byeAgent), see(1100, Asked{Tenant: "t", Do: command.SetStatus{Agent: "1001", Status: acd.Ready}}), see(1200, ringBob)}, ""},
		history{"rung at once", []Seen{see(0, agentHears), see(1000, byeAgent), see(1001, ringBob)}, "in the wrap-up time"},
		history{"rung after a restart", []Seen{see(0, agentHears), see(9000, byeAgent), see(9001, Crashed{}), see(9500, Restarted{}), see(10_000, ringBob)}, "in the wrap-up time"},
	)
}

// OpenSIPS/opensips#2530
func TestSilence(t *testing.T) {
	gone := Vanished{Far: agent1, CallIDs: []string{"a1"}}
	run(t, func(s *Setup) Checker { return NewSilence(s) },
		history{"noticed", []Seen{see(0, gone), see(28_000, byeAgent), see(90_000, tick)}, ""},
		history{"in the CDR", []Seen{see(0, gone), see(28_000, Recorded{CDR: cdr("i", "a1", nil)}), see(90_000, tick)}, ""},
		history{"never noticed", []Seen{see(0, gone), see(90_000, tick)}, "still lives"},
		history{"too late", []Seen{see(0, gone), see(40_000, byeAgent)}, ""},
		history{"another call ended", []Seen{see(0, gone), see(20_000, byeAnn), see(40_000, tick)}, "still lives"},
	)
}

// livekit/sip#316
func TestLeftBehind(t *testing.T) {
	gave := GaveUp{Far: agent1, CallID: "a1"}
	run(t, func(s *Setup) Checker { return NewLeftBehind(s) },
		history{"nobody", []Seen{see(0, agentUp), see(9000, tick)}, ""},
		history{"cut off by a crash", []Seen{see(0, agentUp), see(100, Crashed{}), see(200, Restarted{}), see(90_000, gave)}, ""},
		history{"forgotten", []Seen{see(0, agentUp), see(90_000, gave)}, "nobody ended"},
		history{"forgotten by a restart", []Seen{see(0, agentUp), see(9000, Crashed{}), see(9100, Restarted{}), see(90_000, gave)}, "nobody ended"},
	)
}

func TestBounded(t *testing.T) {
	run(t, func(s *Setup) Checker { return NewBounded(s) },
		history{"small", []Seen{see(0, Stepped{Effects: 10, Held: 10, Legs: 2, Phones: 2})}, ""},
		history{"a step too large", []Seen{see(0, Stepped{Effects: 11})}, "11 effects"},
		history{"too much waits", []Seen{see(0, Stepped{Held: 11})}, "wait for a commit"},
		history{"legs leak", []Seen{see(0, Stepped{Legs: 3, Phones: 2})}, "3 media legs"},
	)
}

func TestAccess(t *testing.T) {
	stranger := Far{Phone: "stranger-1", Tenant: "t", Agent: "1001"}
	run(t, func(s *Setup) Checker { return NewAccess(s) },
		history{"refused", []Seen{see(0, Sent{Far: stranger, Response: reply(core.REGISTER, 401, "r", 1, "f", "n")})}, ""},
		history{"registered", []Seen{see(0, Sent{Far: stranger, Response: reply(core.REGISTER, 200, "r", 1, "f", "n")})}, "is answered 200"},
		history{"rung", []Seen{see(0, Sent{Far: stranger, Request: ask(core.INVITE, "a1", 1, "m", "")})}, "is sent to"},
	)
}
