package tenant_test

import (
	"encoding/json"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	. "github.com/dialtone-cc/dialtone/server/core/tenant"
)

func goodTenant() Tenant {
	t := DefaultTenant()
	t.ID, t.Domain, t.Name = "acme", "acme.example", "Acme & Søn"
	t.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	t.Keys = []core.KeyHash{core.HashKey("k")}
	return t
}

func goodQueue() Queue {
	q := DefaultQueue()
	q.ID = "support"
	q.Skills = map[string]int{"français": 1, "a/b~c": 10}
	q.Overflow = &Overflow{AfterS: 30, Queue: "late", Announce: "sorry"}
	return q
}

func goodAgent() Agent {
	a := DefaultAgent()
	a.ID, a.Password = "1001", "a pass phrase"
	a.Queues, a.Skills = []core.QueueID{"support", "sales"}, map[string]int{"german": 5}
	a.Credentials = []Credential{
		{Algorithm: "MD5", Hash: strings.Repeat("0a", 16)}, {Algorithm: "SHA-256", Hash: strings.Repeat("0a", 32)},
	}
	return a
}

func goodNumber() Number {
	n := DefaultNumber()
	n.Number, n.Queue = "+49*30#1_a.b-c", "support"
	return n
}

// pointers returns where errors are, each once.
func pointers(all []core.FieldError) string {
	var at []string
	for _, e := range all {
		at = append(at, e.Pointer)
	}
	return strings.Join(slices.Compact(at), " ")
}

func TestDefaultsAreValid(t *testing.T) {
	for name, wrong := range map[string][]core.FieldError{
		"tenant": goodTenant().Valid(), "queue": goodQueue().Valid(), "agent": goodAgent().Valid(), "number": goodNumber().Valid(),
	} {
		if len(wrong) > 0 {
			t.Errorf("%s: %v", name, wrong)
		}
	}
	if q := DefaultQueue(); q.AgeingS != 60 || q.MaxWaiting != 1000 || q.ShortAbandonS != 5 || q.RingTimeoutS != 20 || q.Music != "music" || q.ServiceLevelS != 20 || q.Strategy != LongestIdle || q.WrapUpS != 0 || q.WelcomeFirst {
		t.Errorf("defaults of a queue: %+v", q)
	}
	// What may be zero stays zero.
	q := Queue{ID: "q"}.WithDefaults()
	if q.AgeingS != 0 || q.MaxWaiting != 0 || q.ShortAbandonS != 0 || q.Valid() != nil {
		t.Errorf("zeros of a queue: %+v %v", q, q.Valid())
	}
	// A request is read onto the default: absent keeps it, zero is zero.
	q = DefaultQueue()
	if err := json.Unmarshal([]byte(`{"ageing_s":0,"wrap_up_s":3}`), &q); err != nil || q.AgeingS != 0 || q.MaxWaiting != 1000 || q.WrapUpS != 3 {
		t.Errorf("read onto the default: %+v %v", q, err)
	}
	if l := (Tenant{Limits: Limits{MaxCalls: 7}}).WithDefaults().Limits; l != (Limits{MaxCalls: 7, CallsPerSecond: 1000}) {
		t.Errorf("limits: %+v", l)
	}
}

