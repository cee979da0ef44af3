package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// seedVariable gives the API fuzz another seed: its requests follow from the seed alone.
const seedVariable = "BADDAY_SEED"

// apiFuzz makes requests out of the OpenAPI document: mostly of the right form with values at
// their bounds, then with something in them changed that the document does not foresee.
type apiFuzz struct {
	*rand.Rand
	doc  map[string]any
	ops  []operation
	keys []string
}

type operation struct {
	method, path string
	parameters   []map[string]any
	body         map[string]any // schema
}

func newAPIFuzz(t *testing.T, document string, seed uint64) *apiFuzz {
	t.Helper()
	f := &apiFuzz{Rand: rand.New(rand.NewPCG(seed, seed))}
	if err := json.Unmarshal([]byte(document), &f.doc); err != nil {
		t.Fatal(err)
	}
	paths := f.at(f.doc, "paths")
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := f.at(paths, path)
		for _, method := range []string{"get", "put", "post", "patch", "delete"} {
			if _, ok := item[method]; !ok {
				continue
			}
			op := f.at(item, method)
			o := operation{method: strings.ToUpper(method), path: path, body: f.at(op, "requestBody", "content", "application/json", "schema")}
			for _, list := range []any{item["parameters"], op["parameters"]} {
				all, _ := list.([]any)
				for _, p := range all {
					o.parameters = append(o.parameters, f.resolve(p))
				}
			}
			f.ops = append(f.ops, o)
		}
	}
	if len(f.ops) < 20 {
		t.Fatalf("only %d operations in the document", len(f.ops))
	}
	return f
}

// at walks down members and references; what is not there is empty.
func (f *apiFuzz) at(v any, names ...string) map[string]any {
	m := f.resolve(v)
	for _, name := range names {
		m = f.resolve(m[name])
	}
	return m
}

func (f *apiFuzz) resolve(v any) map[string]any {
	m, _ := v.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		return f.at(f.doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	return m
}

func (f *apiFuzz) chance(percent int) bool { return f.IntN(100) < percent }

func pick[T any](f *apiFuzz, of ...T) T { return of[f.IntN(len(of))] }

// odd is what no schema asks for.
func (f *apiFuzz) odd() any {
	return pick[any](f, nil, true, -1, 0.5, 1e300, int64(1)<<62, "", "..", "a/b", "%00", "\x00", "é\u202e", strings.Repeat("x", 70000),
		[]any{}, []any{nil}, map[string]any{}, map[string]any{"": nil}, []any{[]any{[]any{}}}, "'; DROP TABLE cdr; --", "1001", "support")
}

// value makes a value of a schema, now and then an odd one.
func (f *apiFuzz) value(schema map[string]any, depth int) any {
	if depth > 6 || f.chance(4) {
		return f.odd()
	}
	if enum, ok := schema["enum"].([]any); ok {
		return pick(f, enum...)
	}
	if examples, ok := schema["examples"].([]any); ok && f.chance(70) {
		return pick(f, examples...)
	}
	kind, _ := schema["type"].(string)
	if kinds, ok := schema["type"].([]any); ok {
		kind, _ = pick(f, kinds...).(string)
	}
	switch kind {
	case "string":
		return pick(f, "support", "1001", "5000", "acme", "a", strings.Repeat("b", 64), fmt.Sprint("n", f.IntN(50)), "192.0.2.0/24", "long-enough-password", "acme.example")
	case "integer", "number":
		least, _ := schema["minimum"].(float64)
		most, ok := schema["maximum"].(float64)
		if !ok {
			most = least + 100
		}
		return pick[any](f, least, most, least-1, most+1, least+float64(f.IntN(int(most-least)+1)), float64(f.IntN(10)))
	case "boolean":
		return f.chance(50)
	case "array":
		list := []any{}
		for range f.IntN(4) {
			list = append(list, f.value(f.at(schema, "items"), depth+1))
		}
		return list
	case "object":
		return f.object(schema, depth)
	}
	return f.odd()
}

func (f *apiFuzz) object(schema map[string]any, depth int) map[string]any {
	o := map[string]any{}
	required, _ := schema["required"].([]any)
	properties := f.at(schema, "properties")
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if slices.Contains(required, any(name)) && f.chance(95) || f.chance(40) {
			o[name] = f.value(f.at(properties, name), depth+1)
		}
	}
	if rest := f.at(schema, "additionalProperties"); len(rest) > 0 {
		o[pick(f, "english", "sales", "é")] = f.value(rest, depth+1)
	}
	if f.chance(5) {
		o[pick(f, "x", "ID", "__proto__", "")] = f.odd()
	}
	return o
}

