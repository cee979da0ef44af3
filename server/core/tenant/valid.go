package tenant

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds of what one value may hold. They keep a record well below the size that the store
// takes in one write, and a log line on a screen.
const (
	maxID       = 64
	maxText     = 200
	maxPassword = 128
	maxDomain   = 253 // RFC 1035 s.2.3.4, without the trailing dot
	maxSources  = 1000
	maxKeys     = 100
	maxQueues   = 1000 // of one agent
	maxSkills   = 100
)

// report collects what is wrong with a value.
type report []core.FieldError

func (r *report) add(pointer, format string, args ...any) {
	*r = append(*r, core.FieldError{Pointer: pointer, Detail: fmt.Sprintf(format, args...)})
}

// Valid returns what is wrong with a tenant, nil when nothing is.
func (t Tenant) Valid() []core.FieldError {
	var r report
	r.id("/id", string(t.ID))
	r.domain("/domain", t.Domain)
	r.text("/name", t.Name, maxText)
	if len(t.Sources) > maxSources {
		r.add("/sources", "at most %d networks", maxSources)
	}
	for i, p := range first(t.Sources, maxSources) {
		if !p.IsValid() || p.Addr().Zone() != "" || p != p.Masked() {
			r.add(fmt.Sprintf("/sources/%d", i), "must be a network as 192.0.2.0/24 or 2001:db8::/32, with no bit set beyond its length")
		}
	}
	r.whole("/limits/max_calls", t.Limits.MaxCalls, 0, 100000)
	r.whole("/limits/calls_per_second", t.Limits.CallsPerSecond, 0, 10000)
	if len(t.Keys) > maxKeys {
		r.add("/keys", "at most %d keys", maxKeys)
	}
	for i, k := range first(t.Keys, maxKeys) {
		if !isHex(string(k), 64) {
			r.add(fmt.Sprintf("/keys/%d", i), "must be a SHA-256 in lower-case hex")
		}
	}
	return r
}

// Valid returns what is wrong with a queue, nil when nothing is.
func (q Queue) Valid() []core.FieldError {
	var r report
	r.id("/id", string(q.ID))
	if q.Strategy != LongestIdle && q.Strategy != RoundRobin && q.Strategy != MostSkilled {
		r.add("/strategy", "must be %s, %s or %s", LongestIdle, RoundRobin, MostSkilled)
	}
	r.seconds("/ring_timeout_s", q.RingTimeoutS, 0.1, 300)
	r.seconds("/wrap_up_s", q.WrapUpS, 0, 3600)
	r.whole("/max_waiting", q.MaxWaiting, 0, 100000)
	r.skills(q.Skills)
	r.seconds("/ageing_s", q.AgeingS, 0, 3600)
	if q.Overflow != nil {
		for _, e := range q.Overflow.Valid() {
			r = append(r, core.FieldError{Pointer: "/overflow" + e.Pointer, Detail: e.Detail})
		}
		if q.Overflow.Queue != "" && q.Overflow.Queue == q.ID {
			r.add("/overflow/queue", "must be another queue")
		}
	}
	r.audio("/welcome", q.Welcome)
	r.audio("/music", q.Music)
	r.seconds("/service_level_s", q.ServiceLevelS, 0.1, 3600)
	r.seconds("/short_abandon_s", q.ShortAbandonS, 0, 3600)
	return r
}

// Valid returns what is wrong with an overflow rule, nil when nothing is. That its queue
// exists, and that a chain of rules does not end where it began, only the tenant's whole
// configuration can tell.
func (o Overflow) Valid() []core.FieldError {
	var r report
	r.seconds("/after_s", o.AfterS, 0, 86400)
	if o.AfterS == 0 && !o.WhenNobody {
		r.add("/after_s", "must be above 0 unless when_nobody is true: nothing would ever overflow")
	}
	if o.Queue != "" {
		r.id("/queue", string(o.Queue))
	}
	r.audio("/announce", o.Announce)
	return r
}

