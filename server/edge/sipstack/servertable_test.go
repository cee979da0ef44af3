package sipstack

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// A copy of an INVITE may be read on another connection of the same source at the same instant
// (the branch and sent-by are the peer's to choose). Whoever finds the transaction must find it
// whole, and one of the copies reaches the core.
func TestCopiesAtTheSameInstant(t *testing.T) {
	t.Parallel()
	const rounds, readers = 1000, 4
	var reached atomic.Int64
	r := newRig(t, func(c *Config) {
		c.Emit = func(core.Event) bool { reached.Add(1); return true }
	})
	p := newPhone(r, core.UDP)
	peer := core.Peer{Transport: core.UDP, Addr: p.local()}
	back := out{sock: r.udp[0], addr: p.local()}
	for i := range rounds {
		invite := []byte(p.in(fmt.Sprint("c", i), "INVITE", fmt.Sprint("b", i), "", ""))
		m, err := read(r.parser, invite, p.local())
		if err != nil {
			t.Fatal(err)
		}
		id := serverID(&m, core.INVITE, p.local().Addr())
		var all sync.WaitGroup
		all.Go(func() { r.receive(invite, peer, back) })
		for range readers - 1 {
			all.Go(func() { r.receive(invite, peer, back) })
		}
		all.Wait()
		r.servers.get(id).drop()
		if t.Failed() || r.Gauges().Panics > 0 {
			t.Fatalf("round %d of %d: %d panics", i, rounds, r.Gauges().Panics)
		}
	}
	if n := reached.Load(); n != rounds {
		t.Errorf("%d requests reached the core, %d were sent", n, rounds)
	}
}

// The same with the worst interleaving: the reader of the copy goes on between two steps of
// the other. A waits for the table's lock to add its transaction, B behind it to look one up.
// Both wait for more than a millisecond and A once in vain, so the mutex is in its starvation
// mode: it is handed from A to B, and B runs at once.
func TestCopyFindsAWholeTransaction(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	peer := core.Peer{Transport: core.UDP, Addr: p.local()}
	back := out{sock: r.udp[0], addr: p.local()}
	for i := range 40 {
		invite := []byte(p.in(fmt.Sprint("c", i), "INVITE", fmt.Sprint("b", i), "", ""))
		m, err := read(r.parser, invite, p.local())
		if err != nil {
			t.Fatal(err)
		}
		source := p.local().Addr()
		a := newServerTxn(r.Stack, serverID(&m, core.INVITE, source), m.request, source, back)
		var both sync.WaitGroup
		r.servers.mu.Lock()
		both.Go(func() { a.open() })
		time.Sleep(3 * time.Millisecond) // makes the interleaving likely; right code passes with any
		both.Go(func() { r.receive(invite, peer, back) })
		time.Sleep(3 * time.Millisecond)
		r.servers.mu.Unlock()
		r.servers.mu.Lock() // A wakes up in vain: from now on the mutex is handed on
		time.Sleep(time.Millisecond)
		r.servers.mu.Unlock()
		both.Wait()
		if n := r.Gauges().Panics; n > 0 {
			t.Fatalf("a copy found a transaction that was not whole, in round %d", i)
		}
		a.drop()
	}
}

// A fault that one message finds costs that message: over UDP and TCP the next is served. The
// log must not grow with the number of such messages.
func TestPanicCostsOneMessage(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, transport core.Transport) {
		var log bytes.Buffer
		var r *rig
		ready := make(chan struct{})
		r = newRig(t, func(c *Config) {
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			emit := c.Emit
			c.Emit = func(e core.Event) bool {
				<-ready
				if q, ok := e.(core.RequestReceived); ok && q.Request.Method == core.INFO {
					panic("planted")
				}
				return emit(e)
			}
		})
		close(ready)
		r.panics = 9
		p := newPhone(r, transport)
		for i := range 9 {
			p.send(p.in("c", "INFO", fmt.Sprint(i), "", ""))
		}
		p.send(p.in("c", "OPTIONS", "last", "", ""))
		if e := want[core.RequestReceived](r); e.Request.Method != core.OPTIONS {
			t.Errorf("event %+v", e.Request)
		}
		r.Close(t.Context()) // the log is at rest
		if n := strings.Count(log.String(), "planted"); n != 4 || !strings.Contains(log.String(), "gotRequest") {
			t.Errorf("%d lines in the log, want those of the 1st, 2nd, 4th and 8th:\n%s", n, log.String())
		}
	})
}

