package sim

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// nodeAddr is where the node listens; operatorKey is the key of the world's driver.
var (
	nodeAddr = netip.MustParseAddrPort("10.0.0.1:5060")
	mediaIP  = netip.MustParseAddr("10.0.0.1")
)

const operatorKey = "operator"

// server is the process around the core: it steps it, carries its effects out, and stands
// in for the edges. A crash loses all of it but the store and the records.
type server struct {
	w          *World
	core       Core
	up         bool
	fenced     bool // another owner has its state
	knows      bool // and the core was told: what was in the inbox before that it may still answer
	generation int
	began      core.Time // this process
	paused     bool
	inbox      []core.Event
	out        []core.Effect
	layer      *layer
	store      *store
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

func newServer(w *World) *server {
	s := &server{w: w, conns: map[core.FlowID]*conn{}}
	s.layer = newLayer(w, nodeAddr, s)
	s.layer.strays = true
	s.layer.reopen = func(to netip.AddrPort) *conn {
		way, _ := s.target(core.Target{Transport: core.TCP, Host: to.Addr().String(), Port: to.Port()})
		return way.conn
	}
	s.store = newStore(w, s)
	s.records = newRecords(w, s)
	s.media = newMedia(w, s)
	w.hosts[nodeAddr] = s
	return s
}

// start begins a process with what the store holds.
func (s *server) start(entries []core.Entry) {
	s.generation++
	s.began = s.w.now
	s.up, s.paused, s.fenced, s.knows, s.inbox, s.wakeAt, s.wakes = true, false, false, false, nil, 0, 0
	cfg := node.Config{
		ID: "n1", Operator: core.HashKey(operatorKey), MediaAddr: mediaIP, Plant: s.w.opt.Plant,
		Contact:    map[core.Transport]netip.AddrPort{core.UDP: nodeAddr, core.TCP: nodeAddr},
		SourceRate: 100_000, RegisterRate: 100_000,
	}
	if s.w.opt.Floods > 0 {
		cfg.SourceRate, cfg.RegisterRate = 0, 0
	}
	for i := range cfg.Seed {
		cfg.Seed[i], cfg.NonceKey[i] = byte(s.w.rng.Uint32()), byte(s.w.rng.Uint32())
	}
	s.core = s.w.newCore(cfg)
	s.emit(core.Restored{Entries: entries})
}

// crash ends the process at once. The store keeps what was committed and perhaps some of
// what was on its way.
func (s *server) crash(down time.Duration) {
	if !s.up {
		return
	}
	s.w.trace.say(s.w.now, "**", "the node crashes")
	s.w.marks.hit("crash")
	s.w.markCrash()
	s.w.fact(check.Crashed{})
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
	s.w.after(down, func() {
		s.w.trace.say(s.w.now, "**", "the node starts again")
		s.start(s.store.entries())
		s.w.fact(check.Restarted{})
		s.w.restarted()
	})
}

// arrive takes a message off the network; false while the process is down.
func (s *server) arrive(p parcel) bool {
	if !s.up {
		return false
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
	case !s.up || s.w.failure != nil:
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
		s.paused = false
		waiting := s.inbox
		s.inbox = nil
		for _, ev := range waiting {
			if generation == s.generation {
				s.emit(ev)
			}
		}
	})
}

// step is one turn of the loop.
func (s *server) step(ev core.Event) {
	s.w.trace.hear(s.w.now, ev, s.farOf(ev))
	s.note(ev)
	if _, fenced := ev.(core.Fenced); fenced {
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
	s.media.settle()
	if s.stepped%32 == 0 {
		// An agent's phone knows nothing of a leg whose INVITE still waits for its commit.
		s.w.fact(check.Stepped{Effects: len(out), Held: s.core.Gauges().Held, Legs: len(s.media.legs), Phones: s.w.dialogs() + len(s.w.agents) + 4})
	} else if len(out) > 200 {
		s.w.fact(check.Stepped{Effects: len(out)})
	}
	s.schedule()
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
			s.w.api.reply(e)
		case core.Drained:
			s.w.drained = !s.fenced // a fenced node is over, too, but its work is not
		}
	}
}

// visible reports whether an effect would be noticed by anybody.
func visible(ef core.Effect) bool {
	switch e := ef.(type) {
	case core.Respond:
		return e.Response.Status != 503 // "not here" is what a node without authority may say
	case core.SendRequest, core.Store, core.Deliver:
		return true
	}
	return false
}
