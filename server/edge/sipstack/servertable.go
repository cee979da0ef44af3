package sipstack

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Bounds of what is kept for refused INVITEs. Peers that live acknowledge a refusal within a
// round trip, so the first two are reached by a flood with forged sources alone. Beyond them a
// refusal is sent once (s.8.2.7): repeated a dozen times each, the refusals would be a flood of
// our own, on whom the flood names. Its copies are still told from new calls.
const (
	maxRefused        = 128     // of one source, that wait for their ACK: 40 packets/s towards it
	maxRefusedAll     = 4096    // of all sources: 1,300 packets/s
	maxForgotten      = 8192    // that were sent once, known for 64*T1
	maxForgottenBytes = 8 << 20 // of these: a response has header fields that the peer chose
)

// refusal is the final response to an INVITE that has no transaction any more.
type refusal struct {
	status int
	wire   []byte
	until  time.Time
}

// serverTable finds and counts transactions of peers. Its lock is taken inside that of a
// transaction, never the other way round.
type serverTable struct {
	mu       sync.Mutex
	limit    int
	byID     map[core.TxnID]*serverTxn
	bySource map[netip.Addr]int
	invites  int
	spare    list.List // *serverTxn, answered and not INVITE, the oldest first

	refused    map[netip.Addr]int // INVITEs that were refused and not yet acknowledged
	refusedAll int
	forgotten  map[core.TxnID]refusal
	order      []core.TxnID // of forgotten, the oldest first
	bytes      int          // of forgotten
}

func (t *serverTable) init(limit int) {
	t.limit = limit
	t.byID = map[core.TxnID]*serverTxn{}
	t.bySource = map[netip.Addr]int{}
	t.refused = map[netip.Addr]int{}
	t.forgotten = map[core.TxnID]refusal{}
}

func (t *serverTable) get(id core.TxnID) *serverTxn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// room reports whether source may have one more. One source gets half, so that a flood
// from there leaves the other half to everybody else. When all is full, spare has to make
// room: it waits only for copies of what was answered, a new request for its first answer.
func (t *serverTable) room(source netip.Addr) (ok bool, spare *serverTxn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.bySource[source] >= max(1, t.limit/2) {
		return false, nil
	}
	if len(t.byID) < t.limit {
		return true, nil
	}
	if t.spare.Len() == 0 {
		return false, nil
	}
	spare = t.spare.Front().Value.(*serverTxn)
	t.keep(spare)
	return true, spare
}

// answered says that x may be dropped when room is short.
func (t *serverTable) answered(x *serverTxn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[x.id] == x && x.place == nil {
		x.place = t.spare.PushBack(x)
	}
}

// keep takes x out of what may be dropped, with the lock held.
func (t *serverTable) keep(x *serverTxn) {
	if x.place != nil {
		t.spare.Remove(x.place)
		x.place = nil
	}
}

// add reports false when another reader was quicker with the same request, even by so much
// that it was refused meanwhile.
func (t *serverTable) add(x *serverTxn, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	if _, refused := t.forgotten[x.id]; refused || t.byID[x.id] != nil {
		return false
	}
	t.byID[x.id] = x
	t.bySource[x.source]++
	if x.invite {
		t.invites++
	}
	return true
}

func (t *serverTable) remove(x *serverTxn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[x.id] != x {
		return
	}
	t.keep(x)
	delete(t.byID, x.id)
	if t.bySource[x.source]--; t.bySource[x.source] == 0 {
		delete(t.bySource, x.source)
	}
	if x.invite {
		t.invites--
	}
}

// count adds to the refusals that wait for an ACK of source.
func (t *serverTable) count(source netip.Addr, change int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refusedAll += change
	if t.refused[source] += change; t.refused[source] == 0 {
		delete(t.refused, source)
	}
}

// mayRefuse reports whether one more refusal to source may wait for its ACK.
func (t *serverTable) mayRefuse(source netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused[source] < maxRefused && t.refusedAll < maxRefusedAll
}

// remember keeps a refusal that is sent once, in place of the oldest when there are many.
func (t *serverTable) remember(id core.TxnID, r refusal, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	if _, known := t.forgotten[id]; known {
		return
	}
	for len(t.order) > 0 && (len(t.order) >= maxForgotten || t.bytes+len(r.wire) > maxForgottenBytes) {
		t.forget()
	}
	t.bytes += len(r.wire)
	t.forgotten[id] = r
	t.order = append(t.order, id)
}

// refusal returns what was sent once to an INVITE, as long as copies of it may come.
func (t *serverTable) refusal(id core.TxnID, now time.Time) (refusal, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	r, ok := t.forgotten[id]
	return r, ok
}

// expire drops refusals whose time is over: all have the same time, so they are in order.
func (t *serverTable) expire(now time.Time) {
	for len(t.order) > 0 && !now.Before(t.forgotten[t.order[0]].until) {
		t.forget()
	}
}

func (t *serverTable) forget() {
	t.bytes -= len(t.forgotten[t.order[0]].wire)
	delete(t.forgotten, t.order[0])
	if t.order = t.order[1:]; len(t.order) == 0 {
		t.order = nil
	}
}

func (t *serverTable) counts() (invite, other int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.invites, len(t.byID) - t.invites
}

func (t *serverTable) terminateAll() {
	t.mu.Lock()
	all := make([]*serverTxn, 0, len(t.byID))
	for _, x := range t.byID {
		all = append(all, x)
	}
	t.mu.Unlock()
	for _, x := range all {
		x.drop()
	}
}
