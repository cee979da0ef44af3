package loadgen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/arrival"
	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// worker makes one share of a load: some of the arrivals, some of the agents.
type worker struct {
	seat     *cluster.Seat
	job      cluster.Job
	plan     *arrival.Schedule
	engine   *stream.Engine
	endpoint *phone.Endpoint
	outbox   *outbox

	origin   time.Time      // of the audio's clock
	start    time.Time      // of the run, whole seconds later
	calling  sync.WaitGroup // callers
	live     atomic.Int64
	busy     atomic.Int64 // lines
	lag      atomic.Int64 // ns, the worst since it was last told
	lagEver  atomic.Int64
	finished atomic.Bool   // all arrivals were due
	drained  chan struct{} // closed when nobody waits any longer for an agent
	finish   chan struct{} // closed when all callers of all workers have ended
	halt     context.Context
	stop     context.CancelCauseFunc // everybody hangs up

	mu      sync.Mutex
	callers map[int64]*caller
}

var errInterrupted = errors.New("interrupted")

// work does a worker's part, from the registration of its agents to the summary. It ends when
// its seat is lost.
func work(ctx context.Context, seat *cluster.Seat) error {
	w := &worker{seat: seat, job: seat.Job, origin: anchored(seat.Job.Origin), outbox: newOutbox(seat), drained: make(chan struct{}), finish: make(chan struct{}), callers: map[int64]*caller{}}
	w.halt, w.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	defer w.stop(nil)
	defer context.AfterFunc(ctx, func() { w.stop(errInterrupted) })()
	started := make(chan time.Time, 1)
	var listening sync.WaitGroup
	listening.Go(func() { w.listen(started) })
	defer listening.Wait()
	defer seat.Close()
	err := w.prepare()
	if err == nil {
		defer w.engine.Close()
		defer w.endpoint.Close()
		err = w.perform(started)
	}
	if err != nil {
		return errors.Join(err, seat.Send(cluster.Up{Failed: err.Error()}))
	}
	return nil
}

// listen takes what the coordinator tells.
func (w *worker) listen(started chan<- time.Time) {
	var finished sync.Once
	for down := range w.seat.Down() {
		if down.Start != nil {
			select {
			case started <- *down.Start:
			default:
			}
		}
		for _, index := range down.Answered {
			w.answered(index)
		}
		if down.Finish {
			finished.Do(func() { close(w.finish) })
		}
		if down.Stop {
			w.stop(errInterrupted)
		}
	}
	w.stop(errors.New("the coordinator is gone"))
}

// prepare opens the sockets.
func (w *worker) prepare() error {
	p := &w.job.Profile
	var err error
	if w.plan, err = p.Schedule(); err != nil {
		return err
	}
	target, local, err := addresses(w.halt, p)
	if err != nil {
		return err
	}
	lines, agents := w.lines(), len(w.agents())
	// RTP of each call's end, SIP, and what a process has open anyway.
	if need, have := uint64(lines+agents+100), raiseFiles(); have < need {
		return fmt.Errorf("%d lines and %d agents need %d open files, the system allows %d: raise it (ulimit -n %d), use fewer --lines, or more --workers", lines, agents, need, have, need)
	}
	if p.Media.Priority == profile.RealTime {
		if err := stream.RealTime(); err != nil {
			return err
		}
	}
	n := p.Media.Network
	w.engine, err = stream.New(stream.Config{Addr: local, Buffer: p.Media.JitterBuffer, Start: w.origin,
		Network: stream.Network{Delay: n.Delay, Jitter: n.Jitter, Loss: float64(n.Loss), Seed: p.Seed}})
	if err != nil {
		return fmt.Errorf("audio: %w", err)
	}
	w.endpoint, err = phone.Listen(phone.EndpointConfig{Target: phone.Target{Network: p.Target.Transport, Addr: target}, Media: w.engine, Addr: local,
		MaxCalls: lines + 2*agents + 100})
	if err != nil {
		w.engine.Close()
		return fmt.Errorf("SIP: %w", err)
	}
	return nil
}

