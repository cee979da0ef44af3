package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// generator draws requests from the OpenAPI document: mostly what its schemas allow, at
// and next to their bounds, then with a member or two changed. Whether a body is valid the
// schema itself says; so document and code are held against each other.
type generator struct {
	*rapid.T
	doc *contract
	id  string // of the path: what a body's id mostly equals
}

func (g generator) one(label string, of ...string) string {
	return rapid.SampledFrom(of).Draw(g.T, label)
}

func (g generator) chance(percent int, label string) bool {
	return rapid.IntRange(0, 99).Draw(g.T, label) >= 100-percent
}

// value draws a value of a schema.
func (g generator) value(s map[string]any, label string) any {
	if ref, ok := s["$ref"].(string); ok {
		return g.value(g.doc.get(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...).(map[string]any), label)
	}
	if enum, ok := s["enum"].([]any); ok {
		return enum[rapid.IntRange(0, len(enum)-1).Draw(g.T, label)]
	}
	kind, _ := s["type"].(string)
	if kinds, ok := s["type"].([]any); ok {
		kind = kinds[rapid.IntRange(0, len(kinds)-1).Draw(g.T, label)].(string)
	}
	switch kind {
	case "string":
		return g.text(s, label)
	case "integer", "number":
		return g.number(s, kind, label)
	case "boolean":
		return rapid.Bool().Draw(g.T, label)
	case "array":
		list := []any{}
		for i := range rapid.IntRange(0, 3).Draw(g.T, label) {
			list = append(list, g.value(s["items"].(map[string]any), fmt.Sprint(label, i)))
		}
		return list
	case "object":
		return g.object(s, label)
	}
	return nil
}

func (g generator) text(s map[string]any, label string) string {
	if examples, ok := s["examples"].([]any); ok {
		return examples[rapid.IntRange(0, len(examples)-1).Draw(g.T, label)].(string)
	}
	most, _ := s["maxLength"].(json.Number)
	n, _ := strconv.Atoi(string(most))
	pattern, _ := s["pattern"].(string)
	switch {
	case g.chance(10, label+" longest") && n > 0:
		return strings.Repeat("a", n)
	case pattern == "":
		return rapid.StringN(0, 20, -1).Draw(g.T, label)
	case strings.HasPrefix(pattern, "^[^"): // free text: rapid would draw from all of Unicode
		return rapid.StringOfN(rapid.SampledFrom([]rune("aZ 9é€\"\\/<")), 1, 40, -1).Draw(g.T, label)
	}
	return rapid.StringMatching(pattern).Draw(g.T, label)
}

func (g generator) number(s map[string]any, kind, label string) any {
	least, _ := strconv.ParseFloat(fmt.Sprint(s["minimum"]), 64)
	most, err := strconv.ParseFloat(fmt.Sprint(s["maximum"]), 64)
	if err != nil {
		most = least + 1000
	}
	v := least + (most-least)*float64(rapid.IntRange(0, 1000).Draw(g.T, label))/1000
	switch g.one(label+" at", "least", "most", "between", "between", "below", "above") {
	case "least":
		v = least
	case "most":
		v = most
	case "below":
		v = least - 1
	case "above":
		v = most + 1
	}
	if kind == "integer" {
		return int(v)
	}
	return v
}

func (g generator) object(s map[string]any, label string) map[string]any {
	o := map[string]any{}
	required, _ := s["required"].([]any)
	properties, _ := s["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		must := slices.Contains(required, any(name))
		if must && g.chance(97, label+name) || !must && g.chance(35, label+name) {
			o[name] = g.value(properties[name].(map[string]any), label+"/"+name)
			if (name == "id" || name == "number") && g.chance(80, "the path's") {
				o[name] = g.id
			}
		}
	}
	if rest, ok := s["additionalProperties"].(map[string]any); ok {
		for range rapid.IntRange(0, 2).Draw(g.T, label+" rest") {
			name := g.text(s["propertyNames"].(map[string]any), label+" name")
			o[name] = g.value(rest, label+" value")
		}
	}
	return o
}

