package stream

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

func TestStreamsAreSpreadEvenlyOverTheFrame(t *testing.T) {
	k := stillEngine(t, Config{})
	remote := k.stream(Options{Voice: 1}).Addr()
	const streams = 500
	for i := range streams {
		k.connect(k.stream(Options{Voice: uint64(i + 2)}), remote, PCMU)
	}
	for at, speakers := range k.wheel {
		if n := len(speakers); n < streams/frameTicks || n > streams/frameTicks+1 {
			t.Errorf("%d streams speak at tick %d", n, at)
		}
	}
	// A few lie far apart: half of a call's two streams is no burst.
	few := stillEngine(t, Config{})
	last := -1
	for i := range 4 {
		s := few.stream(Options{Voice: uint64(i + 1)})
		few.connect(s, remote, PCMU)
		if d := (s.mouth.tick - last + frameTicks) % frameTicks; last >= 0 && (d < 20 || d > frameTicks-20) {
			t.Errorf("two streams in a row speak %d ticks apart", d)
		}
		last = s.mouth.tick
	}
}

// The schedule is absolute: a turn that comes late sends what is due, and moves nothing.
func TestEachFrameHasItsTickHoweverLateTheTurn(t *testing.T) {
	k := stillEngine(t, Config{})
	a, b := k.stream(Options{Voice: callerVoice}), k.stream(Options{Voice: agentVoice})
	k.connect(a, b.Addr(), PCMU)
	begin := k.ticked
	first := begin + 1
	for ; first%int64(frameTicks) != int64(a.mouth.tick); first++ {
	}
	for _, ticks := range []int{1, 3, 150, 160, 161, 7, 319, 400, 1, 1, 2, 160} {
		k.step(ticks)
		due := uint64(0)
		if k.ticked >= first {
			due = uint64((k.ticked-first)/int64(frameTicks)) + 1
		}
		if a.mouth.sent != due {
			t.Fatalf("%d ticks after the begin %d frames were sent, %d were due", k.ticked-begin, a.mouth.sent, due)
		}
	}
	if h := b.summary(b.account()); h.Audio.Voice != a.mouth.sent || h.Audio.Lost != 0 {
		t.Errorf("%d were sent, heard %+v", a.mouth.sent, h.Audio)
	}
}

func TestSecondsOfTheRun(t *testing.T) {
	k := stillEngine(t, Config{Start: time.Now().Add(-time.Minute)})
	a, b := k.stream(Options{Voice: callerVoice}), k.stream(Options{Voice: agentVoice, Label: "x"})
	k.connect(a, b.Addr(), PCMU)
	for range 5 * 50 * frameTicks {
		k.step(1)
	}
	past := k.sinks["x"].past
	if len(past) < 4 || len(past) > 5 {
		t.Fatalf("%d seconds are over after five", len(past))
	}
	for i, second := range past {
		if second.At != past[0].At+int64(i) || second.At < 60 || second.At > 80 || i > 0 && (second.Count < 49 || second.Count > 51) {
			t.Errorf("second %d: %+v", i, second)
		}
	}
}

// A generator that was stopped says so, and blames nobody else for it.
func TestFramesThatAreFarTooLateAreMissedNotLost(t *testing.T) {
	k := stillEngine(t, Config{})
	a, b := k.stream(Options{Voice: callerVoice}), k.stream(Options{Voice: agentVoice})
	k.connect(a, b.Addr(), PCMU)
	for range 10 {
		k.step(frameTicks)
	}
	sent := a.mouth.sent
	k.step(50 * frameTicks) // stopped for a second
	for range 10 {
		k.step(frameTicks)
	}
	// What was due in the last 60 ms is sent.
	if missed, late := k.pacing.missed, a.mouth.sent-sent-10; missed+late != 50 || late != uint64(tooLate/voice.FrameTime) && late != uint64(tooLate/voice.FrameTime)+1 {
		t.Errorf("%d frames missed, %d sent late", missed, late)
	}
	h := b.summary(b.account())
	if h.Audio.Voice != a.mouth.sent || h.Audio.Lost+h.Audio.Duplicate+h.Audio.Reordered != 0 {
		t.Errorf("the listener takes it for loss: %+v", h.Audio)
	}
}

