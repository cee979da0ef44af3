package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

// RFC 9457 s.3, s.4: every error is a problem document; its type leads to an explanation.
func TestProblemForEveryError(t *testing.T) {
	w := newWorld(t, nil)
	large := `{"name":"` + strings.Repeat("x", longestBody) + `"}`
	for _, c := range []struct {
		status       int
		method, path string
		body         string
		option       func(*http.Request)
	}{
		{404, "GET", "/", "", nil},
		{404, "GET", "/v1", "", nil},
		{404, "GET", "/v1/queues/", "", nil},
		{404, "GET", "//v1/queues", "", nil}, // mux would answer 301
		{404, "GET", "/v1/../v1/queues", "", nil},
		{404, "GET", "/v1/queues/" + strings.Repeat("x", 300), "", nil},
		{404, "GET", "/v1/queues/none", "", nil},
		{404, "GET", "/v1/numbers/%2B49%2F30", "", nil},
		{404, "GET", "/problems/none", "", nil},
		{404, "GET", "/metrics", "", nil},
		{405, "POST", "/v1/queues", "", nil},
		{405, "OPTIONS", "/v1/queues", "", nil},
		{405, "BREW", "/v1/queues/a", "", nil},
		{405, "HEAD", "/v1/events", "", nil},
		{401, "GET", "/v1/queues", "", without("Authorization")},
		{401, "GET", "/v1/queues", "", with("Authorization", "Bearer nobody")},
		{401, "GET", "/v1/queues", "", with("Authorization", "Basic "+key("acme"))},
		{401, "GET", "/v1/queues?key=" + key("acme"), "", without("Authorization")},
		{401, "PUT", "/v1/queues/a", "{", with("Authorization", "Bearer nobody")},
		{401, "PUT", "/v1/queues/a", `{"no":1}`, with("Authorization", "Bearer nobody")},
		{401, "GET", "/v1/queues?limit=no", "", with("Authorization", "Bearer nobody")},
		{401, "GET", "/v1/queues?colour=red", "", with("Authorization", "Bearer nobody")},
		{401, "PUT", "/v1/queues/a", large, with("Authorization", "Bearer nobody")},
		{401, "GET", "/v1/events", "", with("Authorization", "Bearer nobody")},
		{400, "GET", "/v1/queues?limit=0", "", nil},
		{400, "GET", "/v1/queues?limit=101", "", nil},
		{400, "GET", "/v1/queues?limit=1&limit=2", "", nil},
		{400, "GET", "/v1/queues?colour=red", "", nil},
		{400, "GET", "/v1/queues?a=%zz", "", nil},
		{400, "GET", "/v1/interactions?phase=dead", "", nil},
		{400, "GET", "/v1/interactions?phase=live&queue=a", "", nil},
		{400, "GET", "/v1/interactions?from=yesterday", "", nil},
		{400, "PUT", "/v1/queues/a", "{", nil},
		{400, "PUT", "/v1/queues/a", "", nil},
		{400, "PUT", "/v1/queues/a", "[]", nil},
		{400, "PUT", "/v1/agents/a/status", "{}", nil},
		{413, "PUT", "/v1/queues/a", large, nil},
		{415, "PUT", "/v1/queues/a", "{}", with("Content-Type", "text/plain")},
		{415, "PUT", "/v1/queues/a", "{}", without("Content-Type")},
		{415, "PUT", "/v1/queues/a", "{}", with("Content-Type", "application/json; charset=latin1")},
		{415, "PUT", "/v1/queues/a", "{}", with("Content-Encoding", "gzip")},
	} {
		o := c.option
		if o == nil {
			o = func(*http.Request) {}
		}
		a := w.want(c.status, c.method, c.path, c.body, o) // checks the problem, too
		if a.status == 415 && c.body == "{}" && a.header.Get("Accept") != "application/json" {
			t.Error("a 415 must say what is accepted")
		}
		if strings.Contains(string(a.body), key("acme")) {
			t.Errorf("%s shows the key", a.body)
		}
	}
	for kind := range kinds {
		w.want(200, "GET", "/problems/"+string(kind), "")
	}
}