// request makes one request; a GET of the event stream ends by its context.
func (f *apiFuzz) request(ctx context.Context, base string) *http.Request {
	op := pick(f, f.ops...)
	path, query := op.path, url.Values{}
	headers := http.Header{"Authorization": {"Bearer " + pick(f, f.keys...)}}
	for _, p := range op.parameters {
		name, _ := p["name"].(string)
		text := fmt.Sprint(f.value(f.at(p, "schema"), 0))
		if len(text) > 2000 {
			text = text[:2000]
		}
		switch p["in"] {
		case "path":
			path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(text))
		case "query":
			if f.chance(40) {
				query.Set(name, text)
			}
		case "header":
			if clean := strings.Map(printableOnly, text); f.chance(70) {
				headers.Set(name, clean)
			}
		}
	}
	if f.chance(60) {
		headers.Set("Dialtone-Tenant", pick(f, "demo", "demo", "acme", "none", "", "..", strings.Repeat("t", 300)))
	}
	var body []byte
	if len(op.body) > 0 || f.chance(5) {
		body, _ = json.Marshal(f.value(op.body, 0))
		headers.Set("Content-Type", "application/json")
	}
	method := op.method
	if f.chance(15) {
		f.spoil(&method, &path, &body, query, headers)
	}
	r, err := http.NewRequestWithContext(ctx, method, base+path+"?"+query.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil // the client refuses to send it
	}
	r.Header = headers
	return r
}

