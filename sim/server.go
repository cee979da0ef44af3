package sim

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/node"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// operatorKey is the key of the world's driver.
const operatorKey = "operator"

// keeper is the store edge of a process.
type keeper interface {
	ask(core.Store)
	crash()
	waits() int // writes that are not answered
}

// server is the process around the core: it steps it, carries its effects out, and stands
// in for the edges. A crash loses all of it but the store and the records.
type server struct {
	w          *World
	id         core.NodeID
	index      int
	addr       netip.AddrPort // where it listens
	core       Core
	up         bool
	fenced     bool // another owner has its state
	knows      bool // and the core was told: what was in the inbox before that it may still answer
	generation int
	began      core.Time // this process
	paused     bool
	stopped    bool // paused with all its edges (SIGSTOP)
	draining   bool
	drained    bool
	leaving    bool // drained, or about to begin anew
	stale      bool // claimed by others, be it told or not
	deaf, mute int  // no datagram reaches it, none of its gets out
	dark       bool // its host is gone: nobody says that the process has ended
	frozen     []parcel
	peers      []*hearing
	inbox      []core.Event
	out        []core.Effect
	layer      *layer
	store      keeper
	records    *records
	media      *media
	conns      map[core.FlowID]*conn
	connOrder  []*conn
	wakeAt     core.Time
	wakes      int // at one instant
	stepped    int
	crashIn    int // steps until a crash at a step boundary; 0: none is planned
	downFor    time.Duration
}

func newServer(w *World, index int) *server {
	s := &server{w: w, index: index, id: core.NodeID("n" + strconv.Itoa(index+1)), conns: map[core.FlowID]*conn{}}
	s.addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(index + 1)}), 5060)
	s.layer = newLayer(w, s.addr, s)
	s.layer.strays = true
	s.layer.reopen = func(to netip.AddrPort) *conn {
		way, _ := s.target(core.Target{Transport: core.TCP, Host: to.Addr().String(), Port: to.Port()})
		return way.conn
	}
	if w.commits == nil {
		w.plain = newStore(w, s)
		s.store = w.plain
	}
	s.records = newRecords(w, s)
	s.media = newMedia(w, s)
	w.hosts[s.addr] = s
	return s
}

// start begins a process. In a cluster it joins before it begins.
func (s *server) start() {
	if s.w.commits == nil {
		s.begin()
		s.emit(core.Restored{Entries: s.w.plain.entries()})
		return
	}
	s.up, s.paused, s.stopped, s.draining, s.dark, s.peers, s.frozen = true, false, false, false, false, nil, nil
	s.core, s.inbox, s.stale = nil, nil, false
	s.generation++
	s.store = newEdge(s)
	s.w.review()
}

// restored is the first event of a process of a cluster: it has joined.
func (s *server) restored(e core.Restored) {
	generation := s.generation
	s.begin()
	s.generation = generation
	s.emit(e)
	s.w.review()
}

// record is what other nodes are to know of it.
func (s *server) record() cluster.NodeRecord {
	return cluster.NodeRecord{SIP: map[core.Transport]netip.AddrPort{core.UDP: s.addr, core.TCP: s.addr},
		HTTP: netip.AddrPortFrom(s.addr.Addr(), 8080), Peer: netip.AddrPortFrom(s.addr.Addr(), 7000), StartedAt: epoch}
}

// begin makes the core of a process.
func (s *server) begin() {
	s.generation++
	s.began = s.w.now
	s.up, s.paused, s.fenced, s.knows, s.inbox, s.wakeAt, s.wakes = true, false, false, false, nil, 0, 0
	cfg := node.Config{
		ID: s.id, Operator: core.HashKey(operatorKey), MediaAddr: s.addr.Addr(), Plant: s.w.opt.Plant,
		Contact:    map[core.Transport]netip.AddrPort{core.UDP: s.addr, core.TCP: s.addr},
		SourceRate: 100_000, RegisterRate: 100_000,
	}
	if s.w.opt.Floods > 0 {
		cfg.SourceRate, cfg.RegisterRate = 0, 0
	}
	for i := range cfg.Seed {
		cfg.Seed[i], cfg.NonceKey[i] = byte(s.w.rng.Uint32()), byte(s.w.rng.Uint32())
	}
	s.core = s.w.newCore(cfg)
}

