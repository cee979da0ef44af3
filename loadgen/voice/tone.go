package voice

import "math"

// Tone writes a sine of hz and the given amplitude, whose sample 0 is at position 0 of the
// stream; pcm begins at position. Two frames in a row join without a step.
func Tone(pcm []int16, hz float64, amplitude int16, position uint64) {
	for i := range pcm {
		// The phase is kept small: a float64 has no digits left for that of a long call.
		_, turn := math.Modf(hz * (float64((position + uint64(i)) % (Rate * 3600))) / Rate)
		pcm[i] = int16(math.Round(float64(amplitude) * math.Sin(2*math.Pi*turn)))
	}
}

// Power returns how much of hz is in mu-law audio, as a share (0 to 1) of all its energy
// (Goertzel).
func Power(audio []byte, hz float64) float64 {
	c := 2 * math.Cos(2*math.Pi*hz/Rate)
	var s1, s2, energy float64
	for _, code := range audio {
		x := float64(ulawSamples[code])
		energy += x * x
		s1, s2 = x+c*s1-s2, s1
	}
	if energy == 0 {
		return 0
	}
	return min(1, 2*(s1*s1+s2*s2-c*s1*s2)/(energy*float64(len(audio))))
}