// Valid returns what is wrong with an agent, nil when nothing is. An empty password is
// allowed here: it keeps the one that is stored.
func (a Agent) Valid() []core.FieldError {
	var r report
	r.id("/id", string(a.ID))
	r.text("/name", a.Name, maxText)
	r.text("/password", a.Password.Reveal(), maxPassword)
	for _, c := range a.Credentials {
		if !(c.Algorithm == "MD5" && isHex(c.Hash, 32) || c.Algorithm == "SHA-256" && isHex(c.Hash, 64)) {
			r.add("/password", "stored credentials must be MD5 or SHA-256 in lower-case hex")
			break
		}
	}
	if len(a.Queues) > maxQueues {
		r.add("/queues", "at most %d queues", maxQueues)
	}
	seen := make(map[core.QueueID]bool)
	for i, q := range first(a.Queues, maxQueues) {
		pointer := fmt.Sprintf("/queues/%d", i)
		r.id(pointer, string(q))
		if seen[q] {
			r.add(pointer, "is named twice")
		}
		seen[q] = true
	}
	r.skills(a.Skills)
	return r
}

// Valid returns what is wrong with a number, nil when nothing is.
func (n Number) Valid() []core.FieldError {
	var r report
	if !within(n.Number, 32, "+*#._-") {
		r.add("/number", "must be 1 to 32 of the characters 0-9 A-Z a-z + * # . _ -")
	}
	r.id("/queue", string(n.Queue))
	r.whole("/priority", n.Priority, 0, 10)
	r.skills(n.Skills)
	return r
}

// id also refuses "." and "..": ids are parts of URL paths, where these vanish.
func (r *report) id(pointer, s string) {
	if !within(s, maxID, "._-") || s == "." || s == ".." {
		r.add(pointer, "must be 1 to %d of the characters 0-9 A-Z a-z . _ - and not . or .. alone", maxID)
	}
}

// audio allows what is a file name on every system: the edge adds directory and extension.
func (r *report) audio(pointer, s string) {
	if s != "" && (!within(s, maxID, "._-") || s[0] == '.') {
		r.add(pointer, "must be the name of an audio without directory and extension: up to %d of the characters 0-9 A-Z a-z . _ - not beginning with .", maxID)
	}
}

func (r *report) text(pointer, s string, most int) {
	if len(s) > most || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		r.add(pointer, "must be text of at most %d bytes (UTF-8) without control characters", most)
	}
}

func (r *report) whole(pointer string, n, least, most int) {
	if n < least || n > most {
		r.add(pointer, "must be a whole number from %d to %d", least, most)
	}
}

// seconds refuses NaN as well: it compares as neither less nor greater.
func (r *report) seconds(pointer string, s, least, most float64) {
	if math.IsNaN(s) || s < least || s > most {
		r.add(pointer, "must be a number of seconds from %g to %g", least, most)
	}
}

func (r *report) skills(m map[string]int) {
	if len(m) > maxSkills {
		r.add("/skills", "at most %d skills", maxSkills)
		return
	}
	for _, skill := range slices.Sorted(maps.Keys(m)) {
		pointer := "/skills/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(skill) // RFC 6901 s.3
		if skill == "" || len(skill) > maxID || !utf8.ValidString(skill) || strings.ContainsFunc(skill, unicode.IsControl) {
			r.add("/skills", "a skill's name must be text of 1 to %d bytes (UTF-8) without control characters", maxID)
		} else if m[skill] < 1 || m[skill] > 10 {
			r.add(pointer, "must be a whole number from 1 to 10")
		}
	}
}

// domain allows a host name in lower case, as SIP URIs are compared. An address is none: the
// tenant of a Request-URI with an address is a setting of the node.
func (r *report) domain(pointer, s string) {
	const allowed = "must be a host name in lower case: labels of 1 to 63 of the characters a-z 0-9 - joined by dots, up to 253 in all, not an address"
	ok := len(s) <= maxDomain
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		last = label
		if !within(label, 63, "-") || label != strings.ToLower(label) || label[0] == '-' || label[len(label)-1] == '-' {
			ok = false
			break
		}
	}
	if _, err := netip.ParseAddr(s); err == nil || strings.Trim(last, "0123456789") == "" {
		ok = false
	}
	if !ok {
		r.add(pointer, allowed)
	}
}

// within reports whether s is 1 to most ASCII letters, digits and characters of others.
func within(s string, most int, others string) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte(others, c) >= 0) {
			return false
		}
	}
	return true
}

func isHex(s string, length int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == length && s == strings.ToLower(s)
}

// first returns at most n elements: a list that is too long is reported once.
func first[T any](list []T, n int) []T { return list[:min(n, len(list))] }
