package httpapi

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
)

// An answer is what a request comes to, before it is written.
type answer struct {
	status   int
	body     any    // goes out as JSON; nil: nothing
	raw      []byte // goes out as it is, in place of body
	location string
	replayed bool // from an earlier request with the same Idempotency-Key
	problem  *problem

	// Of the two answers that write for themselves:
	stream *reader
	serve  http.Handler
}

func ok(body any) answer { return answer{status: http.StatusOK, body: body} }

func noContent() answer { return answer{status: http.StatusNoContent} }

func fail(p problem) answer {
	return answer{status: kinds[p.Kind].status, problem: &p}
}

func (ans answer) write(w http.ResponseWriter, q *request) {
	h, body, status := w.Header(), ans.raw, ans.status
	var v any = ans.body
	h.Set("Content-Type", "application/json")
	if p := ans.problem; p != nil {
		p.header(h)
		v = p.document(q.ref)
	}
	if ans.location != "" {
		h.Set("Location", ans.location)
	}
	if ans.replayed {
		h.Set("Idempotent-Replayed", "true")
	}
	if v != nil {
		var err error
		if body, err = encode(v); err != nil {
			p := problem{Kind: internalError, Detail: "The answer could not be written as JSON. Report the request_id."}
			p.header(h)
			status = http.StatusInternalServerError
			body, _ = encode(p.document(q.ref))
		}
	}
	if body == nil {
		h.Del("Content-Type")
	} else {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have left; nobody is there to be told
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// retryAfter is a delay as Retry-After has it: whole seconds, never zero (RFC 9110 s.10.2.3).
func retryAfter(seconds float64) string {
	return strconv.Itoa(max(1, int(math.Ceil(seconds))))
}
