package voice

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

// capture is when packet i's first sample was captured.
func capture(i int) time.Duration { return time.Duration(i) * FrameTime }

// The headline's sum: 20 packetisation + 20 to 24 network + what is left of the buffer.
func TestMouthToEarIsTheSumOfItsParts(t *testing.T) {
	p := NewPlayout(20 * ms)
	for i, network := range []time.Duration{20, 22, 24, 20, 23} {
		sent := capture(i) + FrameTime
		arrived := sent + network*ms
		got := p.Arrive(capture(i), arrived)
		if got.Late || got.MouthToEar != 60*ms || got.At != capture(i)+60*ms || got.Wait != (40-network)*ms || got.MouthToEar != FrameTime+network*ms+got.Wait {
			t.Fatalf("packet %d, %v ms on its way: %+v", i, network, got)
		}
	}
	if got := p.Arrive(capture(5), capture(5)+60*ms+1); !got.Late || got.Wait != -1 {
		t.Fatalf("1 ns after its time: %+v", got)
	}
	if got := p.Arrive(capture(6), capture(6)+60*ms); got.Late || got.Wait != 0 {
		t.Fatalf("at its time: %+v", got)
	}
}

func TestAFirstPacketThatWasLateDoesNotDeepenTheBufferForLong(t *testing.T) {
	p := NewPlayout(20 * ms)
	p.Arrive(capture(0), capture(0)+FrameTime+55*ms)
	var got Played
	for i := 1; i < 150; i++ { // 3 s
		got = p.Arrive(capture(i), capture(i)+FrameTime+20*ms)
		if got.Late {
			t.Fatalf("packet %d late: %+v", i, got)
		}
	}
	if got.MouthToEar > 60*ms+tolerance || p.Moves() != 4 { // 35 ms in steps of 10
		t.Fatalf("after 3 s: %+v, %d moves", got, p.Moves())
	}
}

func TestAnotherPathIsFollowed(t *testing.T) {
	p := NewPlayout(20 * ms)
	late, i := 0, 0
	play := func(n int, transit time.Duration) (last Played) {
		for range n {
			if last = p.Arrive(capture(i), capture(i)+FrameTime+transit); last.Late {
				late++
			}
			i++
		}
		return last
	}
	play(100, 20*ms)
	if got := play(100, 120*ms); got.MouthToEar != 160*ms || late != mostLate-1 {
		t.Fatalf("a path 100 ms longer: %+v, %d late", got, late)
	}
	late = 0
	if got := play(1000, 20*ms); got.MouthToEar > 60*ms+tolerance || late != 0 {
		t.Fatalf("back on the short one: %+v, %d late", got, late)
	}
}

// What is older than a new start has missed it: 34 was played already when 33 comes.
func TestAnOldPacketDoesNotComeBackAfterANewStart(t *testing.T) {
	p := NewPlayout(20 * ms)
	for i := range 20 {
		p.Arrive(capture(i), capture(i)+FrameTime)
	}
	p.Arrive(capture(34), capture(34)+FrameTime)
	for i := 35; i < 45; i++ {
		p.Arrive(capture(i), capture(i)+FrameTime+300*ms)
	}
	if got := p.Arrive(capture(33), capture(33)+FrameTime+300*ms); !got.Late {
		t.Fatalf("packet 33 would be played after packet 34: %+v", got)
	}
}

// A packet that was overtaken while the buffer moved keeps its distance to those before it.
func TestAMoveHoldsFromAPacketOn(t *testing.T) {
	p := NewPlayout(20 * ms)
	p.Arrive(capture(0), capture(0)+FrameTime+30*ms)
	for i := 1; i < 24; i++ {
		p.Arrive(capture(i), capture(i)+FrameTime+20*ms)
	}
	if got := p.Arrive(capture(25), capture(25)+FrameTime+20*ms); got.MouthToEar != 60*ms {
		t.Fatalf("half a second on: %+v", got)
	}
	if got := p.Arrive(capture(24), capture(24)+FrameTime+45*ms); got.MouthToEar != 70*ms || got.Late {
		t.Fatalf("the one before: %+v", got)
	}
}