// crash ends the process at once. The store keeps what was committed and perhaps some of
// what was on its way.
func (s *server) crash(down time.Duration) {
	if !s.up {
		return
	}
	s.w.trace.say(s.w.now, "**", "the node crashes"+s.named())
	s.w.marks.hit("crash")
	s.w.markCrash()
	s.w.ended(s)
	s.up = false
	s.generation++
	s.crashIn = 0
	s.layer.forget()
	s.media.forget()
	s.store.crash()
	for _, c := range s.connOrder {
		s.w.net.close(c)
	}
	s.conns, s.connOrder = map[core.FlowID]*conn{}, nil
	s.core = nil
	s.w.review()
	s.w.after(down, func() {
		s.w.trace.say(s.w.now, "**", "the node starts again"+s.named())
		s.start()
		if s.w.commits == nil {
			s.w.fact(check.Restarted{})
			s.w.restarted()
		}
	})
}

// named says which node, where there are several.
func (s *server) named() string {
	if len(s.w.nodes) < 2 {
		return ""
	}
	return " (" + string(s.id) + ")"
}

// arrive takes a message off the network; false while the process is down.
func (s *server) arrive(p parcel) bool {
	if !s.up || s.core == nil {
		return s.dark
	}
	if s.stopped {
		s.frozen = append(s.frozen, p)
		return true
	}
	if s.paused && len(s.inbox) > 2000 {
		s.w.marks.hit("inbox full")
		return true
	}
	s.layer.arrive(p)
	return true
}

// later emits within the time that the edge's goroutines may take.
func (s *server) later(ev core.Event) {
	if s.w.opt.Shuffle == 0 {
		s.emit(ev)
		return
	}
	generation := s.generation
	s.w.after(s.w.between(0, s.w.opt.Shuffle), func() {
		if generation == s.generation {
			s.emit(ev)
		}
	})
}

func peerOf(p parcel) core.Peer {
	if p.conn != nil {
		return core.Peer{Transport: core.TCP, Addr: p.from, Flow: p.conn.id}
	}
	return core.Peer{Transport: core.UDP, Addr: p.from}
}

func (s *server) request(txn, cancels core.TxnID, p parcel) {
	s.later(core.RequestReceived{Txn: txn, Cancels: cancels, From: peerOf(p), Request: p.req})
}

func (s *server) response(txn core.TxnID, p parcel) {
	// The transport's own Via goes; what the core gave is left (RFC 3261 s.18.1.2).
	s.later(core.ResponseReceived{Txn: txn, From: peerOf(p), Response: p.res})
}

func (s *server) failed(txn core.TxnID, cause core.FailCause) {
	s.later(core.TransactionFailed{Txn: txn, Cause: cause})
}

// emit hands an event to the loop.
func (s *server) emit(ev core.Event) {
	switch {
	case !s.up || s.core == nil || s.w.failure != nil:
	case s.paused:
		s.inbox = append(s.inbox, ev)
	default:
		s.step(ev)
	}
}

// pause stops the loop for a while, as a stopped process or a stolen CPU does.
func (s *server) pause(d time.Duration) {
	if !s.up || s.paused {
		return
	}
	s.w.marks.hit("pause")
	s.w.trace.say(s.w.now, "**", "the node is paused for "+d.String())
	s.w.fact(check.Disturbed{What: "pause", On: true})
	s.paused = true
	generation := s.generation
	s.w.after(d, func() {
		s.w.fact(check.Disturbed{What: "pause"})
		if generation != s.generation {
			return
		}
		s.paused, s.stopped = false, false
		waiting := s.inbox
		s.inbox = nil
		for _, ev := range waiting {
			if generation == s.generation {
				s.emit(ev)
			}
		}
		if e, joined := s.store.(*edge); joined && generation == s.generation {
			s.thaw(e)
		}
	})
}

// stop is SIGSTOP: nothing of the process goes on, and nobody is told.
func (s *server) stop(d time.Duration) {
	s.pause(d)
	s.stopped = s.paused
	s.w.review()
}

// thaw lets a process that was stopped read what has come meanwhile.
func (s *server) thaw(e *edge) {
	frozen := s.frozen
	s.frozen = nil
	e.awake()
	for _, p := range frozen {
		s.arrive(p)
	}
	s.w.review()
}

