package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/emiago/sipgo/sip"
)

// wire is a caller that writes its own messages: for what no phone does, and at moments that
// no phone keeps.
type wire struct {
	t      testing.TB
	conn   net.Conn
	uri    string
	id     string
	branch string
	parser *sip.Parser
}

const wireSDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP %s\r\n"

func newWire(t testing.TB, s *server, uri string) *wire {
	t.Helper()
	conn, err := net.Dial("udp4", s.sip.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	id := fmt.Sprintf("wire-%d", time.Now().UnixNano())
	return &wire{t: t, conn: conn, uri: uri, id: id, branch: "z9hG4bK" + id, parser: sip.NewParser()}
}

// send writes a request of the call; to is the To header's tag and what goes with it.
func (w *wire) send(method, uri, tag, branch, body string, cseq int) {
	w.t.Helper()
	contact := ""
	if body != "" {
		contact = "Content-Type: application/sdp\r\n"
	}
	_, err := fmt.Fprintf(w.conn, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=%s;rport\r\nMax-Forwards: 70\r\nFrom: <sip:wire@127.0.0.1>;tag=w\r\nTo: <%s>%s\r\n"+
		"Call-ID: %s\r\nCSeq: %d %s\r\nContact: <sip:wire@%s>\r\n%sContent-Length: %d\r\n\r\n%s",
		method, uri, w.conn.LocalAddr(), branch, w.uri, tag, w.id, cseq, method, w.conn.LocalAddr(), contact, len(body), body)
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) invite(body string) { w.t.Helper(); w.send("INVITE", w.uri, "", w.branch, body, 1) }

// next returns the next response, or nil after so long.
func (w *wire) next(within time.Duration) *sip.Response {
	w.t.Helper()
	buffer := make([]byte, 8192)
	_ = w.conn.SetReadDeadline(time.Now().Add(within))
	for {
		n, err := w.conn.Read(buffer)
		if err != nil {
			return nil
		}
		message, err := w.parser.ParseSIP(append([]byte(nil), buffer[:n]...))
		if err != nil {
			w.t.Fatalf("unreadable: %v\n%s", err, buffer[:n])
		}
		if r, ok := message.(*sip.Response); ok {
			return r
		}
	}
}

// final waits for the final response to a method, and acknowledges one to INVITE.
func (w *wire) final(method sip.RequestMethod) *sip.Response {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		r := w.next(time.Second)
		if r == nil || r.StatusCode < 200 || r.CSeq().MethodName != method {
			continue
		}
		if method == sip.INVITE {
			w.ack(r, "")
		}
		return r
	}
	w.t.Fatalf("no final response to %s within %s", method, patience)
	return nil
}

// ack acknowledges a final response to INVITE: a 2xx end to end with a transaction of its
// own, another within the INVITE's (RFC 3261 s.13.2.2.4, 17.1.1.3).
func (w *wire) ack(r *sip.Response, body string) {
	w.t.Helper()
	if r.StatusCode >= 300 {
		w.send("ACK", w.uri, tagOf(r), w.branch, "", 1)
		return
	}
	w.send("ACK", r.Contact().Address.String(), tagOf(r), w.branch+"ack", body, 1)
}

func (w *wire) bye(r *sip.Response) {
	w.t.Helper()
	w.send("BYE", r.Contact().Address.String(), tagOf(r), w.branch+"bye", "", 2)
	if got := w.final(sip.BYE); got.StatusCode != 200 {
		w.t.Errorf("BYE was answered %d", got.StatusCode)
	}
}

func tagOf(r *sip.Response) string {
	tag, _ := r.To().Params.Get("tag")
	return ";tag=" + tag
}

// What is not there is not there, for everybody in the same words.
func TestCallsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := commonServer(t)
	d := newDesk(t, s, 0, "")
	answers := map[string]string{}
	for name, c := range map[string]struct {
		uri, formats string
		want         int
	}{
		"a number that nobody has":    {"sip:9999@" + s.sip.String(), "0", 404},
		"a tenant that nobody has":    {fmt.Sprintf("sip:%s@nobody.example", d.number), "0", 404},
		"a number of the demo domain": {"sip:9999@" + demoDomain, "0", 404},
		"no codec in common":          {d.uri(), "18 4", 488},
	} {
		w := newWire(t, s, c.uri)
		w.invite(fmt.Sprintf(wireSDP, c.formats))
		r := w.final(sip.INVITE)
		if r.StatusCode != c.want {
			t.Errorf("%s: %d %s, expected %d", name, r.StatusCode, r.Reason, c.want)
		}
		if c.want == 404 {
			var headers []string
			for _, h := range r.Headers() {
				headers = append(headers, h.Name())
			}
			answers[r.Reason+" "+strings.Join(headers, ",")] = name
		}
	}
	if len(answers) != 1 {
		t.Errorf("a scanner can tell what exists: %v", answers)
	}
}

