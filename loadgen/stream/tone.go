package stream

import "github.com/dialtone-cc/dialtone/loadgen/voice"

// toneLevel is the amplitude of a voice's tone: -12 dB of full scale.
const toneLevel = 8000

type toneKey struct {
	hz    int
	codec Codec
}

// tone is a second of a sine, as samples and as codes. Of a whole number of Hz each second
// is like the first, so a frame of any position is a part of it.
type tone struct {
	pcm  [voice.Rate]int16
	code [voice.Rate]byte
}

func newTone(hz int, law voice.Law) *tone {
	t := new(tone)
	voice.Tone(t.pcm[:], float64(hz), toneLevel, 0)
	law.Encode(t.code[:], t.pcm[:])
	return t
}

const secondFrames = voice.Rate / Frame

// codes is the frame at a position (in frames).
func (t *tone) codes(position uint32) []byte {
	at := position % secondFrames * Frame
	return t.code[at : at+Frame]
}

func (t *tone) samples(pcm []int16, position uint32) {
	copy(pcm, t.pcm[position%secondFrames*Frame:])
}
