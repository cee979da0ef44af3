package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// testStore is the contract: what every Store must do. Open returns the same data again.
func testStore(t *testing.T, fresh func(t *testing.T) (open func() Store)) {
	for name, test := range map[string]func(*testing.T, func() Store){
		"round trip":     testRoundTrip,
		"once by id":     testOnce,
		"all or none":    testAllOrNone,
		"isolation":      testIsolation,
		"filters":        testFilters,
		"pages":          testPages,
		"order of bytes": testOrder,
		"delete tenant":  testDeleteTenant,
		"concurrency":    testConcurrency,
		"odd characters": testOddCharacters,
		"reopen":         testReopen,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

// sample is the n-th CDR of a tenant; equal arguments give an equal value.
func sample(tenant core.TenantID, n int) core.CDR {
	at := core.Time(1_790_000_000_000_000_000 + int64(n)*1_000_000_007)
	return core.CDR{
		ID: id(n), Tenant: tenant, Node: "n1", Media: "voice", Caller: "sip:alice@example.org", Called: "5000",
		Queue: core.QueueID(fmt.Sprint("q", n%3)), Agent: core.AgentID(fmt.Sprint("a", n%5)),
		ArrivedAt: at, QueuedAt: at.Add(1), AnsweredAt: at.Add(2_000_000_000), EndedAt: at.Add(9_000_000_000),
		Termination: core.Termination{Result: core.Completed, Reason: core.CallerHangup, HungUpBy: core.Caller, Q850: 16},
		Timeline:    []core.Moment{{At: at, What: core.Arrived}, {At: at.Add(9_000_000_000), What: core.Ended, Party: core.Caller, Detail: "ok"}},
		Legs: []core.LegReport{{ID: core.LegID(id(n)) + "/1", Party: core.Caller, SIPCallID: "x@y", Peer: "127.0.0.1:5060", Codec: "PCMU", SIPStatus: 200,
			Audio: core.AudioStats{PacketsReceived: 400, PacketsSent: 399, JitterMs: 0.25, LongestGapMs: 21.5}}},
	}
}

func samples(tenant core.TenantID, n int) []core.CDR {
	all := make([]core.CDR, n)
	for i := range all {
		all[i] = sample(tenant, i)
	}
	return all
}

func id(n int) core.InteractionID { return core.InteractionID(fmt.Sprintf("int_%022d", n)) }

func must(t fataler, err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

type fataler interface{ Fatalf(string, ...any) }

func list(t fataler, s Store, tenant core.TenantID, f Filter) ([]core.InteractionID, bool) {
	cdrs, more, err := s.List(context.Background(), tenant, f)
	must(t, err)
	ids := make([]core.InteractionID, 0, len(cdrs))
	for _, c := range cdrs {
		ids = append(ids, c.ID)
	}
	return ids, more
}

func testRoundTrip(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	want := sample("demo", 1)
	rejected := core.CDR{ID: id(2), Tenant: "demo", ArrivedAt: 1, EndedAt: 2, Termination: core.Termination{Result: core.Rejected, Reason: core.NoCodec, SIPStatus: 488}}
	must(t, s.Put(t.Context(), []core.CDR{want, rejected}))
	must(t, s.Put(t.Context(), nil))
	for _, c := range []core.CDR{want, rejected} {
		got, ok, err := s.Get(t.Context(), "demo", c.ID)
		if err != nil || !ok || !cmp.Equal(c, got) {
			t.Errorf("ok %v, err %v, %s", ok, err, cmp.Diff(c, got))
		}
	}
	if _, ok, err := s.Get(t.Context(), "demo", "int_none"); ok || err != nil {
		t.Errorf("absent id: %v %v", ok, err)
	}
}

// asterisk/asterisk#1741: one call was counted several times. The first record of an id
// stays, however often it comes, also within one Put.
func testOnce(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	first, other := sample("demo", 1), sample("demo", 1)
	other.Caller = "sip:changed@example.org"
	must(t, s.Put(t.Context(), []core.CDR{first, other}))
	for range 3 {
		must(t, s.Put(t.Context(), []core.CDR{other, sample("demo", 2), other}))
	}
	if ids, more := list(t, s, "demo", Filter{}); len(ids) != 2 || more {
		t.Errorf("%v, more %v", ids, more)
	}
	if got, _, _ := s.Get(t.Context(), "demo", id(1)); got.Caller != first.Caller {
		t.Errorf("the record was replaced: %s", got.Caller)
	}
}

func testAllOrNone(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	for _, bad := range []core.CDR{{Tenant: "demo"}, {ID: "int_x"}, {}} {
		if err := s.Put(t.Context(), []core.CDR{sample("demo", 1), bad}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, []core.CDR{sample("demo", 1)}); err == nil {
		t.Error("written with a context that had ended")
	}
	if ids, _ := list(t, s, "demo", Filter{}); len(ids) != 0 {
		t.Errorf("written in part: %v", ids)
	}
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)})) // and it still works
}