func printableOnly(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

// spoil changes what the document does not speak of at all.
func (f *apiFuzz) spoil(method, path *string, body *[]byte, query url.Values, headers http.Header) {
	switch f.IntN(10) {
	case 0:
		*method = pick(f, "HEAD", "OPTIONS", "TRACE", "FROBNICATE", "DELETE", "POST")
	case 1:
		*path += pick(f, "/", "//", "/..", "/%2e%2e", "/%ff", "/x/y/z", ";a=b")
	case 2:
		*body = []byte(pick(f, "{", "[", "nul", "\xff\xfe", `{"a":1}{"b":2}`, strings.Repeat("[", 20000), `{"id":"a","id":"b"}`))
	case 3:
		*body = bytes.Repeat([]byte("a"), 70000)
	case 4:
		headers.Set("Content-Type", pick(f, "text/plain", "application/json; charset=latin1", ";", "application/xml"))
	case 5:
		headers.Set("Authorization", pick(f, "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "bearer "+wrongPassword))
	case 6:
		headers.Del("Authorization")
	case 7:
		headers.Set("Content-Encoding", "gzip")
	case 8:
		query.Set(pick(f, "limit", "after", "nonsense", "phase", "from"), pick(f, "-1", "999999999999999999999", "\x00", "yesterday", "ended"))
	case 9:
		headers.Set("Last-Event-ID", pick(f, "-1", "x", "18446744073709551616", strings.Repeat("9", 500)))
	}
}

// Requests out of the API's own document, right and wrong, with many keys: the answer is
// what was asked for, or a problem that says what is wrong; a 503 at most says that it is
// too much at once. Afterwards the node takes calls.
func TestBadDayAPI(t *testing.T) {
	t.Parallel()
	seed := uint64(1)
	if text := os.Getenv(seedVariable); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	defer func() {
		if t.Failed() {
			t.Logf("repeat with: %s=%d go test -run '^%s$' ./server/app", seedVariable, seed, t.Name())
		}
	}()
	c := startChild(t, t.TempDir())
	f := newAPIFuzz(t, c.ask(t, "GET", "/openapi.json", "", 200), seed)
	f.keys = []string{secretOperator, "an-unknown-key"}
	for i := range 12 { // each key has a rate of its own
		body := c.ask(t, "POST", "/v1/tenants", fmt.Sprintf(`{"id":"t%d","domain":"t%d.example","name":"T"}`, i, i), 201)
		var made struct {
			Key string `json:"api_key"`
		}
		if err := json.Unmarshal([]byte(body), &made); err != nil || made.Key == "" {
			t.Fatalf("no key in %s", body)
		}
		f.keys = append(f.keys, made.Key)
	}
	client := http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	statuses := map[int]int{}
	for range 4000 {
		status, err := f.one(t, c, &client)
		if err != nil {
			t.Fatalf("the connection broke: %v", err)
		}
		if statuses[status]++; t.Failed() {
			return
		}
	}
	t.Logf("4000 requests, by status: %v", statuses)
	for _, status := range []int{200, 201, 204, 400, 401, 404} {
		if statuses[status] == 0 {
			t.Errorf("no request was answered with %d: the fuzz does not reach far", status)
		}
	}
	c.rawHTTP(t)
	h := c.furnish(t, "after-the-fuzz")
	h.talk(t, "after", "127.0.0.1", h.agent(t, "1001")).hangUp(t)
	c.oneCDR(t, h.tenant, "after")
}

// one sends one request and judges its answer.
func (f *apiFuzz) one(t *testing.T, c *child, client *http.Client) (int, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r := f.request(ctx, c.banner.HTTP)
	if r == nil {
		return 0, nil
	}
	reply, err := client.Do(r)
	if err != nil {
		return 0, fmt.Errorf("%s %.200s: %w", r.Method, r.URL, err)
	}
	defer reply.Body.Close()
	if strings.HasPrefix(reply.Header.Get("Content-Type"), "text/event-stream") {
		return reply.StatusCode, nil // it would never end
	}
	content, err := io.ReadAll(reply.Body)
	if err != nil {
		return 0, err
	}
	c.keepAnswer(content)
	complain := func(format string, args ...any) {
		body, _ := io.ReadAll(must(r.GetBody()))
		t.Errorf("%s %.300s %v\n%.600s\nwas answered with %d %v\n%.600s\n%s", r.Method, r.URL, r.Header, body, reply.StatusCode, reply.Header, content, fmt.Sprintf(format, args...))
	}
	status := reply.StatusCode
	if status >= 500 && (status != 503 || reply.Header.Get("Retry-After") == "") {
		complain("a 5xx")
	}
	if status == 429 && reply.Header.Get("Retry-After") == "" {
		complain("no Retry-After")
	}
	if status < 400 || r.Method == http.MethodHead {
		return status, nil
	}
	var problem struct {
		Type, Title, Detail string
		Status              int
		RequestID           string `json:"request_id"`
	}
	if media := reply.Header.Get("Content-Type"); media != "application/problem+json" {
		complain("%s is not application/problem+json", media)
	} else if err := json.Unmarshal(content, &problem); err != nil || problem.Status != status || problem.Type == "" || problem.Title == "" ||
		problem.Detail == "" || problem.RequestID == "" || problem.RequestID != reply.Header.Get("X-Request-Id") {
		complain("not a whole problem: %v", err)
	}
	return status, nil
}

func must(body io.ReadCloser, err error) io.Reader {
	if err != nil {
		return strings.NewReader(err.Error())
	}
	return body
}

// rawHTTP sends what no HTTP client would.
func (c *child) rawHTTP(t *testing.T) {
	t.Helper()
	for _, text := range []string{
		"\x00\x01\x02\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", "POST /v1/tenants HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", "GET /" + strings.Repeat("x", 1<<20) + " HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 1<<20) + "\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"INVITE sip:5000@demo.localhost SIP/2.0\r\n\r\n", "CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n", "GET http://169.254.169.254/ HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.DialTimeout("tcp4", strings.TrimPrefix(c.banner.HTTP, "http://"), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		answer := make([]byte, 64)
		n, _ := io.ReadFull(conn, answer)
		_ = conn.Close()
		if status := string(answer[:n]); strings.HasPrefix(status, "HTTP/1.1 5") && !strings.HasPrefix(status, "HTTP/1.1 505") && !strings.HasPrefix(status, "HTTP/1.1 501") {
			t.Errorf("%.60q was answered with %q", text, status)
		}
	}
}
