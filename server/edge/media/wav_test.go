package media

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
)

func sine(hz, rate float64, n int) []int16 {
	s := make([]int16, n)
	for i := range s {
		s[i] = int16(8000 * math.Sin(2*math.Pi*hz*float64(i)/rate))
	}
	return s
}

func pcm(samples []int16) []byte {
	var b []byte
	for _, v := range samples {
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	}
	return b
}

func wavFile(tag, channels uint16, rate uint32, bits uint16, data []byte) []byte {
	b := append([]byte("RIFF"), 0, 0, 0, 0)
	b = append(b, "WAVELIST\x03\x00\x00\x00abc\x00fmt \x10\x00\x00\x00"...) // with an odd chunk before
	b = binary.LittleEndian.AppendUint16(b, tag)
	b = binary.LittleEndian.AppendUint16(b, channels)
	b = binary.LittleEndian.AppendUint32(b, rate)
	b = binary.LittleEndian.AppendUint32(b, rate*uint32(channels*bits/8))
	b = binary.LittleEndian.AppendUint16(b, channels*bits/8)
	b = binary.LittleEndian.AppendUint16(b, bits)
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// Every format of the documentation gives the same tone.
func TestWAVFormats(t *testing.T) {
	tone := sine(1000, 8000, 8000)
	s := newSound(tone)
	eight := make([]byte, len(tone))
	for i, v := range tone {
		eight[i] = byte(v>>8 + 128)
	}
	stereo := make([]int16, 0, 2*len(tone))
	for _, v := range tone {
		stereo = append(stereo, v, v)
	}
	for name, raw := range map[string][]byte{
		"PCM":         wavFile(wavPCM, 1, 8000, 16, pcm(tone)),
		"PCM, 8 bits": wavFile(wavPCM, 1, 8000, 8, eight),
		"A-law":       wavFile(wavAlaw, 1, 8000, 8, s.alaw),
		"mu-law":      wavFile(wavUlaw, 1, 8000, 8, s.ulaw),
		"stereo":      wavFile(wavPCM, 2, 8000, 16, pcm(stereo)),
		"16 kHz":      wavFile(wavPCM, 1, 16000, 16, pcm(sine(1000, 16000, 16000))),
		"44.1 kHz":    wavFile(wavPCM, 1, 44100, 16, pcm(sine(1000, 44100, 44100))),
		"48 kHz":      wavFile(wavPCM, 1, 48000, 16, pcm(sine(1000, 48000, 48000))),
	} {
		got, err := decodeWAV(raw)
		if err != nil || len(got) != 8000 {
			t.Errorf("%s: %d samples, %v", name, len(got), err)
			continue
		}
		if share := goertzel(got[200:7800], 1000); share < 0.99 {
			t.Errorf("%s: %.1f%% of the power at 1000 Hz", name, 100*share)
		}
	}
	// What the telephone cannot carry must not fold back: 7 kHz would be heard as 1 kHz.
	got, err := decodeWAV(wavFile(wavPCM, 1, 16000, 16, pcm(sine(7000, 16000, 16000))))
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range got[200:7800] {
		if v > 80 || v < -80 {
			t.Fatalf("sample %d of a tone above the band: %d", i, v)
		}
	}
}

func TestWAVRefused(t *testing.T) {
	for _, c := range []struct {
		says string
		raw  []byte
	}{
		{"not a WAV", []byte("RIFF")},
		{"no data", wavFile(wavPCM, 1, 8000, 16, nil)[:48]},
		{"no samples", wavFile(wavPCM, 1, 8000, 16, nil)},
		{"channels", wavFile(wavPCM, 6, 8000, 16, make([]byte, 60))},
		{"per second", wavFile(wavPCM, 1, 4000, 16, make([]byte, 60))},
		{"24 bits", wavFile(wavPCM, 1, 8000, 24, make([]byte, 60))},
		{"format 85", wavFile(85, 1, 8000, 16, make([]byte, 60))},
		{"longer than", wavFile(wavPCM, 1, 8000, 8, make([]byte, 8000*602))},
	} {
		if _, err := decodeWAV(c.raw); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("want an error with %q, got %v", c.says, err)
		}
	}
}

func FuzzWAV(f *testing.F) {
	f.Add(wavFile(wavPCM, 1, 8000, 16, pcm(sine(440, 8000, 20))))
	f.Add(wavFile(wavPCM, 2, 44100, 16, pcm(sine(440, 8000, 20))))
	f.Add(wavFile(wavUlaw, 1, 11025, 8, []byte("abcdefgh")))
	f.Add([]byte("RIFF\x00\x00\x00\x00WAVEdata\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		samples, err := decodeWAV(b)
		if err == nil && len(samples) > len(b) {
			t.Fatalf("%d samples of %d bytes", len(samples), len(b))
		}
	})
}
