package httpapi

import (
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
)

// The real core in place of the model: every operation, its answers held against the
// document. A driver commits each Store at once.
func TestRealNode(t *testing.T) {
	w := newWorld(t, nil)
	n := node.New(node.Config{ID: "node-1", Seed: [32]byte{1}, Operator: core.HashKey(operatorKey)})
	inbox := make(chan core.Event, 64)
	defer close(inbox)
	go func() {
		for e := range inbox {
			for todo := []core.Event{e}; len(todo) > 0; todo = todo[1:] {
				for _, out := range n.Step(core.Time(time.Now().UnixNano()), todo[0], nil) {
					if p, purge := out.(core.Purge); purge {
						todo = append(todo, core.Purged{Tenant: p.Tenant})
					}
					if s, store := out.(core.Store); store {
						todo = append(todo, core.Stored{Token: s.Token})
					} else {
						w.api.Do(out)
					}
				}
			}
		}
	}()
	inbox <- core.Restored{}
	w.api.config.Submit = func(e core.Event) bool { inbox <- e; return true }

	var made struct {
		Key string `json:"api_key"`
	}
	w.want(201, "POST", "/v1/tenants", `{"id":"acme","domain":"acme.example","sources":["192.0.2.0/24"]}`, asOperator).json(&made)
	asTenant := with("Authorization", "Bearer "+made.Key)
	for _, step := range []struct {
		status             int
		method, path, body string
	}{
		{201, "PUT", "/v1/queues/support", `{"overflow":{"after_s":30},"skills":{"english":2}}`},
		{200, "PUT", "/v1/queues/support", `{}`},
		{400, "PUT", "/v1/queues/support", `{"overflow":{"after_s":30,"queue":"none"}}`},
		{201, "PUT", "/v1/agents/1001", `{"password":"pw","queues":["support"],"skills":{"english":9}}`},
		{400, "PUT", "/v1/agents/1001", `{"queues":["none"]}`},
		{201, "PUT", "/v1/numbers/5000", `{"queue":"support"}`},
		{200, "PUT", "/v1/agents/1001/status", `{"status":"not_ready","reason":"lunch"}`},
		{400, "PUT", "/v1/agents/1001/status", `{"status":"not_ready","reason":"` + strings.Repeat("x", 65) + `"}`},
		{200, "GET", "/v1/queues", ""}, {200, "GET", "/v1/queues/support", ""}, {200, "GET", "/v1/queues/support/realtime", ""},
		{200, "GET", "/v1/agents?limit=1", ""}, {200, "GET", "/v1/agents/1001", ""},
		{200, "GET", "/v1/numbers", ""}, {200, "GET", "/v1/numbers/5000", ""},
		{200, "GET", "/v1/interactions?phase=live", ""}, {200, "GET", "/v1/interactions", ""},
		{404, "GET", "/v1/interactions/int_x", ""}, {404, "POST", "/v1/interactions/int_x/hangup", ""},
		{404, "GET", "/v1/tenants", ""}, {404, "GET", "/v1/tenants/acme", ""}, {404, "POST", "/v1/tenants", `{"id":"x","domain":"x.example"}`},
		{409, "DELETE", "/v1/queues/support", ""},
		{204, "DELETE", "/v1/numbers/5000", ""}, {204, "DELETE", "/v1/agents/1001", ""}, {204, "DELETE", "/v1/queues/support", ""},
	} {
		w.want(step.status, step.method, step.path, step.body, asTenant)
	}
	w.want(409, "POST", "/v1/tenants", `{"id":"acme","domain":"acme.example"}`, asOperator)
	w.want(200, "PATCH", "/v1/tenants/acme", `{"name":"Acme","limits":{"max_calls":9}}`, asOperator)
	w.want(200, "GET", "/v1/tenants", "", asOperator)
	w.want(200, "GET", "/v1/queues", "", asOperator, with(tenantHeader, "acme"))
	w.want(400, "GET", "/v1/queues", "", asOperator)
	w.want(404, "GET", "/v1/queues", "", asOperator, with(tenantHeader, "none"))
	w.want(204, "DELETE", "/v1/tenants/acme", "", asOperator)
	w.want(401, "GET", "/v1/queues", "", asTenant)
}
