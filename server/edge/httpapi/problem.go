package httpapi

import (
	"context"
	"net/http"

	"github.com/dialtone-cc/dialtone/server/core"
)

// A problem is an error as RFC 9457 shows it. For a core.NotFound the detail is the route's,
// never the core's: the answer for another tenant's id equals that for one that does not exist.
type problem struct {
	Kind       core.ProblemKind
	Detail     string
	Errors     []complaint
	Allow      string // of a 405
	RetryAfter string // of a 429 or 503
	Challenge  string // of a 401; "" is a bare Bearer
}

// A complaint names one part of a request that is wrong: a member of the body, or a
// parameter of the query or the header.
type complaint struct {
	Pointer   *string `json:"pointer,omitempty"` // JSON pointer (RFC 6901); "" is the whole body
	Parameter *string `json:"parameter,omitempty"`
	Detail    string  `json:"detail"`
}

// The kinds that only the edge knows.
const (
	methodNotAllowed    core.ProblemKind = "method-not-allowed"
	idempotencyConflict core.ProblemKind = "idempotency-conflict"
	tooLarge            core.ProblemKind = "content-too-large"
	unsupportedMedia    core.ProblemKind = "unsupported-media-type"
	rateLimited         core.ProblemKind = "rate-limited"
	internalError       core.ProblemKind = "internal-error"
)

type kind struct {
	status  int
	title   string
	explain string
}

// kinds is the registry of problem types; /problems/{kind} shows it.
var kinds = map[core.ProblemKind]kind{
	core.NotFound: {http.StatusNotFound, "Not found",
		"There is nothing at this path. What belongs to another tenant is answered in the same way."},
	core.Unauthorized: {http.StatusUnauthorized, "Unauthorized",
		"The request shows no API key, or one that does not open this path. Send the header Authorization: Bearer KEY."},
	core.Invalid: {http.StatusBadRequest, "Invalid request",
		"A part of the request is malformed or out of range. The member errors names each part and says what is allowed."},
	core.Exists: {http.StatusConflict, "Exists already",
		"The id or the domain is taken. Choose another one."},
	core.InUse: {http.StatusConflict, "In use",
		"Something still depends on what was to be deleted. End or change that first."},
	core.Limited: {http.StatusConflict, "Limit reached",
		"A limit of the tenant or the node does not allow more. Delete something, or ask the operator for more."},
	core.Unavailable: {http.StatusServiceUnavailable, "Unavailable",
		"The server cannot answer now. Repeat the request after the seconds in Retry-After. A change may have been made."},
	methodNotAllowed: {http.StatusMethodNotAllowed, "Method not allowed",
		"The path exists, but not with this method. The header Allow lists those that it takes."},
	idempotencyConflict: {http.StatusConflict, "Idempotency-Key in use",
		"The Idempotency-Key was sent with another request, or its first request is still under way."},
	tooLarge: {http.StatusRequestEntityTooLarge, "Body too large",
		"The body of a request may have 65536 bytes."},
	unsupportedMedia: {http.StatusUnsupportedMediaType, "Unsupported media type",
		"The body of a request is JSON in UTF-8, without compression. Send Content-Type: application/json."},
	rateLimited: {http.StatusTooManyRequests, "Too many requests",
		"Requests come faster than is allowed, or too many event streams are open. Wait for the seconds in Retry-After."},
	internalError: {http.StatusInternalServerError, "Internal error",
		"The server has a fault. Report the request_id; the log has a line with it."},
}

// document is the JSON of a problem.
func (p *problem) document(ref string) any {
	k := kinds[p.Kind]
	return struct {
		Type      string      `json:"type"`
		Title     string      `json:"title"`
		Status    int         `json:"status"`
		Detail    string      `json:"detail"`
		Errors    []complaint `json:"errors,omitempty"`
		RequestID string      `json:"request_id"`
	}{"/problems/" + string(p.Kind), k.title, k.status, p.Detail, p.Errors, ref}
}

func (p *problem) header(h http.Header) {
	h.Set("Content-Type", "application/problem+json")
	switch p.Kind {
	case core.Unauthorized: // RFC 9110 s.11.6.1, RFC 6750 s.3
		challenge := `Bearer realm="dialtone"`
		if p.Challenge != "" {
			challenge += ", " + p.Challenge
		}
		h.Set("WWW-Authenticate", challenge)
	case methodNotAllowed:
		h.Set("Allow", p.Allow)
	case unsupportedMedia:
		h.Set("Accept", "application/json") // RFC 9110 s.15.5.16
	case core.Unavailable, rateLimited:
		h.Set("Retry-After", or(p.RetryAfter, "1"))
	}
}

// problemOf turns the core's problem into the route's.
func (q *request) problemOf(c *core.Problem) *problem {
	p := &problem{Kind: c.Kind, Detail: c.Detail}
	switch c.Kind {
	case core.NotFound:
		return q.absent()
	case core.Unauthorized:
		return &problem{Kind: c.Kind, Challenge: `error="invalid_token"`,
			Detail: "The API key is not known, or does not open this path."}
	}
	if _, known := kinds[c.Kind]; !known {
		p.Kind = internalError
	}
	for _, f := range c.Fields {
		p.Errors = append(p.Errors, complaint{Pointer: &f.Pointer, Detail: f.Detail})
	}
	return p
}

func (q *request) absent() *problem {
	return &problem{Kind: core.NotFound, Detail: "There is no such " + q.route.what + "."}
}

func overloaded() problem {
	return problem{Kind: core.Unavailable, Detail: "The server works on too many requests. Repeat this one later."}
}

func badParameter(name, detail string) *problem {
	return &problem{Kind: core.Invalid, Detail: "A parameter is wrong.",
		Errors: []complaint{{Parameter: &name, Detail: detail}}}
}

// explain answers /problems/{kind}, where the type of a problem points.
func (a *API) explain(_ context.Context, q *request) answer {
	k, known := kinds[core.ProblemKind(q.id)]
	if !known {
		return fail(*q.absent())
	}
	return ok(struct {
		Type        string `json:"type"`
		Title       string `json:"title"`
		Status      int    `json:"status"`
		Description string `json:"description"`
	}{"/problems/" + q.id, k.title, k.status, k.explain})
}