// RFC 9110 s.15.5.6: a 405 says which methods there are; s.9.1: GET comes with HEAD.
func TestAllow(t *testing.T) {
	w := newWorld(t, nil)
	if a := w.want(405, "POST", "/v1/queues/a", ""); a.header.Get("Allow") != "DELETE, GET, HEAD, PUT" {
		t.Errorf("Allow: %s", a.header.Get("Allow"))
	}
	if a := w.want(405, "HEAD", "/v1/events", ""); a.header.Get("Allow") != "GET" {
		t.Errorf("Allow: %s", a.header.Get("Allow"))
	}
}

// RFC 6750 s.3: 401 carries a Bearer challenge, without an error code when no key was shown.
func TestChallenge(t *testing.T) {
	w := newWorld(t, nil)
	a := w.want(401, "GET", "/v1/queues", "", without("Authorization"))
	if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="dialtone"` {
		t.Errorf("no key: %s", got)
	}
	a = w.want(401, "GET", "/v1/queues", "", with("Authorization", "bearer x"))
	if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="dialtone", error="invalid_token"` {
		t.Errorf("unknown key: %s", got)
	}
	r := newRequest("GET", "/v1/queues", "")
	r.Header.Add("Authorization", "Bearer other")
	if a := w.send(r); a.status != 401 {
		t.Errorf("two keys: %d", a.status)
	}
}

var requestID = regexp.MustCompile(`req_[A-Z2-7]{20}`)

// Isolation (fusionpbx/fusionpbx#313, #1141): the answer for what is another tenant's equals
// that for what does not exist, but for the request id, by every route that takes an id.
func TestForeignEqualsAbsent(t *testing.T) {
	w := newWorld(t, nil)
	w.want(201, "PUT", "/v1/queues/theirs", `{}`, asOther)
	w.want(201, "PUT", "/v1/agents/theirs", `{"password":"pw"}`, asOther)
	w.want(201, "PUT", "/v1/numbers/theirs", `{"queue":"theirs"}`, asOther)
	w.core.between(func() {
		w.core.tenants["other"].live["theirs"] = command.Interaction{Phase: "queued", CDR: record("other", "theirs")}
	})
	w.records.all = []core.CDR{record("other", "theirsended")}
	bodies := map[string]string{"PUT /v1/agents/{id}/status": `{"status":"ready"}`, "PATCH /v1/tenants/{id}": `{}`}
	tried := 0
	for _, r := range w.api.routes {
		if !strings.Contains(r.path, "{id}") || r.open || (r.method == "PUT" && !strings.HasSuffix(r.path, "/status")) {
			continue
		}
		ids := []string{"theirs"}
		switch r.what {
		case "tenant":
			ids = []string{"other"}
		case "interaction":
			ids = append(ids, "theirsended")
		}
		for _, id := range ids {
			body := bodies[r.method+" "+r.path]
			foreign := w.want(404, r.method, strings.ReplaceAll(r.path, "{id}", id), body)
			absent := w.want(404, r.method, strings.ReplaceAll(r.path, "{id}", "absent"), body)
			if a, b := bare(foreign), bare(absent); !bytes.Equal(a, b) {
				t.Errorf("%s %s:\n%s\n%s", r.method, r.path, a, b)
			}
			tried++
		}
	}
	if tried < 12 {
		t.Errorf("%d routes were tried", tried)
	}
	for _, path := range []string{"/v1/queues", "/v1/agents", "/v1/numbers", "/v1/interactions", "/v1/interactions?phase=live"} {
		mine := w.want(200, "GET", path, "")
		if bytes.Contains(mine.body, []byte("theirs")) {
			t.Errorf("%s shows %s", path, mine.body)
		}
	}
	// A header does not lift a tenant's key out of its tenant.
	if a := w.want(404, "GET", "/v1/queues/theirs", "", with(tenantHeader, "other")); bytes.Contains(a.body, []byte("theirs")) {
		t.Errorf("%s", a.body)
	}
}

// bare is an answer without what may differ: status, all headers but the id, body.
func bare(a answered) []byte {
	var b bytes.Buffer
	_ = a.header.Write(&b)
	b.Write(a.body)
	return requestID.ReplaceAll(b.Bytes(), []byte("req"))
}

