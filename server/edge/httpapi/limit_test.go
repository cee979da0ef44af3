package httpapi

import (
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

func from(addr string) func(*http.Request) {
	return func(r *http.Request) { r.RemoteAddr = addr }
}

// A key that is known has its own bucket; a flood of made-up keys, and one of another
// tenant's requests, takes nothing from it.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Rate, c.Burst = 10, 20 })
		w.want(200, "GET", "/v1/queues", "", from("192.0.2.1:5000")) // proves the key
		for range 20 {
			w.want(200, "GET", "/v1/queues", "", from("192.0.2.1:5000"))
		}
		a := w.want(429, "GET", "/v1/queues", "", from("192.0.2.9:5000"))
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After: %s", a.header.Get("Retry-After"))
		}
		w.want(200, "GET", "/v1/queues", "", asOther, from("192.0.2.2:5000"))
		w.want(200, "GET", "/livez", "")
		time.Sleep(time.Second)
		for range 10 {
			w.want(200, "GET", "/v1/queues", "")
		}
		w.want(429, "GET", "/v1/queues", "")

		flood := 0
		for i := range 50 {
			a := w.do("GET", "/v1/queues", "", with("Authorization", fmt.Sprintf("Bearer made-up-%d", i)), from("198.51.100.1:1"))
			if a.status == 429 {
				flood++
			}
		}
		if flood != 30 {
			t.Errorf("%d of 50 made-up keys were stopped", flood)
		}
		w.want(200, "GET", "/v1/queues", "", asOther, from("198.51.100.1:1"))
	})
}

func TestLimitsAreBounded(t *testing.T) {
	l, now := newLimits(1, 1), time.Unix(1, 0)
	for i := range 3 * tableSize {
		sender := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		l.take(core.KeyHash(fmt.Sprint(i)), sender, now)
		l.prove(core.KeyHash(fmt.Sprint(i)))
	}
	if len(l.keys.at) != tableSize || l.keys.order.Len() != tableSize || len(l.senders.at) != tableSize {
		t.Errorf("%d keys, %d senders", len(l.keys.at), len(l.senders.at))
	}
}

func TestSender(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:99": "192.0.2.1/32", "[::ffff:192.0.2.1]:99": "192.0.2.1/32",
		"[2001:db8::1:2]:9": "2001:db8::/64", "[fe80::1%eth0]:9": "fe80::/64", "@": "invalid Prefix", "": "invalid Prefix",
	} {
		if got := senderOf(remote).String(); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}
