package sipstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	maxUnsent    = 256 * 1024       // bytes that wait for a peer which does not read
	writeTimeout = 10 * time.Second // of one write to such a peer
	lingerTime   = time.Second      // of reading on after the last answer
	lingerBytes  = 256 * 1024

	// Of nodes of the cluster: hundreds of calls share one of their connections, and they
	// find one when others hold all there are.
	maxUnsentMember = 8 << 20
	maxMemberFlows  = 64
)

var (
	errFlowClosed = errors.New("connection closed")
	errUnread     = errors.New("peer does not read")
)

// flow is one TCP connection (RFC 5626 s.3.2).
type flow struct {
	stack   *Stack
	id      core.FlowID
	number  uint64 // of this process's connections
	token   string // URI that names it to others, "" for one that we opened
	conn    *net.TCPConn
	remote  netip.AddrPort
	contact netip.AddrPort // our sent-by on it
	dialled bool
	opened  time.Time

	mu      sync.Mutex
	unsent  [][]byte
	size    int  // bytes of unsent
	sending bool // a goroutine is writing
	closed  bool
	last    bool // say no more when all is sent
	waiting map[core.TxnID]*clientTxn
	second  int64 // in which passed was counted
	passed  int   // messages for other nodes
}

// flowTable counts and finds connections.
type flowTable struct {
	mu       sync.Mutex
	boot     string // makes identifiers of different processes differ
	seals    seals
	next     uint64
	byID     map[core.FlowID]*flow
	bySource map[netip.Addr]int
	dialled  map[netip.AddrPort]*flow
	dialling map[netip.AddrPort]*dial
}

func (t *flowTable) init() {
	var b [6]byte
	rand.Read(b[:])
	t.boot = hex.EncodeToString(b[:])
	t.seals.init()
	t.byID = map[core.FlowID]*flow{}
	t.bySource = map[netip.Addr]int{}
	t.dialled = map[netip.AddrPort]*flow{}
	t.dialling = map[netip.AddrPort]*dial{}
}

func (t *flowTable) get(id core.FlowID) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

func (t *flowTable) numbered(n uint64) *flow { return t.get(t.idOf(n)) }

func (t *flowTable) idOf(n uint64) core.FlowID {
	return core.FlowID("tcp/" + t.boot + "/" + strconv.FormatUint(n, 36))
}

func (t *flowTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// add registers a connection, or says which limit it would break.
func (t *flowTable) add(f *flow, max, perSource int) (full, sourceFull bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	source := f.remote.Addr()
	if len(t.byID) >= max {
		return true, false
	}
	if !f.dialled && t.bySource[source] >= perSource {
		return false, true
	}
	t.next++
	f.number, f.id = t.next, t.idOf(t.next)
	t.byID[f.id] = f
	if f.dialled {
		t.dialled[f.remote] = f
	} else {
		f.token = t.seals.tokenURI(t.next, f.contact)
		t.bySource[source]++
	}
	return false, false
}

func (t *flowTable) remove(f *flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, f.id)
	source := f.remote.Addr()
	if f.dialled {
		if t.dialled[f.remote] == f {
			delete(t.dialled, f.remote)
		}
	} else if t.bySource[source]--; t.bySource[source] <= 0 {
		delete(t.bySource, source)
	}
}

func (t *flowTable) all() []*flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*flow, 0, len(t.byID))
	for _, f := range t.byID {
		all = append(all, f)
	}
	return all
}

func (t *flowTable) closeAll() {
	for _, f := range t.all() {
		f.close()
	}
}

// drain waits until everything is written, half a second at most.
func (t *flowTable) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	for _, f := range t.all() {
		for f.busy() && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
	}
}

func (f *flow) busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sending && !f.closed
}

// admit takes an accepted connection, or closes it at a limit.
func (s *Stack) admit(conn *net.TCPConn, l *listener) {
	f := &flow{stack: s, conn: conn, remote: localOf(conn.RemoteAddr()), contact: l.contact, opened: time.Now()}
	most := s.cfg.MaxFlows
	if s.isMember(f.remote.Addr()) {
		most += maxMemberFlows
	}
	full, sourceFull := s.flows.add(f, most, s.cfg.MaxFlowsPerSource)
	if full || sourceFull {
		if full {
			s.tally.shedFlows.Add(1)
		} else {
			s.tally.shedSource.Add(1)
		}
		conn.SetLinger(0) // no TIME_WAIT for those who come too often
		conn.Close()
		return
	}
	s.readers.Go(f.read)
}

