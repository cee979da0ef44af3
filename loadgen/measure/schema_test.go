package measure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t *testing.T, part string) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("urn:dialtone:loadgen:1", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("urn:dialtone:loadgen:1" + part)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func asJSON(t *testing.T, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func fullResult(t *testing.T) *Result {
	t.Helper()
	r, err := recorded(someCalls(4, 60))
	if err != nil {
		t.Fatal(err)
	}
	r.Calls = &CallsFile{Name: "calls.jsonl", Lines: 60, Bytes: 9, SHA256: strings.Repeat("0a", 32)}
	r.Verdicts = []Verdict{{SLO: "dropped==0", Metric: "dropped", Passed: true, Samples: 60, Reason: "0"}}
	return r
}

func TestSchemaAcceptsResultsAndCalls(t *testing.T) {
	result, call := compiled(t, ""), compiled(t, "#/$defs/call")
	if err := result.Validate(asJSON(t, fullResult(t))); err != nil {
		t.Error(err)
	}
	empty, err := NewRecorder().Result(soundRun())
	if err != nil {
		t.Fatal(err)
	}
	if err := result.Validate(asJSON(t, empty)); err != nil {
		t.Errorf("a run without calls: %v", err)
	}
	for _, c := range someCalls(6, 60) {
		if err := call.Validate(asJSON(t, c)); err != nil {
			t.Error(err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	result, call := compiled(t, ""), compiled(t, "#/$defs/call")
	in := func(doc any, path ...string) map[string]any {
		m := doc.(map[string]any)
		for _, key := range path {
			m = m[key].(map[string]any)
		}
		return m
	}
	for name, spoil := range map[string]func(any){
		"an unknown field":    func(d any) { in(d)["colour"] = "red" },
		"another version":     func(d any) { in(d)["schema"] = "dialtone.loadgen/2" },
		"a missing metric":    func(d any) { delete(in(d, "metrics"), Setup) },
		"an unknown metric":   func(d any) { in(d, "metrics")["nonsense"] = in(d, "metrics", Setup) },
		"an unknown unit":     func(d any) { in(d, "metrics", Setup)["unit"] = "hours" },
		"a negative count":    func(d any) { in(d, "counts")["offered"] = json.Number("-1") },
		"a text for a number": func(d any) { in(d, "pacing")["cpu_seconds"] = "many" },
		"an unlabelled part":  func(d any) { in(d, "budget", "network")["how"] = "guessed" },
		"no validity":         func(d any) { delete(in(d), "valid") },
		"a time of day":       func(d any) { in(d)["started"] = "noon" },
	} {
		doc := asJSON(t, fullResult(t))
		spoil(doc)
		if result.Validate(doc) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	for name, spoil := range map[string]func(any){
		"an unknown outcome": func(d any) { in(d)["outcome"] = "lost" },
		"a moment before":    func(d any) { in(d)["due_us"] = json.Number("-2") },
		"no index":           func(d any) { delete(in(d), "index") },
		"half a pair":        func(d any) { in(d, "caller_hears")["latency_us_counts"] = []any{[]any{json.Number("5")}} },
	} {
		calls := someCalls(6, 60)
		i := slices.IndexFunc(calls, func(c Call) bool { return c.CallerEar != nil })
		doc := asJSON(t, calls[i])
		spoil(doc)
		if call.Validate(doc) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

// The schema and the Go types name the same fields, and the schema lists every metric.
func TestSchemaNamesWhatIsWritten(t *testing.T) {
	type object struct {
		Properties map[string]any `json:"properties"`
		Required   []string       `json:"required"`
	}
	var doc struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(Schema()), &doc); err != nil {
		t.Fatal(err)
	}
	check := func(where string, o object, of any) {
		var all, always []string
		for f := range reflect.TypeOf(of).Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			all = append(all, name)
			if options == "" {
				always = append(always, name)
			}
		}
		got := sortedKeys(o.Properties)
		slices.Sort(all)
		slices.Sort(always)
		slices.Sort(o.Required)
		if !slices.Equal(got, all) {
			t.Errorf("%s: the schema has %v, the type %v", where, got, all)
		}
		if !slices.Equal(o.Required, always) {
			t.Errorf("%s: the schema requires %v, the type always writes %v", where, o.Required, always)
		}
	}
	check("result", doc.object, Result{})
	for name, of := range map[string]any{"generator": Generator{}, "machine": Machine{}, "limits": Limits{}, "verdict": Verdict{}, "counts": Counts{}, "distribution": Distribution{}, "media": Media{},
		"stated": Stated{}, "part": Part{}, "budget": Budget{}, "pacing": Pacing{}, "series": Series{}, "point": Point{}, "brief": Brief{}, "calls_file": CallsFile{}, "call": Call{}, "audio": Audio{}} {
		check(name, doc.Defs[name], of)
	}
	var names []string
	for _, m := range Metrics() {
		names = append(names, m.Name)
		if m.What == "" || m.Unit == "" {
			t.Errorf("metric %s does not say what it is", m.Name)
		}
	}
	slices.Sort(names)
	if got := sortedKeys(doc.Properties["metrics"].(map[string]any)["properties"].(map[string]any)); !slices.Equal(got, names) {
		t.Errorf("the schema has metrics %v, the code %v", got, names)
	}
}

func TestReadRefusesOtherDocuments(t *testing.T) {
	text, err := json.Marshal(fullResult(t))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Read(bytes.NewReader(text)); err != nil || r.Counts.Offered != 60 {
		t.Errorf("%+v (%v)", r, err)
	}
	for _, bad := range []string{"", "[]", `{"schema":"dialtone.bench/1"}`, strings.Replace(string(text), `{"schema"`, `{"colour":1,"schema"`, 1), fmt.Sprintf("%.50s", text)} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%.40q was read", bad)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
