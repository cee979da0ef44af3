package sipstack

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// After a storm of calls of every kind, once the timers have passed, nothing is left: no
// goroutine, transaction, connection or memory. signalwire/freeswitch#1311, livekit/livekit#4628.
func TestBaselineAfterStorm(t *testing.T) {
	r := newRig(t, nil)
	r.script(func(e core.Event) []core.Effect {
		q, ok := e.(core.RequestReceived)
		if !ok || q.Request.Method == "ACK" {
			return nil
		}
		respond := func(status int) core.Effect {
			return core.Respond{Txn: q.Txn, To: q.From, Response: q.Request.Reply(status, "ours")}
		}
		switch {
		case q.Request.Method == "CANCEL":
			return []core.Effect{respond(200), core.Respond{Txn: q.Cancels, To: q.From, Response: (&core.Request{Method: "INVITE", Message: q.Request.Message}).Reply(487, "ours")}}
		case q.Request.Method != "INVITE":
			return []core.Effect{respond(200)}
		case strings.HasPrefix(q.Request.CallID, "reject"):
			return []core.Effect{respond(486)}
		case strings.HasPrefix(q.Request.CallID, "cancel"):
			return []core.Effect{respond(180)}
		}
		return []core.Effect{respond(180), respond(200)}
	})
	storm := func(calls int) {
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				p := newPhone(r, []core.Transport{core.UDP, core.TCP}[i%2])
				stormCall(p, i)
				p.close()
				p.frames = framer{} // the test keeps the phone until it ends
			})
			if i%16 == 15 {
				all.Wait()
			}
		}
		all.Wait()
	}
	settled := func(timers time.Duration) (int, uint64) {
		eventually(t, "transactions and flows are gone", func() bool {
			g := r.Gauges()
			return g.ServerInvite+g.ServerOther+g.ClientInvite+g.ClientOther+g.Flows == 0
		})
		time.Sleep(timers) // timers of ended transactions fire once more and let go of them
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return runtime.NumGoroutine(), m.HeapAlloc
	}
	storm(20) // pools and lazily made tables
	goroutines, heap := settled(0)
	storm(400)
	eventually(t, "goroutines are back at the baseline", func() bool { return runtime.NumGoroutine() <= goroutines })
	after, heapAfter := settled(sip.Timer_L)
	t.Logf("goroutines %d -> %d, heap %d -> %d kB", goroutines, after, heap/1024, heapAfter/1024)
	if after > goroutines || heapAfter > heap+heap/4+(1<<20) {
		t.Errorf("grown: goroutines %d -> %d, heap %d -> %d", goroutines, after, heap, heapAfter)
	}
	r.servers.mu.Lock()
	defer r.servers.mu.Unlock()
	r.flows.mu.Lock()
	defer r.flows.mu.Unlock()
	if len(r.servers.bySource)+len(r.servers.refused)+r.servers.spare.Len()+len(r.flows.bySource)+len(r.flows.dialled) != 0 {
		t.Errorf("sources are kept: %v, %v, %v", r.servers.bySource, r.servers.refused, r.flows.bySource)
	}
}

// stormCall is one call of one of five kinds.
func stormCall(p *phone, i int) {
	kind := []string{"accept", "reject", "cancel", "vanish", "garbage"}[i%5]
	callID := fmt.Sprint(kind, p.name, i)
	p.send(p.in(callID, "INVITE", "i", "", ""))
	until := func(start string) string { // retransmissions may come in between
		for {
			text := p.recv(patience)
			if text == "" {
				p.t.Errorf("%s: no %s", callID, start)
			}
			if text == "" || strings.HasPrefix(text, start) {
				return text
			}
		}
	}
	switch kind {
	case "accept":
		until("SIP/2.0 200")
		p.send(p.in(callID, "ACK", "a", "", ""))
		p.send(p.in(callID, "BYE", "b", "", ""))
		until("SIP/2.0 200")
	case "reject":
		until("SIP/2.0 486")
		p.send(p.in(callID, "ACK", "i", "", ""))
	case "cancel":
		until("SIP/2.0 180")
		p.send(p.in(callID, "CANCEL", "i", "", ""))
		until("SIP/2.0 487")
		p.send(p.in(callID, "ACK", "i", "", ""))
	case "garbage":
		p.send("OPTIONS nonsense SIP/2.0\r\nVia: x\r\n\r\n")
	}
}
