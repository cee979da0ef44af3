package responder_test

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/responder"
)

// How far a report may be from the responder's account. Both take the kernel's time for
// what arrives and their own just before the system call for what they send, so between two
// instants of the one lie two of the other plus twice the way over loopback; a thread that
// loses the processor between clock and system call adds to that, which medians outlive.
const (
	tolerance   = 2 * time.Millisecond   // of a median span of signalling
	early       = 100 * time.Microsecond // a span seen from outside is never shorter than from inside; two clocks read
	medianAudio = 1 * time.Millisecond   // one way, p50
	tailAudio   = 5 * time.Millisecond   // one way, p99
	mostMissed  = 25                     // packets of one ear, see counts
	spread      = 60                     // a latency on a line of the calls file is within 1/64 of its value, the responder's account within 1/1000
)

const secret = "correct horse"

// Loopback addresses that no other test uses: what another server on this machine still
// sends to a port that a phone here has got meanwhile would be heard, and counted.
var (
	responderHost = netip.MustParseAddr("127.31.7.1")
	generatorHost = netip.MustParseAddr("127.31.7.2")
)

func respond(t *testing.T, cfg responder.Config) *responder.Responder {
	t.Helper()
	cfg.Listen, cfg.Password = netip.AddrPortFrom(responderHost, 0), secret
	r, err := responder.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// report is what the generator says of a run.
type report struct {
	*measure.Result
	calls []measure.Call
}

// On a busy machine a run may say of itself that it was too slow, and nothing else. Then its times
// hold what the machine added to both sides at different moments, which has no bound: they are not
// judged. Counts, and that nothing is reported to be shorter than it was, are.
var pacing = regexp.MustCompile(`^(send jitter|INVITEs left|the generator used|\d+ of \d+ packets were never sent|.*read too late$)`)

// offBy tells of a time that is not as it was: an error, if the run says that it can tell.
func (p report) offBy(t *testing.T, format string, args ...any) {
	t.Helper()
	if p.Valid {
		t.Errorf(format, args...)
		return
	}
	t.Logf(format+" (the run was too slow to tell: %q)", append(args, p.Invalid)...)
}

// generate runs the generator against a responder: 16 calls in 2 s.
func generate(t *testing.T, r *responder.Responder, args ...string) report {
	t.Helper()
	file := filepath.Join(t.TempDir(), "out.json")
	args = append([]string{"--target", "udp:" + r.Addr().String(), "--to", "sip:600@127.0.0.1", "--rate", "8/s", "--duration", "2s", "--hold", "2s",
		"--agents", "24", "--agent-uri", "sip:agent{n}@127.0.0.1", "--answer-after", "200ms", "--local", generatorHost.String(), "--json", file}, args...)
	var out, wrong bytes.Buffer
	code := loadgen.Load(t.Context(), args, []string{"DIALTONE_AGENT_PASSWORD=" + secret}, &out, &wrong)
	// 3: on a busy machine a run may say that it was too slow. Its figures must still be true.
	if code != 0 && code != 3 {
		t.Fatalf("exit code %d\n%s%s", code, out.String(), wrong.String())
	}
	got, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	res, err := measure.Read(got)
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range res.Invalid {
		if !pacing.MatchString(reason) {
			t.Errorf("invalid: %s", reason)
		}
	}
	p := report{Result: res}
	lines, err := os.Open(filepath.Join(filepath.Dir(file), res.Calls.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	err = measure.EachCall(lines, func(_ int64, c *measure.Call) error { p.calls = append(p.calls, *c); return nil })
	if err != nil || len(p.calls) != 16 {
		t.Fatalf("%d calls, %v\n%s%s", len(p.calls), err, out.String(), wrong.String())
	}
	return p
}

// together pairs each call of the report with what was done to it.
func together(t *testing.T, p report, truth responder.Truth, each func(measure.Call, responder.Call)) {
	t.Helper()
	was := map[string]responder.Call{}
	for _, c := range truth.Calls {
		was[c.Caller] = c
	}
	for _, c := range p.calls {
		w, ok := was[c.Caller]
		if !ok {
			t.Errorf("caller %s, outcome %s: the responder knows of no such call", c.Caller, c.Outcome)
			continue
		}
		delete(was, c.Caller)
		each(c, w)
	}
	for caller := range was {
		t.Errorf("caller %s has called, the report does not say so", caller)
	}
}

func median(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[len(of)/2]
}

func us[T measure.Micros | responder.Micros | int64](v T) time.Duration {
	return time.Duration(v) * time.Microsecond
}

// span is the time between two instants; missing when one of them did not come.
func span[T measure.Micros | responder.Micros](from, to T) time.Duration {
	if from < 0 || to < 0 {
		return missing
	}
	return us(to - from)
}

const missing = time.Duration(-1 << 63)

// differences of a span, call by call: what was reported less what was done.
type differences map[string][]time.Duration

// contains adds a span that holds another one of the other side: it can't be shorter.
func (d differences) contains(t *testing.T, caller, what string, outer, inner time.Duration) {
	t.Helper()
	switch {
	case outer == missing || inner == missing:
		t.Errorf("caller %s, %s: %v around %v: one side did not see it", caller, what, outer, inner)
	case outer-inner < -early:
		t.Errorf("caller %s, %s: %v cannot hold %v", caller, what, outer, inner)
	default:
		d[what] = append(d[what], outer-inner)
	}
}

func (d differences) judge(t *testing.T, p report) {
	t.Helper()
	for what, all := range d {
		if m := median(all); m > tolerance || m < -tolerance {
			p.offBy(t, "%s: the median report is off by %v (tolerance %v): %v", what, m, tolerance, all)
		} else {
			t.Logf("%-24s off by %v (median), %v to %v", what, m, all[0], all[len(all)-1])
		}
	}
}

// signalling compares what the phones saw of the messages.
func signalling(t *testing.T, p report, truth responder.Truth) {
	t.Helper()
	spans := differences{}
	together(t, p, truth, func(c measure.Call, was responder.Call) {
		if c.Status != was.Status || c.Offers != was.Offers || c.Agent != was.Agent {
			t.Errorf("caller %s: status %d, %d offers, agent %q; was %d, %d, %q", c.Caller, c.Status, c.Offers, c.Agent, was.Status, was.Offers, was.Agent)
		}
		add := func(what string, outer, inner time.Duration) {
			t.Helper()
			spans.contains(t, c.Caller, what, outer, inner)
		}
		add("INVITE to 100", span(c.Invited, c.Provisional), span(was.Invited, was.Trying))
		if was.Status != 200 {
			if c.Outcome != measure.Refused {
				t.Errorf("caller %s was refused, reported %s", c.Caller, c.Outcome)
			}
			add("INVITE to refusal", span(c.Invited, c.Ended), span(was.Invited, was.Answered))
			return
		}
		if c.Outcome != measure.Completed {
			t.Errorf("caller %s talked, reported %s: %s", c.Caller, c.Outcome, c.Reason)
			return
		}
		add("INVITE to agent's INVITE", span(c.Invited, c.Offered), span(was.Invited, was.Offered))
		add("INVITE to 180", span(c.Invited, c.Ringing), span(was.Invited, was.Ringing))
		add("INVITE to 200", span(c.Invited, c.Answered), span(was.Invited, was.Answered))
		add("BYE to BYE", span(c.HungUp, c.OtherBye), span(was.Bye, was.ByeSent))
		add("agent's 200 to audio", span(c.AgentAnswer, c.AgentEar.First), span(was.AgentAnswered, was.PaceToAgent.First))
		// Here the phone is inside.
		add("agent's INVITE to its 200", span(was.Offered, was.AgentAnswered), span(c.Offered, c.AgentAnswer))
		// Both ends of this one are at the caller, and audio may overtake the 200.
		spans["200 to caller's audio"] = append(spans["200 to caller's audio"],
			us(c.CallerEar.First-c.Answered)-us(was.PaceToCaller.First-was.Answered))
	})
	spans.judge(t, p)
}

// audio compares packets, one by one in number, and their times.
func audio(t *testing.T, p report, truth responder.Truth) {
	t.Helper()
	var jitter, gap []time.Duration
	ears, whole := 0, 0
	together(t, p, truth, func(c measure.Call, was responder.Call) {
		if was.Status != 200 || c.CallerEar == nil || c.AgentEar == nil {
			return
		}
		for _, ear := range []struct {
			name  string
			heard *measure.Audio
			flow  responder.Flow
			pace  responder.Pace
		}{{"caller", c.CallerEar, was.ToCaller, was.PaceToCaller}, {"agent", c.AgentEar, was.ToAgent, was.PaceToAgent}} {
			ears++
			if counts(t, p, c.Caller+", the "+ear.name+"'s ear", ear.heard, ear.flow) {
				whole++
			}
			jitter = append(jitter, us(ear.heard.Jitter)-us(ear.pace.Jitter))
			gap = append(gap, us(ear.heard.LongestGap)-us(ear.pace.LongestGap))
		}
	})
	if whole < ears/2 {
		p.offBy(t, "only %d of %d ears were open to the end", whole, ears)
	}
	if m := median(jitter); m > tolerance/4 || m < -tolerance/4 {
		p.offBy(t, "jitter: off by %v (median): %v", m, jitter)
	}
	if m := median(gap); m > tolerance || m < -tolerance {
		p.offBy(t, "longest gap: off by %v (median): %v", m, gap)
	}
}

// counts compares the packets of one ear. They agree exactly, but for this: where the
// kernel puts off its work (ksoftirqd on a busy machine) a BYE overtakes the last packets,
// and the phone has hung up when they come. Then there are fewer at the end, and what was
// done to these few is not known. It is true when there are none of them.
func counts(t *testing.T, p report, who string, heard *measure.Audio, flow responder.Flow) bool {
	t.Helper()
	missed := int(flow.Received-flow.Edge) - int(heard.Expected)
	for _, count := range []struct {
		what      string
		seen, was uint64
		slack     int
	}{
		{"expected", heard.Expected, flow.Received - flow.Edge, missed},
		{"voice", heard.Voice, flow.Sent + flow.Duplicated, 2*missed + 1}, // with copies
		{"lost", heard.Lost, flow.Lost - flow.Edge, missed},
		{"duplicate", heard.Duplicate, flow.Duplicated, missed + 1}, // the last one may be a copy
		{"reordered", heard.Reordered, flow.Reordered, missed},
	} {
		if d := int(count.was) - int(count.seen); d < 0 || d > max(0, count.slack) || p.Valid && missed > mostMissed {
			t.Errorf("caller %s: %s %d, was %d (%d packets missed at the end)", who, count.what, count.seen, count.was, missed)
		}
	}
	if missed != 0 {
		t.Logf("caller %s: %d packets missed at the end", who, missed)
	}
	return missed == 0
}

// latency compares the one-way latency of all packets with how long they were held.
func latency(t *testing.T, p report, truth responder.Truth) {
	t.Helper()
	for _, way := range []struct {
		metric string
		held   responder.Held
	}{{measure.MediaCallerHears, truth.HeldA}, {measure.MediaAgentHears, truth.HeldB}} {
		d := p.Metrics[way.metric]
		for _, q := range []struct {
			name    string
			seen    float64
			held    int64
			slack   time.Duration
			atLeast bool
		}{{"min", d.Min, way.held.Min, tailAudio, true}, {"p50", d.P50, way.held.P50, medianAudio, true}, {"p90", d.P90, way.held.P90, tailAudio, true}, {"p99", d.P99, way.held.P99, tailAudio, false}} {
			// Where the machine stalls, the tail is steep, and the few packets that came too late for
			// the phone move its quantiles. A run with such stalls calls itself invalid.
			if !p.Valid && q.name != "min" {
				continue
			}
			seen, held := time.Duration(q.seen*1000), us(q.held)
			if low := held - held/spread - early; q.atLeast && seen < low || p.Valid && seen > held+held/spread+q.slack {
				t.Errorf("%s %s: reported %v, packets were held %v", way.metric, q.name, seen, held)
			} else {
				t.Logf("%s %s: reported %v, held %v", way.metric, q.name, seen, held)
			}
		}
	}
	held := us(min(truth.HeldA.Min, truth.HeldB.Min))
	parts := 20*time.Millisecond + 20*time.Millisecond // packetisation, and the depth of the jitter buffer
	m := time.Duration(p.Metrics[measure.MouthToEar].P50 * 1000)
	if most := parts + us(max(truth.HeldA.P90, truth.HeldB.P90)) + 2*tailAudio; m < parts+held-early || p.Valid && m > most {
		t.Errorf("mouth to ear: median %v, its parts are at least %v and at most %v", m, parts+held, most)
	}
}

// The generator tells the truth: whatever is done to its calls, it reports it.
func TestTheGeneratorTellsTheTruth(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		cfg      responder.Config
		injected func(responder.Truth) bool // what the responder must have done, for the comparison to mean anything
	}{
		{"nothing", responder.Config{}, func(responder.Truth) bool { return true }},
		{"all of it", responder.Config{Delay: 30 * ms, Jitter: 10 * ms, Loss: 0.02, Duplicate: 0.02, Reorder: 0.02,
			InviteDelay: 40 * ms, RingDelay: 30 * ms, AnswerDelay: 50 * ms, ByeDelay: 30 * ms, Refuse: []responder.Refusal{{Status: 503, Share: 0.15}, {Status: 486, Share: 0.15}}},
			func(t responder.Truth) bool {
				f := t.ToAgent
				return f.Lost > f.Edge && f.Duplicated > 0 && f.Reordered > 0 && slices.ContainsFunc(t.Calls, func(c responder.Call) bool { return c.Status == 503 })
			}},
		{"delay and jitter", responder.Config{Delay: 60 * ms, Jitter: 5 * ms}, func(t responder.Truth) bool { return t.HeldA.P50 > 55_000 && t.ToCaller.Lost == t.ToCaller.Edge }},
		{"heavy loss", responder.Config{Loss: 0.3}, func(t responder.Truth) bool { return t.ToCaller.Lost > t.ToCaller.Received/5 }},
		{"copies and overtaking", responder.Config{Delay: 20 * ms, Duplicate: 0.2, Reorder: 0.1}, func(t responder.Truth) bool { return t.ToCaller.Duplicated > 50 && t.ToCaller.Reordered > 20 }},
		{"slow signalling", responder.Config{InviteDelay: 250 * ms, RingDelay: 100 * ms, AnswerDelay: 200 * ms, ByeDelay: 150 * ms}, func(responder.Truth) bool { return true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if testing.Short() && c.name != "all of it" {
				t.Skip("takes 5 s")
			}
			c.cfg.Seed = 7
			r := respond(t, c.cfg)
			p := generate(t, r)
			truth := r.Truth()
			if !c.injected(truth) {
				t.Fatalf("not injected: %+v", truth)
			}
			signalling(t, p, truth)
			audio(t, p, truth)
			latency(t, p, truth)
			if t.Failed() {
				t.Logf("invalid: %v", p.Invalid)
			}
		})
	}
}

// Messages that vanish cost time, never a call: both sides repeat, and both say the same of
// how each call ended.
func TestLostMessagesAreRepeated(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for repetitions")
	}
	r := respond(t, responder.Config{DropSIP: 0.1, Seed: 4})
	p := generate(t, r)
	truth := r.Truth()
	if truth.LostIn == 0 || truth.LostOut == 0 {
		t.Fatalf("none vanished: %+v", truth)
	}
	together(t, p, truth, func(c measure.Call, was responder.Call) {
		if c.Outcome != measure.Completed || c.Status != was.Status || c.Agent != was.Agent {
			t.Errorf("caller %s: %s, status %d, agent %s; was %d, %s (%s)", c.Caller, c.Outcome, c.Status, c.Agent, was.Status, was.Agent, c.Reason)
		}
	})
	t.Logf("%d of %d messages vanished", truth.LostIn+truth.LostOut, truth.Received+truth.Sent)
}

// Where the payload is changed on the way, the marker in the sound tells the same.
func TestTheMarkerTellsTheTruth(t *testing.T) {
	t.Parallel()
	r := respond(t, responder.Config{Transcode: true, Delay: 45 * time.Millisecond, Loss: 0.01, Seed: 9})
	p := generate(t, r, "--latency", "marker", "--hold", "4s")
	truth := r.Truth()
	audio(t, p, truth)
	for _, way := range []struct {
		metric string
		held   responder.Held
	}{{measure.MediaCallerHears, truth.HeldA}, {measure.MediaAgentHears, truth.HeldB}} {
		d := p.Metrics[way.metric]
		// A burst each second in 4 s of talk: three at least; 1% of packets lost costs none. Its
		// place is that of a sample, 125 us apart.
		const sample = 125 * time.Microsecond
		if seen, held := time.Duration(d.P50*1000), us(way.held.P50); seen < held-held/spread-early-sample || p.Valid && seen > held+held/spread+medianAudio || d.Count < 16*2 {
			t.Errorf("%s: %d markers, median %v; packets were held %v", way.metric, d.Count, seen, held)
		} else {
			t.Logf("%s: %d markers, median %v; held %v", way.metric, d.Count, seen, held)
		}
	}
	for _, c := range p.calls {
		if c.CallerEar.Way != "marker" || c.AgentEar.Way != "marker" {
			t.Errorf("caller %s: latency was read by %q and %q", c.Caller, c.CallerEar.Way, c.AgentEar.Way)
		}
	}
}