// addresses finds the server's address, and the one of this machine that leads to it.
func addresses(ctx context.Context, p *profile.Profile) (target netip.AddrPort, local netip.Addr, err error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", p.Target.Host)
	if err != nil || len(ips) == 0 {
		return target, local, fmt.Errorf("target %s: its name cannot be resolved: %w", p.Target, err)
	}
	target = netip.AddrPortFrom(ips[0].Unmap(), p.Target.Port)
	if p.Local != "" {
		local, err = netip.ParseAddr(p.Local)
		return target, local, err
	}
	// Connecting a UDP socket sends nothing; it asks the routing table.
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target))
	if err != nil {
		return target, local, fmt.Errorf("target %s: no way leads there: %w", p.Target, err)
	}
	defer conn.Close()
	return target, conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// lines is this worker's part of the lines.
func (w *worker) lines() int { return part(w.job.Profile.Lines, w.job.Worker, w.job.Of) }

// part is how much of n the worker k of so many gets: all parts differ by at most one.
func part(n, k, of int) int { return n*(k+1)/of - n*k/of }

// agents are the indexes of this worker's agents: a range.
func (w *worker) agents() []int {
	n := w.job.Profile.Agents.Count
	var mine []int
	for i := n * w.job.Worker / w.job.Of; i < n*(w.job.Worker+1)/w.job.Of; i++ {
		mine = append(mine, i)
	}
	return mine
}

// perform registers the agents, waits for the start, makes the calls and sums up.
func (w *worker) perform(started <-chan time.Time) error {
	agents, took, err := w.register()
	defer w.unregister(agents)
	if err != nil {
		return err
	}
	if err := w.seat.Send(cluster.Up{Ready: &cluster.Ready{Agents: len(agents), Registers: took}}); err != nil {
		return err
	}
	select {
	case at := <-started:
		w.start = anchored(at) // from here on by the monotonic clock: nobody may set it
	case <-w.halt.Done():
		return context.Cause(w.halt)
	}
	before := cpuTime()
	stopped := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() { w.outbox.run(stopped) })
	telling.Go(func() { w.seconds(stopped) })
	var serving sync.WaitGroup
	for _, a := range agents {
		serving.Go(func() { a.serve(w) })
	}
	w.arrive()
	drained := time.AfterFunc(w.job.Profile.Drain, func() { close(w.drained) })
	w.calling.Wait()
	drained.Stop()
	// Agents here serve callers of other workers too.
	if err := w.seat.Send(cluster.Up{Called: true}); err != nil {
		w.stop(err)
	}
	select {
	case <-w.finish:
	case <-w.halt.Done():
	}
	serving.Wait()
	summary := w.summary(agents, cpuTime()-before)
	close(stopped)
	telling.Wait()
	return w.seat.Send(cluster.Up{Summary: &summary})
}

// arrive lets each arrival come when it is due, whatever has become of the others.
func (w *worker) arrive() {
	done := make(chan struct{})
	go func() { // ends with its thread, which has its own timer slack
		defer close(done)
		pace := newPace(w.start)
		lines := int64(w.lines())
		for index, due := range w.plan.Share(w.job.Worker, w.job.Of) {
			if !pace.until(w.halt, due) {
				return
			}
			if w.busy.Add(1) > lines {
				w.busy.Add(-1)
				half := w.blank(index)
				half.Due, half.Ended, half.Outcome = micros(due), micros(due), measure.Dropped
				half.Reason = "no free line in the generator"
				w.outbox.half(half)
				continue
			}
			w.calling.Go(func() {
				defer w.busy.Add(-1)
				w.call(index, due)
			})
		}
		// The load lasts as long as was said, also when the last arrival comes early.
		pace.until(w.halt, w.plan.Length())
	}()
	<-done
	w.finished.Store(true)
}

