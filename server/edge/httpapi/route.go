package httpapi

import (
	"context"
	"net/http"

	"github.com/gorilla/mux"
)

// A route is one operation of the API. The table of routes and the OpenAPI document are
// held together by a test.
type route struct {
	method string
	path   string // template of gorilla/mux and OpenAPI alike
	what   string // what a 404 says there is none of
	open   bool   // answers without a key, and also when all slots are taken
	body   bool   // takes a JSON object
	query  []string
	run    func(*API, context.Context, *request) answer
}

func routes() []route {
	const get, put, post, patch, del = http.MethodGet, http.MethodPut, http.MethodPost, http.MethodPatch, http.MethodDelete
	window := []string{"limit", "after"}
	return []route{
		{method: get, path: "/healthz", open: true, run: (*API).alive},
		{method: get, path: "/livez", open: true, run: (*API).alive},
		{method: get, path: "/readyz", open: true, run: (*API).ready},
		{method: get, path: "/metrics", open: true, what: "path", run: (*API).metrics},
		{method: get, path: "/openapi.json", open: true, run: (*API).openapi},
		{method: get, path: "/problems/{id}", open: true, what: "kind of problem", run: (*API).explain},

		{method: post, path: "/v1/tenants", what: "path", body: true, run: (*API).createTenant},
		{method: get, path: "/v1/tenants", what: "path", query: window, run: (*API).listTenants},
		{method: get, path: "/v1/tenants/{id}", what: "tenant", run: (*API).getTenant},
		{method: patch, path: "/v1/tenants/{id}", what: "tenant", body: true, run: (*API).changeTenant},
		{method: del, path: "/v1/tenants/{id}", what: "tenant", run: (*API).deleteTenant},

		{method: get, path: "/v1/queues", what: "tenant", query: window, run: (*API).listQueues},
		{method: put, path: "/v1/queues/{id}", what: "queue", body: true, run: (*API).putQueue},
		{method: get, path: "/v1/queues/{id}", what: "queue", run: (*API).getQueue},
		{method: del, path: "/v1/queues/{id}", what: "queue", run: (*API).deleteQueue},
		{method: get, path: "/v1/queues/{id}/realtime", what: "queue", run: (*API).realtime},

		{method: get, path: "/v1/agents", what: "tenant", query: window, run: (*API).listAgents},
		{method: put, path: "/v1/agents/{id}", what: "agent", body: true, run: (*API).putAgent},
		{method: get, path: "/v1/agents/{id}", what: "agent", run: (*API).getAgent},
		{method: del, path: "/v1/agents/{id}", what: "agent", run: (*API).deleteAgent},
		{method: put, path: "/v1/agents/{id}/status", what: "agent", body: true, run: (*API).setStatus},

		{method: get, path: "/v1/numbers", what: "tenant", query: window, run: (*API).listNumbers},
		{method: put, path: "/v1/numbers/{id}", what: "number", body: true, run: (*API).putNumber},
		{method: get, path: "/v1/numbers/{id}", what: "number", run: (*API).getNumber},
		{method: del, path: "/v1/numbers/{id}", what: "number", run: (*API).deleteNumber},

		{method: get, path: "/v1/interactions", what: "tenant", run: (*API).listInteractions,
			query: []string{"phase", "queue", "agent", "from", "to", "limit", "after"}},
		{method: get, path: "/v1/interactions/{id}", what: "interaction", run: (*API).getInteraction},
		{method: post, path: "/v1/interactions/{id}/hangup", what: "interaction", run: (*API).hangUp},

		{method: get, path: "/v1/events", what: "tenant", run: (*API).events},
	}
}

// newRouter returns a router whose route names are indices of the table. Paths are taken as
// they come: cleaning them would answer 301, and decoding them would split a number that
// holds an escaped slash.
func newRouter(table []route) *mux.Router {
	m := mux.NewRouter().SkipClean(true).UseEncodedPath()
	for i := range table {
		m.Path(table[i].path).Methods(table[i].methods()...).Name(table[i].method + " " + table[i].path)
	}
	return m
}

// methods adds HEAD to GET (RFC 9110 s.9.1 asks for both), but not where GET never ends.
func (r *route) methods() []string {
	if r.method == http.MethodGet && r.path != "/v1/events" {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{r.method}
}