// fusionpbx/fusionpbx#313: a page showed all tenants' calls.
func testIsolation(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	foreign := sample("acme", 1)
	foreign.Caller = "sip:secret@acme.example"
	must(t, s.Put(t.Context(), []core.CDR{foreign}))
	_, there, err1 := s.Get(t.Context(), "demo", id(1))
	_, absent, err2 := s.Get(t.Context(), "demo", id(999))
	if there != absent || err1 != nil || err2 != nil {
		t.Errorf("a foreign id (%v, %v) differs from an absent one (%v, %v)", there, err1, absent, err2)
	}
	for _, tenant := range []core.TenantID{"demo", "", "%", "acm_", "ACME", "acme ", "acme' OR '1'='1"} {
		if ids, more := list(t, s, tenant, Filter{}); len(ids) != 0 || more {
			t.Errorf("tenant %q sees %v", tenant, ids)
		}
	}
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)})) // the same id is not taken by acme's
	mine, _, _ := s.Get(t.Context(), "demo", id(1))
	theirs, _, _ := s.Get(t.Context(), "acme", id(1))
	if mine.Tenant != "demo" || mine.Caller == foreign.Caller || theirs.Caller != foreign.Caller {
		t.Errorf("mine %+v theirs %+v", mine, theirs)
	}
	must(t, s.DeleteTenant(t.Context(), "demo"))
	if ids, _ := list(t, s, "acme", Filter{}); len(ids) != 1 {
		t.Errorf("acme has %v after demo was deleted", ids)
	}
}

// The dumb twin of List: a loop over all.
func testFilters(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	var all []core.CDR
	for n := range 40 {
		all = append(all, sample("demo", n))
	}
	must(t, s.Put(t.Context(), all))
	must(t, s.Put(t.Context(), []core.CDR{sample("acme", 7)}))
	rapid.Check(t, func(t *rapid.T) {
		f := Filter{
			Queue: rapid.SampledFrom([]core.QueueID{"", "q0", "q1", "none"}).Draw(t, "queue"),
			Agent: rapid.SampledFrom([]core.AgentID{"", "a0", "a4", "none"}).Draw(t, "agent"),
			Limit: rapid.IntRange(-1, 45).Draw(t, "limit"),
		}
		instant := func(name string) core.Time {
			n := rapid.IntRange(-1, 45).Draw(t, name)
			if n < 0 {
				return 0
			}
			return sample("demo", n).EndedAt
		}
		f.From, f.To = instant("from"), instant("to")
		if n := rapid.IntRange(-1, 45).Draw(t, "after"); n >= 0 {
			f.After = id(n)
		}
		want, wantMore := []core.InteractionID{}, false
		for _, c := range slices.Backward(all) { // the latest first
			if f.Queue != "" && c.Queue != f.Queue || f.Agent != "" && c.Agent != f.Agent || c.EndedAt < f.From ||
				f.To != 0 && c.EndedAt >= f.To || f.After != "" && c.ID >= f.After {
				continue
			}
			if len(want) == f.limit() {
				wantMore = true
				break
			}
			want = append(want, c.ID)
		}
		got, more := list(t, s, "demo", f)
		if !cmp.Equal(want, got) || more != wantMore {
			t.Fatalf("%+v\ngot  %v %v\nwant %v %v", f, got, more, want, wantMore)
		}
	})
	if ids, more := list(t, s, "demo", Filter{Limit: MaxLimit + 5}); len(ids) != 40 || more {
		t.Errorf("%d, %v", len(ids), more)
	}
}

// Going through the pages while new rows come in shows each row that was there at the
// start exactly once, in order.
func testPages(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		tenant := core.TenantID(fmt.Sprint("t", run))
		numbers := rapid.SliceOfNDistinct(rapid.IntRange(0, 500), 1, 60, rapid.ID[int]).Draw(t, "numbers")
		start := rapid.IntRange(0, len(numbers)).Draw(t, "there at the start")
		var first []core.CDR
		there := map[core.InteractionID]bool{}
		for _, n := range numbers[:start] {
			first, there[id(n)] = append(first, sample(tenant, n)), true
		}
		must(t, s.Put(context.Background(), first))
		var after core.InteractionID
		seen := map[core.InteractionID]bool{}
		for left, more := numbers[start:], true; more; {
			if k := min(len(left), rapid.IntRange(0, 4).Draw(t, "new")); k > 0 {
				for _, n := range left[:k] {
					must(t, s.Put(context.Background(), []core.CDR{sample(tenant, n)}))
				}
				left = left[k:]
			}
			var ids []core.InteractionID
			ids, more = list(t, s, tenant, Filter{After: after, Limit: rapid.IntRange(1, 7).Draw(t, "limit")})
			for _, id := range ids {
				if after != "" && id >= after || seen[id] {
					t.Fatalf("%s after %s, seen %v", id, after, seen[id])
				}
				after, seen[id] = id, true
			}
		}
		for id := range there {
			if !seen[id] {
				t.Fatalf("%s was there at the start and was not shown", id)
			}
		}
	})
}

