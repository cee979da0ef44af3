package peers

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Times of a connection.
const (
	dialTime      = 500 * time.Millisecond // for the TCP handshake: longer is silence
	handshakeTime = time.Second            // for ours
	userTimeout   = 3 * time.Second        // of what is sent and not acknowledged (RFC 5482)
	steady        = 100 * time.Millisecond // a connection that lasted so long is asked about at once when it is lost
	firstPause    = 2 * time.Millisecond
	longestPause  = 200 * time.Millisecond
)

// pauseBefore returns how long to wait before another try: not at all before the first,
// since that is the question whether the process lives. The second may be needed by a
// kernel that closes the connections of a dead process before its listening socket.
func pauseBefore(try int) time.Duration {
	if try == 0 {
		return 0
	}
	return min(longestPause, firstPause<<min(try-1, 10))
}

// outbound is a connection that this process opened: by it the process judges, and speaks.
type outbound struct {
	conn   *net.TCPConn
	frames frames
}

// outcome is how an attempt to be connected ended.
type outcome struct {
	kind   outcomeKind
	who    process       // another: who answered
	lasted time.Duration // lost: how long the connection had been there
	err    error         // failed: why
}

type outcomeKind string

const (
	refused outcomeKind = "refused" // nobody listens there
	another outcomeKind = "another" // the node of that name, in another incarnation
	lost    outcomeKind = "lost"    // it was there, and ended
	failed  outcomeKind = "failed"  // all else: no proof of anything
)

// court begins to be connected to a peer, as who this process is now. It needs mu.
func (p *Peers) court(q *peer) {
	if p.self.incarnation == 0 || q.sight.verdict == dead {
		return
	}
	ctx, quit := context.WithCancel(p.ctx)
	q.quit = quit
	me := p.self
	p.work.Go(func() {
		defer quit()
		p.stay(ctx, q, me)
	})
}

// stay keeps a connection to a peer until ctx ends or the peer is dead.
func (p *Peers) stay(ctx context.Context, q *peer, me process) {
	pause := time.NewTimer(time.Hour)
	defer pause.Stop()
	for try := 0; ; try++ {
		if wait := pauseBefore(try); wait > 0 {
			pause.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-pause.C:
			}
		}
		o := p.reach(ctx, q, me)
		if p.settle(ctx, q, o) {
			return
		}
		if o.kind == lost && o.lasted >= steady {
			try = -1
		}
	}
}

// settle draws the conclusion from an attempt. It reports whether it was the last.
func (p *Peers) settle(ctx context.Context, q *peer, o outcome) bool {
	if ctx.Err() == nil && !p.bury(ctx, q, o) {
		p.complain(q, o.err)
		return false
	}
	return true
}

// bury ends what was for a peer whose process has ended, if the outcome proves that. It
// also reports true when ctx has ended: the peer is no concern any more.
func (p *Peers) bury(ctx context.Context, q *peer, o outcome) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return true
	}
	if !proves(o, q.met, q.member.Incarnation) {
		return false
	}
	if q.sight.end() {
		p.tally.deaths++
	}
	q.hush()
	p.deafen(q)
	p.hearTags()
	p.wake()
	return true
}

// proves says whether an outcome proves that the process of an incarnation has ended.
//
// Refused counts only where it had been met: otherwise the address may be wrong. Where it had
// not, an older incarnation proves nothing either: the store may have told us of the new one
// sooner than the process itself.
func proves(o outcome, met bool, incarnation core.Revision) bool {
	switch o.kind {
	case refused:
		return met
	case another:
		return met || o.who.incarnation > incarnation
	}
	return false
}

// complain puts into the log why there is no connection, once. It holds no lock: a log that
// stands still must not stop the heart.
func (p *Peers) complain(q *peer, err error) {
	if err == nil || !p.first(q, err.Error()) {
		return
	}
	p.log.Warn("no connection to a peer", slog.String("peer", string(q.member.ID)), slog.Any("addr", q.member.Addr), slog.String("error", err.Error()))
}

