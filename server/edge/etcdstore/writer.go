package etcdstore

import (
	"context"
	"errors"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/core"
)

// need is what must be done before a batch may be sent.
type need string

// The needs.
const (
	needNothing need = "nothing"
	needLook    need = "look"  // an outcome is open, or the node's key may be gone: read the keys of the fence
	needClaim   need = "claim" // the node's key has expired and nobody claimed what it stood for
	needTrace   need = "trace" // fenced while a batch was open: read from history whether it committed
)

// task is what is in flight.
type task string

// The tasks.
const (
	rest     task = "rest"
	sending  task = "send"
	looking  task = "look"
	claiming task = "claim"
	sealing  task = "seal" // a link without changes, so that no open copy of a bad batch can commit any more
	tracing  task = "trace"
)

// answer is what came back of a task.
type answer struct {
	task  task
	err   error // the outcome is open, unless isDefinite(err)
	ok    bool  // the comparisons held: committed at rev
	rev   int64
	sight sight            // when not ok, and of looking
	found []int64          // when a batch is refused: the revisions where its guards are
	lease clientv3.LeaseID // of claiming
	mine  bool             // of tracing: the batch had committed
}

// writer is the one goroutine behind a Store. All its fields are its own.
type writer struct {
	s       *Store
	at      position
	lease   clientv3.LeaseID
	unkeep  context.CancelFunc // ends the keepalive of lease
	silent  bool               // the keepalive has ended by itself
	batch   *batch             // formed, outcome not certain
	need    need
	doing   task
	fenced  bool
	told    bool      // that it is fenced
	claim   string    // id of a claim of ours whose outcome is open; ""
	seal    string    // the same, of a seal
	alone   int       // so many of the next Stores are sent one by one
	made    uint64    // links made so far
	last    time.Time // when the last batch was formed
	fails   int       // attempts in a row whose outcome stayed open
	hold    time.Time // no task is started before
	warnAt  time.Time // when Unknown is due, while there is a batch
	answers chan answer
	lapses  chan clientv3.LeaseID
	timer   *time.Timer
}

func (w *writer) run() {
	defer close(w.s.done)
	defer w.timer.Stop()
	w.doing = rest
	for {
		w.pass()
		if w.step(); w.idle() {
			close(w.s.flushed)
			<-w.s.base.Done()
			return
		}
		now := time.Now()
		if w.batch != nil && !now.Before(w.warnAt) {
			w.warn(now)
			w.warnAt = now.Add(w.s.cfg.pace.warn)
		}
		pause, work := w.pause(now)
		if work {
			continue
		}
		w.timer.Reset(pause)
		select {
		case <-w.s.base.Done():
			return // a task in flight ends by its context, and its answer has room
		case <-w.s.wake:
		case a := <-w.answers:
			w.doing = rest
			w.took(a)
		case lease := <-w.lapses:
			w.lapse(lease)
		case <-w.timer.C:
		}
	}
}

// idle reports whether the store is closing and nothing is left to do.
func (w *writer) idle() bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.s.closing && w.doing == rest && w.batch == nil && len(w.s.queue.stores) == 0 && len(w.s.answers) == 0
}

// pass hands over what was answered without being sent.
func (w *writer) pass() {
	w.s.mu.Lock()
	answers := w.s.answers
	w.s.answers = nil
	w.s.mu.Unlock()
	for _, ev := range answers {
		w.tell(ev)
	}
}

// tell hands an event to the core, however long its inbox is full: the core waits for it.
func (w *writer) tell(ev core.Event) {
	for !w.s.cfg.Emit(ev) {
		select {
		case <-w.s.base.Done():
			return
		case <-time.After(emitBackoff):
		}
	}
}