// Cursors compare ids by their bytes, as the core and the API do: not by a language's rules.
func testOrder(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	ids := []core.InteractionID{"-", "A", "B", "_", "a", "a-b", "aa", "b", "z", "~", "ä", "☎"}
	for _, id := range ids {
		c := sample("demo", 1)
		c.ID = id
		must(t, s.Put(t.Context(), []core.CDR{c}))
	}
	for i, id := range ids {
		for _, from := range []core.Time{0, 1} { // another way through the data
			got, _ := list(t, s, "demo", Filter{After: id, From: from})
			want := slices.Clone(ids[:i])
			slices.Reverse(want)
			if !cmp.Equal(want, got, cmpopts.EquateEmpty()) {
				t.Errorf("from %d, below %s: %v", from, id, got)
			}
		}
	}
}

func testDeleteTenant(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1), sample("demo", 2), sample("acme", 1)}))
	must(t, s.DeleteTenant(t.Context(), "demo"))
	must(t, s.DeleteTenant(t.Context(), "nobody"))
	if demo, _ := list(t, s, "demo", Filter{}); len(demo) != 0 {
		t.Errorf("left: %v", demo)
	}
	if acme, _ := list(t, s, "acme", Filter{}); len(acme) != 1 {
		t.Errorf("acme: %v", acme)
	}
}

// signalwire/freeswitch#2895: the database deadlocked above 50 hang-ups at a time.
func testConcurrency(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	const writers, each = 100, 5
	stop := make(chan struct{})
	var reading, writing sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			for last := 0; ; {
				select {
				case <-stop:
					return
				default:
				}
				cdrs, _, err := s.List(context.Background(), "demo", Filter{Limit: MaxLimit})
				if err != nil || len(cdrs) < last {
					t.Errorf("a reader saw %d after %d: %v", len(cdrs), last, err)
					return
				}
				last = len(cdrs)
			}
		})
	}
	for w := range writers {
		writing.Go(func() {
			for n := range each {
				// Every CDR comes from two writers.
				if err := s.Put(context.Background(), []core.CDR{sample("demo", w/2*each+n)}); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	if ids, more := list(t, s, "demo", Filter{Limit: MaxLimit}); len(ids) != writers/2*each || more {
		t.Errorf("%d CDRs of %d", len(ids), writers/2*each)
	}
}

// signalwire/freeswitch#1235 "Invalid cdr data": nothing that a peer sends, or a division
// by zero makes, may keep a call without its record.
func testOddCharacters(t *testing.T, open func() Store) {
	s := open()
	defer s.Close()
	c := sample("demo", 1)
	c.Caller, c.Called = "a\x00b\u2028'\"\\;--", "\xff\xfe☎"
	c.Timeline[0].Detail = "\u0000</script>"
	c.Legs[0].Audio.JitterMs, c.Legs[0].Audio.LongestGapMs = math.NaN(), math.Inf(1)
	must(t, s.Put(t.Context(), []core.CDR{c, sample("demo", 2)}))
	if !math.IsNaN(c.Legs[0].Audio.JitterMs) {
		t.Error("the core's value was changed")
	}
	got, ok, err := s.Get(t.Context(), "demo", id(1))
	if err != nil || !ok || got.Caller != c.Caller || got.Called != "��☎" || got.Legs[0].Audio.JitterMs != 0 || got.Legs[0].Audio.PacketsReceived != 400 {
		t.Errorf("%v %v %+v", ok, err, got)
	}
	if _, err := json.Marshal(got); err != nil {
		t.Error(err)
	}
}

func testReopen(t *testing.T, open func() Store) {
	s := open()
	must(t, s.Put(t.Context(), []core.CDR{sample("demo", 1)}))
	must(t, s.Close())
	s = open()
	defer s.Close()
	if got, ok, err := s.Get(t.Context(), "demo", id(1)); err != nil || !ok || !cmp.Equal(got, sample("demo", 1)) {
		t.Errorf("%v %v %s", ok, err, cmp.Diff(got, sample("demo", 1)))
	}
}
