package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// A write to a stream that takes longer has a reader that is gone or too slow.
const writeWithin = 10 * time.Second

// events opens a stream of server-sent events (WHATWG HTML s.9.2) for the tenant of the key.
func (a *API) events(ctx context.Context, q *request) answer {
	of, p := a.tenantOf(ctx, q)
	if p != nil {
		return fail(*p)
	}
	// An id that is no number is one that we never gave: it is too old like any other.
	last := q.http.Header.Get("Last-Event-ID")
	behind, _ := strconv.ParseUint(last, 10, 64)
	r, p := a.feed.read(of, behind, last != "")
	if p != nil {
		return fail(*p)
	}
	return answer{status: http.StatusOK, stream: r}
}

// stream writes events until the client leaves, is overtaken, or may read no more.
func (a *API) stream(w http.ResponseWriter, q *request, r *reader) {
	defer r.close()
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	tick := time.NewTicker(a.config.Heartbeat)
	defer tick.Stop()

	text := opening(r)
	for {
		if !send(w, out, text) {
			return
		}
		batch, changed, end := r.next()
		if end {
			return
		}
		if text = written(batch); text != "" {
			continue
		}
		select {
		case <-changed:
		case <-a.feed.closed:
			return
		case <-q.http.Context().Done():
			return
		case <-tick.C:
			if !a.mayGoOn(q, r.ring.tenant) {
				return
			}
			text = ": still here\n\n"
		}
	}
}

// opening tells the client how long to wait before it connects again, and where the stream
// begins: an id without data is remembered for Last-Event-ID, and nothing is dispatched.
func opening(r *reader) string {
	if r.reset {
		return fmt.Sprintf("retry: 2000\n\nid: %d\nevent: %s\ndata: %s\n\n", r.at, resetKind, resetData())
	}
	return fmt.Sprintf("retry: 2000\n\nid: %d\n\n", r.at)
}

func written(batch []event) string {
	var b strings.Builder
	for _, e := range batch { // JSON as encoding/json writes it has no line breaks
		fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: %s\n\n", e.id, e.kind, e.data)
	}
	return b.String()
}

func send(w http.ResponseWriter, out *http.ResponseController, text string) bool {
	if text == "" {
		return true
	}
	_ = out.SetWriteDeadline(time.Now().Add(writeWithin)) // in place of the whole response's; a writer without deadlines needs none
	if _, err := w.Write([]byte(text)); err != nil {
		return false
	}
	return out.Flush() == nil
}

// mayGoOn asks again, at each heartbeat, whose key it is: a stream must not outlive the key
// that opened it. A core that does not answer now ends no stream.
func (a *API) mayGoOn(q *request, of core.TenantID) bool {
	ctx, cancel := context.WithTimeout(q.http.Context(), a.config.Timeout)
	defer cancel()
	now, p := a.tenantOf(ctx, q)
	if p != nil {
		return p.Kind == core.Unavailable
	}
	return now == of
}
