package httpapi

import (
	"context"
	"net/http"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

const phaseEnded = "ended"

// shownInteraction is an interaction as the API shows it: one that lives has no
// termination, and lists are arrays also when they are empty.
type shownInteraction struct {
	command.Interaction
	Termination *core.Termination `json:"termination"`
}

func showInteraction(v command.Interaction) shownInteraction {
	v.Timeline = append([]core.Moment{}, v.Timeline...)
	v.Legs = append([]core.LegReport{}, v.Legs...)
	s := shownInteraction{Interaction: v}
	if v.Termination.Result != "" {
		s.Termination = &v.Termination
	}
	return s
}

func showCDR(c core.CDR) shownInteraction {
	return showInteraction(command.Interaction{Phase: phaseEnded, CDR: c})
}

func (a *API) listInteractions(ctx context.Context, q *request) answer {
	switch phase := or(q.query.Get("phase"), phaseEnded); phase {
	case "live":
		return a.listLive(ctx, q)
	case phaseEnded:
		return a.listEnded(ctx, q)
	default:
		return a.refuse(ctx, q, badParameter("phase", "must be live or ended"))
	}
}

func (a *API) listLive(ctx context.Context, q *request) answer {
	for _, name := range []string{"queue", "agent", "from", "to"} {
		if q.query.Has(name) {
			return a.refuse(ctx, q, badParameter(name, "goes with phase=ended only"))
		}
	}
	return many(a, ctx, q, func(r command.Range) any { return command.ListLive{Range: r} },
		showInteraction, func(v command.Interaction) string { return string(v.ID) })
}

func (a *API) listEnded(ctx context.Context, q *request) answer {
	of, p := a.tenantOf(ctx, q)
	if p != nil {
		return fail(*p)
	}
	f, p := q.filter()
	if p != nil {
		return fail(*p)
	}
	data, more, err := a.config.History.List(ctx, of, f)
	if err != nil {
		return fail(*a.historyFailed(q, err))
	}
	return ok(pageOf(data, more, showCDR, func(c core.CDR) string { return string(c.ID) }))
}

func (q *request) filter() (f HistoryFilter, p *problem) {
	var r command.Range
	if r, p = q.window(); p != nil {
		return f, p
	}
	f = HistoryFilter{Limit: r.Limit, After: core.InteractionID(r.After),
		Queue: core.QueueID(q.query.Get("queue")), Agent: core.AgentID(q.query.Get("agent"))}
	if f.From, p = q.instant("from"); p != nil {
		return f, p
	}
	f.To, p = q.instant("to")
	return f, p
}

func (a *API) getInteraction(ctx context.Context, q *request) answer {
	v, p := a.find(ctx, q)
	if p != nil {
		return fail(*p)
	}
	return ok(showInteraction(v))
}

// find asks the core first and the history second, in that order: an interaction leaves
// the core once it has arrived in the history, so that it is always in one of them.
func (a *API) find(ctx context.Context, q *request) (command.Interaction, *problem) {
	v, p := asked[command.Interaction](a, ctx, q, command.GetInteraction{ID: core.InteractionID(q.id)})
	if p == nil || p.Kind != core.NotFound {
		return v, p
	}
	c, p := a.ended(ctx, q)
	return command.Interaction{Phase: phaseEnded, CDR: c}, p
}

// ended reads a finished interaction from the history.
func (a *API) ended(ctx context.Context, q *request) (core.CDR, *problem) {
	of, p := a.tenantOf(ctx, q)
	if p != nil {
		return core.CDR{}, p
	}
	c, found, err := a.config.History.Get(ctx, of, core.InteractionID(q.id))
	switch {
	case err != nil:
		return c, a.historyFailed(q, err)
	case !found || c.Tenant != of:
		return c, q.absent()
	}
	return c, nil
}

func (a *API) historyFailed(q *request, err error) *problem {
	a.config.Log.Warn("the history does not answer", "route", q.template(), "request_id", q.ref,
		"tenant", q.loggedTenant(), "error", err.Error())
	return &problem{Kind: core.Unavailable, Detail: "The records of ended interactions cannot be read now. Repeat the request later."}
}

// ending is the answer to a hang-up.
type ending struct {
	ID    core.InteractionID `json:"id"`
	Phase string             `json:"phase"`
}

// hangUp answers 202 while the interaction is being ended, 200 when it is over already:
// whoever wants it ended has what they want, also when the request is repeated.
func (a *API) hangUp(ctx context.Context, q *request) answer {
	if len(q.body) > 0 {
		if p := decode(q.body, members{}); p != nil {
			return a.refuse(ctx, q, p)
		}
	}
	now := ending{core.InteractionID(q.id), "ending"}
	_, p := a.ask(ctx, q, command.HangUp{ID: now.ID})
	if p != nil && p.Kind == core.NotFound { // over, on its way there, or never was
		var v command.Interaction
		if v, p = a.find(ctx, q); v.Phase == phaseEnded {
			now.Phase = phaseEnded
		}
	}
	switch {
	case p != nil:
		return fail(*p)
	case now.Phase == phaseEnded:
		return ok(now)
	}
	return answer{status: http.StatusAccepted, body: now}
}