func TestTenantRefused(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Tenant)
	}{
		{"/id", func(t *Tenant) { t.ID = "" }},
		{"/id", func(t *Tenant) { t.ID = "a/b" }},
		{"/id", func(t *Tenant) { t.ID = ".." }},
		{"/id", func(t *Tenant) { t.ID = core.TenantID(strings.Repeat("a", 65)) }},
		{"", func(t *Tenant) { t.ID = core.TenantID(strings.Repeat("a", 64)) }},
		{"/domain", func(t *Tenant) { t.Domain = "" }},
		{"/domain", func(t *Tenant) { t.Domain = "acme..example" }},
		{"/domain", func(t *Tenant) { t.Domain = "acme.example." }},
		{"/domain", func(t *Tenant) { t.Domain = "-acme.example" }},
		{"/domain", func(t *Tenant) { t.Domain = "acme-.example" }},
		{"/domain", func(t *Tenant) { t.Domain = "Acme.example" }},
		{"/domain", func(t *Tenant) { t.Domain = "ac me.example" }},
		{"/domain", func(t *Tenant) { t.Domain = "192.0.2.1" }},
		{"/domain", func(t *Tenant) { t.Domain = "2001:db8::1" }},
		{"/domain", func(t *Tenant) { t.Domain = "acme.123" }},
		{"/domain", func(t *Tenant) { t.Domain = strings.Repeat("a", 64) + ".example" }},
		{"/domain", func(t *Tenant) { t.Domain = strings.Repeat("a.", 126) + "ab" }},
		{"", func(t *Tenant) { t.Domain = strings.Repeat("a.", 126) + "a" }},
		{"", func(t *Tenant) { t.Domain = "demo.localhost" }},
		{"", func(t *Tenant) { t.Domain = "localhost" }},
		{"/name", func(t *Tenant) { t.Name = "a\nb" }},
		{"/name", func(t *Tenant) { t.Name = "\xff" }},
		{"/name", func(t *Tenant) { t.Name = strings.Repeat("a", 201) }},
		{"/sources/1", func(t *Tenant) { t.Sources[1] = netip.Prefix{} }},
		{"/sources/0", func(t *Tenant) { t.Sources[0] = netip.MustParsePrefix("192.0.2.1/24") }},
		{"/sources", func(t *Tenant) { t.Sources = slices.Repeat(t.Sources[:1], 1001) }},
		{"/limits/max_calls", func(t *Tenant) { t.Limits.MaxCalls = -1 }},
		{"/limits/max_calls", func(t *Tenant) { t.Limits.MaxCalls = 100001 }},
		{"/limits/calls_per_second", func(t *Tenant) { t.Limits.CallsPerSecond = 10001 }},
		{"/keys/0", func(t *Tenant) { t.Keys[0] = "dt_live_secret" }},
		{"/keys", func(t *Tenant) { t.Keys = slices.Repeat(t.Keys, 101) }},
	} {
		v := goodTenant()
		c.change(&v)
		if got := pointers(v.Valid()); got != c.want {
			t.Errorf("%+v: errors at %q, want %q", v, got, c.want)
		}
	}
}

func TestQueueRefused(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		want   string
		change func(*Queue)
	}{
		{"/id", func(q *Queue) { q.ID = "a b" }},
		{"/strategy", func(q *Queue) { q.Strategy = "random" }},
		{"/ring_timeout_s", func(q *Queue) { q.RingTimeoutS = 0.09 }},
		{"/ring_timeout_s", func(q *Queue) { q.RingTimeoutS = 300.1 }},
		{"/ring_timeout_s", func(q *Queue) { q.RingTimeoutS = nan }},
		{"/wrap_up_s", func(q *Queue) { q.WrapUpS = -1 }},
		{"/wrap_up_s", func(q *Queue) { q.WrapUpS = inf }},
		{"/wrap_up_s", func(q *Queue) { q.WrapUpS = nan }},
		{"/max_waiting", func(q *Queue) { q.MaxWaiting = 100001 }},
		{"/ageing_s", func(q *Queue) { q.AgeingS = math.Inf(-1) }},
		{"/ageing_s", func(q *Queue) { q.AgeingS = nan }},
		{"/skills/german", func(q *Queue) { q.Skills = map[string]int{"german": 0} }},
		{"/skills/a~1b~0c", func(q *Queue) { q.Skills = map[string]int{"a/b~c": 11} }},
		{"/skills", func(q *Queue) { q.Skills = map[string]int{"a\x00": 1} }},
		{"/skills", func(q *Queue) { q.Skills = map[string]int{"": 1} }},
		{"/overflow/after_s", func(q *Queue) { q.Overflow = &Overflow{} }},
		{"", func(q *Queue) { q.Overflow = &Overflow{WhenNobody: true} }},
		{"/overflow/after_s", func(q *Queue) { q.Overflow = &Overflow{AfterS: nan} }},
		{"/overflow/after_s", func(q *Queue) { q.Overflow = &Overflow{AfterS: 86401} }},
		{"/overflow/queue", func(q *Queue) { q.Overflow.Queue = "x/y" }},
		{"/overflow/queue", func(q *Queue) { q.Overflow.Queue = q.ID }},
		{"/overflow/announce", func(q *Queue) { q.Overflow.Announce = "../../etc/passwd" }},
		{"/welcome", func(q *Queue) { q.Welcome = ".hidden" }},
		{"/music", func(q *Queue) { q.Music = "a/b" }},
		{"/service_level_s", func(q *Queue) { q.ServiceLevelS = 0 }},
		{"/short_abandon_s", func(q *Queue) { q.ShortAbandonS = -0.1 }},
	} {
		v := goodQueue()
		c.change(&v)
		if got := pointers(v.Valid()); got != c.want {
			t.Errorf("%+v: errors at %q, want %q", v, got, c.want)
		}
	}
}

