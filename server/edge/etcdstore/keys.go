package etcdstore

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The layout of the keys. Everything of a tenant begins with its own prefix, so that a
// key of one tenant can't name a record of another:
//
//	t/{tenant}/{key}    a record of a tenant
//	nodes/{id}          bound to the node's lease; its create revision is the incarnation
//	nodes/{id}/chain    id of the last batch that the node committed; bound to no lease
const (
	tenantRoot = "t/"
	nodeRoot   = "nodes/"
	chainLeaf  = "/chain"
)

// Bounds of one key and of one name within it.
const (
	maxName = 128  // characters of a tenant's or a node's id
	maxKey  = 1024 // bytes of a key below its tenant
)

func nodeKey(id core.NodeID) string  { return nodeRoot + string(id) }
func chainKey(id core.NodeID) string { return nodeRoot + string(id) + chainLeaf }

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

// entryKey takes a full key apart; ok is false for a key that tenantKey never made.
func entryKey(full string) (tenant core.TenantID, key string, ok bool) {
	rest, ok := strings.CutPrefix(full, tenantRoot)
	if !ok {
		return "", "", false
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
