package httpapi

import (
	"context"
	"fmt"
	"sync"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

// A desk matches the core's replies with the requests that wait for them. It holds one
// entry for each waiting request, so the number of those bounds it.
type desk struct {
	mu      sync.Mutex
	last    core.Token
	waiting map[core.Token]chan core.Reply
}

// The tokens start high: a command that another part of the program submits under a small
// token of its own is never taken for one of these.
func newDesk() desk {
	return desk{last: 1 << 32, waiting: map[core.Token]chan core.Reply{}}
}

// reply hands a reply over. It does not block: each place in line has room for its reply.
func (d *desk) reply(r core.Reply) {
	if c := d.leave(r.Token); c != nil {
		c <- r
	}
}

func (d *desk) join() (core.Token, chan core.Reply) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	c := make(chan core.Reply, 1)
	d.waiting[d.last] = c
	return d.last, c
}

func (d *desk) leave(t core.Token) chan core.Reply {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.waiting[t]
	delete(d.waiting, t)
	return c
}

// ask submits one command of a request and waits for the core's answer, until ctx ends.
func (a *API) ask(ctx context.Context, q *request, do any) (any, *problem) {
	token, answered := a.desk.join()
	if !a.config.Submit(core.Commanded{Token: token, Key: q.key, Tenant: q.tenant, Do: do}) {
		a.desk.leave(token)
		p := overloaded()
		return nil, &p
	}
	select {
	case r := <-answered:
		if r.Elsewhere.IsValid() {
			a.limits.prove(q.key)
			if q.http.Header.Get(passedHeader) != "" {
				p := gone()
				return nil, &p
			}
			q.elsewhere = r.Elsewhere
			return nil, &problem{Kind: core.Unavailable} // not seen: see run
		}
		if r.Problem == nil {
			a.limits.prove(q.key)
			return r.Value, nil
		}
		if r.Problem.Kind != core.Unauthorized {
			a.limits.prove(q.key)
		}
		return nil, q.problemOf(r.Problem)
	case <-ctx.Done():
		a.desk.leave(token)
		return nil, &problem{Kind: core.Unavailable,
			Detail: "The server did not answer in time. A change may have been made: read it back before you repeat it."}
	}
}

// asked is ask for an answer of one type. Another type is a fault of this program.
func asked[T any](a *API, ctx context.Context, q *request, do any) (T, *problem) {
	v, p := a.ask(ctx, q, do)
	if p != nil {
		var none T
		return none, p
	}
	t, fits := v.(T)
	if !fits {
		a.config.Log.Error("the core's answer has the wrong type", "route", q.template(), "request_id", q.ref,
			"command", fmt.Sprintf("%T", do), "wanted", fmt.Sprintf("%T", t), "got", fmt.Sprintf("%T", v))
		return t, &problem{Kind: internalError, Detail: "The server failed on this request. Report the request_id."}
	}
	return t, nil
}

// identify asks whose key it is. It answers for routes that the core does not serve.
func (a *API) identify(ctx context.Context, q *request) (command.Identity, *problem) {
	who, p := asked[command.Identity](a, ctx, q, command.WhoAmI{})
	q.seen = who.Tenant
	return who, p
}

// tenantOf is identify for routes that need a tenant.
func (a *API) tenantOf(ctx context.Context, q *request) (core.TenantID, *problem) {
	who, p := a.identify(ctx, q)
	if p == nil && who.Tenant == "" {
		p = badParameter(tenantHeader, "must name the tenant that the operator means; send the header Dialtone-Tenant: ID")
	}
	return who.Tenant, p
}