// RFC 3261 s.8.2.7, s.17.2.1: at the limit of its source a refusal is sent once, and copies of the
// INVITE get the same one for 64*T1 without the core, to which they would be new calls. A
// refusal to another source is repeated as ever.
func TestForgottenRefusalAbsorbsCopies(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	p := newPhone(r, core.UDP)
	r.servers.count(p.local().Addr(), maxRefused)
	for to, status := range map[string]int{"": 407, ";tag=guessed": 481} { // of no dialog, and claiming one
		callID := "c" + to
		change := func(text string) string {
			return strings.Replace(text, "To: <sip:5000@example.com>", "To: <sip:5000@example.com>"+to, 1)
		}
		invite := change(p.in(callID, "INVITE", fmt.Sprint("a", len(to)), "", ""))
		p.send(invite)
		e := want[core.RequestReceived](r)
		res := e.Request.Reply(status, "ours")
		res.Header = []core.Field{{Name: "Proxy-Authenticate", Value: "Digest nonce=once"}}
		r.Do(core.Respond{Txn: e.Txn, To: e.From, Response: res})
		first := p.expect(fmt.Sprint("SIP/2.0 ", status))
		p.send(invite)
		if again := p.recv(patience); again != first || field1(again, "Proxy-Authenticate") == "" {
			t.Errorf("first\n%s\nthen\n%s", first, again)
		}
		r.quiet(p)
		ack := strings.Replace(invite, "INVITE sip", "ACK sip", 1)
		ack = strings.Replace(ack, "7 INVITE", "7 ACK", 1)
		p.send(strings.Replace(ack, "To: "+field1(invite, "To"), "To: "+field1(first, "To"), 1))
		r.quiet(p) // the ACK ended here
	}
	if g := r.Gauges(); g.Forgotten != 2 || g.ServerInvite != 0 {
		t.Errorf("gauges %+v", g)
	}
	r.servers.count(p.local().Addr(), -maxRefused)

	r.servers.count(netip.MustParseAddr("127.0.0.2"), maxRefused) // of somebody else
	p.send(p.in("d", "INVITE", "d", "", ""))
	r.reply(want[core.RequestReceived](r), 486)
	for range 3 {
		p.expect("SIP/2.0 486")
	}
	p.send(p.in("d", "ACK", "d", "", ""))
	if g := r.Gauges(); g.Forgotten != 2 {
		t.Errorf("%d forgotten, one source took the room of another", g.Forgotten)
	}
}

