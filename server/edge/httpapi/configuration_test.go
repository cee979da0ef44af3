package httpapi

import (
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// A PUT states the whole: absent members get the defaults of package tenant, given ones
// come back as they were sent.
func TestPutQueue(t *testing.T) {
	w := newWorld(t, nil)
	var q tenant.Queue
	w.want(201, "PUT", "/v1/queues/support", `{"ring_timeout_s":5,"wrap_up_s":2.5,"skills":{"english":3},"overflow":{"after_s":30,"queue":"other"}}`).json(&q)
	want := tenant.DefaultQueue()
	want.ID, want.RingTimeoutS, want.WrapUpS, want.Skills = "support", 5, 2.5, map[string]int{"english": 3}
	want.Overflow = &tenant.Overflow{AfterS: 30, Queue: "other"}
	if !reflect.DeepEqual(q, want) {
		t.Errorf("%+v, want %+v", q, want)
	}
	w.want(200, "PUT", "/v1/queues/support", `{"id":"support","max_waiting":2e1,"overflow":null}`).json(&q)
	q = tenant.Queue{}
	w.want(200, "GET", "/v1/queues/support", "").json(&q)
	if q.RingTimeoutS != 20 || q.MaxWaiting != 20 || q.Overflow != nil || q.Skills != nil {
		t.Errorf("%+v", q)
	}
	w.want(201, "PUT", "/v1/numbers/5000", `{"queue":"support"}`)
	w.want(409, "DELETE", "/v1/queues/support", "")
	w.want(204, "DELETE", "/v1/numbers/5000", "")
	w.want(204, "DELETE", "/v1/queues/support", "")
	w.want(404, "GET", "/v1/queues/support", "")
	w.want(404, "GET", "/v1/queues/support/realtime", "")
}

// Each error names its member by a JSON pointer (RFC 6901), all of them at once.
func TestRefusedMembers(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct{ method, path, body, pointers string }{
		{"PUT", "/v1/queues/a", `{"strategy":1,"ring_timeout_s":"5","max_waiting":1.5,"welcome_first":"yes","skills":[],"overflow":7}`,
			"/max_waiting /overflow /ring_timeout_s /skills /strategy /welcome_first"},
		{"PUT", "/v1/queues/a", `{"Strategy":"longest_idle","a/b~c":1}`, "/Strategy /a~1b~0c"},
		{"PUT", "/v1/queues/a", `{"overflow":{"after_s":null,"then":1}}`, "/overflow/after_s /overflow/then"},
		{"PUT", "/v1/queues/a", `{"skills":{"x":"3","y":11}}`, "/skills/x"},
		{"PUT", "/v1/queues/a", `{"ring_timeout_s":0,"ageing_s":-1}`, "/ageing_s /ring_timeout_s"}, // said by the core
		{"PUT", "/v1/queues/a", `{"ring_timeout_s":1e999}`, "/ring_timeout_s"},
		{"PUT", "/v1/queues/a", `{"id":"b"}`, "/id"},
		{"PUT", "/v1/queues/a", `{"music":null}`, "/music"},
		{"PUT", "/v1/agents/a", `{"queues":["x",1,null],"state":"idle"}`, "/queues/1 /queues/2 /state"},
		{"PUT", "/v1/agents/a", `{"queues":null}`, "/queues"},
		{"PUT", "/v1/agents/a/status", `{"status":"asleep"}`, "/status"},
		{"PUT", "/v1/agents/a/status", `{"status":"ready","reason":7}`, "/reason"},
		{"PUT", "/v1/numbers/5", `{"number":"6","queue":"a"}`, "/number"},
		{"POST", "/v1/tenants", `{"id":"x","domain":"x.example","sources":["here","10.0.0.0/8"],"keys":[]}`, "/keys /sources/0"},
		{"PATCH", "/v1/tenants/acme", `{"id":"x","name":null,"limits":{"max_calls":"many"}}`, "/id /limits/max_calls /name"},
		{"PUT", "/v1/queues/a", `[]`, ""},
		{"PUT", "/v1/queues/a", `"x"`, ""},
		{"PUT", "/v1/queues/a", `{"music":"a","music":"b"}`, ""},
		{"PUT", "/v1/queues/a", `{} {}`, ""},
		{"PUT", "/v1/queues/a", "{\"music\":\"\xff\"}", ""},
		{"PUT", "/v1/queues/a", strings.Repeat(`{"overflow":`, 20) + "1" + strings.Repeat("}", 20), ""},
		{"PUT", "/v1/queues/a", strings.Repeat("[", 30000), ""},
	} {
		p := w.want(400, c.method, c.path, c.body, as(c.path)).problem()
		var got []string
		for _, e := range p.Errors {
			got = append(got, *e.Pointer)
		}
		if slices.Sort(got); strings.Join(got, " ") != c.pointers {
			t.Errorf("%s: %q, want %q", c.body[:min(len(c.body), 80)], got, c.pointers)
		}
	}
	many := `{"` + strings.Repeat(`x":1,"`, 1)
	for i := range 100 {
		many += fmt.Sprintf(`m%d":1,"`, i)
	}
	if p := w.want(400, "PUT", "/v1/queues/a", many+`z":1}`).problem(); len(p.Errors) != mostComplaint {
		t.Errorf("%d complaints", len(p.Errors))
	}
}

func as(path string) func(*http.Request) {
	if strings.HasPrefix(path, "/v1/tenants") {
		return asOperator
	}
	return with("Accept", "*/*")
}

func TestAgentAndStatus(t *testing.T) {
	w := newWorld(t, nil)
	w.want(201, "PUT", "/v1/agents/1001", `{"name":"Ada","password":"pw","ready_on_register":true}`)
	a := w.want(200, "PUT", "/v1/agents/1001/status", `{"status":"not_ready","reason":"lunch"}`)
	var v struct{ Status, Reason, State string }
	if a.json(&v); v.Status != "not_ready" || v.Reason != "lunch" || v.State != "idle" {
		t.Errorf("%s", a.body)
	}
	if a := w.want(200, "GET", "/v1/agents/1001", ""); !strings.Contains(string(a.body), `"queues":[]`) {
		t.Errorf("no queues must be an empty array: %s", a.body)
	}
	w.want(404, "PUT", "/v1/agents/9/status", `{"status":"ready"}`)
	w.want(204, "DELETE", "/v1/agents/1001", "")
}

// A number may hold + and escaped characters; the path is taken as it was sent.
func TestNumberInPath(t *testing.T) {
	w := newWorld(t, nil)
	w.want(201, "PUT", "/v1/queues/q", "{}")
	for _, path := range []string{"/v1/numbers/+4930123", "/v1/numbers/%2B4930123"} {
		w.want(map[bool]int{true: 201, false: 200}[path[12] == '+'], "PUT", path, `{"queue":"q","number":"+4930123"}`)
	}
	var n tenant.Number
	if w.want(200, "GET", "/v1/numbers/%2b4930123", "").json(&n); n.Number != "+4930123" {
		t.Errorf("%+v", n)
	}
}

func TestTenantLife(t *testing.T) {
	w := newWorld(t, nil)
	a := w.want(201, "POST", "/v1/tenants", `{"id":"new","domain":"new.example","name":"New","sources":["10.0.0.0/8"]}`, asOperator)
	var made struct {
		Key    string `json:"api_key"`
		Limits tenant.Limits
	}
	a.json(&made)
	if a.header.Get("Location") != "/v1/tenants/new" || made.Limits.MaxCalls != 5000 {
		t.Errorf("%v %s", a.header, a.body)
	}
	w.want(200, "GET", "/v1/agents", "", with("Authorization", "Bearer "+made.Key))
	w.want(409, "POST", "/v1/tenants", `{"id":"new","domain":"new2.example"}`, asOperator)
	w.want(404, "POST", "/v1/tenants", `{"id":"mine","domain":"mine.example"}`)
	a = w.want(200, "PATCH", "/v1/tenants/new", `{"name":"Newer","limits":{"max_calls":7},"sources":["192.0.2.0/24"]}`, asOperator)
	var v tenant.Tenant
	if a.json(&v); v.Name != "Newer" || v.Limits != (tenant.Limits{MaxCalls: 7, CallsPerSecond: 1000}) || v.Domain != "new.example" {
		t.Errorf("%s", a.body)
	}
	w.want(204, "DELETE", "/v1/tenants/new", "", asOperator)
	w.want(404, "GET", "/v1/tenants/new", "", asOperator)
	w.want(401, "GET", "/v1/agents", "", with("Authorization", "Bearer "+made.Key))
}

// Following next visits each entry once, in order, and ends.
func TestPages(t *testing.T) {
	w := newWorld(t, nil)
	var want []string
	for i := range 120 {
		id := fmt.Sprintf("q%03d", i)
		w.want(201, "PUT", "/v1/queues/"+id, "{}")
		w.records.all = append(w.records.all, record("acme", fmt.Sprintf("int_%03d", i)))
		want = append(want, id)
	}
	for _, limit := range []string{"", "&limit=1", "&limit=7", "&limit=60", "&limit=100"} {
		if got := walk(w, "/v1/queues?after=", limit); !slices.Equal(got, want) {
			t.Errorf("%s: %v", limit, got)
		}
		if got := walk(w, "/v1/interactions?phase=ended&after=", limit); len(got) != 120 || got[0] != "int_119" || got[119] != "int_000" {
			t.Errorf("%s: %v", limit, got)
		}
	}
	if a := w.want(200, "GET", "/v1/numbers", ""); !strings.HasPrefix(string(a.body), `{"data":[],"has_more":false}`) {
		t.Errorf("an empty page: %s", a.body)
	}
}

func walk(w *world, path, limit string) []string {
	var all []string
	for after := ""; ; {
		var p struct {
			Data []struct{ ID string }
			More bool `json:"has_more"`
			Next string
		}
		w.want(200, "GET", path+after+limit, "").json(&p)
		for _, d := range p.Data {
			all = append(all, d.ID)
		}
		if !p.More || len(all) > 1000 {
			return all
		}
		after = p.Next
	}
}

func TestNewKey(t *testing.T) {
	form, seen := regexp.MustCompile(`^dt_live_[0-9A-Za-z]{49}$`), map[string]bool{}
	for range 1000 {
		k := NewKey()
		if !form.MatchString(k) || seen[k] {
			t.Fatalf("%s", k)
		}
		seen[k] = true
	}
	if len(core.HashKey(NewKey())) != 64 {
		t.Error("hash")
	}
}

// FuzzDecode: no body brings the decoder down, and what it refuses it explains.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"overflow":{"after_s":1}}`, `{"skills":{"a":1}}`, `[1,`, `{"a":1,"a":2}`, "\"\\ud800\"", `{"max_waiting":1e400}`, ` { } x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var q tenant.Queue
		p := decode(body, members{"strategy": text(&q.Strategy), "ring_timeout_s": number(&q.RingTimeoutS), "max_waiting": integer(&q.MaxWaiting),
			"skills": proficiencies(&q.Skills), "overflow": overflow(&q.Overflow), "welcome_first": flag(&q.WelcomeFirst)})
		if p == nil {
			return
		}
		if len(p.Errors) == 0 || len(p.Errors) > mostComplaint {
			t.Fatalf("%d errors", len(p.Errors))
		}
		for _, e := range p.Errors {
			if e.Detail == "" || (*e.Pointer != "" && (*e.Pointer)[0] != '/') {
				t.Fatalf("%q %q", *e.Pointer, e.Detail)
			}
		}
	})
}
