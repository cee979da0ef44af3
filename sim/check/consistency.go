package check

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Consistency: a CDR agrees with itself and with what was seen outside: its timeline is in
// order, begins with the arrival and ends with the end; it has an answer time exactly when
// an agent was bridged; who hung up is who sent the BYE.
type Consistency struct {
	named
	calm
	slack    core.Millis
	lossless bool
	crashes  int
	arrived  map[string]core.Time // Call-ID of the caller -> when its INVITE reached the node first
	status   map[string]int       // Call-ID of the caller -> final status that was sent
	byes     map[string]string    // Call-ID -> who sent the first BYE, "phone" or "node"
	spoke    map[string]core.Time // Call-ID -> when a voice was first heard in it, if the node must know
	callers  map[string]Far       // Call-ID -> who called
	off      map[Far]bool         // phones that were switched off; a caller's stays so
}

// NewConsistency returns the checker.
func NewConsistency(s *Setup) *Consistency {
	return &Consistency{named: "cdr", slack: 2000 + s.Slack, lossless: s.Lossless, arrived: map[string]core.Time{}, status: map[string]int{},
		byes: map[string]string{}, spoke: map[string]core.Time{}, callers: map[string]Far{}, off: map[Far]bool{}}
}

// See remembers what was seen outside and judges each CDR.
func (c *Consistency) See(at core.Time, fact Fact) error {
	if _, crash := fact.(Crashed); crash {
		c.crashes++
		for id, since := range c.spoke { // each by itself: the order of the visit does not matter
			if !c.late(at, since, c.slack) {
				delete(c.spoke, id) // its commit may not have come to pass
			}
		}
	}
	c.calm.see(at, fact)
	switch f := fact.(type) {
	case Received:
		c.received(at, f)
	case Sent:
		if r := f.Response; r != nil && r.Method == core.INVITE && f.Far.Agent == "" && r.Status >= 200 && r.CSeq == 1 {
			c.status[r.CallID] = r.Status
		}
		if r := f.Request; r != nil && r.Method == core.BYE && c.byes[r.CallID] == "" {
			c.byes[r.CallID] = "node"
		}
	case Hears:
		if _, known := c.spoke[f.CallID]; f.Voice != "" && !known {
			c.spoke[f.CallID] = at
		}
	case Vanished:
		// Also one that had hung up before: a process that died may not have heard of it.
		c.off[f.Far] = true
	case Recorded:
		if !f.Again {
			return c.judge(at, f.CDR)
		}
	}
	return nil
}

func (c *Consistency) received(at core.Time, f Received) {
	if r := f.Request; r != nil {
		if _, known := c.arrived[r.CallID]; fresh(r) && !known {
			c.arrived[r.CallID], c.callers[r.CallID] = at, f.Far
		}
		// After a crash the node may have forgotten a BYE of its own.
		if r.Method == core.BYE && (c.byes[r.CallID] == "" || c.crashes > 0) {
			c.byes[r.CallID] = "phone"
		}
	}
}

func (c *Consistency) judge(at core.Time, d *core.CDR) error {
	if d.ArrivedAt == 0 || d.EndedAt < d.ArrivedAt || d.EndedAt > at {
		return broken("CDR %s: arrived %s, ended %s, recorded %s", d.ID, d.ArrivedAt, d.EndedAt, at)
	}
	if err := timeline(d); err != nil {
		return err
	}
	completed := d.Termination.Result == core.Completed
	if completed != (d.AnsweredAt != 0) {
		return broken("CDR %s: result %s with answered_at %s", d.ID, d.Termination.Result, d.AnsweredAt)
	}
	if completed && d.Agent == "" {
		return broken("CDR %s: completed without an agent", d.ID)
	}
	if d.Termination.Result == "" || d.Termination.Reason == "" || d.Termination.HungUpBy == "" {
		return broken("CDR %s: its termination has a gap: %+v", d.ID, d.Termination)
	}
	for _, leg := range d.Legs {
		if leg.Party == core.Caller {
			if err := c.outside(d, leg.SIPCallID); err != nil {
				return err
			}
		}
	}
	return nil
}

// outside compares a CDR with what the caller's phone saw.
func (c *Consistency) outside(d *core.CDR, callID string) error {
	if seen := c.arrived[callID]; seen != d.ArrivedAt && c.crashes == 0 {
		return broken("CDR %s: arrived at %s, the INVITE reached the node at %s", d.ID, d.ArrivedAt, seen)
	}
	if c.spoke[callID] != 0 && d.Termination.Result != core.Completed {
		return broken("CDR %s: result %s, but caller and agent heard each other", d.ID, d.Termination.Result)
	}
	by, reason := c.byes[callID], d.Termination.Reason
	if reason == core.CallerHangup && by != "phone" {
		return broken("CDR %s: the caller is said to have hung up, but sent no BYE first", d.ID)
	}
	if reason == core.CallerCancel && c.status[callID]/100 == 2 {
		return broken("CDR %s: the caller is said to have cancelled, but was told 200", d.ID)
	}
	if reason == core.CallerSilent && c.lossless && !c.off[c.callers[callID]] {
		return broken("CDR %s: ended as silent, but the caller's phone was on (livekit/sip#812)", d.ID)
	}
	return nil
}

func timeline(d *core.CDR) error {
	t := d.Timeline
	if len(t) < 2 || t[0].What != core.Arrived || t[len(t)-1].What != core.Ended {
		return broken("CDR %s: the timeline does not run from arrived to ended: %v", d.ID, words(t))
	}
	if t[0].At != d.ArrivedAt || t[len(t)-1].At != d.EndedAt {
		return broken("CDR %s: the timeline runs from %s to %s, the CDR from %s to %s",
			d.ID, t[0].At, t[len(t)-1].At, d.ArrivedAt, d.EndedAt)
	}
	if !slices.IsSortedFunc(t, func(a, b core.Moment) int { return int(min(1, max(-1, a.At-b.At))) }) {
		return broken("CDR %s: the timeline is not in order: %v", d.ID, words(t))
	}
	answered, open := 0, false
	for i, m := range t {
		switch m.What {
		case core.Arrived:
			if i != 0 {
				return broken("CDR %s: arrived twice: %v", d.ID, words(t))
			}
		case core.Ended:
			if i != len(t)-1 {
				return broken("CDR %s: goes on after its end: %v", d.ID, words(t))
			}
		case core.Offered:
			if open {
				return broken("CDR %s: offered twice at once: %v", d.ID, words(t))
			}
			open = true
		case core.OfferFailed:
			open = false
		case core.Answered:
			open = false
			answered++
			if m.At != d.AnsweredAt {
				return broken("CDR %s: answered at %s, its timeline says %s", d.ID, d.AnsweredAt, m.At)
			}
		}
	}
	if answered > 1 || (answered == 1) != (d.AnsweredAt != 0) {
		return broken("CDR %s: %d answers in its timeline, answered_at %s", d.ID, answered, d.AnsweredAt)
	}
	return nil
}

func words(t []core.Moment) []core.What {
	all := make([]core.What, len(t))
	for i, m := range t {
		all[i] = m.What
	}
	return all
}