// bare returns an error without the ports of its connection, which are others each time.
func bare(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (p *Peers) first(q *peer, complaint string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.complaint == complaint {
		return false
	}
	q.complaint = complaint
	return true
}

// reach connects to a peer and stays connected until that is lost.
func (p *Peers) reach(ctx context.Context, q *peer, me process) outcome {
	dialer := net.Dialer{Timeout: dialTime, KeepAliveConfig: keepAlive()}
	conn, err := dialer.DialContext(ctx, "tcp", q.member.Addr.String())
	if errors.Is(err, syscall.ECONNREFUSED) {
		return outcome{kind: refused, err: bare(err)}
	}
	if err != nil {
		return outcome{kind: failed, err: bare(err)}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	tcp := conn.(*net.TCPConn)
	impatient(tcp)
	return p.shake(ctx, q, me, tcp)
}

// shake is the dialing side of the handshake, and all that follows it.
func (p *Peers) shake(ctx context.Context, q *peer, me process, conn *net.TCPConn) outcome {
	conn.SetDeadline(time.Now().Add(handshakeTime))
	mine := greeting{who: me}
	mine.nonce, mine.tag = chance()
	hello := appendHello(nil, p.cfg.Secret, mine)
	if err := writeFrame(conn, hello); err != nil {
		return outcome{kind: failed, err: bare(err)}
	}
	welcome, err := readWhole(conn, make([]byte, maxFrame))
	if err != nil {
		return outcome{kind: failed, err: fmt.Errorf("it took the connection and did not answer; has it the same secret, and is it awake? %w", bare(err))}
	}
	theirs, err := readWelcome(welcome, p.cfg.Secret, hello)
	if err != nil {
		return outcome{kind: failed, err: err}
	}
	if theirs.who.id != q.member.ID {
		return outcome{kind: failed, err: fmt.Errorf("node %q answers there; correct the addresses of the nodes", theirs.who.id)}
	}
	if theirs.who.incarnation != q.member.Incarnation {
		return outcome{kind: another, who: theirs.who, err: fmt.Errorf("incarnation %d answers", theirs.who.incarnation)}
	}
	k := keysOf(p.cfg.Secret, hello, welcome)
	// Before the confirm: the first heartbeat may overtake what follows it here.
	if !p.expect(ctx, q, mine.tag, k) {
		return outcome{kind: failed}
	}
	if err := writeFrame(conn, confirmOf(p.cfg.Secret, hello, welcome)); err != nil {
		return outcome{kind: failed, err: bare(err)}
	}
	conn.SetDeadline(time.Time{})
	out := &outbound{conn, newFrames(k.frames)}
	began := p.now()
	if !p.linked(ctx, q, out) {
		return outcome{kind: failed}
	}
	// Nothing is ever said in this direction: what comes is the end.
	_, _ = conn.Read(make([]byte, 1))
	p.unlinked(q, out)
	return outcome{kind: lost, lasted: p.now() - began}
}

// expect makes ready for the heartbeats of a new connection. Those of the one before count
// until the first comes: the peer may not have seen the confirm yet.
func (p *Peers) expect(ctx context.Context, q *peer, t tag, k keys) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil || p.ears[t] != nil {
		return false
	}
	if q.next != nil {
		delete(p.ears, q.next.tag)
	}
	q.next = newEar(t, q, k.beats)
	p.ears[t] = q.next
	q.met = true
	p.hearTags()
	return true
}

func (p *Peers) linked(ctx context.Context, q *peer, out *outbound) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	q.out, q.complaint = out, ""
	return true
}

func (p *Peers) unlinked(q *peer, out *outbound) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.out == out {
		q.out = nil
	}
}

// send says something to a peer if it is connected. It never waits: a connection that does
// not take a few hundred bytes at once is of no use to anybody who asks about milliseconds.
func (p *Peers) send(to core.Member, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.peers[to.ID]
	if q == nil || processOf(q.member) != processOf(to) || q.out == nil {
		p.tally.unsaid++
		return
	}
	frame := binary.BigEndian.AppendUint16(nil, uint16(len(body)+sealSize))
	frame = append(frame, body...)
	frame = append(frame, q.out.frames.sealNext(body)...)
	written := 0
	raw, err := q.out.conn.SyscallConn()
	if err == nil {
		err = raw.Write(func(fd uintptr) bool {
			written, _ = unix.Write(int(fd), frame)
			return true
		})
	}
	if err != nil || written != len(frame) {
		p.tally.unsaid++
		q.out.conn.Close()
	}
}

// writeFrame writes a message with its length before it.
func writeFrame(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// readWhole reads a message into buf and returns it.
func readWhole(r io.Reader, buf []byte) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(n[:]))
	if length > len(buf) {
		return nil, errMalformed
	}
	_, err := io.ReadFull(r, buf[:length])
	return buf[:length], err
}

// chance returns what must not be guessed.
func chance() (n nonce, t tag) {
	var b [4]byte
	_, _ = rand.Read(n[:]) // it never fails
	_, _ = rand.Read(b[:])
	return n, tag(binary.BigEndian.Uint32(b[:]))
}

// keepAlive asks often, so that a host that was switched off and on again is found out
// even when nobody has anything to say.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3}
}

// impatient ends a connection on which nothing is acknowledged for userTimeout.
func impatient(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// Without it the kernel would give up as well, later.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}
