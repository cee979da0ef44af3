package registrar

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Register carries out a REGISTER that is allowed to change s (RFC 3261 s.10.3, steps 2, 6,
// 7 and 8) and returns the bindings after it, the response, and whether they differ from s.
// The response must not leave before a change is stored. All changes of a request are made
// or none: with any other status than 200 next is s. The tag goes into To.
func (s Set) Register(now core.Time, req *core.Request, from core.Peer, lim Limits, tag string) (next Set, resp *core.Response, changed bool) {
	r := registration{now: now, req: req, from: from, lim: lim}
	next, refused := r.carryOut(s)
	if refused != nil {
		resp = req.Reply(refused.status, tag)
		resp.Header = []core.Field{refused.field}
		return s, resp, false
	}
	resp = req.Reply(200, tag)
	for _, b := range next {
		resp.Contact = append(resp.Contact, b.remaining(now))
	}
	resp.Header = append(resp.Header, core.Field{Name: "Date", Value: date(now)}) // step 8: SHOULD, for phones without a clock
	for _, path := range req.Values("Path") {                                     // RFC 3327 s.5.3
		resp.Header = append(resp.Header, core.Field{Name: "Path", Value: path})
	}
	if r.outbound {
		resp.Header = append(resp.Header, core.Field{Name: "Require", Value: "outbound"})
	}
	return next, resp, r.changed
}

// remaining is the contact with the time it has left, rounded up: a phone told 0 would
// think itself unregistered.
func (b Binding) remaining(now core.Time) core.Address {
	left := (b.Expires.Sub(now) + time.Second - 1) / time.Second
	a := b.Contact
	a.Params += ";expires=" + strconv.FormatInt(int64(left), 10)
	return a
}

// date is the format of s.20.17.
func date(now core.Time) string {
	return time.Unix(0, int64(now)).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
}

// registration is one request on its way through s.10.3.
type registration struct {
	now      core.Time
	req      *core.Request
	from     core.Peer
	lim      Limits
	path     []core.Address
	changed  bool
	outbound bool // a flow of RFC 5626 was bound for a phone that asked for it
}

// refusal is a final response other than 200, with the field that says what to do.
type refusal struct {
	status int
	field  core.Field
}

func refuse(status int, format string, args ...any) *refusal {
	text := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(fmt.Sprintf(format, args...))
	return &refusal{status, core.Field{Name: "Warning", Value: `399 dialtone "` + text + `"`}}
}

func (r *registration) carryOut(s Set) (Set, *refusal) {
	if tags := r.unsupported(); tags != "" { // step 2, s.8.2.2.3
		return s, &refusal{420, core.Field{Name: "Unsupported", Value: tags}}
	}
	if n := len(r.req.CallID); n == 0 || n > maxCallID {
		return s, refuse(400, "Call-ID: want 1 to %d characters", maxCallID)
	}
	path, err := parsePath(r.req.Values("Path"))
	if err != nil {
		return s, refuse(400, "Path: %v", err)
	}
	r.path = path
	alive, lapsed := s.Expire(r.now)
	r.changed = lapsed
	switch {
	case r.req.Star:
		return r.clear(alive)
	case len(r.req.Contact) == 0: // a query; step 6 goes on to step 8
		return alive, nil
	}
	return r.bind(alive)
}

// unsupported lists the extensions that the request requires and we don't have.
func (r *registration) unsupported() string {
	var missing []string
	for _, value := range r.req.Values("Require") {
		for tag := range strings.SplitSeq(value, ",") {
			tag = strings.TrimSpace(tag)
			if tag != "" && !strings.EqualFold(tag, "path") && !strings.EqualFold(tag, "outbound") {
				missing = append(missing, tag)
			}
		}
	}
	return strings.Join(missing, ", ")
}

// clear is step 6 for "Contact: *".
func (r *registration) clear(alive Set) (Set, *refusal) {
	if len(r.req.Contact) > 0 {
		return alive, refuse(400, "Contact: * stands alone")
	}
	if asked, given := r.header(); !given || asked != 0 {
		return alive, refuse(400, "Contact: * needs Expires: 0")
	}
	for _, b := range alive {
		if refused := r.inOrder(b); refused != nil {
			return alive, refused
		}
	}
	r.changed = r.changed || len(alive) > 0
	return nil, nil
}

// inOrder refuses a request that the phone sent before the one that made b: requests with
// one Call-ID are counted by CSeq. A new Call-ID is a phone that has started again.
func (r *registration) inOrder(b Binding) *refusal {
	if b.CallID == r.req.CallID && r.req.CSeq <= b.CSeq {
		return refuse(500, "CSeq %d is not above %d: register again with a higher one", r.req.CSeq, b.CSeq)
	}
	return nil
}

// bind is step 7.
func (r *registration) bind(alive Set) (Set, *refusal) {
	if len(r.req.Contact) > MaxBindings {
		return alive, refuse(400, "more than %d contacts", MaxBindings)
	}
	// Two contacts of one request may name one binding ("<old>;expires=0, <new>"). The
	// second is then no request out of order: fresh[i] says that next[i] is of this one.
	next, fresh := slices.Clone(alive), make([]bool, len(alive))
	for _, contact := range r.req.Contact {
		b, asked, refused := r.binding(contact)
		if refused != nil {
			return alive, refused
		}
		place := -1
		for i := len(next) - 1; i >= 0; i-- {
			if !b.replaces(next[i]) {
				continue
			}
			if refused := r.inOrder(next[i]); refused != nil && !fresh[i] {
				return alive, refused
			}
			if asked > 0 && place < 0 {
				place = i
				continue
			}
			next, fresh = slices.Delete(next, i, i+1), slices.Delete(fresh, i, i+1)
			place-- // the place stays with the last one; asked == 0 has none
			r.changed = true
		}
		switch {
		case asked == 0:
			continue
		case place < 0:
			next, fresh = append(next, b), append(fresh, true)
		default:
			next[place], fresh[place] = b, true
		}
		r.changed = true
		r.outbound = r.outbound || b.keyed() && r.supports("outbound")
	}
	for len(next) > MaxBindings {
		i := oldest(next)
		next = slices.Delete(next, i, i+1)
	}
	return next, nil
}

func oldest(s Set) int {
	first := 0
	for i, b := range s {
		if b.At < s[first].At {
			first = i
		}
	}
	return first
}

// binding makes a binding of one Contact value, and says for how long it is asked.
func (r *registration) binding(contact core.Address) (Binding, time.Duration, *refusal) {
	if scheme := contact.URI.Scheme; scheme != "sip" && scheme != "sips" || contact.URI.Host == "" {
		return Binding{}, 0, refuse(400, "Contact: want a sip or sips address")
	}
	if len(contact.String()) > maxContact {
		return Binding{}, 0, refuse(400, "Contact: more than %d bytes", maxContact)
	}
	b := Binding{
		Contact: contact, Peer: r.from, CallID: r.req.CallID, CSeq: r.req.CSeq,
		Q: quality(contact), At: r.now, Path: r.path,
	}
	b.Contact.Params = withoutExpires(contact.Params)
	b.Instance, _ = parameter(contact, "+sip.instance")
	if id, given := parameter(contact, "reg-id"); given {
		if n, err := strconv.ParseInt(id, 10, 32); err == nil && n > 0 {
			b.RegID = int(n)
		}
	}
	asked := r.lim.Default
	if d, given := r.header(); given {
		asked = d
	}
	if text, given := parameter(contact, "expires"); given {
		asked = seconds(text)
	}
	// Step 7 spares intervals of an hour and more, whatever the minimum is.
	if asked > 0 && asked < time.Hour && asked < r.lim.Min {
		least := (r.lim.Min + time.Second - 1) / time.Second
		return Binding{}, 0, &refusal{423, core.Field{Name: "Min-Expires", Value: strconv.FormatInt(int64(least), 10)}}
	}
	asked = min(asked, r.lim.Max)
	b.Expires = r.now.Add(asked)
	return b, asked, nil
}

// header is the Expires field of the request.
func (r *registration) header() (time.Duration, bool) {
	values := r.req.Values("Expires")
	if len(values) == 0 {
		return 0, false
	}
	return seconds(values[0]), true
}

// seconds reads delta-seconds, up to 2^32-1 (s.20.19). What is malformed is taken for an
// hour (s.10.2.1.1).
func seconds(text string) time.Duration {
	text = strings.TrimSpace(text)
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return time.Hour
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil { // digits, too many of them
		n = 1<<32 - 1
	}
	return time.Duration(n) * time.Second
}

// quality reads q, 0 to 1 (s.20.10). Without one, or with nonsense, a contact is as good as any.
func quality(contact core.Address) float64 {
	text, _ := parameter(contact, "q")
	q, err := strconv.ParseFloat(text, 64)
	if err != nil || !(q >= 0 && q <= 1) {
		return 1
	}
	return q
}

func (r *registration) supports(extension string) bool {
	for _, name := range []string{"Supported", "k"} { // s.7.3.3
		for _, value := range r.req.Values(name) {
			for tag := range strings.SplitSeq(value, ",") {
				if strings.EqualFold(strings.TrimSpace(tag), extension) {
					return true
				}
			}
		}
	}
	return false
}
