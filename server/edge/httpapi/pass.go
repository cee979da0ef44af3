package httpapi

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"time"
)

// passedHeader marks a request that another node has passed on, so that two nodes that
// take each other for the one who decides do not play ball with it.
const passedHeader = "Dialtone-Passed"

// newPassing returns the way to other nodes' APIs. They share a host network and the keys'
// hashes; a request goes on with the key that it came with, and is admitted there anew.
func newPassing() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 16, MaxConnsPerHost: 64, IdleConnTimeout: time.Minute, ResponseHeaderTimeout: 10 * time.Second}
}

// pass hands a request to the node that decides, and its answer to who asked.
func (a *API) pass(q *request, to netip.AddrPort) http.Handler {
	return &httputil.ReverseProxy{
		Transport: a.passing,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", to.String(), r.In.Host
			r.Out.Header.Set(passedHeader, "1")
			r.Out.Body, r.Out.ContentLength = io.NopCloser(bytes.NewReader(q.body)), int64(len(q.body))
		},
		ModifyResponse: func(r *http.Response) error {
			for _, name := range []string{"X-Request-Id", "X-Content-Type-Options", "Cache-Control"} {
				r.Header.Del(name) // this node's own are there
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			a.config.Log.Log(q.http.Context(), slog.LevelWarn, "a request could not be passed to the node that decides", "node", to, "request_id", q.ref, "err", err)
			fail(gone()).write(w, q)
		},
	}
}