// step starts the next task, unless one is in flight or it is too early.
func (w *writer) step() {
	if w.doing != rest || time.Now().Before(w.hold) {
		return
	}
	if w.fenced {
		w.refuseAll()
		return
	}
	if w.s.takePoke() && w.need == needNothing {
		w.need = needLook
	}
	switch w.need {
	case needLook:
		w.start(looking)
		return
	case needClaim:
		w.start(claiming)
		return
	case needTrace:
		w.start(tracing)
		return
	}
	if w.batch != nil && (w.batch.bad != nil || w.batch.found != nil) {
		if w.batch.open {
			w.start(sealing)
			return
		}
		w.split()
	}
	if w.batch == nil && !w.form(time.Now()) {
		return
	}
	w.start(sending)
}

// form makes the next batch of what waits, if it is time.
func (w *writer) form(now time.Time) bool {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if len(w.s.queue.stores) == 0 || w.early(now) > 0 {
		return false
	}
	w.batch = w.s.queue.take(w.newLink(), w.alone > 0)
	if w.alone > 0 {
		w.alone--
	}
	w.batch.sent, w.last = now, now
	w.warnAt = now.Add(w.s.cfg.pace.warn)
	w.s.sent, w.s.flight = now, w.batch
	return true
}

// early returns how long the next batch is to wait yet. The queue's lock is held.
func (w *writer) early(now time.Time) time.Duration {
	if w.s.queue.ops >= batchOps || w.s.queue.claims > 0 || w.s.closing || w.alone > 0 {
		return 0
	}
	return w.last.Add(w.s.cfg.pace.spacing).Sub(now)
}

func (w *writer) newLink() string {
	w.made++
	return w.s.link(w.made)
}

// start carries out one task in a goroutine of its own, which ends by the attempt's deadline.
func (w *writer) start(t task) {
	w.doing = t
	at, batch := w.at, w.batch
	switch {
	case t == claiming && w.claim == "":
		w.claim = w.newLink()
	case t == sealing && w.seal == "":
		w.seal = w.newLink()
	}
	claim, seal := w.claim, w.seal
	go func() {
		ctx, cancel := context.WithTimeout(w.s.base, w.s.cfg.pace.attempt)
		defer cancel()
		var a answer
		switch t {
		case sending:
			a = w.s.commit(ctx, at, batch.id, batch.changes, batch.guards)
		case looking:
			a = w.s.look(ctx, at)
		case claiming:
			a = w.s.claim(ctx, at, claim)
		case sealing:
			a = w.s.commit(ctx, at, seal, nil, nil)
		case tracing:
			a = w.s.trace(ctx, at, batch.id)
		}
		a.task = t
		w.answers <- a
	}()
}

// took acts on what came back.
func (w *writer) took(a answer) {
	switch {
	case a.err != nil && a.task == sending && isDefinite(a.err):
		w.batch.bad = a.err // says nothing of copies that were sent before
		return
	case a.err != nil:
		w.failed(a)
		return
	}
	w.fails, w.hold = 0, time.Time{}
	switch {
	case a.task == tracing:
		w.traced(a.mine)
	case a.task == looking || !a.ok:
		if w.saw(a.sight) == untouched && a.task == sending {
			w.refused(a.found)
		}
	case a.task == sending:
		w.at.link = a.rev
		w.moved()
		w.committed()
	case a.task == claiming:
		w.claimed(position{incarnation: a.rev, link: a.rev}, a.lease)
	case a.task == sealing:
		w.at.link = a.rev
		w.moved()
		w.batch.open = false
	}
}

// failed notes an attempt whose outcome is open, and waits before the next one.
func (w *writer) failed(a answer) {
	if a.task == sending {
		w.batch.open = true
	}
	if a.task != tracing {
		w.need = needLook
	}
	w.fails++
	pace := w.s.cfg.pace
	pause := min(pace.lastBackoff, pace.firstBackoff<<min(w.fails-1, 10))
	w.hold = time.Now().Add(pause)
	if w.fails == 3 { // the first two are a leader that changes, or a connection that is made anew
		w.s.cfg.Log.Warn("etcd does not answer: writes wait, live calls go on", "node", w.s.cfg.Node, "err", a.err)
	}
}

