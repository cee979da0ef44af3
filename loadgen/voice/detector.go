package voice

import (
	"math"
	"time"
)

// Detector finds markers in audio as it arrives, whoever they are from. It does bounded
// work per frame, and its memory does not grow.
type Detector struct {
	started bool
	next    uint32 // RTP timestamp of the sample after the last
	end     int64  // samples taken so far: the position of the next one

	pcm    [4096]int16 // the last samples, by position modulo its size: more than a burst and a frame
	pulses [64]int32   // chip filter: more than a bit
	words  [1024]int32 // its correlation with barker13, a bit of the sync word: more than a sync word
	energy int64       // of the last syncSize samples

	frames  [frameCount]heardFrame // the last frames that came, by number
	frameN  int
	pending [8]candidate // sync words whose data has not all come
	count   int
	blocked int64 // no sync word that begins before it: it would lie within a burst that was read
}

const (
	frameCount = 64   // frames of which the arrival is remembered; at 5 ms they are more than a burst
	mostFrame  = 960  // samples
	mostBack   = Rate // samples that a reordered frame is old; beyond, the stream is another

	// A correlation of 0.35 is a marker 8.6 dB below what it is mixed with. Noise reaches 0.04
	// (one sigma), the worst of all tones below 0.2.
	threshold = 0.35
	leastMean = 16 * 16 // power per sample below which there is silence
)

type heardFrame struct {
	first   int64 // position
	size    int
	arrived time.Duration
}

type candidate struct {
	first       int64   // position of the burst
	correlation float64 // normalised
	negative    bool    // upside down
}

// Detection is a marker that was heard.
type Detection struct {
	ID          uint16
	Sent        time.Duration // when its first sample was sent, by the sender's clock
	Arrived     time.Duration // when that sample came, by the listener's: the packet's arrival plus its place in it
	Latency     time.Duration // Arrived - Sent: the transit of that packet, and all that servers added
	Correlation float64       // 0.35 to 1
}

// NewDetector returns a detector that has heard nothing.
func NewDetector() *Detector { return new(Detector) }

// Feed takes a frame of up to 120 ms (longer ones are cut), its RTP timestamp and the
// instant at which its packet arrived, and appends to out the markers that are complete
// with it. What is missing since the frame before counts as silence; after a gap as long
// as a burst the detector starts anew. A frame from before the last is ignored.
//
// Sent is found by the second's number in the marker, modulo 16, for latencies of -1 s
// (clocks may differ) to 15 s.
func (d *Detector) Feed(timestamp uint32, pcm []int16, arrived time.Duration, out []Detection) []Detection {
	if len(pcm) == 0 {
		return out
	}
	pcm = pcm[:min(len(pcm), mostFrame)]
	switch gap := int32(timestamp - d.next); {
	case !d.started || gap == 0:
	case gap > 0 && gap < burstSize:
		for range gap {
			d.take(0)
		}
	case gap < 0 && gap >= -mostBack:
		return out
	default:
		*d = Detector{}
	}
	d.started, d.next = true, timestamp+uint32(len(pcm))
	d.frames[d.frameN%frameCount] = heardFrame{d.end, len(pcm), arrived}
	d.frameN++
	for _, s := range pcm {
		d.take(s)
	}
	return d.read(out)
}

// take adds one sample and looks whether a sync word ends with it.
func (d *Detector) take(s int16) {
	n := d.end
	gone := int64(d.sample(n - syncSize))
	d.pcm[n&int64(len(d.pcm)-1)] = s
	d.energy += int64(s)*int64(s) - gone*gone
	d.pulses[n&int64(len(d.pulses)-1)] = d.pulse(n)
	var w, z int32
	for i := range barker13 {
		v := d.pulses[(n-int64(chip*(12-i)))&int64(len(d.pulses)-1)]
		if barker13[i] == '+' {
			w += v
		} else {
			w -= v
		}
	}
	d.words[n&int64(len(d.words)-1)] = w
	for j := range barker11 {
		v := d.words[(n-int64(bitSize*(10-j)))&int64(len(d.words)-1)]
		if barker11[j] == '+' {
			z += v
		} else {
			z -= v
		}
	}
	d.end++
	if e := float64(d.energy) * syncSize; float64(z)*float64(z) > threshold*threshold*e && d.energy > leastMean*syncSize {
		d.suspect(candidate{n - syncSize + 1, math.Abs(float64(z)) / math.Sqrt(e), z < 0})
	}
}

