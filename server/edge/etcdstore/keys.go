package etcdstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The layout of the keys. Everything of a tenant begins with its own prefix, so that a
// key of one tenant can't name a record of another. All but the chains lies in one range,
// which one watch covers:
//
//	chains/{id}                    id of the last batch that the node committed
//	claims/{id}/{incarnation}      who claimed what is left of a dead process
//	drains/{id}                    the node is to be empty
//	nodes/{id}                     bound to the node's lease; its revision is the incarnation
//	shards/{nnn}                   the shard's owner
//	t/{tenant}/{key}               a record of a tenant
const (
	chainRoot  = "chains/"
	claimRoot  = "claims/"
	drainRoot  = "drains/"
	nodeRoot   = "nodes/"
	shardRoot  = "shards/"
	tenantRoot = "t/"

	rangeFrom = claimRoot // of the load and of the watch
	rangeEnd  = "t0"      // the first key behind t/
)

// Bounds of one key and of one name within it.
const (
	maxName     = 128  // characters of a tenant's or a node's id
	maxKey      = 1024 // bytes of a key below its tenant
	shardDigits = 3
	maxDigits   = 19 // of a revision
)

func nodeKey(id core.NodeID) string  { return nodeRoot + string(id) }
func chainKey(id core.NodeID) string { return chainRoot + string(id) }

// formerChainKey is where earlier versions of this server had the chain.
func formerChainKey(id core.NodeID) string { return nodeRoot + string(id) + "/chain" }

// claimKey is what another node writes when it claims what that process owns.
func claimKey(id core.NodeID, incarnation int64) string {
	return claimRoot + string(id) + "/" + strconv.FormatInt(incarnation, 10)
}

// chainOfClaim returns the chain that a claim takes: claims are removed one day, and whoever
// was claimed must not take itself for one whose lease has just expired.
func chainOfClaim(key string) string {
	node, _, _ := strings.Cut(key[len(claimRoot):], "/")
	return chainRoot + node
}

// fullKey returns the full key of a record: of a tenant's, or of the cluster's own.
func fullKey(tenant core.TenantID, key string) (string, error) {
	if tenant != "" {
		return tenantKey(tenant, key)
	}
	if err := checkClusterKey(key); err != nil {
		return "", fmt.Errorf("key %.40q without a tenant: %w", key, err)
	}
	return key, nil
}

// checkClusterKey allows the keys of the cluster's own records and no other.
func checkClusterKey(key string) error {
	switch {
	case strings.HasPrefix(key, claimRoot):
		node, incarnation, _ := strings.Cut(key[len(claimRoot):], "/")
		if !isDigits(incarnation, 1, maxDigits) || incarnation[0] == '0' {
			return errors.New("must end with an incarnation")
		}
		return checkName(node)
	case strings.HasPrefix(key, drainRoot):
		return checkName(key[len(drainRoot):])
	case strings.HasPrefix(key, nodeRoot):
		return checkName(key[len(nodeRoot):])
	case strings.HasPrefix(key, shardRoot):
		if !isDigits(key[len(shardRoot):], shardDigits, shardDigits) {
			return fmt.Errorf("must end with a shard's number of %d digits", shardDigits)
		}
		return nil
	}
	return fmt.Errorf("must begin with %s, %s, %s or %s", claimRoot, drainRoot, nodeRoot, shardRoot)
}

func isDigits(text string, least, most int) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return len(text) >= least && len(text) <= most
}

// tenantKey returns the full key of a tenant's record. It refuses every tenant and key
// that could lead out of the tenant's prefix, or that a tool could not show.
func tenantKey(tenant core.TenantID, key string) (string, error) {
	if err := checkName(string(tenant)); err != nil {
		return "", fmt.Errorf("tenant %.40q: %w", tenant, err)
	}
	switch {
	case key == "":
		return "", errors.New("key: empty")
	case len(key) > maxKey:
		return "", fmt.Errorf("key %.40q: %d bytes, at most %d are allowed", key, len(key), maxKey)
	case key[0] == '/':
		return "", fmt.Errorf("key %.40q: must not begin with a slash", key)
	case !utf8.ValidString(key):
		return "", fmt.Errorf("key %.40q: not UTF-8", key)
	}
	for _, r := range key {
		if r < 0x20 || (r >= 0x7f && r < 0xa0) {
			return "", fmt.Errorf("key %.40q: control characters are not allowed", key)
		}
	}
	return tenantRoot + string(tenant) + "/" + key, nil
}

// entryKey takes a full key apart; ok is false for a key that fullKey never made.
func entryKey(full string) (tenant core.TenantID, key string, ok bool) {
	rest, ok := strings.CutPrefix(full, tenantRoot)
	if !ok {
		return "", full, checkClusterKey(full) == nil
	}
	name, key, ok := strings.Cut(rest, "/")
	if !ok {
		return "", "", false
	}
	if _, err := tenantKey(core.TenantID(name), key); err != nil {
		return "", "", false
	}
	return core.TenantID(name), key, true
}

// checkName allows what can stand between two slashes of a key: letters, digits, dot,
// underscore and hyphen of ASCII, and no "..".
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("must have 1 to %d characters", maxName)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return errors.New("only letters, digits, '.', '_' and '-' are allowed")
		}
	}
	if strings.Contains(name, "..") {
		return errors.New(`".." is not allowed`)
	}
	return nil
}
