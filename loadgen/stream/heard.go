package stream

import (
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

// Heard is what a stream has heard, and said, so far.
type Heard struct {
	Audio      measure.Audio
	Voices     map[uint64]uint64 // stamped packets by voice, of at most 16; with markers, the markers by the low 16 bits of a voice
	FirstSent  measure.Micros    // when the stream itself began to speak
	Foreign    uint64            // datagrams that are no RTP
	OtherClock uint64            // packets stamped by another machine's clock, or one that was set back: no latency
	Overrun    uint64            // packets that the kernel threw away since the engine read too late
	Digits     string            // telephone events received, at most 64
	Sound      []byte            // the last second, G.711 u-law, stamps as silence
}

// account is what a Heard is made of, outside of the loop.
type account struct {
	ear     *ear
	mouth   mouth
	overrun uint64
}

func (s *Stream) account() account { return account{s.ear.clone(), s.mouth, dropped(s.fd)} }

func (s *Stream) summary(a account) Heard {
	r, e := a.ear, s.engine
	h := Heard{
		Voices: map[uint64]uint64{}, FirstSent: measure.Never, Foreign: r.foreign, OtherClock: r.otherClock, Overrun: a.overrun,
		Digits: string(r.digits), Sound: r.lastSecond(),
		Audio: measure.Audio{
			Sent: a.mouth.sent, Received: r.packets, Voice: r.voice, Late: r.late, First: measure.Never,
			Jitter: measure.Micros(r.jitter / 1000), JitterMax: measure.Micros(r.jitterMax / 1000), LongestGap: measure.Micros(r.gap / 1000),
			LatencyN: r.latency.n, LatencyP50: r.latency.quantile(0.5), LatencyP99: r.latency.quantile(0.99), LatencyMax: r.latency.max,
			Packets: r.latency.tally(), MouthToEar: r.mouthToEar.quantile(0.5),
		},
	}
	if a.mouth.began >= 0 {
		h.FirstSent = e.micros(a.mouth.began)
	}
	if r.first >= 0 {
		h.Audio.First = e.micros(r.first)
	}
	var pattern voice.Losses
	for i := range r.tracks {
		t := &r.tracks[i]
		if !s.options.Marker {
			h.Voices[t.voice] = t.packets
		}
		h.Audio.Expected += t.expected()
		h.Audio.Lost += t.expected() - t.distinct
		h.Audio.Duplicate += t.duplicate
		h.Audio.Reordered += t.reordered
		l := t.pattern()
		pattern.Expected += l.Expected
		pattern.Lost += l.Lost
		pattern.Bursts += l.Bursts
	}
	for _, m := range r.markers {
		h.Voices[uint64(m.id)] = m.count
	}
	if r.latency.n > 0 {
		h.Audio.Way = "stamp"
		if s.options.Marker {
			h.Audio.Way = "marker"
		}
	}
	if r.voice > 0 {
		// What was lost and what came too late is the same to who listens. Where the delay is
		// not known the score is that of loss alone.
		delay := time.Duration(h.Audio.MouthToEar) * time.Microsecond
		h.Audio.MOS = voice.MOS(voice.R(delay, pattern.Ratio(), pattern.Burst(), voice.G711PLC))
	}
	return h
}
