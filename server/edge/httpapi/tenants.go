package httpapi

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// shownTenant is a tenant as the API shows it: without the hashes of its keys, and with the
// first key in the answer to its creation.
type shownTenant struct {
	tenant.Tenant
	APIKey string `json:"api_key,omitempty"`
}

func showTenant(t tenant.Tenant) shownTenant {
	t.Keys = nil
	return shownTenant{Tenant: t}
}

func (a *API) createTenant(ctx context.Context, q *request) answer {
	t := tenant.DefaultTenant()
	if p := decode(q.body, members{
		"id": text(&t.ID), "domain": text(&t.Domain), "name": text(&t.Name),
		"sources": array(&t.Sources, network), "limits": limitsOf(&t.Limits),
	}); p != nil {
		return a.refuse(ctx, q, p)
	}
	key := NewKey()
	made, p := asked[tenant.Tenant](a, ctx, q, command.CreateTenant{Tenant: t, Key: core.HashKey(key)})
	if p != nil {
		return fail(*p)
	}
	a.feed.forget(made.ID) // what an earlier tenant of this id left
	shown := showTenant(made)
	shown.APIKey = key
	return answer{status: http.StatusCreated, body: shown, location: "/v1/tenants/" + url.PathEscape(string(made.ID))}
}

func (a *API) changeTenant(ctx context.Context, q *request) answer {
	c := command.ChangeTenant{ID: core.TenantID(q.id)}
	var sources *[]netip.Prefix
	if p := decode(q.body, members{
		"id": same(q.id), "domain": optional(&c.Domain, text[string]), "name": optional(&c.Name, text[string]),
		"sources": optional(&sources, networks), "limits": optional(&c.Limits, limitsOf),
	}); p != nil {
		return a.refuse(ctx, q, p)
	}
	if sources != nil {
		texts := make([]string, len(*sources))
		for i, s := range *sources {
			texts[i] = s.String()
		}
		c.Sources = &texts
	}
	return one(a, ctx, q, c, showTenant)
}

func (a *API) getTenant(ctx context.Context, q *request) answer {
	return one(a, ctx, q, command.GetTenant{ID: core.TenantID(q.id)}, showTenant)
}

func (a *API) deleteTenant(ctx context.Context, q *request) answer {
	ans := a.gone(ctx, q, command.DeleteTenant{ID: core.TenantID(q.id)})
	if ans.problem == nil {
		a.feed.forget(core.TenantID(q.id))
	}
	return ans
}

func (a *API) listTenants(ctx context.Context, q *request) answer {
	return many(a, ctx, q, func(r command.Range) any { return command.ListTenants{Range: r} },
		showTenant, func(t tenant.Tenant) string { return string(t.ID) })
}

// limitsOf reads limits, which are stated whole: absent ones get their defaults.
func limitsOf(into *tenant.Limits) reading {
	*into = tenant.DefaultTenant().Limits
	return object(members{"max_calls": integer(&into.MaxCalls), "calls_per_second": integer(&into.CallsPerSecond)})
}

func networks(into *[]netip.Prefix) reading { return array(into, network) }

func network(into *netip.Prefix) reading {
	return func(d *decoder, at string, v any) {
		s, _ := v.(string)
		p, err := netip.ParsePrefix(s)
		if err != nil {
			d.refuse(at, "must be a network such as 192.0.2.0/24 or 2001:db8::/32")
			return
		}
		*into = p
	}
}
