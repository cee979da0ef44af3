package httpapi

import (
	"container/list"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// What is kept of requests with an Idempotency-Key: in memory only, for an answer to POST
// /v1/tenants holds the API key that is shown once.
const (
	keptFor       = 24 * time.Hour
	keptPerKey    = 10_000  // per API key; past that its oldest is forgotten
	keptInAll     = 100_000 // past that the oldest of all
	longestIdem   = 255
	outcomeWithin = 2 * time.Minute // a command that has no outcome by then is given up
)

// idempotency remembers the answers to POSTs, so that a repeated one is answered and not
// carried out again.
type idempotency struct {
	mu    sync.Mutex
	kept  map[idempotencyID]*kept
	order *list.List // of *kept, oldest first: all live equally long
	each  map[core.KeyHash]*list.List
}

type idempotencyID struct {
	owner core.KeyHash
	name  string
}

// kept is one request. Its answer is there once done is closed.
type kept struct {
	id     idempotencyID
	print  [sha256.Size]byte // of all that makes the request what it is
	until  time.Time
	done   chan struct{}
	answer answer
	places [2]*list.Element // in order and in each
}

func newIdempotency() *idempotency {
	return &idempotency{kept: map[idempotencyID]*kept{}, order: list.New(), each: map[core.KeyHash]*list.List{}}
}

// begin returns the request that is kept under an id, or keeps a new one, and whether it is new.
func (o *idempotency) begin(id idempotencyID, print [sha256.Size]byte, now time.Time) (*kept, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := o.order.Front(); e != nil && e.Value.(*kept).until.Before(now); e = o.order.Front() {
		o.drop(e.Value.(*kept))
	}
	if k := o.kept[id]; k != nil {
		return k, false
	}
	own := o.each[id.owner]
	switch {
	case own != nil && own.Len() >= keptPerKey:
		o.drop(own.Front().Value.(*kept))
	case o.order.Len() >= keptInAll:
		o.drop(o.order.Front().Value.(*kept))
	}
	if own = o.each[id.owner]; own == nil {
		own = list.New()
		o.each[id.owner] = own
	}
	k := &kept{id: id, print: print, until: now.Add(keptFor), done: make(chan struct{})}
	k.places = [2]*list.Element{o.order.PushBack(k), own.PushBack(k)}
	o.kept[id] = k
	return k, true
}

// finish notes the answer. One that carried nothing out is forgotten, so that a corrected
// request may use the same Idempotency-Key.
func (o *idempotency) finish(k *kept, ans answer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k.answer = ans
	close(k.done)
	if p := ans.problem; p != nil && p.Kind != core.NotFound && kinds[p.Kind].status != 409 && o.kept[k.id] == k {
		o.drop(k)
	}
}

func (o *idempotency) drop(k *kept) {
	delete(o.kept, k.id)
	o.order.Remove(k.places[0])
	own := o.each[k.id.owner]
	if own.Remove(k.places[1]); own.Len() == 0 {
		delete(o.each, k.id.owner)
	}
}

// runOnce is run for a POST with an Idempotency-Key. The operation outlives the request:
//
//  1. the client sends POST /v1/tenants with key K; the store is slow;
//  2. the client is answered 503 after Timeout, or leaves; the tenant is made after that;
//  3. the client repeats the POST with K, and gets the 201 with the API key that is shown once.
func (a *API) runOnce(ctx context.Context, q *request) answer {
	names := q.http.Header.Values(idempotencyHeader)
	if len(names) > 1 || !visible(names[0]) || len(names[0]) > longestIdem {
		return fail(*badParameter(idempotencyHeader, "must be one field of 1 to 255 visible ASCII characters"))
	}
	print := sha256.Sum256([]byte(q.http.URL.EscapedPath() + "\n" + string(q.tenant) + "\n" + string(q.body)))
	k, fresh := a.once.begin(idempotencyID{q.key, names[0]}, print, time.Now())
	switch {
	case !fresh && k.print != print:
		return fail(problem{Kind: idempotencyConflict,
			Detail: "This Idempotency-Key was sent with another request. Use a new one for each."})
	case !fresh:
		select {
		case <-k.done:
			ans := k.answer
			ans.replayed = true
			return ans
		default:
			return fail(problem{Kind: idempotencyConflict,
				Detail: "The first request with this Idempotency-Key is still under way. Repeat it later to learn its outcome."})
		}
	case !a.takeSlot(): // the second one: this request may return before the operation
		a.once.finish(k, fail(overloaded()))
		return fail(overloaded())
	}
	go func(q request) { // a copy: the request may be over before the operation
		defer a.freeSlot()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outcomeWithin)
		defer cancel()
		a.once.finish(k, a.run(ctx, &q))
	}(*q)
	select {
	case <-k.done:
		return k.answer
	case <-ctx.Done():
		return fail(problem{Kind: core.Unavailable,
			Detail: "The server did not answer in time. Repeat the request with the same Idempotency-Key to learn its outcome."})
	}
}

func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
