package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Older servers lose what this package builds on: leases revoked by a stalled leader,
// renewals that succeed after a revocation, stale linearizable reads after a pause
// (etcd-io/etcd#15247, #20418).
const needVersions = "3.5.28, 3.6.9, 3.7.0 or later"

// The versions are looked at again every so often: a member that comes back may have been
// replaced by an older one, or may not have answered at the start.
const (
	versionsEvery = 10 * time.Second
	statusTime    = 2 * time.Second // for one member to answer
)

// checkVersion refuses to work when any member that answers is too old.
func checkVersion(ctx context.Context, cfg Config) error {
	endpoints := cfg.Client.Endpoints()
	if len(endpoints) == 0 {
		endpoints = []string{""} // a client within the process has no address
	}
	var last error
	answered := 0
	for _, endpoint := range endpoints {
		old, err := checkEndpoint(ctx, cfg, endpoint)
		if err != nil {
			last = err
			cfg.Log.Warn("an etcd member does not answer", "endpoint", endpoint, "err", err)
			continue
		}
		answered++
		if old != nil {
			return old
		}
	}
	if answered == 0 {
		return fmt.Errorf("etcd does not answer at %s: start it or correct the endpoints: %w", strings.Join(endpoints, ", "), last)
	}
	return nil
}

// checkEndpoint asks one member for its version: err says that it does not answer, old that
// it must not be worked with.
func checkEndpoint(ctx context.Context, cfg Config, endpoint string) (old, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	status, err := cfg.Client.Status(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	if !newEnough(status.Version) {
		return fmt.Errorf("etcd %s at %q is too old: %s is needed: replace that member", status.Version, endpoint, needVersions), nil
	}
	return nil, nil
}

// checkVersions looks at the versions while the store is open. A node with calls does not
// end for a member that is too old: it says so, once each time that it finds one.
func (s *Store) checkVersions() {
	tick := time.NewTicker(s.cfg.pace.versions)
	defer tick.Stop()
	said := map[string]bool{}
	for {
		select {
		case <-s.base.Done():
			return
		case <-tick.C:
		}
		for _, endpoint := range s.cfg.Client.Endpoints() {
			old, err := checkEndpoint(s.base, s.cfg, endpoint)
			if old != nil && !said[endpoint] {
				s.cfg.Log.Error("what is stored is not safe with an etcd member", "err", old)
			}
			said[endpoint] = err == nil && old != nil
		}
	}
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

// load returns all records, the cluster's own and those of all tenants, as they stand at one
// revision, which it returns as well.
func load(ctx context.Context, client *clientv3.Client, page int64, log *slog.Logger) ([]core.Entry, int64, error) {
	for {
		entries, rev, err := loadAt(ctx, client, page, log)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return entries, rev, err
		}
		log.Info("etcd compacted the revision that was being read; reading again")
	}
}

func loadAt(ctx context.Context, client *clientv3.Client, page int64, log *slog.Logger) ([]core.Entry, int64, error) {
	var entries []core.Entry
	from := rangeFrom
	for rev := int64(0); ; {
		reply, err := client.Get(ctx, from, clientv3.WithRange(rangeEnd), clientv3.WithLimit(page), clientv3.WithRev(rev))
		if err != nil {
			return nil, 0, fmt.Errorf("read the records of etcd: %w", err)
		}
		if rev == 0 {
			rev = reply.Header.Revision
			entries = make([]core.Entry, 0, reply.Count)
		}
		for _, kv := range reply.Kvs {
			tenant, key, ok := entryKey(string(kv.Key))
			if !ok {
				log.Warn(strayKey, "key", string(kv.Key))
				continue
			}
			entries = append(entries, core.Entry{Tenant: tenant, Key: key, Value: present(kv.Value), Revision: core.Revision(kv.ModRevision)})
		}
		if !reply.More || len(reply.Kvs) == 0 {
			return entries, rev, nil
		}
		from = string(reply.Kvs[len(reply.Kvs)-1].Key) + "\x00"
	}
}

const strayKey = "a key in etcd is not of this server's making and is ignored"

// present makes an empty value one that is there: nil stands for a deletion.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}
