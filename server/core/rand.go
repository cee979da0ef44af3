package core

import (
	"math/rand/v2"
	"time"
)

// Rand is the core's only source of chance: ChaCha8 with a seed that the driver
// gives. Cryptographically strong, since dialog tags and branches must not be
// guessable from earlier ones (RFC 3261 s.19.3), and equal for an equal seed.
type Rand struct{ source *rand.ChaCha8 }

// NewRand returns the generator of a seed.
func NewRand(seed [32]byte) *Rand { return &Rand{rand.NewChaCha8(seed)} }

// Uint64 returns 64 random bits.
func (r *Rand) Uint64() uint64 { return r.source.Uint64() }

// Below returns a number in [0, n); n must be positive.
func (r *Rand) Below(n int) int { return rand.New(r.source).IntN(n) }

// Between returns a duration in [low, high].
func (r *Rand) Between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(r.Uint64()%uint64(high-low+1))
}

// The alphabet of identifiers: lower case, no vowels that form words, sorted, so
// that a text order is a value order.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// Text returns n characters of 5 random bits each.
func (r *Rand) Text(n int) string {
	b := make([]byte, n)
	var bits uint64
	for i := range b {
		if i%12 == 0 {
			bits = r.Uint64()
		}
		b[i] = alphabet[bits&31]
		bits >>= 5
	}
	return string(b)
}

// Interaction returns a new interaction id: 10 characters of milliseconds, 12 of
// chance; ids made later sort later.
func (r *Rand) Interaction(now Time) InteractionID {
	ms := uint64(now) / uint64(time.Millisecond)
	var b [10]byte
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = alphabet[ms&31]
		ms >>= 5
	}
	return InteractionID("int_" + string(b[:]) + r.Text(12))
}

// Branch returns a new Via branch (RFC 3261 s.8.1.1.7: the magic cookie first).
func (r *Rand) Branch() string { return "z9hG4bK" + r.Text(20) }

// Tag returns a new dialog tag: 75 bits, RFC 3261 s.19.3 asks for 32.
func (r *Rand) Tag() string { return r.Text(15) }
