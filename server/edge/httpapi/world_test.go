package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const operatorKey = "operator-secret"

func (r *records) Get(_ context.Context, t core.TenantID, id core.InteractionID) (core.CDR, bool, error) {
	for _, c := range r.of(t, HistoryFilter{}) {
		if c.ID == id {
			return c, true, r.err
		}
	}
	return core.CDR{}, false, r.err
}

func (r *records) List(_ context.Context, t core.TenantID, f HistoryFilter) ([]core.CDR, bool, error) {
	found := r.of(t, f)
	return found[:min(len(found), f.Limit)], len(found) > f.Limit, r.err
}

// tb is what *testing.T and *rapid.T share.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// world is an API over a model, and the document that its answers are held against.
type world struct {
	t       tb
	api     *API
	core    *model
	records *records
	log     *lockedBuffer
	doc     *contract
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newWorld makes tenants acme and other, whose keys are key("acme") and key("other").
func newWorld(t *testing.T, change func(*Config)) *world {
	w := makeWorld(t, newContract(t), change)
	t.Cleanup(w.close)
	return w
}

func makeWorld(t tb, doc *contract, change func(*Config)) *world {
	m := newModel(operatorKey)
	w := &world{t: t, core: m, records: &records{}, log: &lockedBuffer{}, doc: doc}
	c := Config{Submit: m.submit, History: w.records, Log: slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Rate: 1e6, Burst: 1e6}
	if change != nil {
		change(&c)
	}
	w.api = New(c)
	m.answer = w.api.Do
	for _, id := range []core.TenantID{"acme", "other"} {
		_, p := m.operate(createFor(id))
		if p != nil {
			t.Fatalf("%v", p)
		}
	}
	go m.run()
	return w
}

func (w *world) close() {
	w.api.Close()
	close(w.core.inbox)
}

func key(id string) string { return "dt_live_" + id }

// answered is one response.
type answered struct {
	status int
	header http.Header
	body   []byte
}

func (a answered) json(into any) {
	if err := json.Unmarshal(a.body, into); err != nil {
		panic(fmt.Sprintf("%v in %s", err, a.body))
	}
}

func (a answered) problem() (p struct {
	Type      string
	Title     string
	Status    int
	Detail    string
	Errors    []complaint
	RequestID string `json:"request_id"`
}) {
	a.json(&p)
	return p
}

// request makes a request of a tenant's key; options change it.
func newRequest(method, path, body string, options ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+key("acme"))
	for _, o := range options {
		o(r)
	}
	return r
}

func with(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = []string{value} }
}

func without(name string) func(*http.Request) { return func(r *http.Request) { r.Header.Del(name) } }

var (
	asOperator = with("Authorization", "Bearer "+operatorKey)
	asOther    = with("Authorization", "Bearer "+key("other"))
)

// do carries a request out and holds the answer against the document.
func (w *world) do(method, path, body string, options ...func(*http.Request)) answered {
	w.t.Helper()
	return w.send(newRequest(method, path, body, options...))
}

func (w *world) send(r *http.Request) answered {
	w.t.Helper()
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, r)
	res := rec.Result()
	body, _ := io.ReadAll(res.Body)
	a := answered{res.StatusCode, res.Header, body}
	w.doc.check(w.t, w.api.request(r), a)
	return a
}

// want is do, and that its status is that one.
func (w *world) want(status int, method, path, body string, options ...func(*http.Request)) answered {
	w.t.Helper()
	a := w.do(method, path, body, options...)
	if a.status != status {
		w.t.Fatalf("%s %s %.200s: %d %s, want %d", method, path, body, a.status, a.body, status)
	}
	return a
}

// contract is the OpenAPI document as a judge of answers.
type contract struct {
	doc     map[string]any
	schemas *jsonschema.Compiler
	known   map[string]*jsonschema.Schema
}

