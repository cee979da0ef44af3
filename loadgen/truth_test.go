package loadgen

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/responder"
)

// What is reported is what was done to the calls. The responder writes down what it did, so
// the comparison holds on a machine that is busy, too: whatever came on top, came to both.
func TestWhatIsReportedIsWhatWasInjected(t *testing.T) {
	t.Parallel()
	r, err := responder.Start(responder.Config{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Password: password, Seed: 11,
		Delay: 40 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.03, Duplicate: 0.01,
		InviteDelay: 60 * time.Millisecond, ByeDelay: 80 * time.Millisecond, Refuse: []responder.Refusal{{Status: 503, Share: 0.25}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := filepath.Join(t.TempDir(), "out.json")
	code, stdout, stderr := load(t, []string{"DIALTONE_AGENT_PASSWORD=" + password}, "--target", "udp:"+r.Addr().String(), "--to", "sip:600@127.0.0.1", "--rate", "5/s", "--duration", "4s",
		"--agents", "12", "--agent-uri", "sip:agent{n}@127.0.0.1", "--hold", "1500ms", "--answer-after", "150ms", "--json", path, "--jitter-buffer", "40ms")
	res, calls := read(t, path)
	onlyPacing(t, res)
	if code != res.ExitCode() || res.Counts.Offered != 20 || res.Counts.Completed+res.Counts.Refused != 20 {
		t.Fatalf("exit code %d, %+v %v\n%s%s", code, res.Counts, res.Reasons, stdout, stderr)
	}
	truth := map[string]responder.Call{}
	for _, c := range r.Truth().Calls {
		truth[c.Caller] = c
	}
	var measured, done measure.Audio
	for _, c := range calls {
		was, ok := truth[c.Caller]
		if !ok || was.Status != c.Status {
			t.Errorf("caller %s: status %d, was %d", c.Caller, c.Status, was.Status)
			continue
		}
		if c.Outcome != measure.Completed {
			continue
		}
		if c.Agent != was.Agent || c.Offers != was.Offers {
			t.Errorf("caller %s: agent %s after %d offers, was %s after %d", c.Caller, c.Agent, c.Offers, was.Agent, was.Offers)
		}
		// From outside it takes longer by the way to and fro, and never less.
		spans(t, res, c.Caller, "routing", c.Offered-c.Invited, was.Offered-was.Invited)
		spans(t, res, c.Caller, "teardown", c.OtherBye-c.HungUp, was.ByeSent-was.Bye)
		for _, ear := range []struct {
			heard *measure.Audio
			flow  responder.Flow
		}{{c.CallerEar, was.ToCaller}, {c.AgentEar, was.ToAgent}} {
			measured.Expected += ear.heard.Expected
			measured.Lost += ear.heard.Lost
			measured.Voice += ear.heard.Voice
			measured.Duplicate += ear.heard.Duplicate
			done.Expected += ear.flow.Received - ear.flow.Edge
			done.Lost += ear.flow.Lost - ear.flow.Edge
			done.Voice += ear.flow.Sent + ear.flow.Duplicated
			done.Duplicate += ear.flow.Duplicated
		}
	}
	// A packet that is on its way when its call ends may be counted by one and not by the other; on
	// a machine that stalls these are many, and a run that is sound has few.
	edge := uint64(2 * res.Counts.Completed)
	missed := done.Expected - min(done.Expected, measured.Expected)
	if measured.Expected > done.Expected || res.Valid && missed > 5*edge {
		t.Errorf("%d packets expected, the responder says %d", measured.Expected, done.Expected)
	}
	edge += 2 * missed // with copies
	near(t, "lost", measured.Lost, done.Lost, edge)
	near(t, "heard", measured.Voice, done.Voice, edge)
	near(t, "duplicate", measured.Duplicate, done.Duplicate, edge/2)
	if done.Lost == 0 || done.Duplicate == 0 {
		t.Errorf("nothing was injected: %+v", done)
	}
	latencies(t, r.Truth(), res)
}

// A run that was too slow says so: then what it adds has no bound, but is still never negative.
func spans(t *testing.T, res *measure.Result, caller, what string, seen measure.Micros, was responder.Micros) {
	t.Helper()
	if seen < measure.Micros(was)-1000 || res.Valid && seen > measure.Micros(was)+500_000 {
		t.Errorf("caller %s: %s %d us, the responder took %d us", caller, what, seen, was)
	}
}

func near(t *testing.T, what string, seen, was, tolerance uint64) {
	t.Helper()
	if max(seen, was)-min(seen, was) > tolerance {
		t.Errorf("%s: %d packets, the responder says %d (tolerance %d)", what, seen, was, tolerance)
	}
}

// latencies compares with the time for which the responder really held the packets.
func latencies(t *testing.T, truth responder.Truth, res *measure.Result) {
	t.Helper()
	for _, direction := range []struct {
		metric string
		held   responder.Held
	}{{measure.MediaCallerHears, truth.HeldA}, {measure.MediaAgentHears, truth.HeldB}} {
		d := res.Metrics[direction.metric]
		// Lost packets were held by nobody; the median does not mind the few at the ends, unless the
		// machine stalls and they are many: then the run is invalid.
		if low, high := 0.984*float64(direction.held.P50)-1000, float64(direction.held.P50)+10_000; res.Valid && (d.P50 < low || d.P50 > high) || d.Min < 0.984*float64(direction.held.Min)-1000 {
			t.Errorf("%s: median %.0f us, packets were held %d us", direction.metric, d.P50, direction.held.P50)
		}
	}
	// 20 ms packetisation, 40 ms delay, 40 ms jitter buffer; never less than its parts.
	if m := res.Metrics[measure.MouthToEar]; m.P50 < 85_000 || res.Valid && m.P50 > 400_000 {
		t.Errorf("mouth to ear: median %.0f us", m.P50)
	}
}