// mutate changes one place of a value into what the document does not foresee.
func (g generator) mutate(v any) any {
	if o, ok := v.(map[string]any); ok && len(o) > 0 && g.chance(80, "into") {
		name := g.one("member", slices.Sorted(maps.Keys(o))...)
		switch g.one("how", "change", "change", "remove", "rename", "case") {
		case "change":
			o[name] = g.mutate(o[name])
		case "remove":
			delete(o, name)
		case "rename":
			o[name+"x"] = o[name]
		case "case":
			o[strings.ToUpper(name)] = o[name]
		}
		return o
	}
	return rapid.SampledFrom([]any{nil, true, 0, -1, 0.5, 1e300, json.Number("1e999"), json.Number("20.0"), "", "x", "..", "a/b", strings.Repeat("é", 500),
		"nul\x00", []any{}, []any{nil}, []any{"a", "a"}, map[string]any{}, map[string]any{"x": 1}, map[string]any{"": nil}}).Draw(g.T, "odd")
}

// body draws a body of an operation and tells whether its schema allows it.
func (g generator) body(r *route) (string, bool) {
	if g.chance(3, "junk") {
		return g.one("text", "{", "null", "[]", "\"\"", "{}{}", "\xff", `{"a":1,"a":2}`, strings.Repeat(" ", longestBody+1), strings.Repeat("[", 5000)), false
	}
	schema := g.doc.get("paths", r.path, strings.ToLower(r.method), "requestBody", "content", "application/json", "schema").(map[string]any)
	v := g.value(schema, "")
	for range max(0, rapid.IntRange(-3, 2).Draw(g.T, "mutations")) {
		v = g.mutate(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		g.Fatalf("%v", err)
	}
	var again any
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.UseNumber()
	if err := d.Decode(&again); err != nil {
		g.Fatalf("%v", err)
	}
	pointer := "/paths/" + strings.ReplaceAll(r.path, "/", "~1") + "/" + strings.ToLower(r.method) + "/requestBody/content/application~1json/schema"
	return string(b), g.doc.at(url.PathEscape(pointer)).Validate(again) == nil
}

func (g generator) query(r *route) string {
	q := url.Values{}
	for _, name := range r.query {
		if g.chance(25, name) {
			q.Set(name, g.one("value of "+name, "1", "100", "50", "0", "101", "-1", "x", "", "live", "ended", "a", "2026-11-21T08:00:00Z", "2026-11-21T08:00:00.5+01:00", "9999-12-31T00:00:00Z"))
		}
	}
	text := q.Encode()
	if g.chance(3, "odd query") {
		text += g.one("odd", "&x=1", "&limit=1&limit=2", "&%zz", ";", "&=")
	}
	return text
}

// Whatever is sent: never a 500 or a panic, each answer as documented, each error a problem
// (all that world.send checks), what the schema forbids is never carried out, and what it
// allows is never refused as malformed.
func TestAPIFuzz(t *testing.T) {
	doc := newContract(t)
	table := slices.DeleteFunc(routes(), func(r route) bool { return r.path == "/v1/events" })
	for _, r := range routes() {
		if r.body { // these have more to get wrong
			table = append(table, r, r, r, r)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		g := generator{T: rt, doc: doc}
		w := makeWorld(rt, doc, nil)
		defer w.close()
		w.live("int_1")
		w.records.all = append(w.records.all, record("acme", "a"), record("other", "b"))
		for range rapid.IntRange(1, 150).Draw(rt, "requests") {
			r := &table[rapid.IntRange(0, len(table)-1).Draw(rt, "route")]
			id := g.one("id", "a", "a", "b", "A-1", "acme", "other", "int_1", "not-found")
			if g.chance(10, "odd id") {
				id = g.one("odd id", ".", "..", "%00", "%2F", "%zz", "é", "%C3%28", strings.Repeat("x", 65), strings.Repeat("x", 256), "a%20b")
			}
			g.step(w, r, id)
		}
	})
}

// Body by body, what the schemas allow is what the code and package tenant accept.
func TestBodiesMatchDocument(t *testing.T) {
	w := newWorld(t, nil)
	for _, r := range w.api.routes {
		if !r.body {
			continue
		}
		id := map[bool]string{true: "acme", false: "a"}[strings.HasPrefix(r.path, "/v1/tenants")]
		path := strings.ReplaceAll(r.path, "{id}", id)
		w.do("PUT", "/v1/agents/a", "{}")
		t.Run(r.method+r.path, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				g := generator{T: rt, doc: w.doc, id: id}
				for range 4 {
					w.t = rt
					body, valid := g.body(&r)
					a := w.do(r.method, path, body, as(path))
					switch {
					case !valid && a.status < 300:
						rt.Fatalf("%s: carried out, but the document forbids it: %d %s", body, a.status, a.body)
					case valid && a.status == 400 && !excused(a, body, id):
						rt.Fatalf("%s: the document allows it: %s", body, a.body)
					}
				}
			})
		})
	}
	w.t = t
}

