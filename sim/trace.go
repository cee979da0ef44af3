package sim

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// kept is how many of the last events a report shows.
const kept = 30

// trace says every event and every effect in words, hashes the words, and keeps the last.
type trace struct {
	sha  hash.Hash
	ring [kept][]byte
	next int
	line []byte
	to   io.Writer // nil: nowhere
}

func newTrace() *trace { return &trace{sha: sha256.New()} }

// say adds one line: the instant, a mark of the direction, the words.
func (t *trace) say(now core.Time, mark, text string) {
	t.begin(now, mark)
	t.line = append(t.line, text...)
	t.end()
}

func (t *trace) begin(now core.Time, mark string) {
	t.line = appendInstant(t.line[:0], now)
	t.line = append(t.line, ' ')
	t.line = append(t.line, mark...)
	t.line = append(t.line, ' ')
}

func (t *trace) end() {
	t.line = append(t.line, '\n')
	t.sha.Write(t.line)
	t.ring[t.next%kept] = append(t.ring[t.next%kept][:0], t.line...)
	t.next++
	if t.to != nil {
		// A trace that can't be written is noticed when the file is closed.
		_, _ = t.to.Write(t.line)
	}
}

// also adds bytes to the hash that are not worth a line.
func (t *trace) also(b []byte) { t.sha.Write(b) }

func (t *trace) sum() string { return hex.EncodeToString(t.sha.Sum(nil)) }

func (t *trace) last() []string {
	var all []string
	for i := max(0, t.next-kept); i < t.next; i++ {
		all = append(all, strings.TrimSuffix(string(t.ring[i%kept]), "\n"))
	}
	return all
}

// appendInstant writes the time since the world began as seconds with microseconds.
func appendInstant(b []byte, t core.Time) []byte {
	us := int64(t-epoch) / 1000
	b = appendPadded(b, us/1_000_000, 4, ' ')
	b = append(b, '.')
	return appendPadded(b, us%1_000_000, 6, '0')
}

func appendPadded(b []byte, n int64, width int, pad byte) []byte {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = byte('0' + n%10)
		n /= 10
		if n == 0 {
			break
		}
	}
	for len(digits)-i < width {
		i--
		digits[i] = pad
	}
	return append(b, digits[i:]...)
}
