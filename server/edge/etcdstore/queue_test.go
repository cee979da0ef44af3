package etcdstore

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The twin of a batch: its Stores applied one by one.
func TestBatchesEqualSingleWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		single, batched := map[string]string{}, map[string]string{}
		n := rapid.IntRange(1, 60).Draw(t, "stores")
		for i := range n {
			st := core.Store{Token: core.Token(i + 1), Tenant: "a"}
			for range rapid.IntRange(0, 40).Draw(t, "ops") {
				key := fmt.Sprint("k", rapid.IntRange(0, 60).Draw(t, "key"))
				op := core.Op{Key: key, Value: fmt.Appendf(nil, "%d.%d", i, len(st.Ops))}
				single["t/a/"+key] = string(op.Value)
				if rapid.IntRange(0, 4).Draw(t, "delete") == 0 {
					op.Value = nil
					delete(single, "t/a/"+key)
				}
				st.Ops = append(st.Ops, op)
			}
			w, err := accept(st, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			q.push(w)
		}
		next := core.Token(1)
		for len(q.stores) > 0 {
			alone := rapid.IntRange(0, 5).Draw(t, "alone") == 0
			b := q.take("id", alone)
			if rapid.IntRange(0, 5).Draw(t, "put back") == 0 {
				q.putBack(b)
				b = q.take("id", alone)
			}
			if len(b.stores) == 0 || alone && len(b.stores) > 1 || len(b.stores) > 1 && len(b.changes) > batchOps {
				t.Fatalf("batch of %d stores, %d changes, alone %v", len(b.stores), len(b.changes), alone)
			}
			for _, w := range b.stores {
				if w.token != next {
					t.Fatalf("token %d, want %d", w.token, next)
				}
				next++
			}
			seen := map[string]bool{}
			for _, c := range b.changes {
				if seen[c.key] {
					t.Fatalf("key %s twice in one batch: etcd refuses that", c.key)
				}
				if seen[c.key] = true; c.value == nil {
					delete(batched, c.key)
				} else {
					batched[c.key] = string(c.value)
				}
			}
		}
		if q.ops != 0 || q.bytes != 0 || next != core.Token(n+1) {
			t.Fatalf("left over: %d ops, %d bytes, next token %d", q.ops, q.bytes, next)
		}
		if fmt.Sprint(single) != fmt.Sprint(batched) {
			t.Fatalf("one by one %v\nin batches %v", single, batched)
		}
	})
}

func TestBatchesAreSmall(t *testing.T) {
	var q queue
	for i := range 10 {
		w, err := accept(core.Store{Tenant: "a", Ops: []core.Op{{Key: fmt.Sprint(i), Value: make([]byte, 200<<10)}}}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		q.push(w)
	}
	if b := q.take("id", false); len(b.stores) != 2 {
		t.Fatalf("%d values of 200 KiB in one batch", len(b.stores))
	}
}
