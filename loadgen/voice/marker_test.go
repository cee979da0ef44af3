package voice

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A path is what happens to the sound between the two; at is the position of frame.
type path func(frame []int16, at uint64)

func through(paths ...path) path {
	return func(frame []int16, at uint64) {
		for _, p := range paths {
			p(frame, at)
		}
	}
}

// lawful passes the frame through a codec of that law, as one more server would.
func lawful(l Law) path {
	return func(frame []int16, _ uint64) {
		codes := make([]byte, len(frame))
		l.Encode(codes, frame)
		l.Decode(frame, codes)
	}
}

func gain(db float64) path {
	return func(frame []int16, _ uint64) {
		for i, s := range frame {
			frame[i] = clip(float64(s) * math.Pow(10, db/20))
		}
	}
}

func clip(v float64) int16 { return int16(math.Round(min(math.MaxInt16, max(math.MinInt16, v)))) }

// mixed adds another sound whose samples have that root mean square.
func mixed(rms float64, sound func(n uint64) float64) path {
	return func(frame []int16, at uint64) {
		for i, s := range frame {
			frame[i] = clip(float64(s) + rms*sound(at+uint64(i)))
		}
	}
}

// Sounds of root mean square 1.
func sine(hz float64) func(uint64) float64 {
	return func(n uint64) float64 { return math.Sqrt2 * math.Sin(2*math.Pi*hz*float64(n)/Rate) }
}

func noise(seed uint64) func(uint64) float64 {
	r := rand.New(rand.NewPCG(seed, 1))
	return func(uint64) float64 { return r.NormFloat64() }
}

// music is three voices with eight harmonics each that change their notes three times a
// second, and a drum.
func music(n uint64) float64 {
	r := rand.New(rand.NewPCG(n/2667, 7))
	t, sum := float64(n)/Rate, 0.0
	for range 3 {
		hz := 110 * math.Pow(2, float64(r.IntN(36))/12)
		for h := 1.0; h <= 8 && h*hz < 3800; h++ {
			sum += math.Sin(2*math.Pi*hz*h*t+h) / h
		}
	}
	age := float64(n%2667) / Rate
	drum := rand.New(rand.NewPCG(n, 3)).NormFloat64() * 3 * math.Exp(-age*40)
	return (sum + drum) / 1.65
}

// speech is a train of glottal pulses of a wandering pitch through two formants that
// wander too, in syllables.
func speech(seed uint64) func(uint64) float64 {
	var phase, y1, y2, z1, z2 float64
	r := rand.New(rand.NewPCG(seed, 5))
	f1, f2 := 500.0, 1500.0
	return func(n uint64) float64 {
		t := float64(n) / Rate
		if n%1200 == 0 {
			f1, f2 = 300+500*r.Float64(), 900+1400*r.Float64()
		}
		phase += (120 + 30*math.Sin(2*math.Pi*0.7*t)) / Rate
		x := 0.0
		if phase >= 1 {
			phase--
			x = 1
		}
		resonate := func(x, f, bw float64, a, b *float64) float64 {
			d := math.Exp(-math.Pi * bw / Rate)
			y := x + 2*d*math.Cos(2*math.Pi*f/Rate)**a - d*d**b
			*a, *b = y, *a
			return y
		}
		y := resonate(x, f1, 80, &y1, &y2) + resonate(x, f2, 120, &z1, &z2)
		return 2.2 * y * max(0, math.Sin(2*math.Pi*2.5*t))
	}
}

// listen sends the marker of id for some seconds along a path with that latency and
// returns what the other end detects. The stream starts at an odd instant, and the
// packets reach the listener off the sample grid.
func listen(id uint16, seconds int, latency time.Duration, along path) []Detection {
	start := 1234567891*time.Microsecond + 17
	m, d := NewMarker(id, start), NewDetector()
	var out []Detection
	frame := make([]int16, Frame)
	for f := range uint64(seconds * 50) {
		at := f * Frame
		clear(frame)
		m.Fill(frame, at)
		along(frame, at)
		out = d.Feed(uint32(at), frame, start+samples(at)+latency, out)
	}
	return out
}

const sampleTime = time.Second / Rate

