package report

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/slo"
)

// sampleCall is a plausible call; chance decides.
func sampleCall(chance *rand.Rand, index int64) *measure.Call {
	due := measure.Micros(index * 50_000)
	c := &measure.Call{Index: index, Caller: fmt.Sprintf("+4930%06d", index), Outcome: measure.Completed, Due: due, Invited: due + measure.Micros(chance.IntN(900)),
		Provisional: measure.Never, Ringing: measure.Never, Answered: measure.Never, Offered: measure.Never, AgentRang: measure.Never, AgentAnswer: measure.Never, AgentAck: measure.Never,
		HungUp: measure.Never, OtherBye: measure.Never, FreeAgents: 3 - int(index%4)}
	c.Ended = c.Invited
	switch {
	case index%97 == 13:
		c.Outcome, c.Invited, c.Ended, c.Reason = measure.Dropped, measure.Never, due, "no free line"
		return c
	case index%101 == 50:
		c.Outcome, c.Status, c.Reason, c.Ended = measure.Refused, 503, "503 Service Unavailable", c.Invited+1_500
		return c
	}
	slow := measure.Micros(math.Exp(chance.NormFloat64()*0.5) * 2_200)
	c.Provisional, c.Answered = c.Invited+slow/3, c.Invited+slow
	c.Offered, c.Offers = c.Answered+measure.Micros(800+chance.IntN(900)), 1
	if c.FreeAgents == 0 {
		c.Offered += measure.Micros(chance.IntN(4_000_000))
	}
	c.Agent = fmt.Sprint(1000 + index%40)
	c.AgentRang, c.AgentAnswer = c.Offered+400, c.Offered+300_000
	c.AgentAck = c.AgentAnswer + 900
	c.HungUp = c.AgentAnswer + 10_000_000
	c.OtherBye = c.HungUp + measure.Micros(600+chance.IntN(500))
	c.Ended = c.OtherBye + 400
	c.CallerEar, c.AgentEar = sampleAudio(chance, c.AgentAnswer), sampleAudio(chance, c.AgentAnswer)
	return c
}

func sampleAudio(chance *rand.Rand, answered measure.Micros) *measure.Audio {
	h := measure.NewHistogram()
	for range 500 {
		_ = h.RecordValue(int64(18 + 30*math.Exp(chance.NormFloat64()*0.9)))
	}
	t := measure.TallyOfPacked(h)
	lost := uint64(0)
	if chance.IntN(8) == 0 {
		lost = uint64(chance.IntN(4))
	}
	return &measure.Audio{Sent: 500, Received: 520, Voice: 500 - lost, Expected: 500, Lost: lost, First: answered + measure.Micros(9_000+chance.IntN(16_000)),
		Jitter: measure.Micros(30 + chance.IntN(400)), JitterMax: measure.Micros(500 + chance.IntN(900)), LongestGap: measure.Micros(20_100 + chance.IntN(1_500)), Way: "stamp",
		LatencyN: uint64(h.TotalCount()), LatencyP50: measure.Micros(h.ValueAtPercentile(50)), LatencyP99: measure.Micros(h.ValueAtPercentile(99)), LatencyMax: measure.Micros(h.Max()), Packets: t,
		MouthToEar: measure.Micros(55_000 + chance.IntN(3_500)), MOS: 4.3 + 0.11*chance.Float64() - 0.3*float64(lost)}
}

// sampleRecorder has heard of that many calls, 20 a second.
func sampleRecorder(calls int64) (*measure.Recorder, []*measure.Call) {
	chance := rand.New(rand.NewPCG(7, 11))
	r := measure.NewRecorder()
	var all []*measure.Call
	for i := range calls {
		c := sampleCall(chance, i)
		r.Add(c)
		all = append(all, c)
		if c.CallerEar != nil {
			second := int64(c.AgentAnswer / 1_000_000)
			for s := range int64(10) {
				r.AddSecond(second+s, c.CallerEar.Packets)
			}
		}
	}
	sent := hdr.New(1, 60_000_000, 3)
	for range 20_000 {
		_ = sent.RecordValue(int64(30 * math.Exp(chance.NormFloat64())))
	}
	r.AddSendJitter(measure.TallyOf(sent))
	for range 40 {
		r.AddRegister(measure.Micros(1_000 + chance.IntN(800)))
	}
	played := hdr.New(1, 60_000_000, 3)
	for range 20_000 {
		_ = played.RecordValue(int64(55_000 + chance.IntN(3_500)))
	}
	r.AddMouthToEar(measure.TallyOf(played))
	return r, all
}

func sampleRun() measure.Run {
	start := time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)
	return measure.Run{Started: start, Finished: start.Add(72 * time.Second), Target: "udp:127.0.0.1:5060 sip:5000@127.0.0.1",
		Profile:   json.RawMessage(`{"target":"udp:127.0.0.1:5060","arrivals":{"kind":"constant","rate":"20/s"},"duration":"60s","hold":"10s","agents":40}`),
		Generator: measure.Generator{Version: "devel", Revision: "0123456789abcdef0123456789abcdef01234567", Go: "go1.26.8"},
		Machine:   measure.Machine{Host: "bench-1", CPU: "Intel(R) Xeon(R) CPU @ 2.60GHz", Cores: 2, GOMAXPROCS: 2, Memory: 8 << 30, Kernel: "6.18.0", OS: "linux", Arch: "amd64", Go: "go1.26.8"},
		Stated:    measure.Stated{Packetisation: 20_000, Network: 20_000, NetworkJitter: 5_000, JitterBuffer: 15_000, Buffer: "fixed, 15 ms", Emulation: "20 ms one way, up to 5 ms of jitter, in the generator"},
		Pacing:    measure.Pacing{Packets: 1_176_000, MissedTicks: 12, CPUSeconds: 31.2, CPUCores: 0.43, Cores: 2, Clock: measure.SharedClock}, Limits: measure.DefaultLimits()}
}

// sample is a whole run with objectives, one of which it misses.
func sample(t *testing.T) *measure.Result {
	t.Helper()
	rec, _ := sampleRecorder(1200)
	set, err := slo.Parse("media_one_way_p99<60ms,mouth_to_ear_p99<60ms,setup_p99<200ms,completed_ratio>=99.9%,mos_p1>=3.6")
	if err != nil {
		t.Fatal(err)
	}
	run := sampleRun()
	run.Limits = set.Limits(run.Limits)
	r, err := rec.Result(run)
	if err != nil {
		t.Fatal(err)
	}
	r.Verdicts = set.Judge(r)
	return r
}