// Whatever a flood sends, the tables of refusals stay within their bounds, and forget in time.
func TestRefusalTablesAreBounded(t *testing.T) {
	t.Parallel()
	var s serverTable
	s.init(10)
	source := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	for i := range 2 * maxRefusedAll { // one each, of forged sources
		if s.mayRefuse(source(i)) {
			s.count(source(i), 1)
		}
	}
	if s.refusedAll != maxRefusedAll || len(s.refused) != maxRefusedAll {
		t.Errorf("%d of %d sources wait for an ACK, want %d", s.refusedAll, len(s.refused), maxRefusedAll)
	}
	for i := range 2 * maxRefusedAll {
		if s.refused[source(i)] > 0 {
			s.count(source(i), -1)
		}
	}
	for s.mayRefuse(source(0)) {
		s.count(source(0), 1)
	}
	if s.refused[source(0)] != maxRefused || !s.mayRefuse(source(1)) {
		t.Errorf("one source: %d, the next may: %v", s.refused[source(0)], s.mayRefuse(source(1)))
	}

	now := time.Now()
	id := func(i int) core.TxnID { return core.TxnID(fmt.Sprint(i)) }
	for i := range 3 * maxForgotten {
		until := now.Add(32*time.Second + time.Duration(i)*time.Microsecond)
		s.remember(id(i), refusal{status: i, until: until}, now)
		s.remember(id(i), refusal{status: -1, until: until}, now) // a second time is the first
	}
	if len(s.forgotten) != maxForgotten || len(s.order) != maxForgotten {
		t.Errorf("%d refusals in %d places, want %d", len(s.forgotten), len(s.order), maxForgotten)
	}
	if _, ok := s.refusal(id(2*maxForgotten-1), now); ok {
		t.Error("the oldest should have made room")
	}
	last := 3*maxForgotten - 1
	if r, ok := s.refusal(id(last), now.Add(31*time.Second)); !ok || r.status != last {
		t.Errorf("got %+v, %v", r, ok)
	}
	if s.add(&serverTxn{id: id(last), invite: true}, now) {
		t.Error("a reader that was late makes a new call of a refused INVITE")
	}
	if !s.add(&serverTxn{id: id(last), invite: true}, now.Add(33*time.Second)) || len(s.forgotten)+len(s.order)+s.bytes != 0 {
		t.Errorf("%d refusals outlive 64*T1", len(s.forgotten))
	}
	wire := make([]byte, maxHeader)
	for i := range maxForgotten {
		s.remember(id(i), refusal{wire: wire, until: now.Add(time.Hour)}, now)
		if s.bytes > maxForgottenBytes || s.bytes != len(s.order)*len(wire) || len(s.forgotten) != len(s.order) {
			t.Fatalf("%d bytes in %d refusals", s.bytes, len(s.order))
		}
	}
	if len(s.order) != maxForgottenBytes/maxHeader {
		t.Errorf("%d long refusals are known, want %d", len(s.order), maxForgottenBytes/maxHeader)
	}
}

// When no more transactions fit, the oldest that was answered and is no INVITE makes room:
// a flood of OPTIONS with forged sources must not shut out calls for 32 s. What waits for
// an answer, and INVITEs, stay.
func TestAnsweredRequestsMakeRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxTransactions, c.T1 = 8, patience })
	p := newPhone(r, core.UDP)
	asked := func(i int, method string, status int) core.TxnID { // each from a source of its own
		text := p.in(fmt.Sprint("c", i), method, fmt.Sprint("b", i), "", "")
		source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}), p.local().Port())
		r.receive([]byte(text), core.Peer{Transport: core.UDP, Addr: source}, out{sock: r.udp[0], addr: source})
		e := want[core.RequestReceived](r)
		if status > 0 {
			r.reply(e, status)
		}
		return e.Txn
	}
	keep := []core.TxnID{asked(1, "INVITE", 180), asked(2, "OPTIONS", 0), asked(3, "INVITE", 200), asked(4, "INVITE", 486)}
	answered := []core.TxnID{asked(5, "OPTIONS", 200), asked(6, "MESSAGE", 200), asked(7, "OPTIONS", 404), asked(8, "REGISTER", 200)}
	for i, id := range answered {
		keep = append(keep, asked(11+i, "INVITE", 180))
		if r.servers.get(id) != nil {
			t.Errorf("%d is still there", i)
		}
		for j, later := range answered[i+1:] {
			if r.servers.get(later) == nil {
				t.Errorf("%d went before its turn, for %d", i+1+j, i)
			}
		}
	}
	for i, id := range keep {
		if r.servers.get(id) == nil {
			t.Errorf("%d of those that stay is gone", i)
		}
	}
	if g := r.Gauges(); g.Dropped != 4 || g.ServerInvite != 7 || g.ServerOther != 1 || g.Shed["transactions"] != 0 {
		t.Errorf("gauges %+v", g)
	}
}
