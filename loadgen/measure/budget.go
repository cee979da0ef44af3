package measure

// How a part of the budget is known.
const (
	HowStated   = "stated"   // chosen and declared by whoever ran it
	HowMeasured = "measured" // by this run
)

// Part is one part of the way from mouth to ear, in microseconds.
type Part struct {
	P50     Micros `json:"p50_us"`
	P99     Micros `json:"p99_us"`
	How     string `json:"how"`
	Samples int64  `json:"samples,omitempty"` // where it is measured
	Note    string `json:"note"`
}

// Budget is mouth-to-ear latency and what it is made of. The parts' p99 do not add up to the
// total's: their worst moments do not coincide.
type Budget struct {
	Packetisation Part `json:"packetisation"`
	Network       Part `json:"network"`
	Server        Part `json:"server"`
	JitterBuffer  Part `json:"jitter_buffer"`
	Total         Part `json:"total"`
}

// NamedPart is a Part with the name that a reader sees.
type NamedPart struct {
	Name string
	Part
}

// Parts are the parts without the total, in the order in which the voice meets them.
func (b Budget) Parts() []NamedPart {
	return []NamedPart{{"packetisation", b.Packetisation}, {"network", b.Network}, {"server", b.Server}, {"jitter buffer", b.JitterBuffer}}
}

// Stated is what the run declares of the way from mouth to ear. All in microseconds.
type Stated struct {
	Packetisation Micros `json:"packetisation_us"`  // the time in one packet, 20,000 as a rule
	Network       Micros `json:"network_us"`        // emulated one-way delay
	NetworkJitter Micros `json:"network_jitter_us"` // emulated, on top of it
	JitterBuffer  Micros `json:"jitter_buffer_us"`
	Buffer        string `json:"jitter_buffer"`     // in words: fixed or adaptive, how large
	OnWire        bool   `json:"emulated_on_wire"`  // packets are delayed on their way, so media_one_way includes Network
	Emulation     string `json:"network_emulation"` // in words
}

// budget puts the stated and the measured parts together. The total is that of every packet
// where the run has it: the medians of calls have a shorter tail.
func budget(s Stated, metrics map[string]Distribution) Budget {
	oneWay, total, note := metrics[MediaOneWay], metrics[MouthToEar], "every packet that was played"
	if total.Count == 0 {
		total, note = metrics[MouthToEarTypical], "one sample for each party that heard: its median"
	}
	server := Part{P50: Micros(oneWay.P50), P99: Micros(oneWay.P99), How: HowMeasured, Samples: oneWay.Count, Note: "one way through the server, packet by packet"}
	if s.OnWire {
		server.P50, server.P99 = max(server.P50-s.Network, 0), max(server.P99-s.Network, 0)
		server.Note = "one way, packet by packet, less the emulated delay (its jitter is still in it)"
	}
	network := "emulated: " + s.Emulation
	if s.Network == 0 && s.NetworkJitter == 0 {
		network = "none emulated"
	}
	return Budget{
		Packetisation: Part{P50: s.Packetisation, P99: s.Packetisation, How: HowStated, Note: "the voice in one packet"},
		Network:       Part{P50: s.Network, P99: s.Network + s.NetworkJitter, How: HowStated, Note: network},
		Server:        server,
		JitterBuffer:  Part{P50: s.JitterBuffer, P99: s.JitterBuffer, How: HowStated, Note: s.Buffer},
		Total:         Part{P50: Micros(total.P50), P99: Micros(total.P99), How: HowMeasured, Samples: total.Count, Note: note},
	}
}
