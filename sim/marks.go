package sim

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Marks counts situations that a world ran into. A situation that no seed of many runs
// into is either dead code in the server or blindness of this world.
type Marks map[string]int

func (m Marks) hit(what string) { m[what]++ }

// Add adds the counts of another world.
func (m Marks) Add(other Marks) {
	for what, n := range other { // sums: the order of the visit does not matter
		m[what] += n
	}
}

// Missing lists the interesting situations that never happened, in the order of their list.
func (m Marks) Missing() []string {
	var none []string
	for _, what := range interesting() {
		if m[what] == 0 {
			none = append(none, what)
		}
	}
	return none
}

// Sorted lists the situations by name.
func (m Marks) Sorted() []string {
	all := make([]string, 0, len(m))
	for what := range m {
		all = append(all, what)
	}
	slices.Sort(all)
	return all
}

// interesting is what a run of many seeds should have met.
func interesting() []string {
	all := []string{
		"CANCEL of a caller", "CANCEL lost against 200", "caller is told 487", "caller is told 488", "caller is told 404", "caller is told 503",
		"caller abandons", "caller abandons while an agent rings", "caller hears an agent", "2xx repeated to a caller",
		"agent's 200 crosses CANCEL", "200 late after CANCEL", "CANCEL crossed 200 of an agent", "phone repeats its 200",
		"glare: phone answers 491", "glare: server answers 491", "re-INVITE of the server accepted", "re-INVITE of a phone",
		"phone answers 500 to an early re-INVITE", "phone refuses a re-INVITE with 500", "hold", "resume",
		"keepalive answered", "phone vanished", "phone unreachable", "phone unregisters", "phone is busy", "registered",
		"stranger refused", "media idle", "media resumed", "media refused",
		"crash", "crash while a caller waits", "crash while an agent rings", "crash while two talk", "crash while one holds",
		"crash with an INVITE on its way", "crash with a write that made it", "crash with a write that did not",
		"store slow", "store outcome unknown", "store away", "fenced", "pause", "flood", "flood told 503", "TCP reset",
		"message lost", "message duplicated", "delivery failed", "CDR delivered twice",
		"re-INVITE without SDP", "re-INVITE without SDP accepted", "phone answers 488", "refresh of a phone that did not answer",
		"status not_ready while the phone rings", "status logged_out while the phone rings",
		"fork: a second phone answers", "second dialog of a fork is left", "fork: BYE of the second phone is told 481",
		"API hang-up", "asked for a foreign id", "asked for a foreign call",
		"ended: completed", "ended: abandoned", "ended: overflowed", "ended: rejected", "ended: failed",
	}
	for _, t := range callerTempers {
		all = append(all, "caller "+t)
	}
	for _, t := range agentTempers {
		all = append(all, "agent "+t)
	}
	for _, r := range []core.EndReason{core.CallerHangup, core.CallerCancel, core.AgentHangup, core.APIHangup, core.QueueFull,
		core.MaxWait, core.NobodyThere, core.NoCodec, core.NoMedia, core.CallerSilent, core.AgentSilent, core.CallerLost, core.NoAck} {
		all = append(all, "reason: "+string(r))
	}
	return all
}

// markCrash notes what was going on when the node crashed.
func (w *World) markCrash() {
	for _, p := range w.phones {
		for _, d := range p.live {
			switch {
			case d.want != sendrecv:
				w.marks.hit("crash while one holds")
			case d.state == up && d.bridged:
				w.marks.hit("crash while two talk")
			case d.state == up && d.uac:
				w.marks.hit("crash while a caller waits")
			case d.state == early && d.uac:
				w.marks.hit("crash with an INVITE on its way")
			case d.state == early:
				w.marks.hit("crash while an agent rings")
			}
		}
	}
}
