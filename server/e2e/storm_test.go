package e2e

import (
	"fmt"
	"testing"
	"time"
)

// Thirty callers of one address within 200 ms are thirty callers, not an attack.
func TestBurstOfThirtyCallsIsTaken(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 0, "")
	const calls = 30
	callers := sippCaller(t, d, scenario{file: "brief", calls: calls, pause: 2 * time.Second, options: []string{"-r", fmt.Sprint(calls), "-rp", "200"}})
	eventually(t, "all wait", func() bool { return d.waiting(t) == calls })
	callers.succeeds()
	for _, r := range d.records(t, calls) {
		if r.Termination.Result != "abandoned" {
			t.Errorf("the record: %s", r)
		}
	}
}

// A flood of one source is answered by 503 beyond the limit, and leaves nothing behind.
func TestFloodIsRefusedAndForgotten(t *testing.T) {
	t.Parallel()
	s := newServer(t, "--source-rate", "50", "--rtp", portRange(t, 800))
	d := newDesk(t, s, 1, "")
	settled := func() (goroutines, free float64) {
		return s.metric(t, "go_goroutines"), s.metric(t, "dialtone_media_free_port_pairs")
	}
	hangsUp(t, dials(t, d, "first", callerTone)) // what is made once is made
	d.records(t, 1)
	goroutines, free := settled()
	const calls = 900 // 300 a second: six times the limit
	flood := sippCaller(t, d, scenario{file: "flood", calls: calls, options: []string{"-r", "300", "-l", "2000"}})
	flood.status(t, patience)
	taken, refused := flood.noted("taken"), flood.noted("refused")
	t.Logf("%d of %d taken, %d refused", taken, calls, refused)
	if taken < 100 || taken > 300 || refused < 300 || taken+refused < calls*9/10 {
		t.Errorf("%d taken, %d refused of %d: %s", taken, refused, calls, tail(flood.dir+"/errors", 10))
	}
	if status, body := s.ask("GET", "/readyz", "", "", ""); status != 200 {
		t.Errorf("readyz: %d %s", status, body)
	}
	d.records(t, 1+taken)
	eventually(t, "ports, goroutines and transactions are given back", func() bool {
		now, ports := settled()
		return now <= goroutines+10 && ports+s.metric(t, "dialtone_media_resting_port_pairs") >= free && s.metric(t, "dialtone_live_interactions") == 0
	})
	// And a caller who comes afterwards is served.
	agent := joins(t, d, 0, agentTone)
	var caller = dials(t, d, "last", callerTone)
	call := answers(t, agent)
	soon(t, "the caller after the flood", hearing(caller), agentTone, 0.8)
	hangsUp(t, call)
	over(t, caller)
}

func portRange(t testing.TB, n int) string {
	from := ports(t, n)
	return fmt.Sprintf("%d-%d", from, from+n-1)
}
