package etcdstore

import (
	"context"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// The relief's rhythm and bounds.
const (
	spaceEvery  = 100 * time.Millisecond // a fast writer fills some MB within
	quotaTurns  = 10                     // the quota is looked at every so many turns
	quotaTime   = 10 * time.Second       // for what is done about it
	compactFrom = 0.5                    // of the quota in use: history is dropped before its hour is over
	shrinkFrom  = 0.8                    // of the quota on disk: with the alarm on, the file is made small again
)

// relief watches over the space of the member for one run: it stops writing before the
// disk is full, drops history before the quota is reached, and ends the alarm when there
// is room again after it was reached.
type relief struct {
	e         *Embedded
	compacted int64 // revision
	exhausted bool  // was said
}

func (r *relief) run(ctx context.Context) {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		r.checkSpace()
		if turn%quotaTurns == 0 {
			r.checkQuota(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *relief) checkSpace() {
	cfg := r.e.cfg
	free, err := freeBytes(cfg.Dir)
	scarce := err == nil && free < cfg.MinFree
	if r.e.line.scarce.Swap(scarce) == scarce {
		return
	}
	if scarce {
		cfg.Log.Error("too little space on the disk: nothing is stored until some is freed; live calls go on",
			"dir", cfg.Dir, "free_mib", free>>20, "needed_mib", cfg.MinFree>>20)
	} else {
		cfg.Log.Info("there is space on the disk again: storing goes on", "dir", cfg.Dir, "free_mib", free>>20)
	}
}

func (r *relief) checkQuota(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quotaTime)
	defer cancel()
	client, cfg := r.e.client, r.e.cfg
	status, err := client.Status(ctx, "")
	if err != nil {
		return
	}
	quota := float64(cfg.Quota)
	alarm := strings.Contains(strings.Join(status.Errors, " "), "NOSPACE")
	pressed := float64(status.DbSizeInUse) > compactFrom*quota
	if rev := status.Header.Revision; (alarm || pressed) && rev > r.compacted {
		if _, err := client.Compact(ctx, rev, clientv3.WithCompactPhysical()); err == nil {
			r.compacted = rev
			cfg.Log.Info("history of the embedded etcd was dropped early, for space", "revision", rev, "in_use_mib", status.DbSizeInUse>>20)
		}
	}
	if !alarm {
		r.exhausted = false
		return
	}
	// The alarm stays until the file itself is small: compaction only empties pages in it.
	if float64(status.DbSize) > shrinkFrom*quota && !r.e.line.scarce.Load() {
		_, _ = client.Defragment(ctx, "") // what matters is the size that is read next
	}
	if status, err = client.Status(ctx, ""); err != nil {
		return
	}
	if float64(status.DbSize) < shrinkFrom*quota {
		if _, err := client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err == nil {
			cfg.Log.Info("the embedded etcd has room within its quota again: storing goes on")
		}
		return
	}
	if !r.exhausted {
		r.exhausted = true
		cfg.Log.Error("the quota of the embedded etcd is used up: nothing is stored; live calls go on", "quota_mib", cfg.Quota>>20)
	}
}