// seconds tells once a second how the worker does. The time by which it is called late itself
// is how late this process serves its timers.
func (w *worker) seconds(stopped <-chan struct{}) {
	const interval = 20 * time.Millisecond
	tick := time.NewTicker(interval)
	defer tick.Stop()
	next := time.Now().Add(time.Second)
	for {
		select {
		case <-stopped:
			return
		case fired := <-tick.C:
			late := int64(time.Since(fired))
			w.lag.Store(max(w.lag.Load(), late))
			w.lagEver.Store(max(w.lagEver.Load(), late))
			if fired.Before(next) {
				continue
			}
			next = next.Add(time.Second)
			_ = w.seat.Send(cluster.Up{Second: &cluster.Second{At: w.micros(fired), Live: int(w.live.Load()), CPU: cpuTime(),
				Lag: micros(time.Duration(w.lag.Swap(0))), Arrived: w.finished.Load()}})
		}
	}
}

// summary is what the worker measured of itself.
func (w *worker) summary(agents []*agent, cpu float64) cluster.Summary {
	pacing := w.engine.Pacing()
	s := cluster.Summary{
		Pacing:     measure.Pacing{Packets: int64(pacing.Sent), MissedTicks: int64(pacing.Missed + pacing.Errors), CPUSeconds: cpu, Clock: measure.SharedClock},
		SendJitter: measure.TallyOf(pacing.Lateness),
		Overrun:    pacing.Overrun,
		Lag:        micros(time.Duration(w.lagEver.Load())),
	}
	mouthToEar := measure.NewHistogram()
	shift := int64(w.start.Sub(w.origin).Round(time.Second) / time.Second)
	for _, label := range []string{measure.MediaCallerHears, measure.MediaAgentHears} {
		latency := w.engine.Latency(label)
		mouthToEar.MergeFrom(latency.MouthToEar)
		for _, second := range latency.Seconds {
			tally := make(measure.Tally, len(second.Buckets))
			for i, b := range second.Buckets {
				tally[i] = [2]int64{int64(b.Value), int64(b.Count)}
			}
			if at := second.At - shift; at >= 0 && len(tally) > 0 {
				s.Latencies = append(s.Latencies, cluster.Latency{Second: at, Tally: tally})
			}
		}
	}
	s.MouthToEar = measure.TallyOfPacked(mouthToEar)
	for _, a := range agents {
		if a.phone.Registered() != nil {
			s.Lost++
		}
	}
	stats := w.endpoint.Stats()
	if stats.Dropped > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("the kernel threw away %d SIP datagrams that the generator read too late", stats.Dropped))
	}
	w.outbox.mu.Lock()
	defer w.outbox.mu.Unlock()
	if w.outbox.lost > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d entries did not fit: the coordinator is too slow for this load", w.outbox.lost))
	}
	s.Interrupted = errors.Is(context.Cause(w.halt), errInterrupted)
	return s
}

// blank is the half of a call, of which nothing is known yet.
func (w *worker) blank(index int64) measure.Call {
	const never = measure.Never
	c := measure.Call{Index: index, Worker: w.job.Worker, Due: never, Invited: never, Provisional: never, Ringing: never, Answered: never, Offered: never,
		AgentRang: never, AgentAnswer: never, AgentAck: never, HungUp: never, OtherBye: never, Ended: never}
	if index >= 0 {
		c.Caller = w.job.Profile.Caller.At(index)
	}
	return c
}

// micros is a time in the run; Never for one that did not come.
func (w *worker) micros(at time.Time) measure.Micros {
	if at.IsZero() {
		return measure.Never
	}
	return max(0, micros(at.Sub(w.start)))
}

func micros(d time.Duration) measure.Micros { return measure.Micros(d.Microseconds()) }

// shifted is what an ear has heard, by the clock of the run: the engine counts from the origin.
func (w *worker) shifted(heard stream.Heard) *measure.Audio {
	a := heard.Audio
	if a.First >= 0 {
		a.First = max(0, a.First-micros(w.start.Sub(w.origin)))
	}
	return &a
}

func (w *worker) codecs() []stream.Codec {
	if w.job.Profile.Media.Codec == "pcma" {
		return []stream.Codec{stream.PCMA, stream.PCMU}
	}
	return []stream.Codec{stream.PCMU, stream.PCMA}
}
