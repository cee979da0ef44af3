package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Records are JSON. Members that a version does not know are ignored, members that it
// misses are zero: so nodes of two versions read each other's. A member is never given
// another meaning; V is for people who look into the store.

const version = 1

// Process is one life of a node: its id, and the revision of its node record.
type Process struct {
	ID          core.NodeID   `json:"id"`
	Incarnation core.Revision `json:"incarnation"`
}

// NodeRecord is `nodes/{id}`: where a node is reached. It is written once in a process's
// life, since its revision is the incarnation.
type NodeRecord struct {
	V         int                               `json:"v"`
	SIP       map[core.Transport]netip.AddrPort `json:"sip,omitempty"`
	HTTP      netip.AddrPort                    `json:"http"`
	Peer      netip.AddrPort                    `json:"peer"` // TCP and UDP, for the other nodes
	Version   string                            `json:"version"`
	StartedAt core.Time                         `json:"started_at"`
}

// ShardRecord is `shards/{nnn}`: who owns the shard. Its revision is the epoch.
type ShardRecord struct {
	V           int           `json:"v"`
	Owner       core.NodeID   `json:"owner"`
	Incarnation core.Revision `json:"incarnation"`
}

// ClaimRecord is `claims/{id}/{incarnation}`: from its commit on, what that process has
// left is divided among the survivors. It is never changed, only removed.
type ClaimRecord struct {
	V         int         `json:"v"`
	By        core.NodeID `json:"by"`
	Survivors []Process   `json:"survivors"`
	At        core.Time   `json:"at"`
}

// DrainRecord is `drains/{id}`: the node is to be empty until the record is removed.
type DrainRecord struct {
	V  int       `json:"v"`
	By string    `json:"by"` // who ordered it, for people
	At core.Time `json:"at"`
}

// Encode returns what NodeKey's key holds.
func (r NodeRecord) Encode() []byte { r.V = version; return encode(r) }

// Encode returns what ShardKey's key holds.
func (r ShardRecord) Encode() []byte { r.V = version; return encode(r) }

// Encode returns what a claim's key holds.
func (r ClaimRecord) Encode() []byte { r.V = version; return encode(r) }

// Encode returns what DrainKey's key holds.
func (r DrainRecord) Encode() []byte { r.V = version; return encode(r) }

func encode(record any) []byte {
	value, err := json.Marshal(record)
	if err != nil {
		panic(err) // a time beyond the year 9999: nothing that a clock shows
	}
	return value
}

const (
	nodePrefix  = "nodes/"
	shardPrefix = "shards/"
	claimPrefix = "claims/"
	drainPrefix = "drains/"
)

// NodeKey is the key of a NodeRecord.
func NodeKey(id core.NodeID) string { return nodePrefix + string(id) }

// DrainKey is the key of a DrainRecord.
func DrainKey(id core.NodeID) string { return drainPrefix + string(id) }

// ShardKey is the key of a ShardRecord, of a shard in [0, Shards).
func ShardKey(shard int) string { return fmt.Sprintf("%s%03d", shardPrefix, shard) }

func claimKey(of Process) string {
	return claimPrefix + string(of.ID) + "/" + strconv.FormatInt(int64(of.Incarnation), 10)
}

// The ways in which a cluster's record can't be used. The key is named by who wraps them.
var (
	errNodeID      = errors.New("a node's id is one part of a key, without a slash: remove the key")
	errShard       = errors.New("a shard is three digits below " + strconv.Itoa(Shards) + ": remove the key, or run a version that knows it")
	errIncarnation = errors.New("an incarnation is a positive decimal number: remove the key")
	errSurvivor    = errors.New("a survivor without id or incarnation: remove the key, and it is claimed again")
)

func checkNode(id string) (core.NodeID, error) {
	if id == "" || strings.Contains(id, "/") {
		return "", errNodeID
	}
	return core.NodeID(id), nil
}

func parseShard(text string) (int, error) {
	shard, err := strconv.Atoi(text)
	if err != nil || shard < 0 || shard >= Shards || ShardKey(shard) != shardPrefix+text {
		return 0, errShard
	}
	return shard, nil
}

func parseClaim(text string) (Process, error) {
	id, number, _ := strings.Cut(text, "/")
	node, err := checkNode(id)
	if err != nil {
		return Process{}, err
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != number {
		return Process{}, errIncarnation
	}
	return Process{node, core.Revision(n)}, nil
}

func decode[T any](value []byte) (T, error) {
	var r T
	if err := json.Unmarshal(value, &r); err != nil {
		return *new(T), err
	}
	return r, nil
}

func decodeClaim(value []byte) (ClaimRecord, error) {
	r, err := decode[ClaimRecord](value)
	if err != nil {
		return ClaimRecord{}, err
	}
	for _, s := range r.Survivors {
		if _, err := checkNode(string(s.ID)); err != nil || s.Incarnation <= 0 {
			return ClaimRecord{}, errSurvivor
		}
	}
	return r, nil
}
