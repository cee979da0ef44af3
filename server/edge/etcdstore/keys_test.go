package etcdstore

import (
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

func TestTenantKeyRefusesWhatLeavesTheTenant(t *testing.T) {
	for _, c := range []struct{ tenant, key string }{
		{"", "a"}, {"..", "a"}, {"a..b", "a"}, {"a/b", "c"}, {"/a", "c"}, {"a/../b", "c"}, {"a\x00", "c"}, {"a b", "c"},
		{"ä", "c"}, {strings.Repeat("a", 129), "c"},
		{"a", ""}, {"a", "/b"}, {"a", "b\x00c"}, {"a", "b\nc"}, {"a", "b\x7f"}, {"a", "b\u0085"}, {"a", "\xff"}, {"a", strings.Repeat("b", 1025)},
	} {
		if full, err := tenantKey(core.TenantID(c.tenant), c.key); err == nil {
			t.Errorf("tenant %q key %q became %q", c.tenant, c.key, full)
		}
	}
	full, err := tenantKey("demo", "call/int_1/leg~é@x y")
	if err != nil || full != "t/demo/call/int_1/leg~é@x y" {
		t.Errorf("%q, %v", full, err)
	}
}

func FuzzTenantKey(f *testing.F) {
	f.Add("demo", "queue/support", "acme", "queue/support")
	f.Add("a", "b/c", "a/b", "c")
	f.Add("a", "../b/c", "b", "c")
	f.Add("a.", "b", "a", ".b")
	f.Fuzz(func(t *testing.T, tenant1, key1, tenant2, key2 string) {
		one, err1 := tenantKey(core.TenantID(tenant1), key1)
		two, err2 := tenantKey(core.TenantID(tenant2), key2)
		if err1 == nil {
			if tenant, key, ok := entryKey(one); !ok || string(tenant) != tenant1 || key != key1 {
				t.Fatalf("%q/%q came back as %q/%q", tenant1, key1, tenant, key)
			}
			if !strings.HasPrefix(one, "t/"+tenant1+"/") {
				t.Fatalf("%q is not below its tenant %q", one, tenant1)
			}
		}
		if err1 == nil && err2 == nil && one == two && (tenant1 != tenant2 || key1 != key2) {
			t.Fatalf("%q/%q and %q/%q are one key", tenant1, key1, tenant2, key2)
		}
		entryKey(tenant1) // must not panic
	})
}

func TestNewEnough(t *testing.T) {
	for version, want := range map[string]bool{
		"3.4.30": false, "3.5.27": false, "3.5.28": true, "3.5.28-rc.1": true, "3.6.0": false, "3.6.8": false, "3.6.9": true, "3.7.0": true,
		"3.7.3": true, "3.8.0+git": true, "4.0.0": true, "2.3.8": false, "": false, "3.7": false, "3.x.1": false, "3.7.3.1": false,
	} {
		if newEnough(version) != want {
			t.Errorf("%q: %v", version, !want)
		}
	}
}

func TestClusterKeys(t *testing.T) {
	for _, key := range []string{"nodes/n1", "drains/n.1_a-b", "claims/n1/1", "claims/n1/9223372036854775807", "shards/000", "shards/063"} {
		full, err := fullKey("", key)
		if tenant, back, ok := entryKey(full); err != nil || full != key || tenant != "" || back != key || !ok {
			t.Errorf("%q: %q %v, back %q/%q %v", key, full, err, tenant, back, ok)
		}
		if key < rangeFrom || key >= rangeEnd {
			t.Errorf("%q is outside of what is watched", key)
		}
	}
	for _, key := range []string{"", "a", "nodes", "nodes/", "nodes/a/b", "nodes/a/chain", "nodes/..", "nodes/a b", "chains/n1", "t/demo/x", "t/",
		"claims/n1", "claims/n1/", "claims/n1/x", "claims/n1/0", "claims/n1/01", "claims/n1/-1", "claims/n1/1/2", "claims//1", "claims/n1/12345678901234567890",
		"shards/1", "shards/0001", "shards/a00", "shards/", "drains/", "drains/a/b", "Nodes/a", "/nodes/a", "nodes/\xff", "shards/٠٠٠"} {
		if full, err := fullKey("", key); err == nil {
			t.Errorf("%q became %q", key, full)
		}
		if tenant, back, ok := entryKey(key); ok && tenant == "" {
			t.Errorf("%q came back as %q", key, back)
		}
	}
	if key := chainKey("n1"); key >= rangeFrom {
		t.Errorf("%q is watched", key)
	}
}

func FuzzEntryKey(f *testing.F) {
	for _, key := range []string{"nodes/n1", "claims/n1/7", "shards/007", "drains/a", "t/demo/x", "t//x", "chains/n1"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		tenant, rest, ok := entryKey(key)
		if !ok {
			return
		}
		if full, err := fullKey(tenant, rest); err != nil || full != key || joined(tenant, rest) != key {
			t.Fatalf("%q is %q/%q, which is %q %v", key, tenant, rest, full, err)
		}
	})
}
