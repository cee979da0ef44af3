package responder

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)

func start(t testing.TB, cfg Config) *Responder {
	t.Helper()
	cfg.Listen = loopback
	r, err := Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// telephone is a phone of few words: each message is written by the test, and each
// message that comes is text.
type telephone struct {
	t      testing.TB
	user   string
	server netip.AddrPort
	sip    *net.UDPConn
	rtp    *net.UDPConn
	seq    int

	mu      sync.Mutex
	packets []heard
}

func newTelephone(t testing.TB, r *Responder, user string) *telephone {
	t.Helper()
	p := &telephone{t: t, user: user, server: r.Addr()}
	for _, conn := range []**net.UDPConn{&p.sip, &p.rtp} {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
		if err != nil {
			t.Fatal(err)
		}
		*conn = c
	}
	var listening sync.WaitGroup
	listening.Go(p.listen)
	t.Cleanup(func() {
		_, _ = p.sip.Close(), p.rtp.Close()
		listening.Wait()
	})
	return p
}

func (p *telephone) at() string { return p.sip.LocalAddr().String() }

// text is a message that came.
type text string

func (m text) field(name string) string {
	for line := range strings.Lines(string(m)) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (m text) body() string { _, b, _ := strings.Cut(string(m), "\r\n\r\n"); return b }

func (p *telephone) send(s string) {
	p.t.Helper()
	if _, err := p.sip.WriteToUDPAddrPort([]byte(s), p.server); err != nil {
		p.t.Fatal(err)
	}
}

const patience = 20 * time.Second

// expect waits for the next message that begins so, and forgets those before it.
func (p *telephone) expect(start string) text {
	p.t.Helper()
	buf := make([]byte, 65535)
	var before []string
	_ = p.sip.SetReadDeadline(time.Now().Add(patience))
	for {
		n, err := p.sip.Read(buf)
		if err != nil {
			p.t.Fatalf("%s waits for %q, had %q: %v", p.user, start, before, err)
		}
		if m := text(buf[:n]); strings.HasPrefix(string(m), start) {
			return m
		} else if first, _, _ := strings.Cut(string(m), "\r\n"); len(before) < 50 {
			before = append(before, first)
		}
	}
}

// never fails if a message that begins so comes before one that begins with until.
func (p *telephone) never(start, until string) text {
	p.t.Helper()
	for {
		m := p.expect("")
		if strings.HasPrefix(string(m), start) {
			p.t.Fatalf("%s got %q", p.user, m)
		}
		if strings.HasPrefix(string(m), until) {
			return m
		}
	}
}

// request writes a request of a dialog with that Call-ID.
func (p *telephone) request(method, uri, id, to string, seq int, body string, fields ...string) string {
	extra := ""
	for _, f := range fields {
		extra += f + "\r\n"
	}
	if body != "" {
		extra += "Content-Type: application/sdp\r\n"
	}
	return fmt.Sprintf("%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK-%s-%s-%d\r\nFrom: <sip:%s@test>;tag=%s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %d %s\r\nMax-Forwards: 70\r\n"+
		"Contact: <sip:%s@%s>\r\n%sContent-Length: %d\r\n\r\n%s", method, uri, p.at(), id, method, seq, p.user, p.user, to, id, seq, method, p.user, p.at(), extra, len(body), body)
}

func (p *telephone) register(fields ...string) {
	p.t.Helper()
	p.seq++
	p.send(p.request("REGISTER", "sip:test", "reg-"+p.user, "<sip:"+p.user+"@test>", p.seq, "", fields...))
}

func (p *telephone) sdp(types string) string {
	at := p.rtp.LocalAddr().(*net.UDPAddr).AddrPort()
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP %s\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n", at.Addr(), at.Addr(), at.Port(), types)
}

// dial sends an INVITE.
func (p *telephone) dial(id string) {
	p.t.Helper()
	p.send(p.request("INVITE", "sip:5000@test", id, "<sip:5000@test>", 1, p.sdp("0 8 101")))
}

// ack and bye belong to the call that ok (a 200 to an INVITE) has begun.
func (p *telephone) ack(ok text) {
	p.t.Helper()
	p.send(p.request("ACK", "sip:responder@test", ok.field("Call-ID"), ok.field("To"), 1, ""))
}

func (p *telephone) bye(ok text) {
	p.t.Helper()
	p.send(p.request("BYE", "sip:responder@test", ok.field("Call-ID"), ok.field("To"), 2, ""))
}

// respond answers a request that came.
func (p *telephone) respond(m text, status string, body string) {
	p.t.Helper()
	to := m.field("To")
	if !strings.Contains(to, ";tag=") && !strings.HasPrefix(status, "100") {
		to += ";tag=of-" + p.user
	}
	kind := ""
	if body != "" {
		kind = "Content-Type: application/sdp\r\n"
	}
	p.send(fmt.Sprintf("SIP/2.0 %s\r\nVia: %s\r\nFrom: %s\r\nTo: %s\r\nCall-ID: %s\r\nCSeq: %s\r\nContact: <sip:%s@%s>\r\n%sContent-Length: %d\r\n\r\n%s",
		status, m.field("Via"), m.field("From"), to, m.field("Call-ID"), m.field("CSeq"), p.user, p.at(), kind, len(body), body))
}

// remote is where an SDP wants audio.
func (p *telephone) remote(m text) netip.AddrPort {
	p.t.Helper()
	d, err := describe([]byte(m.body()))
	if err != nil {
		p.t.Fatalf("%v in %q", err, m)
	}
	return d.addr
}

// speak sends RTP packets with those numbers, payload type and mu-law silence.
func (p *telephone) speak(to netip.AddrPort, kind byte, from, n int, pause time.Duration) {
	p.t.Helper()
	for i := from; i < from+n; i++ {
		b := make([]byte, 12+160)
		b[0], b[1] = 0x80, kind
		binary.BigEndian.PutUint16(b[2:], uint16(i))
		binary.BigEndian.PutUint32(b[4:], uint32(i*160))
		for k := range b[12:] {
			b[12+k] = byte(k)
		}
		binary.BigEndian.PutUint64(b[12:], uint64(time.Now().UnixNano()))
		if _, err := p.rtp.WriteToUDPAddrPort(b, to); err != nil {
			p.t.Fatal(err)
		}
		time.Sleep(pause) // the pace of a sender, not synchronisation
	}
}

// heard is an RTP packet that came.
type heard struct {
	kind    byte
	number  int
	payload []byte
	transit time.Duration
}

// listen collects what comes until the phone's port is closed.
func (p *telephone) listen() {
	buf := make([]byte, 2048)
	for {
		n, err := p.rtp.Read(buf)
		now := time.Now().UnixNano()
		if err != nil {
			return
		}
		h := heard{buf[1] & 0x7f, int(binary.BigEndian.Uint16(buf[2:])), append([]byte(nil), buf[12:n]...), time.Duration(now - int64(binary.BigEndian.Uint64(buf[12:])))}
		p.mu.Lock()
		p.packets = append(p.packets, h)
		p.mu.Unlock()
	}
}

// hear waits until so many packets have come, and returns all.
func (p *telephone) hear(n int) (all []heard) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("%s hears %d packets", p.user, n), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		all = slices.Clone(p.packets)
		return len(all) >= n
	})
	return all
}

