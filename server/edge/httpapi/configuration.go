package httpapi

import (
	"context"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

func (a *API) putQueue(ctx context.Context, q *request) answer {
	v := tenant.DefaultQueue()
	v.ID = core.QueueID(q.id)
	if p := decode(q.body, members{
		"id": same(q.id), "strategy": text(&v.Strategy), "ring_timeout_s": number(&v.RingTimeoutS),
		"wrap_up_s": number(&v.WrapUpS), "max_waiting": integer(&v.MaxWaiting), "skills": proficiencies(&v.Skills),
		"ageing_s": number(&v.AgeingS), "overflow": overflow(&v.Overflow), "welcome": text(&v.Welcome),
		"welcome_first": flag(&v.WelcomeFirst), "music": text(&v.Music),
		"service_level_s": number(&v.ServiceLevelS), "short_abandon_s": number(&v.ShortAbandonS),
	}); p != nil {
		return a.refuse(ctx, q, p)
	}
	return stored(a, ctx, q, command.PutQueue{Queue: v}, asIs[tenant.Queue])
}

// overflow takes null too, which says what an absent member says: wait for ever.
func overflow(into **tenant.Overflow) reading {
	return func(d *decoder, at string, v any) {
		if v == nil {
			*into = nil
			return
		}
		o := new(tenant.Overflow)
		*into = o
		object(members{
			"after_s": number(&o.AfterS), "when_nobody": flag(&o.WhenNobody),
			"queue": text(&o.Queue), "announce": text(&o.Announce),
		})(d, at, v)
	}
}

func (a *API) getQueue(ctx context.Context, q *request) answer {
	return one(a, ctx, q, command.GetQueue{ID: core.QueueID(q.id)}, asIs[tenant.Queue])
}

func (a *API) deleteQueue(ctx context.Context, q *request) answer {
	return a.gone(ctx, q, command.DeleteQueue{ID: core.QueueID(q.id)})
}

func (a *API) listQueues(ctx context.Context, q *request) answer {
	return many(a, ctx, q, func(r command.Range) any { return command.ListQueues{Range: r} },
		asIs[tenant.Queue], func(v tenant.Queue) string { return string(v.ID) })
}

func (a *API) realtime(ctx context.Context, q *request) answer {
	return one(a, ctx, q, command.GetRealtime{Queue: core.QueueID(q.id)}, asIs[command.Realtime])
}

func (a *API) putAgent(ctx context.Context, q *request) answer {
	v := tenant.DefaultAgent()
	v.ID = core.AgentID(q.id)
	if p := decode(q.body, members{
		"id": same(q.id), "name": text(&v.Name), "password": text(&v.Password), "queues": array(&v.Queues, text[core.QueueID]),
		"skills": proficiencies(&v.Skills), "ready_on_register": flag(&v.ReadyOnRegister),
	}); p != nil {
		return a.refuse(ctx, q, p)
	}
	return stored(a, ctx, q, command.PutAgent{Agent: v}, showAgent)
}

// showAgent leaves the password out, and writes no queues as an empty array.
func showAgent(v command.AgentView) command.AgentView {
	v.Password = ""
	v.Queues = append([]core.QueueID{}, v.Queues...)
	return v
}

func (a *API) getAgent(ctx context.Context, q *request) answer {
	return one(a, ctx, q, command.GetAgent{ID: core.AgentID(q.id)}, showAgent)
}

func (a *API) deleteAgent(ctx context.Context, q *request) answer {
	return a.gone(ctx, q, command.DeleteAgent{ID: core.AgentID(q.id)})
}

func (a *API) listAgents(ctx context.Context, q *request) answer {
	return many(a, ctx, q, func(r command.Range) any { return command.ListAgents{Range: r} },
		showAgent, func(v command.AgentView) string { return string(v.ID) })
}

func (a *API) setStatus(ctx context.Context, q *request) answer {
	c := command.SetStatus{Agent: core.AgentID(q.id)}
	p := decode(q.body, members{"status": text(&c.Status), "reason": text(&c.Reason)})
	if p == nil {
		p = statusProblem(c.Status)
	}
	if p != nil {
		return a.refuse(ctx, q, p)
	}
	return one(a, ctx, q, c, showAgent)
}

func statusProblem(s acd.Status) *problem {
	switch s {
	case acd.Ready, acd.NotReady, acd.LoggedOut:
		return nil
	}
	at := "/status"
	return &problem{Kind: core.Invalid, Detail: "The body is not as it must be.",
		Errors: []complaint{{Pointer: &at, Detail: "must be ready, not_ready or logged_out"}}}
}

func (a *API) putNumber(ctx context.Context, q *request) answer {
	v := tenant.DefaultNumber()
	v.Number = q.id
	if p := decode(q.body, members{
		"number": same(q.id), "queue": text(&v.Queue), "priority": integer(&v.Priority), "skills": proficiencies(&v.Skills),
	}); p != nil {
		return a.refuse(ctx, q, p)
	}
	return stored(a, ctx, q, command.PutNumber{Number: v}, asIs[tenant.Number])
}

func (a *API) getNumber(ctx context.Context, q *request) answer {
	return one(a, ctx, q, command.GetNumber{Number: q.id}, asIs[tenant.Number])
}

func (a *API) deleteNumber(ctx context.Context, q *request) answer {
	return a.gone(ctx, q, command.DeleteNumber{Number: q.id})
}

func (a *API) listNumbers(ctx context.Context, q *request) answer {
	return many(a, ctx, q, func(r command.Range) any { return command.ListNumbers{Range: r} },
		asIs[tenant.Number], func(v tenant.Number) string { return v.Number })
}