func TestMarkerIsHeardAlongEveryPath(t *testing.T) {
	silence := func([]int16, uint64) {}
	transcoded := through(lawful(ULaw), lawful(ALaw), lawful(ULaw))
	for name, along := range map[string]path{
		"untouched":                      silence,
		"mu-law to A-law to mu-law":      transcoded,
		"10 dB lower":                    through(gain(-10), transcoded),
		"30 dB lower":                    through(gain(-30), transcoded),
		"clipped":                        through(gain(+20), transcoded),
		"upside down":                    through(func(f []int16, _ uint64) { gain(0)(f, 0); negate(f) }, transcoded),
		"with a tone of its level":       through(mixed(MarkerLevel, sine(1000)), transcoded),
		"with its worst tone":            through(mixed(MarkerLevel, sine(2340)), transcoded),
		"with speech of its level":       through(mixed(MarkerLevel, speech(1)), transcoded),
		"with music of its level":        through(mixed(MarkerLevel, music), transcoded),
		"with noise of its level":        through(mixed(MarkerLevel, noise(1)), transcoded),
		"10 dB lower, in a louder tone":  through(gain(-10), mixed(MarkerLevel*0.6, sine(440)), transcoded),
		"with a stamp in each packet":    through(stamped, transcoded),
		"through a telephone band":       through(band(), transcoded),
		"with another marker in between": through(mixed(1, markerSound(1001)), transcoded),
	} {
		t.Run(name, func(t *testing.T) {
			const seconds, network = 20, 23*time.Millisecond + 456*time.Microsecond
			latency := network
			if name == "through a telephone band" {
				latency += 4 * ms
			}
			got := slices.DeleteFunc(listen(1000, seconds, network, along), func(d Detection) bool { return d.ID == 1001 })
			// 0.9 of them: each of the 32 bits must be right, and a louder voice may cost one.
			if len(got) < seconds*9/10 {
				t.Fatalf("%d detections in %d s", len(got), seconds)
			}
			for _, d := range got {
				// Half a sample of rounding, and one sample of the peak under noise.
				if off := d.Latency - latency; d.ID != 1000 || off < -3*sampleTime/2 || off > 3*sampleTime/2 {
					t.Errorf("%+v, the latency is off by %v", d, off)
				}
			}
		})
	}
}

func negate(f []int16) {
	for i := range f {
		f[i] = clip(-float64(f[i]))
	}
}

// stamped puts 32 bytes that are no sound at the head of each frame.
func stamped(frame []int16, at uint64) {
	r := rand.New(rand.NewPCG(at, 9))
	codes := make([]byte, 32)
	for i := range codes {
		codes[i] = byte(r.Uint32())
	}
	ULaw.Decode(frame, codes)
}

// band lets 300 to 3400 Hz pass and adds 4 ms, as its taps are symmetric.
func band() path {
	var taps [65]float64
	for i := range taps {
		n := float64(i - 32)
		lowpass := func(hz float64) float64 {
			if n == 0 {
				return 2 * hz / Rate
			}
			return math.Sin(2*math.Pi*hz/Rate*n) / (math.Pi * n)
		}
		taps[i] = (lowpass(3400) - lowpass(300)) * (0.54 + 0.46*math.Cos(math.Pi*n/32))
	}
	var history []float64
	return func(frame []int16, _ uint64) {
		for i, s := range frame {
			history = append(history, float64(s))
			y := 0.0
			for k, tap := range taps {
				if n := len(history) - 1 - k; n >= 0 {
					y += tap * history[n]
				}
			}
			frame[i] = clip(y)
		}
	}
}

// markerSound is another sender's marker, of the same level.
func markerSound(id uint16) func(uint64) float64 {
	m := NewMarker(id, 1234567891*time.Microsecond+17)
	return func(n uint64) float64 {
		var s [1]int16
		m.Fill(s[:], n)
		return float64(s[0])
	}
}

