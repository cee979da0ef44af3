package httpapi

import (
	"context"
	_ "embed"
	"net/http"
	"sync"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/goccy/go-yaml"
)

//go:embed openapi.yaml
var source []byte

// document is the OpenAPI document in JSON, made once. The embedded text is part of the
// program: that it can be read is a test's to show.
var document = sync.OnceValue(func() []byte {
	b, err := yaml.YAMLToJSON(source)
	if err != nil {
		panic("openapi.yaml: " + err.Error())
	}
	return b
})

func (a *API) openapi(context.Context, *request) answer {
	return answer{status: http.StatusOK, raw: a.document}
}

// health is the answer of a probe that is content.
type health struct {
	Status string `json:"status"`
}

func (a *API) alive(context.Context, *request) answer { return ok(health{"ok"}) }

func (a *API) ready(context.Context, *request) answer {
	if err := a.config.Ready(); err != nil {
		return fail(problem{Kind: core.Unavailable, Detail: "Calls cannot be taken: " + err.Error()})
	}
	return ok(health{"ready"})
}

func (a *API) metrics(_ context.Context, q *request) answer {
	if a.config.Metrics == nil {
		return fail(*q.absent())
	}
	return answer{status: http.StatusOK, serve: a.config.Metrics}
}
