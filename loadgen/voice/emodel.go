package voice

import "time"

// Formula is what R and MOS compute, for people who read a report.
const Formula = `E-model, ITU-T G.107, reduced to delay and loss (all else at its default):
  R      = 93.2 - Id - Ie,eff
  Id     = 0.024 d + 0.11 (d - 177.3) H(d - 177.3)         d: mouth-to-ear delay, ms, one way
  Ie,eff = Ie + (95 - Ie) Ppl / (Ppl/BurstR + Bpl)         Ppl: packets lost or late, %
  MOS    = 1 + 0.035 R + 7e-6 R (R - 60) (100 - R)         1 at R <= 0, 4.5 at R >= 100
  G.711: Ie = 0; Bpl = 25.1 with packet loss concealment, 4.3 without (G.113 App. I)
  BurstR = mean length of the observed bursts of loss / that under random loss, at least 1
MOS-CQE is an estimate from what the network did; nobody has listened.`

// Codec is a codec with its way to bear loss.
type Codec string

const (
	G711PLC Codec = "G.711 with PLC" // packet loss concealment, G.711 App. I
	G711    Codec = "G.711 without PLC"
)

// impairment returns Ie and Bpl of ITU-T G.113 App. I.
func (c Codec) impairment() (ie, bpl float64) {
	if c == G711 {
		return 0, 4.3
	}
	return 0, 25.1
}

// R is the transmission rating factor (ITU-T G.107) for a mouth-to-ear delay, a share of
// packets lost (0 to 1) and BurstR (1 is random loss, more is bursty). It can be negative.
func R(delay time.Duration, loss, burst float64, codec Codec) float64 {
	d := max(0, delay.Seconds()*1000)
	id := 0.024 * d
	if d > 177.3 {
		id += 0.11 * (d - 177.3)
	}
	ie, bpl := codec.impairment()
	ppl := 100 * min(1, max(0, loss))
	return 93.2 - id - (ie + (95-ie)*ppl/(ppl/max(1, burst)+bpl))
}

// MOS is the estimated mean opinion score, conversational quality (MOS-CQE), of a rating:
// 1 to 4.5 (ITU-T G.107 annex B).
func MOS(r float64) float64 {
	switch {
	case r <= 0:
		return 1
	case r >= 100:
		return 4.5
	}
	// The cubic falls below 1 for R < 6.5, where nobody can tell the difference.
	return max(1, 1+0.035*r+7e-6*r*(r-60)*(100-r))
}

// Losses is a pattern of loss, fed packet by packet in the order of sending. The zero
// value is an empty one.
type Losses struct {
	Expected uint64 // packets
	Lost     uint64 // of them
	Bursts   uint64 // unbroken runs of lost ones
	inBurst  bool
}

// Add accounts for the next n packets, all lost or none.
func (l *Losses) Add(lost bool, n uint64) {
	if n == 0 {
		return
	}
	l.Expected += n
	if lost {
		l.Lost += n
		if !l.inBurst {
			l.Bursts++
		}
	}
	l.inBurst = lost
}

// Ratio is the share lost, 0 to 1.
func (l Losses) Ratio() float64 {
	if l.Expected == 0 {
		return 0
	}
	return float64(l.Lost) / float64(l.Expected)
}

// Burst is BurstR of ITU-T G.107: the mean length of the bursts, divided by the mean under
// random loss of the same ratio, 1/(1 - ratio). Loss that is more even than random counts
// as random: G.107 knows no BurstR below 1.
func (l Losses) Burst() float64 {
	if l.Bursts == 0 {
		return 1
	}
	return max(1, float64(l.Lost)/float64(l.Bursts)*(1-l.Ratio()))
}