// step is one turn of the loop.
func (s *server) step(ev core.Event) {
	if s.w.commits != nil {
		s.w.trace.say(s.w.now, string(s.id), "")
	}
	s.w.trace.hear(s.w.now, ev, s.farOf(ev))
	s.note(ev)
	if s.told(ev) {
		s.knows = true
	}
	if !s.guarded(ev) {
		return
	}
	s.stepped++
	out := s.out
	if s.crashIn > 0 {
		if s.crashIn--; s.crashIn == 0 {
			out = out[:s.w.rng.IntN(len(out)+1)]
			s.carryOut(out)
			s.crash(s.downFor)
			return
		}
	}
	s.carryOut(out)
	if s.w.failure != nil || !s.up {
		return
	}
	s.w.settleMedia()
	if s.stepped%32 == 0 {
		// An agent's phone knows nothing of a leg whose INVITE still waits for its commit.
		s.w.fact(check.Stepped{Effects: len(out), Held: s.core.Gauges().Held, Legs: len(s.media.legs), Phones: s.w.dialogs() + len(s.w.agents) + 4})
	} else if len(out) > 200 {
		s.w.fact(check.Stepped{Effects: len(out)})
	}
	s.schedule()
}

// told reports whether an event says that this process is not the owner of anything any more.
func (s *server) told(ev core.Event) bool {
	if e, joined := s.store.(*edge); joined {
		return e.tells(ev)
	}
	_, fenced := ev.(core.Fenced)
	return fenced
}

// guarded steps the core; a panic and a broken invariant are failures of the world.
func (s *server) guarded(ev core.Event) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			s.w.fail("panic", fmt.Sprintf("%v\n%s", p, frames(debug.Stack())))
			ok = false
		}
	}()
	s.out = s.core.Step(s.w.now, ev, s.out[:0])
	if err := s.core.Valid(); err != nil {
		s.w.fail("valid", err.Error())
		return false
	}
	return true
}

// frames keeps the lines of a stack that lie in the server.
func frames(stack []byte) string {
	var b strings.Builder
	for line := range strings.SplitSeq(string(stack), "\n") {
		if i := strings.Index(line, "/server/core"); i >= 0 && strings.Contains(line, ".go:") {
			b.WriteString("  " + line[i+1:] + "\n")
		}
	}
	return b.String()
}

func (s *server) schedule() {
	at, _ := s.core.Deadline()
	if at == core.Never || at == s.wakeAt {
		return
	}
	if at <= s.w.now {
		if s.wakes++; s.wakes > 1000 {
			_, reason := s.core.Deadline()
			s.w.fail("deadline", "the deadline does not move on: "+string(reason))
			return
		}
	} else {
		s.wakes = 0
	}
	s.wakeAt = at
	generation := s.generation
	// A timer is never early and always a little late.
	s.w.at(at.Add(s.w.between(0, 500*time.Microsecond)), func() {
		if generation == s.generation && s.wakeAt == at {
			s.wakeAt = 0
			s.emit(core.Woken{})
		}
	})
}

func (s *server) carryOut(out []core.Effect) {
	for _, ef := range out {
		s.w.trace.act(s.w.now, ef, s.farTo(ef))
		if s.w.failure != nil {
			return
		}
		if s.knows && visible(ef) {
			s.w.fail("fenced", fmt.Sprintf("a fenced node goes on: %T", ef))
			return
		}
		s.w.tainted(ef)
		switch e := ef.(type) {
		case core.SendRequest:
			s.send(e)
		case core.Respond:
			s.respond(e)
		case core.OpenMedia:
			s.media.open(e.Leg)
		case core.SetMedia:
			s.media.set(e.Leg, e.Spec)
		case core.CloseMedia:
			s.media.close(e.Leg)
		case core.Store:
			s.store.ask(e)
		case core.Deliver:
			s.records.deliver(e.CDR)
		case core.Reply:
			s.w.api.reply(s, e)
		case core.SetPeers:
			s.setPeers(e)
		case core.AskPeer:
			s.askPeer(e)
		case core.TellPeer:
			s.tellPeer(e)
		case core.Drained:
			s.drainedNow()
		}
		if !s.up {
			return
		}
	}
}

// drainedNow: the core is over. A fenced one is, too, but its work is not.
func (s *server) drainedNow() {
	switch {
	case s.w.commits == nil:
		s.w.drained = !s.fenced
	case s.draining:
		s.draining = false
		s.w.left(s)
	default:
		s.w.rejoin(s)
	}
}

// visible reports whether an effect would be noticed by anybody.
func visible(ef core.Effect) bool {
	switch e := ef.(type) {
	case core.Respond:
		return e.Response.Status != 503 // "not here" is what a node without authority may say
	case core.SendRequest, core.Deliver:
		return true
	case core.Store:
		return true
	}
	return false
}
