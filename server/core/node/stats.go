package node

import (
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

// tally counts one queue's day (UTC).
type tally struct {
	day                                                              int64
	offered, answered, inTime, abandoned, abandonedShort, overflowed int
}

const day = core.Time(24 * time.Hour)

func (t *tenancy) tally(now core.Time, q core.QueueID) *tally {
	today := int64(now / day)
	if s, ok := t.tallies[q]; ok && s.day == today {
		return s
	}
	s := &tally{day: today}
	t.tallies[q] = s
	return s
}

// count brings counters up to date with what a step changed in a call.
func (t *tenancy) count(n *Node, c *call.Call, was before) {
	if c.Phase != was.phase {
		n.gauges.Calls[string(was.phase)]--
		n.gauges.Waiting -= waits(was.phase)
		if c.Phase != call.Ended {
			n.gauges.Calls[string(c.Phase)]++
			n.gauges.Waiting += waits(c.Phase)
		} else {
			t.calls--
		}
	}
	q := t.queues[c.Queue]
	if c.QueuedAt != 0 && !was.queued {
		t.tally(c.QueuedAt, c.Queue).offered++
	}
	if c.AnsweredAt != 0 && !was.answered {
		s := t.tally(c.AnsweredAt, c.Queue)
		s.answered++
		if c.AnsweredAt.Sub(c.QueuedAt).Seconds() <= q.ServiceLevelS {
			s.inTime++
		}
	}
	if c.EndedAt == 0 || was.phase == call.Ending || was.phase == call.Ended || c.AnsweredAt != 0 || c.QueuedAt == 0 {
		return
	}
	s := t.tally(c.EndedAt, c.Queue)
	switch c.Termination.Result {
	case core.Abandoned:
		s.abandoned++
		if c.EndedAt.Sub(c.QueuedAt).Seconds() < q.ShortAbandonS {
			s.abandonedShort++
		}
	case core.Overflowed:
		s.overflowed++
	}
}

func waits(p call.Phase) int {
	if p == call.Queued || p == call.Offering {
		return 1
	}
	return 0
}

const serviceLevelRule = "answered_in_time / (answered + abandoned - abandoned_short)"

// realtime is a queue at this moment.
func (t *tenancy) realtime(now core.Time, q core.QueueID) command.Realtime {
	count, conf, s := t.desk.Count(q), t.queues[q], t.tally(now, q)
	r := command.Realtime{Queue: q, Waiting: count.Waiting, AgentsReady: count.Ready, AgentsBusy: count.Busy,
		AgentsNotReady: count.NotReady, Offered: s.offered, Answered: s.answered, AnsweredInTime: s.inTime,
		Abandoned: s.abandoned, AbandonedShort: s.abandonedShort, Overflowed: s.overflowed,
		ServiceLevelRule: serviceLevelRule, ServiceLevelTarget: conf.ServiceLevelS}
	if count.LongestWaitSince != 0 {
		r.LongestWaitS = now.Sub(count.LongestWaitSince).Seconds()
	}
	if all := s.answered + s.abandoned - s.abandonedShort; all > 0 {
		level := float64(s.inTime) / float64(all)
		r.ServiceLevel = &level
	}
	return r
}