func newContract(t *testing.T) *contract {
	t.Helper()
	c := &contract{known: map[string]*jsonschema.Schema{}}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document()))
	if err != nil {
		t.Fatal(err)
	}
	c.doc = doc.(map[string]any)
	closeObjects(c.doc["components"].(map[string]any)["schemas"])
	c.schemas = jsonschema.NewCompiler()
	c.schemas.DefaultDraft(jsonschema.Draft2020)
	c.schemas.AssertFormat()
	if err := c.schemas.AddResource("mem:///openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return c
}

// closeObjects lets objects have no members that the document does not name. Clients are
// told to expect more; our own tests are not.
func closeObjects(v any) {
	switch v := v.(type) {
	case map[string]any:
		_, open := v["additionalProperties"]
		if _, object := v["properties"]; object && !open && v["type"] == "object" && v["description"] != "A rule that would never come true." {
			v["additionalProperties"] = false
		}
		for _, sub := range v {
			closeObjects(sub)
		}
	case []any:
		for _, sub := range v {
			closeObjects(sub)
		}
	}
}

// at returns the schema at a JSON pointer of the document.
func (c *contract) at(pointer string) *jsonschema.Schema {
	if c.known[pointer] == nil {
		c.known[pointer] = c.schemas.MustCompile("mem:///openapi.json#" + pointer)
	}
	return c.known[pointer]
}

func (c *contract) get(path ...string) any {
	var v any = c.doc
	for _, p := range path {
		m, _ := v.(map[string]any)
		v = m[p]
		if m, ok := v.(map[string]any); ok {
			if ref, ok := m["$ref"].(string); ok {
				v = c.get(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
			}
		}
	}
	return v
}

// check holds one answer against the document.
func (c *contract) check(t tb, q *request, a answered) {
	t.Helper()
	if a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("X-Request-Id") == "" {
		t.Errorf("headers are missing: %v", a.header)
	}
	if a.status >= 500 && a.status != 503 {
		t.Fatalf("%s %s: %d %s", q.http.Method, q.http.URL, a.status, a.body)
	}
	if a.status >= 400 {
		c.checkProblem(t, a)
	}
	if q.route == nil {
		if a.status != 404 && a.status != 405 {
			t.Fatalf("%s %s: %d on an unknown path", q.http.Method, q.http.URL, a.status)
		}
		return
	}
	documented := c.get("paths", q.route.path, strings.ToLower(q.route.method), "responses", fmt.Sprint(a.status))
	if documented == nil {
		t.Fatalf("%s %s: %d is not documented: %s", q.http.Method, q.http.URL, a.status, a.body)
	}
	content, _ := documented.(map[string]any)["content"].(map[string]any)
	if (content == nil) != (len(a.body) == 0) {
		t.Fatalf("%s %s: %d with %d bytes, content %v", q.http.Method, q.http.URL, a.status, len(a.body), content)
	}
	media := a.header.Get("Content-Type")
	if content == nil || media == "text/plain" {
		return
	}
	m, _ := content[media].(map[string]any)
	if m == nil {
		t.Fatalf("%s %s: %d has %s, which is not documented", q.http.Method, q.http.URL, a.status, media)
	}
	if ref, ok := m["schema"].(map[string]any)["$ref"].(string); ok {
		c.checkSchema(t, ref, a.body)
	}
}

func (c *contract) checkProblem(t tb, a answered) {
	t.Helper()
	if media := a.header.Get("Content-Type"); media != "application/problem+json" {
		t.Fatalf("%d has %s: %s", a.status, media, a.body)
	}
	c.checkSchema(t, "#/components/schemas/Problem", a.body)
	p := a.problem()
	k, known := kinds[core.ProblemKind(strings.TrimPrefix(p.Type, "/problems/"))]
	if !known || p.Status != a.status || k.status != a.status || p.Title != k.title || p.Detail == "" || p.RequestID != a.header.Get("X-Request-Id") {
		t.Fatalf("%d is not the problem it says: %s", a.status, a.body)
	}
	needs := map[int]string{401: "Www-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}[a.status]
	if needs != "" && a.header.Get(needs) == "" {
		t.Fatalf("%d without %s", a.status, needs)
	}
}

func (c *contract) checkSchema(t tb, ref string, body []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if err := c.at(strings.TrimPrefix(ref, "#")).Validate(v); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
}