func TestOperatorNamesTheTenant(t *testing.T) {
	w := newWorld(t, nil)
	for _, path := range []string{"/v1/queues", "/v1/interactions", "/v1/events", "/v1/interactions/int_x"} {
		a := w.want(400, "GET", path, "", asOperator)
		if !strings.Contains(string(a.body), tenantHeader) {
			t.Errorf("%s does not say what to send: %s", path, a.body)
		}
	}
	w.want(200, "GET", "/v1/queues", "", asOperator, with(tenantHeader, "acme"))
	w.want(404, "GET", "/v1/queues", "", asOperator, with(tenantHeader, "nope"))
	w.want(404, "GET", "/v1/events", "", asOperator, with(tenantHeader, "nope"))
}

// A core that is overloaded, silent or wrong, and a history that fails, are a 503 or a 500,
// and nothing waits for ever.
func TestUnavailable(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Timeout = 250 * time.Millisecond })
	w.records.err = errors.New("disk is full: SECRET")
	a := w.want(503, "GET", "/v1/interactions", "")
	if bytes.Contains(a.body, []byte("SECRET")) || !strings.Contains(w.log.String(), "disk is full") {
		t.Errorf("the cause belongs into the log: %s", a.body)
	}
	w.want(503, "GET", "/v1/interactions/int_x", "")
	w.core.between(func() { w.core.deaf = true })
	w.want(503, "GET", "/v1/queues", "")
	w.want(503, "PUT", "/v1/queues/a", "{}")
	w.api.desk.mu.Lock()
	if n := len(w.api.desk.waiting); n != 0 {
		t.Errorf("%d requests wait for ever", n)
	}
	w.api.desk.mu.Unlock()
	w.api.Do(core.Reply{Token: 1 << 32}) // late: nobody waits
	w.core.between(func() { w.core.deaf = false })
	w.want(200, "GET", "/v1/queues", "")
}

func TestFullInboxAndReadiness(t *testing.T) {
	var unready error
	a := New(Config{Submit: func(core.Event) bool { return false }, Ready: func() error { return unready }})
	defer a.Close()
	get := func(path string) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		a.ServeHTTP(rec, newRequest("GET", path, ""))
		return rec
	}
	if rec := get("/v1/queues"); rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
		t.Errorf("full inbox: %d", rec.Code)
	}
	if rec := get("/readyz"); rec.Code != 200 {
		t.Errorf("ready: %d", rec.Code)
	}
	unready = errors.New("the node drains")
	if rec := get("/readyz"); rec.Code != 503 || !strings.Contains(rec.Body.String(), "the node drains") {
		t.Errorf("unready: %d %s", rec.Code, rec.Body)
	}
	if rec := get("/livez"); rec.Code != 200 {
		t.Errorf("alive: %d", rec.Code)
	}
}

// An answer of the wrong type or a panic ends in a 500 and a log line, not in the process.
func TestFaultOfTheServer(t *testing.T) {
	w := newWorld(t, nil)
	w.api.config.Submit = func(e core.Event) bool {
		w.api.Do(core.Reply{Token: e.(core.Commanded).Token, Value: "nonsense"})
		return true
	}
	rec := httptest.NewRecorder()
	w.api.ServeHTTP(rec, newRequest("GET", "/v1/queues", ""))
	if rec.Code != 500 || rec.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("%d %s", rec.Code, rec.Body)
	}
	w.api.config.Submit = func(core.Event) bool { panic("at the disco") }
	rec = httptest.NewRecorder()
	w.api.ServeHTTP(rec, newRequest("GET", "/v1/queues", ""))
	if rec.Code != 500 || strings.Contains(rec.Body.String(), "disco") || !strings.Contains(w.log.String(), "disco") {
		t.Errorf("%d %s %s", rec.Code, rec.Body, w.log.String())
	}
}

func TestInFlightIsBounded(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.InFlight = 1 })
	arrived, release := make(chan bool), make(chan bool)
	body := &slowBody{arrived: arrived, release: release}
	r := newRequest("PUT", "/v1/queues/a", "{}")
	r.Body = io.NopCloser(body)
	first := make(chan int)
	go func() {
		rec := httptest.NewRecorder()
		w.api.ServeHTTP(rec, r)
		first <- rec.Code
	}()
	<-arrived
	w.want(503, "GET", "/v1/queues", "")
	w.want(200, "GET", "/livez", "") // probes are answered under load, too
	release <- true
	if code := <-first; code != 201 {
		t.Errorf("the first request: %d", code)
	}
	w.want(200, "GET", "/v1/queues", "")
}

