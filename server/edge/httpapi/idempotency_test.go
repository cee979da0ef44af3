package httpapi

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const newTenant = `{"id":"new","domain":"new.example"}`

func once(name string) func(*http.Request) { return with(idempotencyHeader, name) }

// Repeated with the same key and body, a POST is answered as the first time and carried out once.
func TestIdempotentReplay(t *testing.T) {
	w := newWorld(t, nil)
	first := w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
	again := w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
	if !bytes.Equal(first.body, again.body) || again.header.Get("Idempotent-Replayed") != "true" || again.header.Get("Location") != first.header.Get("Location") {
		t.Errorf("%s\n%s %v", first.body, again.body, again.header)
	}
	// The same key with another body, path, tenant: never the first one's answer.
	w.want(409, "POST", "/v1/tenants", `{"id":"new2","domain":"new2.example"}`, asOperator, once("a"))
	w.want(409, "POST", "/v1/tenants", newTenant, asOperator, once("a"), with(tenantHeader, "acme"))
	w.want(409, "POST", "/v1/interactions/x/hangup", "", asOperator, once("a"))
	// Another API key has keys of its own.
	w.want(404, "POST", "/v1/tenants", newTenant, once("a"))
	// Refused as malformed: not kept, so that the corrected request may use the key.
	w.want(400, "POST", "/v1/tenants", `{"id":"new3"}`, asOperator, once("b"))
	w.want(201, "POST", "/v1/tenants", `{"id":"new3","domain":"new3.example"}`, asOperator, once("b"))
	// An outcome is kept, also when it is a 409.
	w.want(409, "POST", "/v1/tenants", newTenant, asOperator, once("c"))
	w.want(204, "DELETE", "/v1/tenants/new", "", asOperator)
	w.want(409, "POST", "/v1/tenants", newTenant, asOperator, once("c"))
	for _, bad := range []string{strings.Repeat("x", 256), "a b", "é"} {
		w.want(400, "POST", "/v1/tenants", newTenant, asOperator, once(bad))
	}
	w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once(strings.Repeat("x", 255)))
	// A GET takes no notice of it.
	w.want(200, "GET", "/v1/queues", "", once(strings.Repeat("x", 256)))
}

func TestIdempotencyExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
		time.Sleep(keptFor - time.Second)
		w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
		time.Sleep(2 * time.Second)
		w.want(409, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
		if n := len(w.api.once.kept); n != 1 {
			t.Errorf("%d are kept", n)
		}
	})
}

// The store is slow: the client is answered 503, and learns the outcome, with the API key
// that is shown once, when it asks again. In between its key is busy.
func TestIdempotentOutcomeAfterTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.core.between(func() { w.core.deaf = true })
		w.want(503, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
		w.want(409, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
		w.core.between(func() { // now the core gets to it
			w.core.deaf = false
			for _, c := range w.core.unheard {
				w.core.carryOut(c)
			}
		})
		synctest.Wait()
		a := w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
		if !strings.Contains(string(a.body), "dt_live_") {
			t.Errorf("the key is lost: %s", a.body)
		}
		// And when no outcome ever comes, the key is free again, and nothing is left behind.
		w.core.between(func() { w.core.deaf = true })
		w.want(503, "POST", "/v1/tenants", newTenant, asOperator, once("b"))
		time.Sleep(outcomeWithin)
		synctest.Wait()
		if n := len(w.api.once.kept); n != 1 || len(w.api.slots) != 0 {
			t.Errorf("%d kept, %d slots taken", n, len(w.api.slots))
		}
	})
}

func TestIdempotencyConcurrent(t *testing.T) {
	w := newWorld(t, nil)
	codes := make(chan int, 20)
	for range 20 {
		go func() {
			rec := httptest.NewRecorder()
			w.api.ServeHTTP(rec, newRequest("POST", "/v1/tenants", newTenant, asOperator, once("a")))
			codes <- rec.Code
		}()
	}
	for range 20 {
		if code := <-codes; code != 201 && code != 409 && code != 503 { // 503: the model's inbox is small
			t.Errorf("%d", code)
		}
	}
	w.want(201, "POST", "/v1/tenants", newTenant, asOperator, once("a"))
}

// One API key's use of Idempotency-Keys forgets its own oldest, and nobody else's.
func TestIdempotencyIsBounded(t *testing.T) {
	o, now := newIdempotency(), time.Unix(1, 0)
	begin := func(owner string, i int) {
		k, _ := o.begin(idempotencyID{core.KeyHash(owner), fmt.Sprint(i)}, [32]byte{}, now)
		select {
		case <-k.done:
		default:
			o.finish(k, noContent())
		}
	}
	begin("quiet", 0)
	for i := range keptPerKey + 5 {
		begin("loud", i)
	}
	if len(o.kept) != keptPerKey+1 || o.order.Len() != len(o.kept) || o.kept[idempotencyID{"quiet", "0"}] == nil || o.kept[idempotencyID{"loud", "4"}] != nil {
		t.Errorf("%d kept", len(o.kept))
	}
	for i := range keptInAll {
		begin(fmt.Sprint("key", i/1000), i)
	}
	if len(o.kept) != keptInAll || o.order.Len() != keptInAll {
		t.Errorf("%d kept", len(o.kept))
	}
	o.begin(idempotencyID{"late", "0"}, [32]byte{}, now.Add(keptFor+1))
	if len(o.kept) != 1 || len(o.each) != 1 {
		t.Errorf("%d kept after a day", len(o.kept))
	}
}
