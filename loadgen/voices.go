package loadgen

// Every party speaks with a voice of its own: a number in the stamps of its audio, of which a
// marker in the sound carries the low 16 bits. Callers have the lower half of these, agents the
// upper one, so that a party never takes the other one for its own echo.
const (
	markerBits   = 16
	markerHalf   = 1 << 15
	agentsVoices = 1 << 62 // set in the voice of an agent
)

func callerVoice(index int64) uint64 {
	return uint64(index+1)<<markerBits | uint64(index%(markerHalf-1)+1)
}

func agentVoice(index int) uint64 {
	return agentsVoices | uint64(index+1)<<markerBits | uint64(markerHalf+index%markerHalf)
}

// callerOf is whose voice it is, among so many callers. Of a marker only the low bits are known:
// they tell only where there are not more callers than they can count.
func callerOf(voice uint64, marker bool, callers int64) (int64, bool) {
	index := int64(voice>>markerBits) - 1
	if marker {
		if voice >= markerHalf || callers >= markerHalf {
			return 0, false
		}
		index = int64(voice) - 1
	}
	return index, voice&agentsVoices == 0 && index >= 0 && index < callers
}