// refused notes that the guards of a batch did not all hold, while the fence did.
func (w *writer) refused(found []int64) {
	w.batch.found = found
	if !slices.ContainsFunc(w.batch.stores, func(st waiting) bool { return w.batch.refuses(&st) }) {
		w.batch.bad = errors.New("refused though every comparison holds") // against etcd's promises
	}
}

// saw acts on a sight of the keys of the fence, and returns what it meant.
func (w *writer) saw(s sight) finding {
	w.need = needNothing
	open := ""
	if w.batch != nil && w.batch.open {
		open = w.batch.id
	}
	found := w.at.judge(s, open, w.claim, w.seal)
	switch found {
	case untouched:
		if w.silent {
			w.keepAlive()
		}
	case lapsed:
		// Copies of the batch compare an incarnation that is gone: they are dead.
		if w.batch != nil {
			w.batch.open = false
		}
		w.need = needClaim
	case taken:
		if s.chain == w.at.link && w.batch != nil {
			w.batch.open = false // not committed, and its incarnation never comes again
			open = ""
		}
		w.fence(open != "")
	case advanced:
		switch s.last {
		case open:
			w.at.link = s.chain
			w.moved()
			w.committed()
		case w.claim:
			w.claimed(position{incarnation: s.chain, link: s.chain}, s.lease)
		case w.seal:
			w.at.link = s.chain
			w.moved()
			w.batch.open = false
		}
		w.saw(s) // what became of the node's key meanwhile; the chain is now where we left it
	}
	return found
}

// moved forgets the open links beside the batch: chain has moved on, so they are dead.
func (w *writer) moved() { w.claim, w.seal = "", "" }

// claimed goes on with a new incarnation. What was sent under the old one is dead.
func (w *writer) claimed(at position, lease clientv3.LeaseID) {
	w.at, w.lease, w.need = at, lease, needNothing
	w.moved()
	if w.batch != nil {
		w.batch.open = false
	}
	w.keepAlive()
	w.s.mu.Lock()
	w.s.gauges.Claims++
	w.s.mu.Unlock()
	w.s.cfg.Log.Info("node claimed again after its lease had expired", "node", w.s.cfg.Node, "incarnation", at.incarnation)
}

// committed answers the batch.
func (w *writer) committed() {
	b := w.batch
	took := time.Since(b.sent)
	w.s.mu.Lock()
	w.s.sent = time.Time{}
	w.s.gauges.Commits++
	w.s.gauges.Ops += uint64(len(b.changes))
	w.s.mu.Unlock()
	if w.s.cfg.Observe != nil {
		w.s.cfg.Observe(took, len(b.changes))
	}
	for i := range b.stores {
		w.tell(core.Stored{Token: b.stores[i].token})
	}
	w.settle()
}

// settle lets go of the batch: its Stores are answered, or wait again.
func (w *writer) settle() {
	w.s.mu.Lock()
	w.s.sent, w.s.flight = time.Time{}, nil
	w.s.mu.Unlock()
	close(w.batch.settled)
	w.batch = nil
}

// split acts on a batch that was refused and of which no copy can commit any more. Where
// guards did not hold, their Stores are Conflicts and the others go together once more. When
// etcd refuses it for its form (limits below the usual ones) each of its Stores is sent
// alone, and the one that is refused alone is a Conflict.
func (w *writer) split() {
	b := w.batch
	var refused, again []waiting
	for _, st := range b.stores {
		if b.bad == nil && b.refuses(&st) || b.bad != nil && len(b.stores) == 1 {
			refused = append(refused, st)
		} else {
			again = append(again, st)
		}
	}
	if b.bad != nil {
		w.alone = len(again)
	}
	b.stores = again
	w.last = time.Time{} // they have waited already
	w.s.mu.Lock()
	w.s.queue.putBack(b)
	w.s.gauges.Refused += uint64(len(refused))
	w.s.mu.Unlock()
	if b.bad != nil && len(refused) > 0 {
		w.s.cfg.Log.Error("etcd refuses a write for its form: check its --max-request-bytes and --max-txn-ops", "err", b.bad)
	}
	for i := range refused {
		w.tell(core.Conflict{Token: refused[i].token})
	}
	w.settle()
}

