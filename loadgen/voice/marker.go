package voice

import "time"

// A marker is a burst of sound that says who speaks and when it was sent. Unlike bytes in
// the payload it survives all that keeps speech intelligible: transcoding between the laws,
// gain, mixing with other speech.
//
// Shape: chips of four samples (+ + - -: no energy at 0 Hz, most of it at 1 to 3 kHz). A
// sync word of 11 x 13 chips, the Kronecker product of two Barker codes: its
// autocorrelation has no side lobe above 1/11, and it is found with 11 + 13 additions per
// sample where a code without structure takes 143. Then 32 bits of 13 chips each, spread
// by a pseudo-random sequence: who (16), which second (4), CRC (12). They take turns chip
// by chip, so that a lost packet, or bytes in a packet that are no sound, take a little of
// each and all of none.
const (
	chip      = 4
	barker13  = "+++++--++-+-+"
	barker11  = "+++---+--+-"
	bitSize   = 13 * chip    // samples
	syncSize  = 11 * bitSize // samples
	idBits    = 16
	tickBits  = 4 // seconds modulo 16: latencies up to 15 s are unambiguous
	crcBits   = 12
	bitCount  = idBits + tickBits + crcBits
	burstSize = syncSize + bitCount*bitSize // 2236 samples, 279.5 ms
	slotCount = 3                           // in each second, by id
	slotTime  = time.Second / slotCount     // longer than a burst

	// MarkerLevel is the amplitude of a marker's samples: -14.7 dB of full scale.
	MarkerLevel = 6000
)

// Marker puts one sender's bursts into its audio: one each second of the sender's clock, at
// the start of the third of the second which is that of id modulo 3. So up to three
// speakers with different remainders can be mixed and are still told apart.
type Marker struct {
	id    uint16
	start time.Duration
}

// NewMarker returns the marker of a stream. start is the instant at which the stream's
// sample 0 is sent (its first packet leaves), by the sender's clock; where the listener is
// another host, both clocks need the same zero, such as the Unix epoch.
func NewMarker(id uint16, start time.Duration) *Marker { return &Marker{id, start} }

// Fill replaces the samples of pcm that belong to a burst and returns how many; the others
// stay as they are. pcm begins at position (samples) of the stream. A burst begins at the
// sample nearest to its instant, so it is up to 62.5 us off.
func (m *Marker) Fill(pcm []int16, position uint64) (filled int) {
	for i := 0; i < len(pcm); {
		first, tick := m.burst(position + uint64(i))
		switch at := position + uint64(i); {
		case at < first: // before the burst
			i += int(min(first-at, uint64(len(pcm)-i)))
		default:
			n := min(len(pcm)-i, burstSize-int(at-first))
			m.shape(pcm[i:i+n], int(at-first), tick)
			i, filled = i+n, filled+n
		}
	}
	return filled
}

// burst returns the position at which the burst begins that holds position, or else the
// next one, and the number of its second.
func (m *Marker) burst(position uint64) (first uint64, tick int64) {
	slot := slotOf(m.id)
	now := m.start + samples(position)
	tick = int64((now - slot) / time.Second)
	for tick--; ; tick++ { // the one before may still sound, or rounding may have moved it here
		at := positionOf(time.Duration(tick)*time.Second + slot - m.start)
		if at+burstSize > int64(position) && at >= 0 {
			return uint64(at), tick
		}
	}
}

func slotOf(id uint16) time.Duration { return time.Duration(id%slotCount) * slotTime }

// samples is how long n samples last.
func samples(n uint64) time.Duration {
	return time.Duration(n/Rate)*time.Second + time.Duration(n%Rate)*(time.Second/Rate)
}

// positionOf returns the sample nearest to d, which may be negative.
func positionOf(d time.Duration) int64 {
	const sample = time.Second / Rate
	return int64((d+sample/2+sample<<20)/sample) - 1<<20
}

// shape writes the burst's samples from offset on.
func (m *Marker) shape(pcm []int16, offset int, tick int64) {
	word := wordOf(m.id, uint8(tick&(1<<tickBits-1)))
	for i := range pcm {
		at := offset + i
		positive := chipOf(at / chip)
		if at >= syncSize {
			bit := (at - syncSize) / chip % bitCount
			positive = positive == (word>>(bitCount-1-bit)&1 == 1)
		}
		if at%chip >= chip/2 {
			positive = !positive
		}
		pcm[i] = -MarkerLevel
		if positive {
			pcm[i] = MarkerLevel
		}
	}
}

// chipOf returns the sign of chip n of a burst before data: the sync word, then spread.
func chipOf(n int) bool {
	if n < syncSize/chip {
		return (barker11[n/13] == '+') == (barker13[n%13] == '+')
	}
	return spread(n - syncSize/chip)
}

// spread is the pseudo-random sequence under the data bits: a hash, so that any chip can be
// had without those before it.
func spread(n int) bool {
	h := uint32(n+1) * 0x9e3779b1
	h ^= h >> 15
	h *= 0x85ebca77
	h ^= h >> 13
	return h>>16&1 == 1
}

// wordOf is the data of a burst.
func wordOf(id uint16, tick uint8) uint32 {
	v := uint32(id)<<tickBits | uint32(tick)
	return v<<crcBits | crc12(v)
}

// crc12 is the CRC with the polynomial x^12 + x^11 + x^3 + x^2 + x + 1 (0x80f) of a 20 bit
// value; it begins with ones, so that silence is not a word.
func crc12(v uint32) uint32 {
	crc := uint32(0xfff)
	for bit := idBits + tickBits - 1; bit >= 0; bit-- {
		top := crc>>11 ^ v>>bit
		crc = crc << 1 & 0xfff
		if top&1 != 0 {
			crc ^= 0x80f
		}
	}
	return crc
}