func (g generator) step(w *world, r *route, id string) {
	who := g.one("who", "acme", "acme", "acme", "acme", "acme", "acme", "operator", "operator for acme", "nobody", "unknown")
	if strings.HasPrefix(r.path, "/v1/tenants") && who == "acme" {
		who = "operator"
	}
	g.id = id
	body, valid := "", true
	if r.body || (r.method == http.MethodPost && g.chance(50, "body")) {
		body, valid = g.body(r)
	}
	raw := g.query(r)
	path := strings.ReplaceAll(r.path, "{id}", id)
	target, err := url.Parse(path + map[bool]string{true: "", false: "?"}[raw == ""] + raw)
	if err != nil {
		return // the server would not get to see it
	}
	req := newRequest(r.method, "/", body, g.identity(who))
	req.URL = target
	if g.chance(3, "media") {
		req.Header.Set("Content-Type", g.one("media type", "", "text/plain", "application/json;charset=utf-8", "application/json;charset=x", ";"))
		valid = valid && body == ""
	}
	if g.chance(10, "idempotency") {
		req.Header.Set(idempotencyHeader, g.one("name", "k1", "k2", strings.Repeat("k", 255), strings.Repeat("k", 256), " ", "é"))
	}
	if g.chance(2, "method") {
		req.Method = g.one("another", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW")
	}
	a := w.send(req)
	if req.Method != r.method {
		return
	}
	if !valid && a.status < 300 && body != "" && a.header.Get("Idempotent-Replayed") == "" && req.Header.Get("Content-Type") == "application/json" {
		g.Fatalf("%s %s %s: carried out, but the document forbids it: %d %s", r.method, target, body, a.status, a.body)
	}
	if valid && a.status == 400 && r.body && !excused(a, body, id) {
		g.Fatalf("%s %s %s: the document allows it: %s", r.method, target, body, a.body)
	}
}

var plainID = regexp.MustCompile(`^[0-9A-Za-z._-]{1,32}$`)

// excused: what a schema of one body cannot say. The id is the path's; a length is in bytes;
// a queue's overflow is another queue; a network has no bits beyond its length.
func excused(a answered, body, id string) bool {
	if !plainID.MatchString(id) || id == "." || id == ".." || len(body) != utf8.RuneCountInString(body) {
		return true
	}
	p := a.problem()
	for _, e := range p.Errors {
		if e.Parameter != nil || *e.Pointer == "/id" || *e.Pointer == "/number" || *e.Pointer == "/overflow/queue" {
			return true
		}
	}
	return strings.Contains(p.Detail, "query") || strings.Contains(p.Detail, tenantHeader)
}

func (g generator) identity(who string) func(*http.Request) {
	return func(r *http.Request) {
		switch who {
		case "operator":
			asOperator(r)
		case "operator for acme":
			asOperator(r)
			r.Header.Set(tenantHeader, "acme")
		case "nobody":
			r.Header.Del("Authorization")
		case "unknown":
			r.Header.Set("Authorization", g.one("key", "Bearer x", "Bearer", "Basic Zm9v", "bearer  ", "Bearer a b", "Bearer é"))
		}
	}
}