// pair is a call that is up between two telephones.
type pair struct {
	caller, agent   *telephone
	ok, invite      text           // 200 that the caller got, INVITE that the agent got
	toAgent, toward netip.AddrPort // where the caller and the agent send their audio
}

// connect brings a call up.
func connect(t testing.TB, r *Responder, id, agentTypes string) pair {
	t.Helper()
	p := pair{caller: newTelephone(t, r, "caller-"+id), agent: newTelephone(t, r, "agent-"+id)}
	p.agent.register()
	p.agent.expect("SIP/2.0 200")
	p.caller.dial(id)
	p.caller.expect("SIP/2.0 100")
	p.invite = p.agent.expect("INVITE")
	p.agent.respond(p.invite, "180 Ringing", "")
	p.caller.expect("SIP/2.0 180")
	p.agent.respond(p.invite, "200 OK", p.agent.sdp(agentTypes))
	p.agent.expect("ACK")
	p.ok = p.caller.expect("SIP/2.0 200")
	p.caller.ack(p.ok)
	p.toAgent, p.toward = p.caller.remote(p.ok), p.agent.remote(p.invite)
	return p
}

// hangUp ends it, by the caller.
func (p pair) hangUp() {
	p.caller.t.Helper()
	p.caller.bye(p.ok)
	p.caller.expect("SIP/2.0 200")
	p.agent.respond(p.agent.expect("BYE"), "200 OK", "")
}

// eventually waits until the responder has got so far.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
