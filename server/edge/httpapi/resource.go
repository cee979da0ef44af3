package httpapi

import (
	"context"
	"net/http"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

// page is a window of a collection.
type page[T any] struct {
	Data    []T    `json:"data"`
	HasMore bool   `json:"has_more"`
	Next    string `json:"next,omitempty"` // the after of the next page
}

func pageOf[T, S any](data []T, more bool, show func(T) S, id func(T) string) page[S] {
	p := page[S]{Data: make([]S, len(data)), HasMore: more && len(data) > 0}
	for i := range data {
		p.Data[i] = show(data[i])
	}
	if p.HasMore {
		p.Next = id(data[len(data)-1])
	}
	return p
}

// one answers with the value of a command.
func one[T, S any](a *API, ctx context.Context, q *request, do any, show func(T) S) answer {
	v, p := asked[T](a, ctx, q, do)
	if p != nil {
		return fail(*p)
	}
	return ok(show(v))
}

// stored answers a PUT: 201 when it made something new, 200 when it replaced what was there.
func stored[T, S any](a *API, ctx context.Context, q *request, do any, show func(T) S) answer {
	v, p := asked[command.Put[T]](a, ctx, q, do)
	switch {
	case p != nil:
		return fail(*p)
	case v.Created:
		return answer{status: http.StatusCreated, body: show(v.Value)}
	default:
		return ok(show(v.Value))
	}
}

// many answers with a window of a list.
func many[T, S any](a *API, ctx context.Context, q *request, do func(command.Range) any, show func(T) S, id func(T) string) answer {
	r, p := q.window()
	if p != nil {
		return a.refuse(ctx, q, p)
	}
	v, p := asked[command.Page[T]](a, ctx, q, do(r))
	if p != nil {
		return fail(*p)
	}
	return ok(pageOf(v.Data, v.More, show, id))
}

// gone answers a DELETE.
func (a *API) gone(ctx context.Context, q *request, do any) answer {
	if _, p := a.ask(ctx, q, do); p != nil {
		return fail(*p)
	}
	return noContent()
}

// refuse answers a request that the edge itself finds wrong, once it is known that the key
// is good: who holds none learns nothing else.
func (a *API) refuse(ctx context.Context, q *request, p *problem) answer {
	if _, none := a.identify(ctx, q); none != nil && none.Kind == core.Unauthorized {
		return fail(*none)
	}
	return fail(*p)
}

// asIs shows a value that needs no changes.
func asIs[T any](v T) T { return v }
