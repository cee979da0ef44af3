package clusterctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

// Where the records are (server/CLUSTER.md).
const (
	nodePrefix   = "nodes/"
	shardPrefix  = "shards/"
	claimPrefix  = "claims/"
	drainPrefix  = "drains/"
	tenantPrefix = "t/"
	callPart     = "/calls/"
	outboxPart   = "/outbox/"
)

// page is how many records one read returns.
const page = 500

// reading is what etcd holds of a cluster, all of it at one revision.
type reading struct {
	revision   int64
	nodes      map[core.NodeID]nodeState // those whose record is there
	shards     []shardState              // all of them, by number
	claims     []claimState              // in the order of keys
	drains     map[core.NodeID]bool
	calls      map[life]int // records of calls, by the process that anchors them
	outbox     int
	unreadable []string // what cannot be read, in words
}

// read reads everything. The first read goes through the quorum and fixes the revision; the
// others are of that revision, so that no change in between makes a wrong picture. etcd may
// compact it meanwhile: then all is read again.
func read(ctx context.Context, client *clientv3.Client) (*reading, error) {
	if err := reached(ctx, client); err != nil {
		return nil, err
	}
	for {
		r := newReading()
		err := r.fill(ctx, client)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			return r, err
		}
	}
}

func newReading() *reading {
	r := &reading{nodes: map[core.NodeID]nodeState{}, drains: map[core.NodeID]bool{}, calls: map[life]int{}, shards: make([]shardState, cluster.Shards)}
	for i := range r.shards {
		r.shards[i].Shard = i
	}
	return r
}

func (r *reading) fill(ctx context.Context, client *clientv3.Client) error {
	for _, kind := range []struct {
		prefix string
		take   func(rest string, revision core.Revision, value []byte) error
	}{{nodePrefix, r.takeNode}, {shardPrefix, r.takeShard}, {claimPrefix, r.takeClaim}, {drainPrefix, r.takeDrain}} {
		if err := r.each(ctx, client, kind.prefix, func(key string, revision core.Revision, value []byte) {
			if err := kind.take(strings.TrimPrefix(key, kind.prefix), revision, value); err != nil {
				r.unreadable = append(r.unreadable, fmt.Sprintf("the record %.200q cannot be read: %s", key, err))
			}
		}); err != nil {
			return err
		}
	}
	return r.tenants(ctx, client)
}

// each reads all keys below a prefix, page by page.
func (r *reading) each(ctx context.Context, client *clientv3.Client, prefix string, take func(key string, revision core.Revision, value []byte)) error {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		reply, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithRev(r.revision))
		if err != nil {
			return err
		}
		if r.revision == 0 {
			r.revision = reply.Header.Revision
		}
		for _, kv := range reply.Kvs {
			take(string(kv.Key), core.Revision(kv.ModRevision), kv.Value)
		}
		if !reply.More || len(reply.Kvs) == 0 {
			return nil
		}
		from = string(reply.Kvs[len(reply.Kvs)-1].Key) + "\x00"
	}
}

// tenants counts the calls. It leaps from tenant to tenant: their configuration and their
// registrations may be much more than their calls, and are not wanted.
func (r *reading) tenants(ctx context.Context, client *clientv3.Client) error {
	damaged := 0
	for from, end := tenantPrefix, clientv3.GetPrefixRangeEnd(tenantPrefix); ; {
		reply, err := client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(1), clientv3.WithKeysOnly(), clientv3.WithRev(r.revision))
		if err != nil {
			return err
		}
		if len(reply.Kvs) == 0 {
			break
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(string(reply.Kvs[0].Key), tenantPrefix), "/")
		tenant := tenantPrefix + name
		if err := r.each(ctx, client, tenant+callPart, func(_ string, _ core.Revision, value []byte) {
			if c, err := call.Decode(value); err != nil {
				damaged++
			} else {
				r.calls[life{c.Node, c.Incarnation}]++
			}
		}); err != nil {
			return err
		}
		waiting, err := client.Get(ctx, tenant+outboxPart, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithRev(r.revision))
		if err != nil {
			return err
		}
		r.outbox += int(waiting.Count)
		from = clientv3.GetPrefixRangeEnd(tenant + "/")
	}
	if damaged > 0 {
		r.unreadable = append(r.unreadable, counted(damaged, "record")+" of calls cannot be read: nobody takes these calls over")
	}
	return nil
}

func (r *reading) takeNode(rest string, revision core.Revision, value []byte) error {
	if err := nodeName(rest); err != nil {
		return err
	}
	// Even a record that cannot be read is a node that is there.
	s := nodeState{Incarnation: revision}
	var record cluster.NodeRecord
	err := json.Unmarshal(value, &record)
	if err == nil {
		s.Version = record.Version
		if record.Peer.IsValid() {
			s.Address = record.Peer.String()
		}
		if record.StartedAt > 0 {
			s.Since = time.Unix(0, int64(record.StartedAt))
		}
	}
	r.nodes[core.NodeID(rest)] = s
	return err
}

func (r *reading) takeShard(rest string, revision core.Revision, value []byte) error {
	number, err := strconv.Atoi(rest)
	if err != nil || number < 0 || number >= len(r.shards) || cluster.ShardKey(number) != shardPrefix+rest {
		return fmt.Errorf("a shard is three digits below %d", len(r.shards))
	}
	var record cluster.ShardRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return err
	}
	r.shards[number] = shardState{Shard: number, Owner: record.Owner, Incarnation: record.Incarnation, Epoch: revision}
	return nil
}

func (r *reading) takeClaim(rest string, _ core.Revision, value []byte) error {
	name, number, _ := strings.Cut(rest, "/")
	incarnation, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return errors.New("its key does not end in an incarnation")
	}
	var record cluster.ClaimRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return err
	}
	c := claimState{Node: core.NodeID(name), Incarnation: core.Revision(incarnation), By: record.By, Survivors: []core.NodeID{}}
	for _, s := range record.Survivors {
		c.Survivors = append(c.Survivors, s.ID)
	}
	r.claims = append(r.claims, c)
	return nil
}

// takeDrain counts the order by its key alone: a record that cannot be read drains too.
func (r *reading) takeDrain(rest string, _ core.Revision, _ []byte) error {
	if err := nodeName(rest); err != nil {
		return err
	}
	r.drains[core.NodeID(rest)] = true
	return nil
}

func nodeName(text string) error {
	if text == "" || strings.Contains(text, "/") {
		return errors.New("a node's name is one part of a key, without a slash")
	}
	return nil
}
