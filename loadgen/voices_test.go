package loadgen

import (
	"testing"

	"pgregory.net/rapid"
)

func TestVoicesTellWhoSpeaks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		callers := rapid.Int64Range(1, 1e6).Draw(t, "callers")
		i := rapid.Int64Range(0, callers-1).Draw(t, "caller")
		agent := agentVoice(rapid.IntRange(0, 100_000).Draw(t, "agent"))
		voice := callerVoice(i)
		if voice&0xffff == agent&0xffff || voice == agent {
			t.Fatalf("caller %d and an agent have the same voice: %x %x", i, voice, agent)
		}
		if got, ok := callerOf(voice, false, callers); !ok || got != i {
			t.Fatalf("caller %d is taken for %d %v", i, got, ok)
		}
		if got, ok := callerOf(voice&0xffff, true, callers); ok != (callers < markerHalf) || ok && got != i {
			t.Fatalf("caller %d of %d, by its marker, is taken for %d %v", i, callers, got, ok)
		}
		for _, marker := range []bool{false, true} {
			if got, ok := callerOf(agent, marker, callers); ok {
				t.Fatalf("an agent is taken for caller %d", got)
			}
			if got, ok := callerOf(agent&0xffff, marker, callers); ok {
				t.Fatalf("an agent's marker is taken for caller %d", got)
			}
		}
	})
}
