package check

import (
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

func TestConsistency(t *testing.T) {
	completed := func(c *core.CDR) {
		c.Agent, c.AnsweredAt = "1001", at(3000)
		c.Termination.Result = core.Completed
		c.Timeline = []core.Moment{{At: at(0), What: core.Arrived}, {At: at(10), What: core.Queued}, {At: at(1000), What: core.Offered, Agent: "1001"},
			{At: at(3000), What: core.Answered, Agent: "1001"}, {At: at(9000), What: core.Ended}}
	}
	but := func(change func(*core.CDR)) Seen {
		return see(9500, Recorded{CDR: cdr("i", "c1", func(c *core.CDR) { completed(c); change(c) })})
	}
	before := func(more ...Seen) []Seen { return append([]Seen{see(0, inviteAnn), see(8999, byeAnn)}, more...) }
	run(t, func(s *Setup) Checker { return NewConsistency(s) },
		history{"served", before(but(func(*core.CDR) {})), ""},
		history{"abandoned", before(see(9500, Recorded{CDR: cdr("i", "c1", nil)})), ""},
		history{"no end", before(but(func(c *core.CDR) { c.Timeline = c.Timeline[:4] })), "from arrived to ended"},
		history{"out of order", before(but(func(c *core.CDR) { c.Timeline[2].At = at(5) })), "not in order"},
		history{"answered and abandoned", before(but(func(c *core.CDR) { c.Termination.Result = core.Abandoned })), "with answered_at"},
		history{"two offers at once", before(but(func(c *core.CDR) { c.Timeline[1].What = core.Offered })), "offered twice at once"},
		history{"a time of its own", before(but(func(c *core.CDR) { c.AnsweredAt++ })), "answered at"},
		history{"arrived too late", before(but(func(c *core.CDR) { c.ArrivedAt, c.Timeline[0].At = at(7), at(7) })), "the INVITE reached the node"},
		history{"hung up by nobody", []Seen{see(0, inviteAnn), but(func(*core.CDR) {})}, "sent no BYE first"},
		history{"cancelled after 200", before(see(1, okAnn), but(func(c *core.CDR) { c.Termination.Reason = core.CallerCancel })), "was told 200"},
		history{"they talked", before(see(3000, annHears), see(9500, Recorded{CDR: cdr("i", "c1", nil)})), "heard each other"},
		history{"off, after a BYE that nobody heard", []Seen{see(0, inviteAnn), see(5000, Crashed{}), see(5400, Vanished{Far: ann}), see(5500, Restarted{}), but(func(c *core.CDR) { c.Termination.Reason = core.CallerSilent })}, ""},
		history{"muted, not gone (livekit/sip#812)", before(but(func(c *core.CDR) { c.Termination.Reason = core.CallerSilent })), "was on"},
	)
}

// signalwire/freeswitch#2511
func TestPlace(t *testing.T) {
	arrive := func(ms int, callID string) Seen {
		return see(ms, Received{Far: ann, Request: ask(core.INVITE, callID, 1, "f", "")})
	}
	// waited is a call that arrived, was offered to the agent at one instant, and ended.
	waited := func(callID, number string, arrived, offered int) Seen {
		return see(90_000, Recorded{CDR: cdr("int-"+callID, callID, func(c *core.CDR) {
			c.Called, c.ArrivedAt = number, at(arrived)
			c.Timeline = []core.Moment{{At: at(arrived), What: core.Arrived}, {At: at(arrived), What: core.Queued, Queue: "q"},
				{At: at(offered), What: core.Offered, Agent: "1001", Queue: "q"}, {At: at(offered + 500), What: core.Answered}, {At: at(80_000), What: core.Ended}}
		})})
	}
	run(t, func(s *Setup) Checker { return NewPlace(s) },
		history{"in turn", []Seen{arrive(0, "c1"), arrive(1000, "c2"), waited("c1", "5000", 0, 5000), waited("c2", "5000", 1000, 9000)}, ""},
		history{"priority first", []Seen{arrive(0, "c1"), arrive(1000, "c2"), waited("c1", "5000", 0, 9000), waited("c2", "6000", 1000, 5000)}, ""},
		history{"not there yet", []Seen{arrive(0, "c1"), arrive(6000, "c2"), waited("c1", "5000", 0, 5000), waited("c2", "6000", 6000, 9000)}, ""},
		history{"its first INVITE died with the process", []Seen{arrive(0, "c1"), see(500, Crashed{}), see(600, Restarted{}), arrive(900, "c2"), waited("c1", "5000", 1000, 9000), waited("c2", "5000", 900, 5000)}, ""},
		history{"a crash is no excuse for one that was told 200", []Seen{arrive(0, "c1"), see(100, okAnn), see(500, Crashed{}), see(600, Restarted{}), arrive(900, "c2"), waited("c1", "5000", 1000, 9000), waited("c2", "5000", 900, 5000)}, "waited before it"},
		history{"out of turn", []Seen{arrive(0, "c1"), arrive(1000, "c2"), waited("c1", "5000", 0, 9000), waited("c2", "5000", 1000, 5000)}, "waited before it"},
		history{"priority forgotten", []Seen{arrive(0, "c1"), arrive(1000, "c2"), waited("c1", "5000", 0, 5000), waited("c2", "6000", 1000, 9000)}, "waited before it"},
	)
}

func TestFindable(t *testing.T) {
	rings := ask(core.INVITE, "c9", 1, "f", "")
	rings.Header = []core.Field{{Name: "X-Dialtone-Interaction", Value: "i"}}
	rung := see(0, Sent{Far: agent1, Request: rings})
	kept := see(5000, Recorded{CDR: cdr("i", "c1", nil)})
	asked := func(ms int, tenant core.TenantID, problem *core.Problem) Seen {
		return see(ms, Answered{Tenant: tenant, Do: command.GetInteraction{ID: "i"}, Problem: problem})
	}
	none := &core.Problem{Kind: core.NotFound}
	run(t, func(s *Setup) Checker { return NewFindable(s) },
		history{"with the node, then in the history", []Seen{rung, asked(1000, "t", nil), kept, asked(5001, "t", none)}, ""},
		history{"of another tenant", []Seen{rung, asked(1000, "u", none)}, ""},
		history{"the node restarts", []Seen{rung, asked(1000, "t", &core.Problem{Kind: core.Unavailable})}, ""},
		history{"nobody knew of it", []Seen{asked(1000, "t", none), rung}, ""},
		history{"lost while it lives", []Seen{rung, asked(1000, "t", none)}, "neither with the node"},
		history{"nowhere between its end and the history", []Seen{rung, asked(4000, "t", nil), asked(4999, "t", none), kept}, "neither with the node"},
	)
}
