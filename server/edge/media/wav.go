package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Formats of a WAV file's fmt chunk.
const (
	wavPCM        = 1
	wavAlaw       = 6
	wavUlaw       = 7
	wavExtensible = 0xfffe
)

const (
	sampleRate  = 8000
	wavRateMost = 192000
	wavSecsMost = 600
)

// wavFormat is the fmt chunk.
type wavFormat struct {
	tag, channels, bits uint16
	rate                uint32
}

// decodeWAV returns a file's samples at 8 kHz, mono: PCM of 8 or 16 bits, A-law or
// mu-law, at 8 to 192 kHz, one channel or the mean of two. Lengths that do not agree with
// the file are taken as "until the end", as streaming writers leave them.
func decodeWAV(b []byte) ([]int16, error) {
	if len(b) < 12 || string(b[:4]) != "RIFF" || string(b[8:12]) != "WAVE" {
		return nil, errors.New("not a WAV file")
	}
	var f wavFormat
	for rest := b[12:]; len(rest) >= 8; {
		name, size := string(rest[:4]), int(binary.LittleEndian.Uint32(rest[4:]))
		body := rest[8:]
		if size > len(body) || (name == "data" && size == 0) {
			size = len(body)
		}
		switch name {
		case "fmt ":
			if size < 16 {
				return nil, fmt.Errorf("WAV: fmt chunk of %d bytes", size)
			}
			f = wavFormat{
				tag: binary.LittleEndian.Uint16(body), channels: binary.LittleEndian.Uint16(body[2:]),
				rate: binary.LittleEndian.Uint32(body[4:]), bits: binary.LittleEndian.Uint16(body[14:]),
			}
			if f.tag == wavExtensible && size >= 26 {
				f.tag = binary.LittleEndian.Uint16(body[24:])
			}
		case "data":
			return f.decode(body[:size])
		}
		rest = body[min(size+size&1, len(body)):] // chunks begin at even offsets
	}
	return nil, errors.New("WAV: no data chunk")
}

func (f *wavFormat) decode(data []byte) ([]int16, error) {
	var width int
	var sample func([]byte) int
	switch {
	case f.tag == wavPCM && f.bits == 16:
		width, sample = 2, func(b []byte) int { return int(int16(binary.LittleEndian.Uint16(b))) }
	case f.tag == wavPCM && f.bits == 8:
		width, sample = 1, func(b []byte) int { return (int(b[0]) - 128) << 8 }
	case f.tag == wavAlaw && f.bits == 8:
		width, sample = 1, func(b []byte) int { return int(alawSample[b[0]]) }
	case f.tag == wavUlaw && f.bits == 8:
		width, sample = 1, func(b []byte) int { return int(ulawSample[b[0]]) }
	default:
		return nil, fmt.Errorf("WAV: format %d with %d bits; use PCM of 16 or 8 bits, A-law or mu-law", f.tag, f.bits)
	}
	if f.channels != 1 && f.channels != 2 {
		return nil, fmt.Errorf("WAV: %d channels; use one or two", f.channels)
	}
	if f.rate < sampleRate || f.rate > wavRateMost {
		return nil, fmt.Errorf("WAV: %d samples per second; use %d to %d", f.rate, sampleRate, wavRateMost)
	}
	step := width * int(f.channels)
	n := len(data) / step
	if n == 0 {
		return nil, errors.New("WAV: no samples")
	}
	if n/int(f.rate) > wavSecsMost {
		return nil, fmt.Errorf("WAV: longer than %d s", wavSecsMost)
	}
	mono := make([]int16, n)
	for i := range mono {
		v := sample(data[i*step:])
		if f.channels == 2 {
			v = (v + sample(data[i*step+width:])) / 2
		}
		mono[i] = int16(v)
	}
	return resample(mono, int(f.rate)), nil
}

// resample brings samples down to 8 kHz with a windowed sinc that cuts off at 3.6 kHz, so
// that nothing folds back into the telephone band. The place of an output sample between
// two input samples repeats, so one kernel per place is enough.
func resample(in []int16, rate int) []int16 {
	if rate == sampleRate {
		return in
	}
	common := gcd(rate, sampleRate)
	kernels := make([][]float64, sampleRate/common)
	out := make([]int16, len(in)*sampleRate/rate)
	for i := range out {
		whole, part := i*rate/sampleRate, i*rate%sampleRate
		k := &kernels[part/common]
		if *k == nil {
			*k = sincKernel(float64(part)/sampleRate, rate)
		}
		half := len(*k) / 2
		var sum float64
		for j, w := range *k {
			if at := whole - half + j; at >= 0 && at < len(in) {
				sum += w * float64(in[at])
			}
		}
		out[i] = int16(max(math.MinInt16, min(math.MaxInt16, math.Round(sum))))
	}
	return out
}

// sincKernel returns the weights, of sum one, of the input samples around a place that
// lies a part of a sample behind the middle one.
func sincKernel(part float64, rate int) []float64 {
	const crossings, cutoff = 16, 0.9 * sampleRate / 2
	scale := 2 * cutoff / float64(rate)
	half := int(crossings/scale) + 1
	k := make([]float64, 2*half+1)
	var sum float64
	for j := range k {
		x := (float64(j-half) - part) * scale
		if math.Abs(x) >= crossings {
			continue
		}
		k[j] = 0.5 + 0.5*math.Cos(math.Pi*x/crossings)
		if x != 0 {
			k[j] *= math.Sin(math.Pi*x) / (math.Pi * x)
		}
		sum += k[j]
	}
	for j := range k {
		k[j] /= sum
	}
	return k
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
