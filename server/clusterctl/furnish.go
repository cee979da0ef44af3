package clusterctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// The demo tenant, as `dialtone dev` has it and scripts rely on it.
const (
	demoTenant = "demo"
	demoDomain = "demo.localhost"
	demoQueue  = "support"
	demoNumber = "5000"
	firstAgent = 1001
	lastAgent  = 1020
)

const (
	furnishWithin = 60 * time.Second
	askWithin     = 5 * time.Second
	askPause      = 100 * time.Millisecond
)

// furnish makes what is missing of the demo tenant, by the API, like any client. What is
// there stays as it was changed.
func (m *machine) furnish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, furnishWithin)
	defer cancel()
	a := &asking{key: m.OperatorKey, client: &http.Client{Timeout: askWithin}}
	for _, n := range m.Nodes {
		a.nodes = append(a.nodes, n.HTTP)
	}
	defer a.client.CloseIdleConnections()
	type object map[string]any
	if err := a.ensure(ctx, "/v1/tenants/"+demoTenant, http.MethodPost, "/v1/tenants", object{
		"id": demoTenant, "domain": demoDomain, "name": "Demo", "sources": []string{"127.0.0.0/8"},
	}); err != nil {
		return err
	}
	if err := a.put(ctx, "/v1/queues/"+demoQueue, object{"max_waiting": 1000, "welcome": "welcome", "music": "music"}); err != nil {
		return err
	}
	if err := a.put(ctx, "/v1/numbers/"+demoNumber, object{"queue": demoQueue}); err != nil {
		return err
	}
	for number := firstAgent; number <= lastAgent; number++ {
		id := strconv.Itoa(number)
		if err := a.put(ctx, "/v1/agents/"+id, object{"name": "Agent " + id, "queues": []string{demoQueue},
			"ready_on_register": true, "password": m.AgentPassword}); err != nil {
			return err
		}
	}
	return nil
}

// asking is a client of the API that any node may answer.
type asking struct {
	nodes  []string
	key    string
	client *http.Client
}

func (a *asking) put(ctx context.Context, path string, body any) error {
	return a.ensure(ctx, path, http.MethodPut, path, body)
}

// ensure makes what is not there. A node that has not seen yet what was made at another
// answers 404, and one that finds nobody to take the command 503: both are asked again.
func (a *asking) ensure(ctx context.Context, path, method, at string, body any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var last error
	for turn := 0; ; turn++ {
		node := a.nodes[turn%len(a.nodes)]
		code, err := a.ask(ctx, http.MethodGet, node+path, nil)
		if code == http.StatusNotFound {
			code, err = a.ask(ctx, method, node+at, content)
		}
		switch {
		case code == http.StatusOK || code == http.StatusCreated || code == http.StatusConflict:
			return nil
		case code >= 400 && code < 500 && code != http.StatusNotFound && code != http.StatusTooManyRequests:
			return fmt.Errorf("demo tenant: %s %s: %w", method, node+at, err)
		}
		last = err
		select {
		case <-ctx.Done():
			return fmt.Errorf("demo tenant: %s %s: %w", method, node+at, last)
		case <-time.After(askPause):
		}
	}
}

// ask returns the status, and an error unless it is a good one.
func (a *asking) ask(ctx context.Context, method, url string, content []byte) (int, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer "+a.key)
	request.Header.Set("Dialtone-Tenant", demoTenant)
	if content != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	reply, err := a.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(io.LimitReader(reply.Body, 64<<10))
	if err != nil || reply.StatusCode < 300 {
		return reply.StatusCode, err
	}
	var problem struct{ Detail string }
	if json.Unmarshal(text, &problem) == nil && problem.Detail != "" {
		return reply.StatusCode, errors.New(problem.Detail)
	}
	return reply.StatusCode, errors.New(reply.Status)
}
