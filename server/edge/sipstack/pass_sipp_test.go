package sipstack

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// caller is the core of node A: it calls the phone of each REGISTER that node B takes, by its
// token, re-invites it, and takes its BYE. All in the Call-ID of the REGISTER.
func caller(a *rig, ended *atomic.Int64) func(core.Event) []core.Effect {
	tokens := map[string]core.URI{}
	return func(e core.Event) []core.Effect {
		switch e := e.(type) {
		case core.RequestReceived:
			switch e.Request.Method {
			case core.REGISTER: // handed over by node B's core, as the cluster's records would
				token, _ := core.ParseURI(e.From.Token)
				tokens[e.Request.CallID] = token
				return []core.Effect{a.towards(token, core.INVITE, e.Request.CallID, "inv"+e.Request.CallID, 1)}
			case core.BYE:
				ended.Add(1)
				return []core.Effect{core.Respond{Txn: e.Txn, To: e.From, Response: e.Request.Reply(200, "")}}
			}
		case core.ResponseReceived:
			id := e.Response.CallID
			token := tokens[id]
			if e.Response.Status != 200 || e.Response.Method != core.INVITE {
				return nil
			}
			ack := within(a.towards(token, core.ACK, id, fmt.Sprint("ack", e.Response.CSeq, id), e.Response.CSeq))
			if e.Response.CSeq == 2 {
				return []core.Effect{ack}
			}
			return []core.Effect{ack, within(a.towards(token, core.INVITE, id, "re"+id, 2))}
		case core.TransactionFailed:
			a.t.Errorf("event %+v", e)
		}
		return nil
	}
}

// SIPp is the phone: registered at B over TCP, called from A.
func TestSippCalledThroughAnotherNode(t *testing.T) {
	const calls = 60
	a, b := newNode(t, 1, nil), newNode(t, 2, nil)
	ended := throughSipp(t, a, b, calls)
	if g := b.Gauges(); ended != calls || g.PassRefused != 0 || g.StrayResponses != 0 {
		t.Errorf("%d of %d calls ended, gauges %+v", ended, calls, g)
	}
}

func throughSipp(t testing.TB, a, b *rig, calls int) int64 {
	t.Helper()
	var ended atomic.Int64
	a.script(caller(a, &ended))
	b.script(func(e core.Event) []core.Effect {
		q, ok := e.(core.RequestReceived)
		if !ok || q.Request.Method != core.REGISTER {
			return nil
		}
		b.Do(core.Respond{Txn: q.Txn, To: q.From, Response: q.Request.Reply(200, "b")}) // before A's INVITE
		a.events <- e
		return nil
	})
	run(t, core.TCP, "-sf", testdata(t, "sipp/registered.xml"), "-m", strconv.Itoa(calls), "-r", "200", b.Addr(core.TCP).String())
	eventually(t, "every phone has hung up", func() bool { return ended.Load() >= int64(calls) })
	return ended.Load()
}

// BenchmarkPassed measures the CPU time of node B per message that it passes on, the reading
// and writing of both connections included, and that of its two peers, which is little: they
// write prepared bytes and count what comes.
func BenchmarkPassed(b *testing.B) {
	for _, flight := range []int{1, 50} { // messages on their way at a time
		b.Run(fmt.Sprintf("flight=%d", flight), func(b *testing.B) { benchmarkPassed(b, flight) })
	}
}

func benchmarkPassed(b *testing.B, flight int) {
	node := newNode(b, 2, nil)
	p, token := registered(node)
	member := dialFrom(node, nodeAddr(1))
	sdp := string(invite()[strings.Index(string(invite()), "v=0"):])
	text := strings.Replace(member.incoming("INVITE", token, "c", "Contact: <sip:dialtone@127.0.0.1:5060;transport=tcp>\r\nAllow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\nUser-Agent: dialtone\r\nContent-Type: application/sdp\r\n"),
		"Content-Length: 0\r\n\r\n", fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(sdp), sdp), 1)
	batch := []byte(strings.Repeat(text, flight))
	buf := make([]byte, 1<<16)
	before, start := cpuTime(b), time.Now()
	member.send(text)
	size := len(p.expect("INVITE"))
	for range (b.N + flight - 1) / flight {
		if _, err := member.tcp.Write(batch); err != nil {
			b.Fatal(err)
		}
		for left := flight * size; left > 0; {
			n, err := p.tcp.Read(buf[:min(left, len(buf))])
			if err != nil {
				b.Fatal(err)
			}
			left -= n
		}
	}
	used, sent := cpuTime(b)-before, float64((b.N+flight-1)/flight*flight+1)
	b.ReportMetric(float64(used.Nanoseconds())/1000/sent, "us-CPU/message")
	b.ReportMetric(sent/time.Since(start).Seconds(), "messages/s")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkSplice is the part of it that is neither the parser's nor the kernel's.
func BenchmarkSplice(b *testing.B) {
	s, data := newSeals(), invite()
	m, err := read(newParser(1<<16), data, stranger())
	if err != nil {
		b.Fatal(err)
	}
	token := s.seal(asToken, 7)
	out := make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := s.open(asToken, token); !ok || !clean(data) {
			b.Fatal("refused")
		}
		branch := s.branchOf(&m)
		s.seal(asHop, 9, branch)
		edit := splice{above: []byte("Via: SIP/2.0/TCP 127.0.0.2:5060\r\n"), via: m.request.Via[0], unroute: true, forwards: "69"}
		out = edit.append(out[:0], data)
	}
}
