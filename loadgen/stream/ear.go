package stream

import (
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/voice"
)

const (
	mostVoices = 16  // in one stream; those beyond are RTP and no more
	mostDigits = 64  // that are remembered
	mostFrame  = 960 // samples of a packet that is searched for markers, 120 ms
	// Timestamps that differ from the arrivals by so much have another origin: no jitter.
	otherOrigin = int64(time.Second)
)

// ear is what a stream hears. 7 kB, so that ten thousand streams fit anywhere; what each
// packet touches comes first.
type ear struct {
	packets        uint64
	voice          uint64
	first, arrived int64 // of the voice; when its last packet came; -1: never
	gap            int64
	late           uint64
	// RFC 3550 s.6.4.1
	timedAt           int64
	jitter, jitterMax float64 // ns
	ssrc, timestamp   uint32
	timed             bool

	tracks              []track // of at most mostVoices; the first one in own
	own                 [1]track
	latency, mouthToEar spread

	foreign    uint64
	otherClock uint64
	depth      time.Duration
	markers    []heardMarker
	detector   *voice.Detector
	digits     []byte
	eventAt    uint32 // RTP timestamp of the last event
	sound      []byte // the last second: a ring once it is full
	soundAt    int
}

// heardMarker counts the markers of one speaker.
type heardMarker struct {
	id    uint16
	count uint64
}

func newEar(depth time.Duration) *ear {
	r := &ear{depth: depth, first: -1, arrived: -1}
	r.tracks = r.own[:0]
	return r
}

func (r *ear) clone() *ear {
	c := *r
	c.tracks = slices.Clone(r.tracks)
	c.markers = slices.Clone(r.markers)
	c.digits = slices.Clone(r.digits)
	c.sound = slices.Clone(r.sound)
	c.detector = nil
	return &c
}

// receive reads one packet of a stream.
func (l *loop) receive(s *Stream) bool {
	b, arrival, errno := l.inlet.read(s.fd)
	if errno != 0 {
		if errno == unix.ECONNREFUSED {
			l.pacing.refused++
		}
		return errno != unix.EAGAIN
	}
	if arrival == 0 {
		arrival = l.now + l.offset
	}
	l.pacing.received++
	_ = l.pacing.lag.RecordValue(min(max(0, l.now+l.offset-arrival)/int64(time.Microsecond), longest))
	l.hear(s, b, arrival)
	return true
}

// receiveRest reads what has come before a stream is closed.
func (l *loop) receiveRest(s *Stream) {
	for range mostLeft {
		if !l.receive(s) {
			return
		}
	}
}

// mostLeft bounds what is read of a stream that closes: a second of audio.
const mostLeft = 50

// hear takes a datagram that arrived at a Unix time.
func (l *loop) hear(s *Stream, b []byte, arrival int64) {
	r := s.ear
	// The payload types 64 to 95 are those of RTCP (RFC 5761 s.4).
	if len(b) < 12 || b[0]>>6 != 2 || b[1]&0x60 == 0x40 || l.rtp.Unmarshal(b) != nil {
		r.foreign++
		return
	}
	r.packets++
	h, payload := &l.rtp.Header, l.rtp.Payload
	switch {
	case h.PayloadType == s.options.Events:
		r.event(h.Timestamp, payload)
		return
	case h.PayloadType != uint8(PCMU) && h.PayloadType != uint8(PCMA):
		return
	}
	law := Codec(h.PayloadType).law()
	stamped := false
	if s.options.Marker {
		l.hearMarked(s, law, arrival)
	} else if st, ok := readStamp(payload); ok {
		stamped = true
		if st.voice != s.options.Voice {
			l.hearStamped(s, st, arrival)
		}
	}
	if r.sound != nil {
		r.keep(payload, law, stamped)
	}
}

func (l *loop) hearStamped(s *Stream, st stamp, arrival int64) {
	r := s.ear
	t := r.track(st.voice)
	if t == nil {
		return
	}
	r.voice++
	fresh, newest := t.add(int64(st.index))
	if !fresh {
		return
	}
	r.come(t, arrival-l.offset, int64(st.position), newest)
	r.time(l.rtp.SSRC, l.rtp.Timestamp, arrival)
	played := t.playout.Arrive(time.Duration(st.sent)-voice.FrameTime, time.Duration(arrival))
	if played.Late {
		r.late++
	} else {
		t.play(int64(st.index))
	}
	if st.clock != l.engine.clock || arrival < st.sent {
		r.otherClock++
		return
	}
	l.measured(s, time.Duration(arrival-st.sent))
	if !played.Late {
		l.heardAfter(s, played.MouthToEar)
	}
}

