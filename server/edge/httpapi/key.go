package httpapi

import (
	"crypto/rand"
	"hash/crc32"
	"math/big"
	"net/http"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	tenantHeader      = "Dialtone-Tenant"
	idempotencyHeader = "Idempotency-Key"

	keyPrefix = "dt_live_"
)

// NewKey returns a new API key: dt_live_, 256 random bits in 43 base-62 digits, and their
// CRC-32 in 6, by which a scanner for leaked secrets knows a key from look-alikes.
func NewKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	secret := base62(new(big.Int).SetBytes(b[:]), 43)
	sum := crc32.ChecksumIEEE([]byte(secret))
	return keyPrefix + secret + base62(new(big.Int).SetUint64(uint64(sum)), 6)
}

func base62(n *big.Int, width int) string {
	s := n.Text(62)
	return strings.Repeat("0", width-len(s)) + s
}

// bearer returns the hash of the key that a request shows. The scheme's name has no case
// (RFC 9110 s.11.1). An unknown key costs what a known one costs: it is hashed, and the
// core looks the hash up.
func bearer(r *http.Request) (core.KeyHash, *problem) {
	fields := r.Header.Values("Authorization")
	if len(fields) == 0 {
		return "", &problem{Kind: core.Unauthorized, Detail: "Send an API key in the header Authorization: Bearer KEY."}
	}
	scheme, key, _ := strings.Cut(fields[0], " ")
	key = strings.Trim(key, " ")
	if len(fields) > 1 || !strings.EqualFold(scheme, "Bearer") || key == "" || strings.ContainsAny(key, " \t,") {
		return "", &problem{Kind: core.Unauthorized, Challenge: `error="invalid_request"`,
			Detail: "The header Authorization must be one field of the form: Bearer KEY."}
	}
	return core.HashKey(key), nil
}