// fence ends all writing. A batch that is open may have committed before.
func (w *writer) fence(open bool) {
	if open {
		w.need = needTrace
		return
	}
	w.fenced = true
	if w.unkeep != nil {
		w.unkeep()
	}
	w.s.mu.Lock()
	w.s.gauges.Fenced = true
	w.s.mu.Unlock()
	w.s.cfg.Log.Error("fenced: another node or process owns what this node owned; it must not act for its calls any more", "node", w.s.cfg.Node)
}

func (w *writer) traced(mine bool) {
	w.need = needNothing
	w.batch.open = false
	if mine {
		w.committed()
	}
	w.fence(false)
}

// refuseAll answers Fenced to all that waits; once, if nothing does, without a token.
func (w *writer) refuseAll() {
	w.s.mu.Lock()
	stores := w.s.queue.stores
	w.s.queue = queue{}
	w.s.mu.Unlock()
	if w.batch != nil {
		stores = append(w.batch.stores, stores...)
	}
	if len(stores) == 0 && !w.told {
		w.tell(core.Fenced{})
	}
	w.told = true
	for i := range stores {
		w.tell(core.Fenced{Token: stores[i].token})
	}
	if w.batch != nil {
		w.settle()
	}
}

// warn tells Unknown of the batch that is unresolved for too long, and of those that have
// waited as long behind it: for the core both mean that nothing may depend on them yet.
// Unknown is a hint: one that finds the inbox full ends the turn.
func (w *writer) warn(now time.Time) {
	for i := range w.batch.stores {
		if st := &w.batch.stores[i]; !st.warned {
			if !w.hint(st.token) {
				return
			}
			st.warned = true
		}
	}
	for {
		w.s.mu.Lock()
		token, ok := w.s.queue.overdue(now.Add(-w.s.cfg.pace.warn))
		w.s.mu.Unlock()
		if !ok || !w.hint(token) {
			return
		}
	}
}

func (w *writer) hint(token core.Token) bool {
	if !w.s.cfg.Emit(core.Unknown{Token: token}) {
		return false
	}
	w.s.mu.Lock()
	w.s.gauges.Unknown++
	w.s.mu.Unlock()
	return true
}

// pause returns how long the writer may sleep when nothing comes in, and whether there is
// work already: something has come since the last step.
func (w *writer) pause(now time.Time) (pause time.Duration, work bool) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	pause = time.Hour
	waits := w.doing == rest && len(w.s.queue.stores) > 0
	w.s.listens = w.doing == rest && !waits
	switch {
	case w.doing == rest && w.hold.After(now):
		pause = max(w.hold.Sub(now), time.Millisecond)
	case waits:
		if pause = w.early(now); pause <= 0 {
			return 0, true
		}
	}
	if w.batch != nil {
		pause = min(pause, max(w.warnAt.Sub(now), time.Millisecond))
	}
	return pause, false
}

// lapse notes that the keepalive of a lease has ended by itself.
func (w *writer) lapse(lease clientv3.LeaseID) {
	if lease != w.lease || w.fenced {
		return
	}
	w.silent = true
	if w.need == needNothing {
		w.need = needLook
	}
}

// keepAlive keeps the lease until another takes its place.
func (w *writer) keepAlive() {
	if w.unkeep != nil {
		w.unkeep()
	}
	w.silent = false
	ctx, cancel := context.WithCancel(w.s.base)
	w.unkeep = cancel
	lease := w.lease
	go func() {
		began := time.Now()
		if replies, err := w.s.cfg.Client.KeepAlive(ctx, lease); err == nil {
			for range replies { // until it is lost
			}
		}
		// A keepalive that ends at once must not make a busy loop of looks.
		select {
		case <-time.After(time.Until(began.Add(w.s.cfg.pace.lastBackoff))):
		case <-ctx.Done():
			return
		}
		select {
		case w.lapses <- lease:
		case <-ctx.Done():
		}
	}()
}