func TestNothingElseIsAMarker(t *testing.T) {
	sounds := map[string]func(uint64) float64{"noise": noise(2), "music": music, "speech": speech(3), "silence": func(uint64) float64 { return 0 },
		"DTMF":             func(n uint64) float64 { return (sine(770)(n) + sine(1336)(n)) / math.Sqrt2 * float64(n/800%2) },
		"ringing":          func(n uint64) float64 { return sine(425)(n) * float64(n/8000%2) },
		"square of 1 kHz":  func(n uint64) float64 { return float64(int(n/4%2)*2 - 1) },
		"one marker chip":  func(n uint64) float64 { return float64(int(n/2%2)*2 - 1) },
		"random two-level": func(n uint64) float64 { return float64(int(rand.New(rand.NewPCG(n/2, 11)).Uint32()&1)*2 - 1) },
	}
	for hz := 50.0; hz < 4000; hz += 130 {
		sounds[fmt.Sprintf("%v Hz", hz)] = sine(hz)
	}
	seconds := 20
	if testing.Short() {
		seconds = 5
	}
	for name, sound := range sounds {
		d := NewDetector()
		frame := make([]int16, Frame)
		suspected := 0
		for f := range uint64(seconds * 50) {
			clear(frame)
			mixed(8000, sound)(frame, f*Frame)
			if got := d.Feed(uint32(f*Frame), frame, 0, nil); len(got) > 0 {
				t.Errorf("%s: %+v", name, got)
			}
			suspected = max(suspected, d.count)
		}
		if suspected > 0 { // each would be a marker once in 4096
			t.Errorf("%s is taken for a sync word", name)
		}
	}
}

// Any id, start, latency, frame size, RTP start, and latencies that a second's number
// resolves.
func TestMarkerSaysWhoAndWhen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint16().Draw(t, "id")
		start := time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "start"))
		latency := time.Duration(rapid.Int64Range(int64(-900*ms), int64(14900*ms)).Draw(t, "latency"))
		size := rapid.SampledFrom([]int{40, 80, 160, 240, 480, 960}).Draw(t, "frame")
		timestamp := rapid.Uint32().Draw(t, "timestamp")
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "jitter"), 0))
		m, d := NewMarker(id, start), NewDetector()
		var got []Detection
		var packets []time.Duration // latency of each
		frame := make([]int16, size)
		for at := uint64(0); at < 3*Rate; at += uint64(size) {
			clear(frame)
			m.Fill(frame, at)
			packets = append(packets, latency+time.Duration(r.Int64N(int64(40*ms))))
			got = d.Feed(timestamp+uint32(at), frame, start+samples(at)+packets[len(packets)-1], got)
		}
		if len(got) < 2 {
			t.Fatalf("%d detections in 3 s", len(got))
		}
		for i, g := range got {
			packet := packets[positionOf(g.Sent-start)/int64(size)] // that carried the first sample
			if off := g.Latency - packet; g.ID != id || off < -sampleTime/2-1 || off > sampleTime/2+1 {
				t.Fatalf("%+v: id %d, latency off by %v", g, id, off)
			}
			if g.Sent%time.Second != slotOf(id) || i > 0 && g.Sent-got[i-1].Sent != time.Second {
				t.Fatalf("sent at %v", g.Sent)
			}
		}
	})
}

// A burst is the same however it is cut into frames, and leaves the rest alone.
func TestFillDoesNotDependOnTheCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMarker(rapid.Uint16().Draw(t, "id"), time.Duration(rapid.Int64Range(0, 1<<60).Draw(t, "start")))
		const rest = 77
		whole := slices.Repeat([]int16{rest}, 2*Rate)
		filled := m.Fill(whole, 0)
		cut := slices.Repeat([]int16{rest}, 2*Rate)
		for at := 0; at < len(cut); {
			n := min(rapid.IntRange(1, 3000).Draw(t, "n"), len(cut)-at)
			m.Fill(cut[at:at+n], uint64(at))
			at += n
		}
		if !slices.Equal(whole, cut) {
			t.Fatal("differs from the whole")
		}
		for _, s := range whole {
			if s != rest {
				filled--
			}
		}
		if filled != 0 {
			t.Fatalf("the count is off by %d", filled)
		}
	})
}

// lossy returns how many markers of 20 s are heard when that many percent of the frames are
// lost, and some come twice or late; it fails the test if one has a wrong latency.
func lossy(t interface{ Fatalf(string, ...any) }, seed uint64, percent int) (heard int) {
	const latency = 10 * ms
	m, d := NewMarker(7, 0), NewDetector()
	r := rand.New(rand.NewPCG(seed, 0))
	feed := func(f uint64) {
		frame := make([]int16, Frame)
		m.Fill(frame, f*Frame)
		for _, got := range d.Feed(uint32(f*Frame), frame, samples(f*Frame)+latency, nil) {
			heard++
			if off := got.Latency - latency; got.ID != 7 || off < -2*sampleTime || off > 2*sampleTime {
				t.Fatalf("seed %d, %d%% lost: %+v", seed, percent, got)
			}
		}
	}
	for f := range uint64(20 * 50) {
		switch {
		case r.IntN(100) < percent:
		case r.IntN(100) < 2 && f > 0:
			feed(f)
			feed(f - 1) // a copy, or one that was overtaken
		default:
			feed(f)
		}
	}
	return heard
}

