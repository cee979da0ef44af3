// Package httpapi is the HTTP edge: the REST API, its OpenAPI document and the stream of
// server-sent events. It turns each request into one core.Commanded, and the core.Reply
// that follows into JSON. It decides nothing: who may do what, and what is valid, is the
// core's to say.
package httpapi

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/gorilla/mux"
)

// History is where finished interactions are read.
type History interface {
	// Get returns one interaction of a tenant, and whether there is one.
	Get(ctx context.Context, tenant core.TenantID, id core.InteractionID) (core.CDR, bool, error)
	// List returns a tenant's interactions, the latest arrival (the highest id) first, and
	// whether more follow.
	List(ctx context.Context, tenant core.TenantID, f HistoryFilter) ([]core.CDR, bool, error)
}

// HistoryFilter says which finished interactions are wanted. A zero member does not filter.
type HistoryFilter struct {
	Queue core.QueueID
	Agent core.AgentID
	From  core.Time          // ended then or later
	To    core.Time          // ended before
	After core.InteractionID // ids below this one
	Limit int                // 1..100
}

// Config is what the API is made of. Submit and History are required; the zero value of a
// duration or a count means its default.
type Config struct {
	Submit  func(core.Event) bool // hands a core.Commanded to the loop; false: its inbox is full
	History History
	Ready   func() error // nil: calls can be taken; nil func: always
	Metrics http.Handler // what /metrics answers; nil: 404
	Log     *slog.Logger // nil: none
	// Observe is told of each answer: the path template ("" for an unknown path), the
	// method, the status, and the time it took. A stream counts when it begins.
	Observe func(route, method string, status int, d time.Duration)

	Timeout   time.Duration // for an answer of the core or the history, default 5 s; then 503
	InFlight  int           // requests that are worked on at once, default 512; then 503
	Rate      float64       // requests per second and API key, default 200; then 429
	Burst     int           // default 400
	Heartbeat time.Duration // of event streams, default 15 s
	Streams   int           // event streams per tenant, default 100; then 429
	Events    int           // events kept per tenant for Last-Event-ID, default 1000
	EventsMax int           // bytes of them, default 256 KiB
}

func (c Config) withDefaults() Config {
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(string, string, int, time.Duration) {}
	}
	c.Timeout = or(c.Timeout, 5*time.Second)
	c.InFlight = or(c.InFlight, 512)
	c.Rate = or(c.Rate, 200)
	c.Burst = or(c.Burst, 400)
	c.Heartbeat = or(c.Heartbeat, 15*time.Second)
	c.Streams = or(c.Streams, 100)
	c.Events = or(c.Events, 1000)
	c.EventsMax = or(c.EventsMax, 256<<10)
	return c
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// clientLeft is what is logged and counted in place of a status that nobody received, so
// that impatient clients do not look like a server in trouble.
const clientLeft = 499

// API is the HTTP edge of one node: an http.Handler. All its methods may be called at once.
type API struct {
	config   Config
	router   *mux.Router
	routes   []route
	document []byte
	desk     desk
	limits   *limits
	slots    chan struct{}
	once     *idempotency
	feed     *feed
	passing  *http.Transport
}

// New returns an API that is ready to serve. Close ends it.
func New(c Config) *API {
	c = c.withDefaults()
	a := &API{
		config:   c,
		routes:   routes(),
		document: document(),
		desk:     newDesk(),
		limits:   newLimits(c.Rate, c.Burst),
		slots:    make(chan struct{}, c.InFlight),
		once:     newIdempotency(),
		feed:     newFeed(c),
		passing:  newPassing(),
	}
	a.router = newRouter(a.routes)
	return a
}

// Server returns an http.Server with the limits of time and size that the API counts on.
func Server(addr string, handler http.Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second, // event streams set their own, for each write
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// Do takes a core.Reply or a core.Publish from the loop; others are none of its business.
// It never blocks.
func (a *API) Do(e core.Effect) {
	switch e := e.(type) {
	case core.Reply:
		a.desk.reply(e)
	case core.Publish:
		a.feed.publish(e)
	}
}

// Close ends all event streams and refuses new ones. Other requests are still answered.
func (a *API) Close() {
	a.feed.close()
	a.passing.CloseIdleConnections()
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	q := a.request(r)
	h := w.Header()
	h.Set("X-Request-Id", q.ref)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")

	ans := a.answer(w, q)
	status := ans.status
	switch {
	case ans.stream != nil:
		status = http.StatusOK
	case ans.serve != nil:
		status = http.StatusOK
		ans.serve.ServeHTTP(w, r)
	default:
		ans.write(w, q)
		if r.Context().Err() != nil {
			status = clientLeft
		}
	}
	a.config.Observe(q.template(), q.method(), status, time.Since(began))
	if ans.stream != nil {
		a.stream(w, q, ans.stream)
	}
	a.config.Log.Debug("http", "method", q.method(), "route", q.template(), "status", status,
		"duration", time.Since(began), "tenant", q.loggedTenant(), "request_id", q.ref)
}

// answer is ServeHTTP without the writing.
func (a *API) answer(w http.ResponseWriter, q *request) answer {
	switch {
	case q.route == nil && q.allow == "":
		return fail(problem{Kind: core.NotFound, Detail: "There is no such path; /openapi.json lists them all."})
	case q.route == nil:
		return fail(problem{Kind: methodNotAllowed, Detail: "This path takes " + q.allow + ".", Allow: q.allow})
	case q.route.open:
		return a.run(q.http.Context(), q)
	}
	if !a.takeSlot() {
		return fail(overloaded())
	}
	defer a.freeSlot()
	if p := a.admit(q); p != nil {
		return fail(*p)
	}
	ctx, cancel := context.WithTimeout(q.http.Context(), a.config.Timeout)
	defer cancel()
	if p := q.read(w); p != nil {
		// Who holds no key learns nothing from a malformed request but that.
		if _, none := a.identify(ctx, q); none != nil && none.Kind == core.Unauthorized {
			return fail(*none)
		}
		return fail(*p)
	}
	if q.http.Method == http.MethodPost && q.http.Header.Get(idempotencyHeader) != "" {
		return a.runOnce(ctx, q)
	}
	return a.run(ctx, q)
}

// run carries the operation of a route out. A panic becomes a 500 and a line in the log:
// one request must not take the calls of a whole node with it.
func (a *API) run(ctx context.Context, q *request) (ans answer) {
	defer func() {
		if p := recover(); p != nil {
			a.config.Log.Error("http request failed", "route", q.template(), "request_id", q.ref,
				"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			ans = fail(problem{Kind: internalError, Detail: "The server failed on this request. Report the request_id."})
		}
	}()
	ans = q.route.run(a, ctx, q)
	if q.elsewhere.IsValid() {
		return answer{serve: a.pass(q, q.elsewhere)}
	}
	return ans
}

// gone is the answer while nobody decides: its node has died, or its tenant moves.
func gone() problem {
	return problem{Kind: core.Unavailable, Detail: "The node that decides for this tenant is changing at this moment. Try again.", RetryAfter: "1"}
}

func (a *API) takeSlot() bool {
	select {
	case a.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *API) freeSlot() { <-a.slots }

// reference returns a new request id.
func reference() string { return "req_" + rand.Text()[:20] }