// read handles the messages of a connection until it ends. Two limits hold against peers
// that connect and say little: a message must be whole FlowOpening after its first byte,
// and the first one after the connection was opened (a slow-loris sends a byte a second).
func (f *flow) read() {
	frames := framer{limit: f.stack.cfg.MaxMessage}
	heard, began, spoke := f.opened, time.Time{}, f.dialled
	defer func() { f.ended(spoke) }()
	for {
		f.conn.SetReadDeadline(f.deadline(heard, began, spoke))
		n, err := f.conn.Read(frames.room())
		if err != nil {
			return
		}
		frames.grew(n)
		heard = time.Now()
		whole, ok := f.take(&frames)
		if !ok {
			return
		}
		spoke = spoke || whole
		switch {
		case !frames.partial():
			began = time.Time{}
		case whole || began.IsZero():
			began = heard
		}
	}
}

func (f *flow) deadline(heard, began time.Time, spoke bool) time.Time {
	switch {
	case !began.IsZero():
		return began.Add(f.stack.cfg.FlowOpening)
	case !spoke:
		return f.opened.Add(f.stack.cfg.FlowOpening)
	}
	return heard.Add(f.stack.cfg.FlowIdle)
}

// take handles the whole messages that have arrived.
func (f *flow) take(frames *framer) (whole, ok bool) {
	pong := false
	for {
		msg, ping, err := frames.next()
		if ping && !pong {
			pong = true // one per read is enough: a stream of pings must not double itself
			f.stack.tally.keepAlives.Add(1)
			f.write([]byte("\r\n"))
		}
		switch {
		case err != nil:
			f.misframed(msg, err)
			return whole, false
		case msg == nil:
			return whole, true
		}
		if !f.stack.receive(msg, core.Peer{Transport: core.TCP, Addr: f.remote}, out{flow: f, addr: f.remote}) {
			return whole, false
		}
		whole = true
	}
}

// misframed answers a message whose end can't be found; the connection has to be closed,
// for what follows could be anything (RFC 3261 s.18.3).
func (f *flow) misframed(msg []byte, err error) {
	if len(msg) == 0 || errors.Is(err, errGarbage) {
		f.stack.tally.garbage.Add(1)
		return
	}
	status := 400
	if errors.Is(err, errTooLarge) {
		status = 513
	}
	f.stack.reject(refuse(msg, f.remote, status, err), out{flow: f, addr: f.remote})
	f.finish()
}

// write queues a copy of one message. It never waits: a peer that does not read loses its
// connection when maxUnsent is reached.
func (f *flow) write(b []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed || f.last:
		return errFlowClosed
	case f.size+len(b) > maxUnsent && !(f.size+len(b) <= maxUnsentMember && f.stack.isMember(f.remote.Addr())):
		f.closeLocked()
		return errUnread
	}
	f.unsent = append(f.unsent, bytes.Clone(b))
	f.size += len(b)
	f.stack.tally.waiting.Add(1)
	if !f.sending {
		f.sending = true
		go f.send()
	}
	return nil
}

// send writes what is queued and ends; an idle connection has no writing goroutine.
func (f *flow) send() {
	for {
		f.mu.Lock()
		if len(f.unsent) == 0 || f.closed {
			f.sending = false
			last := f.last && !f.closed
			f.mu.Unlock()
			if last {
				f.conn.CloseWrite()
			}
			return
		}
		bufs := net.Buffers(f.unsent)
		size, count := f.size, len(f.unsent)
		f.unsent = nil
		f.mu.Unlock()

		f.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		_, err := bufs.WriteTo(f.conn)
		f.stack.tally.waiting.Add(-int64(count))
		f.mu.Lock()
		f.size -= size
		if err != nil {
			f.closeLocked()
		}
		f.mu.Unlock()
	}
}

// finish says no more once all is sent, and reads on for a moment: closing a connection
// with unread bytes would destroy the answer on its way.
func (f *flow) finish() {
	f.mu.Lock()
	f.last = true
	sending := f.sending
	f.mu.Unlock()
	if !sending {
		f.conn.CloseWrite()
	}
	f.conn.SetReadDeadline(time.Now().Add(lingerTime))
	io.CopyN(io.Discard, f.conn, lingerBytes)
}

func (f *flow) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closeLocked()
}

func (f *flow) closeLocked() {
	if !f.closed {
		f.closed = true
		f.stack.tally.waiting.Add(-int64(len(f.unsent)))
		f.unsent = nil
		f.conn.Close()
	}
}

// ended is the last act of the reader: the requests that wait for an answer on this
// connection fail, then the core learns that it is gone, if it ever heard of it.
func (f *flow) ended(known bool) {
	f.mu.Lock()
	f.closeLocked()
	waiting := f.waiting
	f.waiting = nil
	f.mu.Unlock()
	f.stack.flows.remove(f)
	for _, c := range waiting {
		c.conclude(core.Undelivered)
	}
	if known {
		f.stack.inbox.keep(core.FlowClosed{Flow: f.id})
	}
}

// await lets a client transaction fail with the connection. It reports false when that
// has happened already.
func (f *flow) await(c *clientTxn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	if f.waiting == nil {
		f.waiting = map[core.TxnID]*clientTxn{}
	}
	f.waiting[c.id] = c
	return true
}

func (f *flow) forget(c *clientTxn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiting, c.id)
}
