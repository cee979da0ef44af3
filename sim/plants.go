package sim

// Plant is one bug that can be planted in the core (node.Config.Plant). A verifier that
// does not find them proves nothing.
type Plant struct {
	Name   string `json:"name"`
	Breaks string `json:"breaks"` // what users would see
}

// Plants lists them all.
func Plants() []Plant {
	return []Plant{
		{"no-cancel-on-abandon", "the caller has left and the agent's phone rings on"},
		{"double-offer", "an agent who is rung is free for the next call at once"},
		{"forget-place", "a caller who is moved to another queue goes to its end"},
		{"cdr-twice", "an interaction has two CDRs"},
		{"cdr-lost", "a CDR that could not be delivered is dropped"},
		{"answer-before-commit", "the 200 leaves before the record that makes the call recoverable"},
		{"cseq-reset-after-restart", "after a restart CSeq begins anew and phones refuse"},
		{"no-ack-repeat", "a repeated 200 gets no ACK"},
		{"no-bye-other-leg", "who stays behind is not hung up"},
		{"ignore-keepalive", "a phone that is gone is never noticed"},
		{"wrapup-skipped", "an agent is rung in the wrap-up time"},
		{"rona-stays-ready", "an agent who does not answer is rung again and again"},
		{"ended-nowhere", "an interaction that has just ended is not found until its record is in the history"},
		{"tenant-leak", "a call of another tenant can be looked at"},
		{"hold-forward-audio", "the held party hears silence instead of music"},
		{"late-200-ignored", "an answer that crosses the CANCEL is neither acknowledged nor ended"},
		{"stuck-reserved", "an agent whose offer was taken back stays reserved"},
		{"music-lost", "callers wait in silence"},
		{"cancel-after-200", "a caller whose CANCEL came too late is told 200 and 487"},
		{"hold-answered-sendrecv", "a hold is answered with a direction that the offer forbids"},
		{"rings-for-ever", "the ring timeout is not kept"},
	}
}

// ClusterPlants lists the bugs that only several nodes can show: against the rules of
// CLUSTER.md, in the core and in the edges that this package stands in for.
func ClusterPlants() []Plant {
	return []Plant{
		{"guards-dropped", "a write goes through whatever it rests on"},
		{"unknown-is-refused", "a write whose answer was lost counts as refused, and stands"},
		{"watch-gap", "a node has missed what another wrote"},
		{"offer-never-back", "an agent stays reserved for a caller whose node does not answer"},
		{"takes-over-unclaimed", "a silent node's calls are taken while it lives"},
		{"two-heirs", "a dead node's call has two anchors"},
		{"calls-not-taken-over", "a dead node's callers hear nothing more"},
		{"place-reset-at-takeover", "who was taken over goes to the end of the queue"},
		{"cdr-not-inherited", "the CDR of a dead node's finished call is never delivered"},
		{"idle-while-talking", "an agent who talks to another node's caller is given a second one"},
		{"bindings-of-others-ignored", "an agent is reached only from the node that took the REGISTER"},
		{"fenced-says-bye", "a node that has been claimed hangs up calls that live elsewhere"},
		{"cseq-reset-after-restart", "after a takeover CSeq begins anew and phones refuse"},
	}
}