func TestEmulatedNetwork(t *testing.T) {
	network := Network{Delay: 40 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.2, Seed: 7}
	for _, network.Reorder = range []bool{false, true} {
		k := stillEngine(t, Config{Network: network})
		a, b := k.stream(Options{Voice: callerVoice}), k.stream(Options{Voice: agentVoice})
		k.connect(a, b.Addr(), PCMU)
		const said = 200
		for range said*frameTicks + frameTicks {
			k.step(1)
		}
		a.mouth.muted = true
		k.step(4 * frameTicks)
		// The same seed and voice: the fate of each packet can be told.
		type passage struct{ index, leaves int64 }
		var through []passage
		var delays spread
		latest, waits := int64(0), 0
		for i := range int64(a.mouth.sent) {
			delay, lost := network.fate(callerVoice, uint64(i))
			if lost {
				continue
			}
			due := i * int64(voice.FrameTime)
			leaves := (due + delay + int64(tick) - 1) / int64(tick)
			if leaves < latest && !network.Reorder {
				leaves, waits = latest, waits+1
			}
			latest = max(latest, leaves)
			through = append(through, passage{i, leaves})
			delays.add(measure.Micros(leaves*int64(tick)-due) / 1000)
		}
		slices.SortStableFunc(through, func(a, b passage) int { return int(a.leaves - b.leaves) })
		arrive, behind, highest := uint64(len(through)), uint64(0), int64(-1)
		for _, p := range through {
			if p.index < highest {
				behind++
			}
			highest = max(highest, p.index)
		}
		if network.Reorder && behind < 5 || !network.Reorder && (behind > 0 || waits < 5) {
			t.Errorf("reorder %v: by the delays %d out of order, %d wait", network.Reorder, behind, waits)
		}
		h := b.summary(b.account())
		heard := h.Audio
		if k.pacing.lost != a.mouth.sent-arrive || k.pacing.sent != arrive || heard.Voice != arrive || heard.Lost > a.mouth.sent-arrive {
			t.Errorf("of %d, %d arrive; %+v", a.mouth.sent, arrive, heard)
		}
		if share := float64(arrive) / float64(a.mouth.sent); share < 0.7 || share > 0.9 {
			t.Errorf("%.2f of all arrive, 0.8 should", share)
		}
		if heard.Reordered != behind {
			t.Errorf("reorder %v: %d out of order, want %d", network.Reorder, heard.Reordered, behind)
		}
		if p50 := delays.quantile(0.5); heard.LatencyP50 < p50*97/100 || heard.LatencyP50 > p50+5000 || heard.LatencyMax < delays.max {
			t.Errorf("latency p50 %d us, max %d; the delays have %d and %d", heard.LatencyP50, heard.LatencyMax, p50, delays.max)
		}
	}
}

func TestFateIsEven(t *testing.T) {
	n := Network{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.01, Seed: 3}
	var lost, sum, low, high int64
	const packets = 200_000
	low = 1 << 62
	for i := range uint64(packets) {
		delay, gone := n.fate(i%50, i/50)
		if gone {
			lost++
			continue
		}
		sum, low, high = sum+delay, min(low, delay), max(high, delay)
	}
	mean := time.Duration(sum / (packets - lost))
	if low < 15e6 || low > 15.01e6 || high > 25e6 || high < 24.99e6 || mean < 19950*time.Microsecond || mean > 20050*time.Microsecond {
		t.Errorf("delays from %d to %d ns, mean %v", low, high, mean)
	}
	if lost < packets/100*9/10 || lost > packets/100*11/10 {
		t.Errorf("%d of %d lost, 1%% should be", lost, packets)
	}
}

func TestNothingIsAllocatedPerPacket(t *testing.T) {
	for name, cfg := range map[string]Config{"plain": {}, "network": {Network: Network{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond}}} {
		k := stillEngine(t, cfg)
		for i := range 10 {
			a, b := k.stream(Options{Voice: uint64(2*i + 1), Sound: true}), k.stream(Options{Voice: uint64(2*i + 2), Sound: true})
			k.connect(a, b.Addr(), PCMU)
			k.connect(b, a.Addr(), PCMA)
		}
		for range 200 * frameTicks { // until what the network holds back has found its size
			k.step(1)
		}
		before := k.pacing.received
		if n := testing.AllocsPerRun(50, func() { k.step(frameTicks) }); n > 4 { // what the network holds back may still grow by a slot
			t.Errorf("%s: %v allocations in a frame of 20 streams", name, n)
		}
		if n := k.pacing.received - before; n < 900 {
			t.Errorf("%s: %d packets were received", name, n)
		}
	}
}

// Whatever is asked at once, by however many: each is done once, in the order of one asker,
// and none is left behind when the loop ends.
func TestOrdersAreCarriedOutInOrder(t *testing.T) {
	e := engine(t, Config{})
	l := e.loops[0]
	const askers, each = 20, 200
	done := make([][]int, askers) // of the loop alone
	var all sync.WaitGroup
	for i := range askers {
		all.Go(func() {
			for n := range each {
				if !l.post(func() { done[i] = append(done[i], n) }) {
					t.Error("refused while the loop runs")
				}
			}
		})
	}
	all.Wait()
	last := false
	l.post(func() { l.stopping = true; l.post(func() { last = true }) })
	e.Close()
	for i := range done {
		if len(done[i]) != each || !slices.IsSorted(done[i]) {
			t.Errorf("asker %d: done %v", i, done[i])
		}
	}
	if !last {
		t.Error("what was asked while the loop ended was accepted and not done")
	}
	if l.post(func() {}) || l.ask(func() {}) {
		t.Error("a loop that has ended takes orders")
	}
}

// The time that a packet waits to be read is the generator's own: it is told, and no part of
// the latency.
func TestLatencyEndsWithTheArrival(t *testing.T) {
	k := stillEngine(t, Config{})
	a, b := k.stream(Options{Voice: callerVoice}), k.stream(Options{Voice: agentVoice})
	k.connect(a, b.Addr(), PCMU)
	for k.pacing.sent == 0 {
		k.now = (k.ticked + 1) * int64(tick)
		k.serve()
	}
	const unread = 200 * time.Millisecond
	for sent := time.Now(); time.Since(sent) < unread; time.Sleep(unread / 10) {
	}
	k.look()
	k.listen()
	h := b.summary(b.account()).Audio
	if lag := time.Duration(k.pacing.lag.Max()) * time.Microsecond; h.LatencyN != 1 || lag < unread || time.Duration(h.LatencyMax)*time.Microsecond > lag-unread*9/10 {
		t.Errorf("latency %d us of a packet that was read %v after its arrival", h.LatencyMax, lag)
	}
}