// An INVITE without SDP: the server offers, the ACK answers (RFC 3261 s.13.2.1).
func TestDelayedOfferReachesAnAgent(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 1, "")
	agent := phoneAgent(t, d, 0, agentTone)
	ear := newMouth(t, pcma(), callerTone)
	w := newWire(t, d.s, d.uri())
	w.invite("")
	r := w.final2xxUnacknowledged()
	if !strings.Contains(string(r.Body()), "m=audio") {
		t.Fatalf("no offer in the 200:\n%s", r.Body())
	}
	w.ack(r, fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio %d RTP/AVP 8\r\n", ear.port()))
	call := answers(t, agent)
	hearsTone(t, "the caller", listenFor(ear.all, enoughTone(agentTone, 1)), agentTone, 1)
	soon(t, "the agent", hearing(call), callerTone, 0.8)
	w.bye(r)
	if cause := over(t, call); cause != "remote" {
		t.Errorf("the agent's call ended by %s", cause)
	}
	d.record(t)
}

// final2xxUnacknowledged waits for the 200 to the INVITE and leaves the ACK to the caller.
func (w *wire) final2xxUnacknowledged() *sip.Response {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if r := w.next(time.Second); r != nil && r.CSeq().MethodName == sip.INVITE && r.StatusCode >= 200 {
			if r.StatusCode != 200 {
				w.t.Fatalf("INVITE was answered %d %s", r.StatusCode, r.Reason)
			}
			return r
		}
	}
	w.t.Fatalf("no 200 within %s", patience)
	return nil
}

// CANCEL may cross the 200 on its way. Whatever the moment: the caller sees exactly one of
// 487 and 200, and the record says the same.
func TestCancelCrossesTheAnswer(t *testing.T) {
	t.Parallel()
	d := newDesk(t, commonServer(t), 0, "")
	const calls = 20
	taken, cancelled := 0, 0
	for i := range calls {
		w := newWire(t, d.s, d.uri())
		w.invite(fmt.Sprintf(wireSDP, "0"))
		time.Sleep(time.Duration(i) * 150 * time.Microsecond) // what is measured, not waited for
		w.send("CANCEL", w.uri, "", w.branch, "", 1)
		outcome, settled := 0, 0
		var ok *sip.Response
		for end := time.Now().Add(patience); time.Now().Before(end) && (outcome == 0 || settled == 0); {
			r := w.next(time.Second)
			switch {
			case r == nil || r.StatusCode < 200:
			case r.CSeq().MethodName == sip.CANCEL:
				settled = r.StatusCode // 200, or 481 when there is nothing left to cancel
			case outcome != 0 && outcome != r.StatusCode:
				t.Fatalf("call %d: %d and %d", i, outcome, r.StatusCode)
			default:
				outcome = r.StatusCode
				w.ack(r, "")
				if outcome == 200 {
					ok = r
				}
			}
		}
		switch outcome {
		case 200:
			taken++
			w.bye(ok)
		case 487:
			cancelled++
		default:
			t.Fatalf("call %d: outcome %d, CANCEL %d", i, outcome, settled)
		}
		if r := w.next(short); r != nil && r.CSeq().MethodName == sip.INVITE && r.StatusCode != outcome {
			t.Errorf("call %d: after %d came %d", i, outcome, r.StatusCode)
		}
	}
	t.Logf("%d taken, %d cancelled", taken, cancelled)
	records := map[string]int{}
	for _, r := range d.records(t, calls) {
		records[r.Termination.Reason]++
	}
	if records["caller_cancel"] != cancelled || records["caller_hangup"] != taken {
		t.Errorf("the phones saw %d cancelled and %d taken, the records %v", cancelled, taken, records)
	}
}

const short = 100 * time.Millisecond