type slowBody struct {
	arrived, release chan bool
	sent             bool
}

func (s *slowBody) Read(p []byte) (int, error) {
	if s.sent {
		return 0, io.EOF
	}
	s.sent = true
	s.arrived <- true
	<-s.release
	return copy(p, "{}"), nil
}

// Secrets reach neither logs nor answers: keys, passwords, hashes of keys.
func TestSecretsStayInside(t *testing.T) {
	w := newWorld(t, nil)
	seen := w.want(201, "PUT", "/v1/agents/1001", `{"password":"pw-very-secret","queues":[]}`).body
	seen = append(seen, w.want(200, "GET", "/v1/agents/1001", "").body...)
	seen = append(seen, w.want(200, "GET", "/v1/agents", "").body...)
	seen = append(seen, w.want(400, "PUT", "/v1/agents/1001", `{"password":["pw-very-secret"]}`).body...)
	seen = append(seen, w.want(400, "PUT", "/v1/agents/1001", `{"password":"pw-very-secret\u0000"}`).body...)
	seen = append(seen, w.want(200, "GET", "/v1/tenants", "", asOperator).body...)
	seen = append(seen, w.want(200, "GET", "/v1/tenants/acme", "", asOperator).body...)
	made := w.want(201, "POST", "/v1/tenants", `{"id":"new","domain":"new.example"}`, asOperator)
	var tenant struct {
		Key string `json:"api_key"`
	}
	made.json(&tenant)
	w.want(200, "GET", "/v1/queues", "", with("Authorization", "Bearer "+tenant.Key))
	seen = append(seen, w.want(200, "GET", "/v1/tenants/new", "", asOperator).body...)
	seen = append(seen, w.log.String()...)
	for _, secret := range []string{"pw-very-secret", tenant.Key, key("acme"), operatorKey, "***",
		string(core.HashKey(tenant.Key)), string(core.HashKey(key("acme"))), "api_key"} {
		if bytes.Contains(seen, []byte(secret)) {
			t.Errorf("%q was shown", secret)
		}
	}
}

// One line per request, with the template of the route and never its variables.
func TestAccessLog(t *testing.T) {
	w := newWorld(t, nil)
	w.want(404, "GET", "/v1/queues/abcdef?", "", asOperator, with(tenantHeader, "acme"))
	var line struct{ Msg, Level, Method, Route, Tenant string }
	if err := json.Unmarshal([]byte(strings.TrimSpace(w.log.String())), &line); err != nil {
		t.Fatal(err)
	}
	if line.Route != "/v1/queues/{id}" || line.Method != "GET" || line.Tenant != "acme" || line.Level != "DEBUG" || strings.Contains(w.log.String(), "abcdef") {
		t.Errorf("%s", w.log.String())
	}
}

func TestObserve(t *testing.T) {
	type seen struct {
		route, method string
		status        int
	}
	var all []seen
	w := newWorld(t, func(c *Config) {
		c.Observe = func(route, method string, status int, d time.Duration) {
			all = append(all, seen{route, method, status})
		}
	})
	w.want(404, "GET", "/nowhere", "")
	w.want(405, "BREW", "/livez", "")
	w.want(404, "GET", "/v1/agents/x", "")
	want := []seen{{"", "GET", 404}, {"", "OTHER", 405}, {"/v1/agents/{id}", "GET", 404}}
	if len(all) != 3 || all[0] != want[0] || all[1] != want[1] || all[2] != want[2] {
		t.Errorf("%v", all)
	}
}

// A client that leaves before its answer is no 503 of ours in logs and metrics.
func TestClientLeaves(t *testing.T) {
	var seen int
	w := newWorld(t, func(c *Config) { c.Observe = func(_, _ string, status int, _ time.Duration) { seen = status } })
	w.core.between(func() { w.core.deaf = true })
	r := newRequest("GET", "/v1/queues", "")
	ctx, leave := context.WithCancel(r.Context())
	leave()
	w.api.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
	if seen != clientLeft {
		t.Errorf("%d", seen)
	}
}