// A second of slow packets is not another path.
func TestTheBufferDoesNotMoveOutForASpike(t *testing.T) {
	p := NewPlayout(20 * ms)
	for i := range 400 {
		transit := 20 * ms
		if i%100 >= 50 {
			transit = 30 * ms
		}
		if got := p.Arrive(capture(i), capture(i)+FrameTime+transit); got.MouthToEar != 60*ms {
			t.Fatalf("packet %d: %+v", i, got)
		}
	}
}

// Clocks that drift by 200 ppm are 720 ms apart after an hour.
func TestDriftIsFollowed(t *testing.T) {
	for _, ppm := range []int{-200, -20, 20, 200} {
		p := NewPlayout(20 * ms)
		for i := range 180_000 {
			arrived := capture(i) + FrameTime + 20*ms + capture(i)*time.Duration(ppm)/1_000_000 + time.Duration(i%7)*ms
			got := p.Arrive(capture(i), arrived)
			if got.Late {
				t.Fatalf("%d ppm: packet %d is late: %+v", ppm, i, got)
			}
			if least := 20*ms - time.Duration(i%7)*ms; got.Wait < least-2*ms || got.Wait > least+2*ms {
				t.Fatalf("%d ppm: packet %d waits %v, not near %v", ppm, i, got.Wait, least)
			}
		}
	}
}

// Whatever the network does: what is played is in order and one capture distance apart
// unless the buffer has moved between the two; nothing is played that came after its time;
// an offset between the clocks changes nothing but MouthToEar.
func TestPlayoutOrderSpacingAndOffset(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		depth := time.Duration(rapid.IntRange(0, 80).Draw(t, "depth")) * ms
		offset := time.Duration(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "clock offset"))
		type packet struct{ captured, arrived time.Duration }
		var packets []packet
		base := time.Duration(rapid.IntRange(0, 300).Draw(t, "network")) * ms
		for i := range rapid.IntRange(1, 400).Draw(t, "packets") {
			if rapid.IntRange(0, 99).Draw(t, "event") == 0 {
				base = time.Duration(rapid.IntRange(0, 1500).Draw(t, "network")) * ms
			}
			jitter := time.Duration(rapid.IntRange(0, 60_000).Draw(t, "jitter")) * time.Microsecond
			packets = append(packets, packet{capture(i), capture(i) + FrameTime + base + jitter})
		}
		// In the order of arrival, as a receiver sees them.
		byArrival := make([]int, len(packets))
		for i := range byArrival {
			byArrival[i] = i
			for j := i; j > 0 && packets[byArrival[j-1]].arrived > packets[byArrival[j]].arrived; j-- {
				byArrival[j-1], byArrival[j] = byArrival[j], byArrival[j-1]
			}
		}
		a, b := NewPlayout(depth), NewPlayout(depth)
		played := make([]Played, len(packets))
		for _, i := range byArrival {
			p := packets[i]
			got, shifted := a.Arrive(p.captured, p.arrived), b.Arrive(p.captured+offset, p.arrived)
			if got.Late != shifted.Late || got.Wait != shifted.Wait || got.At != shifted.At || got.MouthToEar != shifted.MouthToEar+offset {
				t.Fatalf("packet %d: %+v, with an offset of %v %+v", i, got, offset, shifted)
			}
			if !got.Late && got.At < p.arrived || got.Wait != got.At-p.arrived || got.MouthToEar != got.At-p.captured {
				t.Fatalf("packet %d of %+v: %+v", i, p, got)
			}
			played[i] = got
		}
		last, apart := -1, uint64(0)
		for i, p := range played {
			if p.Late {
				continue
			}
			if last >= 0 {
				switch step := p.At - played[last].At; {
				case step <= 0:
					t.Fatalf("packet %d is played %v after packet %d", i, step, last)
				case step != capture(i-last):
					apart++
				}
			}
			last = i
		}
		if apart > 2*a.Moves() { // a reordered packet crosses a move twice
			t.Fatalf("%d distances differ from those of capture, the buffer moved %d times", apart, a.Moves())
		}
	})
}

func BenchmarkPlayout(b *testing.B) {
	p := NewPlayout(20 * ms)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p.Arrive(capture(i), capture(i)+FrameTime+time.Duration(i%5)*ms)
		i++
	}
}
