package stream

import (
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// longest is the top of the histograms, in us; what is longer counts as that.
const longest = 60_000_000

func newHDR() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 3) }

// Latency is what all streams of one label have measured.
type Latency struct {
	OneWay     *hdrhistogram.Histogram // us, packet by packet
	MouthToEar *hdrhistogram.Histogram // us: packetisation, network, server and jitter buffer, of packets that were played
	Seconds    []Second                // of OneWay; those without a packet are left out
}

// Second is one second of a run, by the time at which packets were read.
type Second struct {
	At      int64          `json:"at_s"` // since the start of the run
	Count   uint64         `json:"count"`
	P50     measure.Micros `json:"p50_us"` // within 1.6%
	P99     measure.Micros `json:"p99_us"`
	Max     measure.Micros `json:"max_us"`
	Buckets []Bucket       `json:"buckets,omitempty"` // in order; what Merge needs
}

// Bucket counts the latencies that are one value within 1.6%.
type Bucket struct {
	Value measure.Micros `json:"us"`
	Count uint32         `json:"n"`
}

// Merge puts two series into one, as if one engine had measured both.
func Merge(a, b []Second) []Second {
	var out []Second
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].At < b[0].At:
			out, a = append(out, a[0]), a[1:]
		case len(a) == 0 || b[0].At < a[0].At:
			out, b = append(out, b[0]), b[1:]
		default:
			var s spread
			for _, second := range []Second{a[0], b[0]} {
				for _, x := range second.Buckets {
					s.counts[bucket(x.Value)] += x.Count
					s.n += uint64(x.Count)
				}
				s.max = max(s.max, second.Max)
			}
			out, a, b = append(out, s.second(a[0].At)), a[1:], b[1:]
		}
	}
	return out
}

// second is a spread as a second of the series.
func (s *spread) second(at int64) Second {
	buckets := make([]Bucket, 0, 64)
	for i, n := range s.counts {
		if n > 0 {
			buckets = append(buckets, Bucket{middle(i), n})
		}
	}
	return Second{at, s.n, s.quantile(0.5), s.quantile(0.99), s.max, buckets}
}

// sink is what the streams of one label and one thread have measured.
type sink struct {
	oneWay, mouthToEar *hdrhistogram.Histogram
	now                spread // this second
	past               []Second
}

func (l *loop) sink(label string) *sink {
	s := l.sinks[label]
	if s == nil {
		s = &sink{oneWay: newHDR(), mouthToEar: newHDR()}
		l.sinks[label] = s
	}
	return s
}

func (s *sink) add(us int64) {
	_ = s.oneWay.RecordValue(us)
	s.now.add(measure.Micros(us))
}

// roll begins a new second when it is time.
func (l *loop) roll() {
	second := (l.now + l.engine.since) / 1e9
	if second <= l.second {
		return
	}
	for _, s := range l.sinks {
		if s.now.n > 0 {
			s.past = append(s.past, s.now.second(l.second))
			s.now = spread{}
		}
	}
	l.second = second
}

// Latency returns what the streams of a label have measured so far.
func (e *Engine) Latency(label string) Latency {
	out := Latency{OneWay: newHDR(), MouthToEar: newHDR()}
	for _, l := range e.loops {
		var oneWay, mouthToEar *hdrhistogram.Histogram
		var seconds []Second
		copied := func() {
			if s := l.sinks[label]; s != nil {
				oneWay, mouthToEar = s.oneWay.Clone(), s.mouthToEar.Clone()
				seconds = slices.Clip(s.past) // what is past is never written again
				if s.now.n > 0 {
					seconds = append(seconds, s.now.second(l.second))
				}
			}
		}
		if !l.ask(copied) {
			copied() // the thread has ended
		}
		if oneWay != nil {
			out.OneWay.Merge(oneWay)
			out.MouthToEar.Merge(mouthToEar)
			out.Seconds = Merge(out.Seconds, seconds)
		}
	}
	return out
}