func (d *Detector) sample(n int64) int16 { return d.pcm[n&int64(len(d.pcm)-1)] }

// pulse is the chip filter's output when sample n is the chip's last.
func (d *Detector) pulse(n int64) int32 {
	return int32(d.sample(n-3)) + int32(d.sample(n-2)) - int32(d.sample(n-1)) - int32(d.sample(n))
}

// suspect keeps a sync word. Of those less than a bit apart the strongest counts: the
// correlation of one burst exceeds the threshold at several places around its peak.
func (d *Detector) suspect(c candidate) {
	if c.first < d.blocked {
		return
	}
	for i := range d.pending[:d.count] {
		if old := &d.pending[i]; c.first-old.first < bitSize {
			if c.correlation > old.correlation {
				*old = c
			}
			return
		}
	}
	if d.count < len(d.pending) {
		d.pending[d.count] = c
		d.count++
		return
	}
	weakest := &d.pending[0]
	for i := range d.pending {
		if d.pending[i].correlation < weakest.correlation {
			weakest = &d.pending[i]
		}
	}
	if c.correlation > weakest.correlation {
		*weakest = c
	}
}

// read decodes the candidates whose data has come.
func (d *Detector) read(out []Detection) []Detection {
	kept := 0
	for _, c := range d.pending[:d.count] {
		switch {
		case c.first < d.blocked:
		case c.first+burstSize > d.end:
			d.pending[kept] = c
			kept++
		default:
			if got, ok := d.decode(c); ok {
				out = append(out, got)
				d.blocked = c.first + burstSize
			}
		}
	}
	d.count = kept
	return out
}

func (d *Detector) decode(c candidate) (Detection, bool) {
	var word uint32
	at := c.first + syncSize
	var bits [bitCount]int32
	var loud int64
	for i := range 13 * bitCount {
		v := d.pulse(at + int64(i*chip+chip-1))
		if !spread(i) {
			v = -v
		}
		bits[i%bitCount] += v
	}
	for _, v := range bits {
		word <<= 1
		if v > 0 != c.negative {
			word |= 1
		}
		loud += int64(max(v, -v))
	}
	// The bits of a burst are all about as loud. Read at a wrong place each is a sum of 13
	// chips of either sign, and most likely one of the 32 is one chip strong, where their mean
	// is three; the CRC alone would let one such word in 4096 pass.
	for _, v := range bits {
		if int64(max(v, -v))*bitCount*5 < loud*2 {
			return Detection{}, false
		}
	}
	v := word >> crcBits
	if crc12(v) != word&(1<<crcBits-1) {
		return Detection{}, false
	}
	id, tick := uint16(v>>tickBits), int64(v&(1<<tickBits-1))
	arrived, ok := d.arrival(c.first)
	if !ok {
		return Detection{}, false
	}
	// The latest second of that number which gives a latency of -1 s or more.
	slot := slotOf(id)
	second := int64(floor(arrived+time.Second-slot, time.Second))
	second -= (second - tick) & (1<<tickBits - 1)
	sent := time.Duration(second)*time.Second + slot
	return Detection{ID: id, Sent: sent, Arrived: arrived, Latency: arrived - sent, Correlation: c.correlation}, true
}

func floor(d, unit time.Duration) time.Duration {
	q := d / unit
	if d%unit < 0 {
		q--
	}
	return q
}

// arrival is when the sample at position came: with the packet that holds it, or, if that
// one was lost, before the next.
func (d *Detector) arrival(position int64) (time.Duration, bool) {
	oldest := max(0, d.frameN-frameCount)
	for i := oldest; i < d.frameN; i++ {
		f := d.frames[i%frameCount]
		if i == oldest && i > 0 && f.first > position {
			return 0, false // of frames that small too many have come since
		}
		if f.first+int64(f.size) > position {
			return f.arrived + time.Duration(position-f.first)*(time.Second/Rate), true
		}
	}
	return 0, false
}
