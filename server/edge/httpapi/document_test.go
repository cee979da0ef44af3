package httpapi

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
	"github.com/getkin/kin-openapi/openapi3"
	"github.com/gorilla/mux"
)

func createFor(id core.TenantID) command.CreateTenant {
	t := tenant.DefaultTenant()
	t.ID, t.Domain = id, string(id)+".example"
	return command.CreateTenant{Tenant: t, Key: core.HashKey(key(string(id)))}
}

// The document is valid OpenAPI 3.1, examples included.
func TestDocumentIsValid(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(document())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background(), openapi3.EnableExamplesValidation()); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %s", doc.OpenAPI)
	}
	c := newContract(t)
	// A comma that YAML takes for the end of a text would leave a member without a value.
	var search func(at string, v any)
	search = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			schema, _ := v["schema"].(map[string]any)
			if ref, ok := schema["$ref"].(string); ok && v["example"] != nil {
				if err := c.at(strings.TrimPrefix(ref, "#")).Validate(v["example"]); err != nil {
					t.Errorf("%s: the example is not valid: %v", at, err)
				}
			}
			for name, sub := range v {
				search(at+"/"+name, sub)
			}
		case []any:
			for i, sub := range v {
				search(fmt.Sprintf("%s/%d", at, i), sub)
			}
		case nil:
			if !strings.Contains(at, "example") {
				t.Errorf("%s has no value", at)
			}
		}
	}
	search("", c.doc)
}

// Every route is in the document and the other way round, with the same parameters.
func TestDocumentMatchesRoutes(t *testing.T) {
	c := newContract(t)
	want := map[string]bool{}
	for path, item := range c.doc["paths"].(map[string]any) {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				want[strings.ToUpper(method)+" "+path] = true
			}
		}
	}
	got := map[string]bool{}
	a := New(Config{})
	defer a.Close()
	_ = a.router.Walk(func(r *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, _ := r.GetPathTemplate()
		methods, _ := r.GetMethods()
		for _, m := range methods {
			if m != http.MethodHead {
				got[m+" "+path] = true
			}
		}
		return nil
	})
	if !maps.Equal(got, want) {
		t.Errorf("routes   %v\ndocument %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	for _, r := range a.routes {
		op := c.get("paths", r.path, strings.ToLower(r.method)).(map[string]any)
		var query []string
		params, _ := op["parameters"].([]any)
		for i := range params {
			p := params[i].(map[string]any)
			if ref, ok := p["$ref"].(string); ok {
				p = c.get(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...).(map[string]any)
			}
			if p["in"] == "query" {
				query = append(query, p["name"].(string))
			}
		}
		if !slices.Equal(query, r.query) {
			t.Errorf("%s %s: document has query %v, route %v", r.method, r.path, query, r.query)
		}
		if _, open := op["security"]; open != r.open {
			t.Errorf("%s %s: document says open %v", r.method, r.path, open)
		}
		if _, body := op["requestBody"]; body != r.body && r.path != "/v1/interactions/{id}/hangup" {
			t.Errorf("%s %s: document says body %v", r.method, r.path, body)
		}
		if op["summary"] == "" || op["description"] == "" || op["operationId"] == "" {
			t.Errorf("%s %s is not described", r.method, r.path)
		}
	}
}

// Every operation has a curl example, and it works as it stands: the examples build
// a tenant up, in the order below, and take it down again.
func TestCurlExamples(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Metrics = http.NotFoundHandler(); c.Heartbeat = 1 << 50 })
	live := command.Interaction{Phase: "queued", CDR: record("acme", "int_01k9zj3v4d8q2m5x7c1b0b")}
	live.Termination = core.Termination{}
	w.records.all = []core.CDR{record("acme", "int_01k9zj3v4d8q2m5x7c1b0a")}
	w.core.between(func() {
		delete(w.core.tenants, "acme")
	})
	first := []string{"createTenant", "putQueue", "putAgent", "putNumber"}
	last := []string{"deleteNumber", "deleteAgent", "deleteQueue", "deleteTenant"}
	samples := map[string]string{}
	for _, item := range w.doc.doc["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			if op, ok := op.(map[string]any); ok && method != "parameters" {
				samples[op["operationId"].(string)] = op["x-codeSamples"].([]any)[0].(map[string]any)["source"].(string)
			}
		}
	}
	var middle []string
	for _, id := range slices.Sorted(maps.Keys(samples)) {
		if !slices.Contains(first, id) && !slices.Contains(last, id) && id != "streamEvents" && id != "getMetrics" {
			middle = append(middle, id)
		}
	}
	acme := key("acme")
	for _, id := range slices.Concat(first, middle, last) {
		r := curl(t, samples[id], acme)
		if a := w.send(r); a.status >= 300 {
			t.Errorf("%s: %s\n%d %s", id, samples[id], a.status, a.body)
		} else if id == "createTenant" {
			var made struct {
				Key string `json:"api_key"`
			}
			a.json(&made)
			acme = made.Key
			w.core.between(func() { w.core.tenants["acme"].live[string(live.ID)] = live })
		}
	}
}

// curl makes the request that a curl line would.
func curl(t *testing.T, line, key string) *http.Request {
	t.Helper()
	words := shell(strings.NewReplacer("$KEY", key, "$OPERATOR_KEY", operatorKey).Replace(line))
	if words[0] != "curl" {
		t.Fatalf("%q is not curl", line)
	}
	method, url, body, header := "GET", "", "", http.Header{}
	for i := 1; i < len(words); i++ {
		switch words[i] {
		case "-N":
		case "-X":
			i++
			method = words[i]
		case "-d":
			i++
			body = words[i]
		case "-H":
			i++
			name, value, _ := strings.Cut(words[i], ": ")
			header.Set(name, value)
		default:
			url = words[i]
		}
	}
	r := newRequest(method, url, body)
	if r.Header = header; header.Get("Content-Type") == "" && body != "" {
		header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl does
	}
	return r
}

// shell splits a line as a shell does, as far as the examples need it.
func shell(line string) []string {
	var words []string
	word, quote, in := "", rune(0), false
	for _, c := range strings.TrimSpace(line) + " " {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, in = c, true
		case quote == 0 && c == ' ':
			if in {
				words = append(words, word)
			}
			word, in = "", false
		default:
			word, in = word+string(c), true
		}
	}
	return words
}