// hearMarked takes audio whose bytes may have been changed: loss, gaps and jitter are those
// of the RTP stream, latency is that of the markers in it.
func (l *loop) hearMarked(s *Stream, law voice.Law, arrival int64) {
	r, h, payload := s.ear, &l.rtp.Header, l.rtp.Payload
	t := r.track(uint64(h.SSRC))
	if t == nil {
		return
	}
	r.voice++
	i, ok := t.unwrap(h.SequenceNumber)
	if !ok {
		t.restart()
		i, _ = t.unwrap(h.SequenceNumber)
	}
	fresh, newest := t.add(i)
	if !fresh {
		return
	}
	if !r.time(h.SSRC, h.Timestamp, arrival) {
		t.begin(h.Timestamp, arrival)
	}
	at := t.media(h.Timestamp)
	r.come(t, arrival-l.offset, at/int64(voice.FrameTime), newest)
	played := t.playout.Arrive(time.Duration(at), time.Duration(arrival))
	if played.Late {
		r.late++
	} else {
		t.play(i)
	}
	n := min(len(payload), len(l.pcm))
	law.Decode(l.pcm[:n], payload[:n])
	l.found = r.detector.Feed(h.Timestamp, l.pcm[:n], time.Duration(arrival), l.found[:0])
	for _, d := range l.found {
		if d.ID == uint16(s.options.Voice) {
			continue
		}
		r.mark(d.ID)
		if d.Latency < 0 {
			r.otherClock++
			continue
		}
		l.measured(s, d.Latency)
		// The wait of this packet stands for that of the one in which the burst began: they
		// differ by the jitter.
		if !played.Late {
			l.heardAfter(s, voice.FrameTime+d.Latency+played.Wait)
		}
	}
}

// measured enters a latency, heardAfter a mouth-to-ear delay.
func (l *loop) measured(s *Stream, d time.Duration) {
	us := min(d.Microseconds(), longest)
	s.ear.latency.add(measure.Micros(us))
	s.sink.add(us)
}

func (l *loop) heardAfter(s *Stream, d time.Duration) {
	us := min(d.Microseconds(), longest)
	s.ear.mouthToEar.add(measure.Micros(us))
	_ = s.sink.mouthToEar.RecordValue(us)
}

// track is that of a voice, nil when there are too many.
func (r *ear) track(id uint64) *track {
	for i := range r.tracks {
		if r.tracks[i].voice == id {
			return &r.tracks[i]
		}
	}
	if len(r.tracks) == mostVoices {
		return nil
	}
	r.tracks = append(r.tracks, newTrack(id, r.depth))
	return &r.tracks[len(r.tracks)-1]
}

func (r *ear) mark(id uint16) {
	for i := range r.markers {
		if r.markers[i].id == id {
			r.markers[i].count++
			return
		}
	}
	if len(r.markers) < mostVoices {
		r.markers = append(r.markers, heardMarker{id, 1})
	}
}

// come notes the arrival of a packet of the voice, and how long there was none. A pause
// that the speaker made is no gap: in it positions run on, indexes do not.
func (r *ear) come(t *track, at, position int64, newest bool) {
	if r.first < 0 {
		r.first = at
	}
	pause := int64(0)
	if newest {
		if t.spoke {
			pause = max(0, position-t.position-(t.last-t.before)) * int64(voice.FrameTime)
		}
		t.spoke, t.position, t.before = true, position, t.last
	}
	if r.arrived >= 0 {
		r.gap = max(r.gap, at-r.arrived-pause)
	}
	r.arrived = max(r.arrived, at)
}

// time keeps the interarrival jitter (RFC 3550 s.6.4.1); false: the source is another one.
func (r *ear) time(ssrc, timestamp uint32, arrival int64) bool {
	d := arrival - r.timedAt - int64(int32(timestamp-r.timestamp))*int64(time.Second/voice.Rate)
	same := r.timed && ssrc == r.ssrc && d < otherOrigin && d > -otherOrigin
	if same {
		r.jitter += (float64(max(d, -d)) - r.jitter) / 16
		r.jitterMax = max(r.jitterMax, r.jitter)
	}
	r.timed, r.ssrc, r.timestamp, r.timedAt = true, ssrc, timestamp, arrival
	return same
}

// event takes a telephone event (RFC 4733): all packets of one have the same timestamp.
func (r *ear) event(timestamp uint32, payload []byte) {
	if len(payload) < 4 || int(payload[0]) >= len(keys) || len(r.digits) == mostDigits {
		return
	}
	if len(r.digits) > 0 && timestamp == r.eventAt {
		return
	}
	r.eventAt = timestamp
	r.digits = append(r.digits, keys[payload[0]])
}

// keep adds audio to the last second, as u-law, the stamp as silence.
func (r *ear) keep(payload []byte, law voice.Law, stamped bool) {
	if law == voice.ALaw {
		law.Recode(payload)
	}
	if stamped {
		for i := range payload[:stampSize] {
			payload[i] = 0xff
		}
	}
	payload = payload[max(0, len(payload)-cap(r.sound)):]
	n := min(len(payload), cap(r.sound)-len(r.sound))
	r.sound = append(r.sound, payload[:n]...)
	for payload = payload[n:]; len(payload) > 0; payload = payload[n:] {
		n = copy(r.sound[r.soundAt:], payload)
		r.soundAt = (r.soundAt + n) % len(r.sound)
	}
}

// lastSecond is the ring in the order of time.
func (r *ear) lastSecond() []byte {
	return append(slices.Clone(r.sound[r.soundAt:]), r.sound[:r.soundAt]...)
}
