package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Older servers lose what this package builds on: leases revoked by a stalled leader,
// renewals that succeed after a revocation, stale linearizable reads after a pause
// (etcd-io/etcd#15247, #20418).
const needVersions = "3.5.28, 3.6.9, 3.7.0 or later"

// checkVersion refuses to work when any member that answers is too old.
func checkVersion(ctx context.Context, cfg Config) error {
	endpoints := cfg.Client.Endpoints()
	if len(endpoints) == 0 {
		endpoints = []string{""} // a client within the process has no address
	}
	var last error
	answered := 0
	for _, endpoint := range endpoints {
		try, cancel := context.WithTimeout(ctx, 2*cfg.pace.attempt)
		status, err := cfg.Client.Status(try, endpoint)
		cancel()
		if err != nil {
			last = err
			cfg.Log.Warn("an etcd member does not answer", "endpoint", endpoint, "err", err)
			continue
		}
		answered++
		if !newEnough(status.Version) {
			return fmt.Errorf("etcd %s at %q is too old: %s is needed", status.Version, endpoint, needVersions)
		}
	}
	if answered == 0 {
		return fmt.Errorf("etcd does not answer at %s: start it or correct the endpoints: %w", strings.Join(endpoints, ", "), last)
	}
	return nil
}

func newEnough(version string) bool {
	plain, _, _ := strings.Cut(version, "-")
	plain, _, _ = strings.Cut(plain, "+")
	var v [3]int
	parts := strings.Split(plain, ".")
	if len(parts) != len(v) {
		return false
	}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return false
		}
		v[i] = n
	}
	switch major, minor, patch := v[0], v[1], v[2]; {
	case major != 3:
		return major > 3
	case minor == 5:
		return patch >= 28
	case minor == 6:
		return patch >= 9
	default:
		return minor > 6
	}
}

// loadPage is how many records one read returns.
const loadPage = 512

// load returns all records of all tenants as they stand at one revision.
func load(ctx context.Context, client *clientv3.Client, page int64, log *slog.Logger) ([]core.Entry, error) {
	for {
		entries, err := loadAt(ctx, client, page, log)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return entries, err
		}
		log.Info("etcd compacted the revision that was being read; reading again")
	}
}

func loadAt(ctx context.Context, client *clientv3.Client, page int64, log *slog.Logger) ([]core.Entry, error) {
	var entries []core.Entry
	from, end := tenantRoot, clientv3.GetPrefixRangeEnd(tenantRoot)
	for rev := int64(0); ; {
		reply, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(rev))
		if err != nil {
			return nil, fmt.Errorf("read the records of etcd: %w", err)
		}
		if rev == 0 {
			rev = reply.Header.Revision
			entries = make([]core.Entry, 0, reply.Count)
		}
		for _, kv := range reply.Kvs {
			tenant, key, ok := entryKey(string(kv.Key))
			if !ok {
				log.Warn("a key in etcd is not of this server's making and is ignored", "key", string(kv.Key))
				continue
			}
			value := kv.Value
			if value == nil {
				value = []byte{}
			}
			entries = append(entries, core.Entry{Tenant: tenant, Key: key, Value: value})
		}
		if !reply.More || len(reply.Kvs) == 0 {
			return entries, nil
		}
		from = string(reply.Kvs[len(reply.Kvs)-1].Key) + "\x00"
	}
}
