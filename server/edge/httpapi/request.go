package httpapi

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/gorilla/mux"
)

const (
	longestBody  = 64 << 10
	defaultLimit = 50
	largestLimit = 100
)

// A request is what the API knows of one HTTP request.
type request struct {
	http   *http.Request
	ref    string // its request id
	route  *route // nil: no such path, or not by this method
	allow  string // methods of the path, when it is only the method that is wrong
	id     string // the variable of the path, unescaped
	key    core.KeyHash
	tenant core.TenantID // of the header; the core ignores it but from the operator
	seen   core.TenantID // as the core has named it; "" when it was not asked
	query  url.Values
	body   []byte

	elsewhere netip.AddrPort // the API of the node that decides; invalid: it is done here
}

func (a *API) request(r *http.Request) *request {
	q := &request{http: r, ref: reference(), tenant: core.TenantID(r.Header.Get(tenantHeader))}
	var m mux.RouteMatch
	if !a.router.Match(r, &m) {
		if errors.Is(m.MatchErr, mux.ErrMethodMismatch) {
			q.allow = a.allowed(r)
		}
		return q
	}
	id, err := url.PathUnescape(m.Vars["id"])
	if err != nil || len(id) > 255 {
		return q // such an id cannot exist
	}
	q.id = id
	for i := range a.routes {
		if m.Route.GetName() == a.routes[i].method+" "+a.routes[i].path {
			q.route = &a.routes[i]
		}
	}
	return q
}

// allowed returns the Allow field of a 405 (RFC 9110 s.15.5.6), which mux leaves out.
func (a *API) allowed(r *http.Request) string {
	var all []string
	for _, method := range []string{"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"} {
		try, m := *r, mux.RouteMatch{}
		try.Method = method
		if a.router.Match(&try, &m) {
			all = append(all, method)
		}
	}
	return strings.Join(all, ", ")
}

func (q *request) template() string {
	if q.route == nil {
		return ""
	}
	return q.route.path
}

// method is for labels: what clients make up must not become one.
func (q *request) method() string {
	known := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	if slices.Contains(known, q.http.Method) {
		return q.http.Method
	}
	return "OTHER"
}

func (q *request) loggedTenant() string {
	if q.seen != "" {
		return string(q.seen)
	}
	return string(q.tenant[:min(len(q.tenant), 64)])
}

// admit refuses requests without a key, and those that come too fast.
func (a *API) admit(q *request) *problem {
	key, p := bearer(q.http)
	if p != nil {
		return p
	}
	q.key = key
	if wait := a.limits.take(key, senderOf(q.http.RemoteAddr), time.Now()); wait > 0 {
		return &problem{Kind: rateLimited, RetryAfter: retryAfter(wait.Seconds()),
			Detail: fmt.Sprintf("More than %g requests per second with this key.", a.config.Rate)}
	}
	return nil
}

// read takes in the query and the body, as strictly as the route says.
func (q *request) read(w http.ResponseWriter) *problem {
	var err error
	if q.query, err = url.ParseQuery(q.http.URL.RawQuery); err != nil {
		return &problem{Kind: core.Invalid, Detail: "The query of the URL is malformed; escape it as application/x-www-form-urlencoded."}
	}
	for name, values := range q.query {
		if !slices.Contains(q.route.query, name) {
			return badParameter(name, "is not known here; allowed: "+or(strings.Join(q.route.query, ", "), "none"))
		}
		if len(values) > 1 {
			return badParameter(name, "must be given once")
		}
	}
	if q.http.Method == http.MethodPut || q.http.Method == http.MethodPost || q.http.Method == http.MethodPatch {
		return q.readBody(w)
	}
	return nil
}

func (q *request) readBody(w http.ResponseWriter) *problem {
	var err error
	q.body, err = io.ReadAll(http.MaxBytesReader(w, q.http.Body, longestBody))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return &problem{Kind: tooLarge, Detail: "The body has more than 65536 bytes."}
	case err != nil:
		return &problem{Kind: core.Invalid, Detail: "The body did not arrive in full."}
	case len(q.body) == 0: // decode refuses it where a body is wanted
		return nil
	}
	media, params, err := mime.ParseMediaType(q.http.Header.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	encoding := q.http.Header.Get("Content-Encoding")
	if err != nil || media != "application/json" || (charset != "" && charset != "utf-8") || encoding != "" {
		return &problem{Kind: unsupportedMedia, Detail: "Send the body as JSON, uncompressed, with Content-Type: application/json."}
	}
	return nil
}

// window reads limit and after.
func (q *request) window() (command.Range, *problem) {
	r := command.Range{After: q.query.Get("after"), Limit: defaultLimit}
	if len(r.After) > 255 {
		return r, badParameter("after", "must be the next of the page before")
	}
	if q.query.Has("limit") {
		n, err := strconv.Atoi(q.query.Get("limit"))
		if err != nil || n < 1 || n > largestLimit {
			return r, badParameter("limit", "must be a whole number from 1 to 100")
		}
		r.Limit = n
	}
	return r, nil
}

// instant reads a time of the query; zero when it is absent.
func (q *request) instant(name string) (core.Time, *problem) {
	if !q.query.Has(name) {
		return 0, nil
	}
	t, err := time.Parse(time.RFC3339Nano, q.query.Get(name))
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return 0, badParameter(name, "must be a time of RFC 3339 such as 2026-11-21T08:00:00Z, from 1970 to 2200")
	}
	return core.Time(t.UnixNano()), nil
}