// Loss, reordering and copies of frames cost detections, never a wrong one.
func TestLostFramesNeverGiveAWrongLatency(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		percent := rapid.IntRange(0, 40).Draw(t, "percent")
		if heard := lossy(t, rapid.Uint64().Draw(t, "seed"), percent); percent <= 5 && heard < 18 {
			t.Fatalf("%d heard of 20", heard)
		}
	})
	lossy(t, 0, 33) // here a sync word by chance has data whose CRC is right
}

// A gap in the stream (hold, another source) is survived.
func TestAStreamThatBeginsAnew(t *testing.T) {
	for name, jump := range map[string]uint32{"3 s on": 3 * Rate, "back by 3 s": 1<<32 - 3*Rate, "elsewhere": 1 << 31} {
		m, d := NewMarker(9, 0), NewDetector()
		var got []Detection
		frame := make([]int16, Frame)
		for f := range uint64(300) {
			clear(frame)
			m.Fill(frame, f*Frame)
			timestamp := uint32(f * Frame)
			if f >= 150 {
				timestamp += jump
			}
			got = d.Feed(timestamp, frame, samples(f*Frame), got)
		}
		if len(got) != 6 {
			t.Errorf("%s: %d detections in 6 s", name, len(got))
		}
	}
}

func FuzzDetector(f *testing.F) {
	m := NewMarker(5, 0)
	burst := make([]int16, 4*Frame)
	m.Fill(burst, Rate*2/3)
	codes := make([]byte, len(burst))
	ULaw.Encode(codes, burst)
	f.Add(codes, uint32(0), uint16(160))
	f.Add([]byte{0, 255, 3}, uint32(1<<32-1), uint16(1))
	f.Fuzz(func(t *testing.T, codes []byte, timestamp uint32, size uint16) {
		d := NewDetector()
		var out []Detection
		pcm := make([]int16, len(codes))
		ULaw.Decode(pcm, codes)
		n := int(size%1200) + 1
		for i := 0; len(pcm) > 0; i++ {
			k := min(n, len(pcm))
			out = d.Feed(timestamp, pcm[:k], time.Duration(i)*FrameTime, out[:0])
			for _, got := range out {
				if got.Correlation < threshold || got.Correlation > 1.000001 || got.Latency < -time.Second || got.Latency >= 15*time.Second {
					t.Fatalf("%+v", got)
				}
			}
			// The sound itself steers the timestamps: on, gaps, backwards, elsewhere.
			timestamp += uint32(k)
			if c := codes[i%len(codes)]; c < 8 {
				timestamp += uint32(1)<<(4*c) - 3
			}
			pcm = pcm[k:]
		}
		if d.energy < 0 || d.count > len(d.pending) {
			t.Fatalf("energy %d, %d pending", d.energy, d.count)
		}
	})
}

func benchmarkDetector(b *testing.B, along path) {
	m, d := NewMarker(4242, 0), NewDetector()
	frames := make([][Frame]int16, 500)
	for f := range frames {
		m.Fill(frames[f][:], uint64(f*Frame))
		along(frames[f][:], uint64(f*Frame))
	}
	var out []Detection
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		out = d.Feed(uint32(n*Frame), frames[n%500][:], samples(n*Frame), out[:0])
		n++
	}
}

func BenchmarkDetectorInNoise(b *testing.B) { benchmarkDetector(b, mixed(MarkerLevel, noise(1))) }
func BenchmarkDetectorInSilence(b *testing.B) {
	benchmarkDetector(b, func([]int16, uint64) {})
}

func BenchmarkMarkerFill(b *testing.B) {
	m := NewMarker(4242, 0)
	frame := make([]int16, Frame)
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		m.Fill(frame, n*Frame)
		n++
	}
}