func TestAgentAndNumberRefused(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Agent, *Number)
	}{
		{"/id", func(a *Agent, _ *Number) { a.ID = "al@ice" }},
		{"/name", func(a *Agent, _ *Number) { a.Name = "\x1b[31m" }},
		{"/password", func(a *Agent, _ *Number) { a.Password = "a\r\nb" }},
		{"/password", func(a *Agent, _ *Number) { a.Password = core.Secret(strings.Repeat("a", 129)) }},
		{"", func(a *Agent, _ *Number) { a.Password = "" }},
		{"/password", func(a *Agent, _ *Number) { a.Credentials[0].Hash = "secret" }},
		{"/password", func(a *Agent, _ *Number) { a.Credentials[0].Algorithm = "SHA-256" }},
		{"/queues/1", func(a *Agent, _ *Number) { a.Queues[1] = a.Queues[0] }},
		{"/queues/0", func(a *Agent, _ *Number) { a.Queues[0] = "" }},
		{"/skills/german", func(a *Agent, _ *Number) { a.Skills["german"] = 11 }},
		{"/number", func(_ *Agent, n *Number) { n.Number = "" }},
		{"/number", func(_ *Agent, n *Number) { n.Number = "12 34" }},
		{"/number", func(_ *Agent, n *Number) { n.Number = strings.Repeat("1", 33) }},
		{"/queue", func(_ *Agent, n *Number) { n.Queue = "" }},
		{"/priority", func(_ *Agent, n *Number) { n.Priority = 11 }},
		{"/priority", func(_ *Agent, n *Number) { n.Priority = -1 }},
		{"/skills/x", func(_ *Agent, n *Number) { n.Skills = map[string]int{"x": -1} }},
	} {
		a, n := goodAgent(), goodNumber()
		c.change(&a, &n)
		if got := pointers(append(a.Valid(), n.Valid()...)); got != c.want {
			t.Errorf("%+v %+v: errors at %q, want %q", a, n, got, c.want)
		}
	}
}

// An error goes to clients and logs: it must not repeat a password or a key.
func TestErrorsNameNoSecret(t *testing.T) {
	a, v := goodAgent(), goodTenant()
	a.Password, v.Keys[0] = "hunter2\x00", "hunter2"
	for _, e := range append(a.Valid(), v.Valid()...) {
		if strings.Contains(e.Pointer+e.Detail, "hunter2") {
			t.Errorf("secret in %+v", e)
		}
	}
}

// Whatever is refused is refused with a pointer and a reason, in an order that does not
// change; whatever is accepted is finite and within bounds.
func FuzzValid(f *testing.F) {
	f.Add([]byte(`{"id":"q","ring_timeout_s":1e300,"skills":{"a":1,"b":99},"overflow":{"after_s":-1}}`))
	f.Add([]byte(`{"id":"a","queues":["x","x",""],"skills":{"~/":0},"credentials":[{}]}`))
	f.Add([]byte(`{"number":"\u0000","priority":99999999999,"queue":".."}`))
	f.Add([]byte(`{"id":"t","domain":"a..b","sources":["0.0.0.0/0"],"keys":["x"],"limits":{"max_calls":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var (
			tn Tenant
			q  = DefaultQueue()
			a  Agent
			n  Number
		)
		for _, v := range []any{&tn, &q, &a, &n} {
			_ = json.Unmarshal(b, v) // what can be read is read
		}
		for range 2 {
			for _, wrong := range [][]core.FieldError{tn.Valid(), q.Valid(), a.Valid(), n.Valid()} {
				for _, e := range wrong {
					if !strings.HasPrefix(e.Pointer, "/") || e.Detail == "" {
						t.Fatalf("%+v says too little", e)
					}
				}
			}
		}
		if !slices.Equal(q.Valid(), q.Valid()) || !slices.Equal(a.Valid(), a.Valid()) {
			t.Fatal("the order of errors changes")
		}
		if a.Valid() == nil && (len(a.ID) > 64 || strings.ContainsAny(string(a.ID), "/ \x00")) {
			t.Fatalf("accepted %q", a.ID)
		}
	})
}

// Valid accepts exactly the stated ranges, NaN and infinities never.
func TestSecondsRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.Float64(), rapid.Float64Range(-1, 400), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0.1, 300})).Draw(t, "s")
		q := goodQueue()
		q.RingTimeoutS = s
		if ok := s >= 0.1 && s <= 300; ok != (q.Valid() == nil) {
			t.Fatalf("ring_timeout_s %v: %v", s, q.Valid())
		}
	})
}
