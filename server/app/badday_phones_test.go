package app

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// storedForms are the forms of a password that open the account as well as the password
// itself (RFC 7616 s.5.14): H(A1) of the demo agents.
func storedForms(domain, password string) (all []string) {
	for id := firstAgent; id <= lastAgent; id++ {
		a1 := fmt.Sprintf("%d:%s:%s", id, domain, password)
		weak, strong := md5.Sum([]byte(a1)), sha256.Sum256([]byte(a1))
		all = append(all, hex.EncodeToString(weak[:]), hex.EncodeToString(strong[:]))
	}
	return all
}

// home is whom the phones of a test belong to.
type home struct {
	*child
	tenant, domain string
}

func (c *child) demo() home { return home{c, "demo", demoDomain} }

func (h home) phone(t *testing.T, user, addr string) *phone.Phone {
	t.Helper()
	p, err := phone.New(phone.Config{User: user, Password: secretPassword, Domain: h.domain, Server: h.sip, Addr: netip.MustParseAddr(addr)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// agent returns a registered phone whose agent is ready.
func (h home) agent(t *testing.T, id string) *phone.Phone {
	t.Helper()
	p := h.phone(t, id, "127.0.0.1")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Register(ctx, 10*time.Minute); err != nil {
		t.Fatal(err)
	}
	await(t, "agent "+id+" is ready", func() bool { return h.agentState(h.tenant, id) == "ready idle" })
	return p
}

// pair is a bridged call, seen from both ends.
type pair struct {
	caller  string
	out, in *phone.Call
	from    *phone.Phone
	agent   *phone.Phone
	before  [2]uint64 // packets that agent and caller had sent at forget
}

// dial places a call and returns when it is answered by the queue.
func (h home) dial(t *testing.T, p *phone.Phone, within time.Duration) (*phone.Call, error) {
	return h.dialTo(t, p, demoNumber, within)
}

func (h home) dialTo(t *testing.T, p *phone.Phone, number string, within time.Duration) (*phone.Call, error) {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return p.Call(ctx, "sip:"+number+"@"+h.domain)
}

// talk bridges a caller with the one of the agents to whom it is offered.
func (h home) talk(t *testing.T, caller, addr string, agents ...*phone.Phone) *pair {
	t.Helper()
	p := &pair{caller: caller, from: h.phone(t, caller, addr)}
	var err error
	if p.out, err = h.dial(t, p.from, 15*time.Second); err != nil {
		t.Fatalf("the call of %s: %v", caller, err)
	}
	p.pickUp(t, agents...)
	return p
}

// pickUp answers the offer, and waits until both hear each other.
func (p *pair) pickUp(t *testing.T, agents ...*phone.Phone) {
	t.Helper()
	await(t, "an offer of the call of "+p.caller, func() bool {
		for _, agent := range agents {
			select {
			case p.in = <-agent.Incoming():
				p.agent = agent
				return true
			default:
			}
		}
		return false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if err := p.in.Answer(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("the caller of %s at %s: %d packets, voices %v; the agent at %s: %d packets, voices %v", p.caller, p.out.Media.Addr(), p.out.Media.Heard().Audio.Received,
				p.out.Media.Heard().Voices, p.in.Media.Addr(), p.in.Media.Heard().Audio.Received, p.in.Media.Heard().Voices)
		}
	}()
	await(t, "both hear each other: "+p.caller, p.hears)
}

func (p *pair) hears() bool {
	return p.out.Media.Heard().Voices[p.agent.Voice()] > 0 && p.in.Media.Heard().Voices[p.from.Voice()] > 0
}

func (p *pair) forget() {
	p.before = p.sent()
	p.out.Media.Forget()
	p.in.Media.Forget()
}

// sent counts what agent and caller have sent, in the order of who hears it. A machine that
// is held up sends fewer than 50 packets a second.
func (p *pair) sent() [2]uint64 {
	return [2]uint64{p.in.Media.Heard().Audio.Sent, p.out.Media.Heard().Audio.Sent}
}

// heard tells how the audio went since forget: at least the given share of what was sent
// both ways, by content (whose voice), and no gap above the limit.
func (p *pair) heard(t *testing.T, during time.Duration, share float64, gap time.Duration) {
	t.Helper()
	after := p.sent()
	for i, side := range []struct {
		who   string
		heard stream.Heard
		voice uint64
	}{{"the caller", p.out.Media.Heard(), p.agent.Voice()}, {"the agent", p.in.Media.Heard(), p.from.Voice()}} {
		least := uint64(share * min(during.Seconds()*50, float64(after[i]-p.before[i])))
		longest := time.Duration(side.heard.Audio.LongestGap) * time.Microsecond
		t.Logf("%s of %s heard %d packets in %s, %d lost, longest gap %s", side.who, p.caller, side.heard.Voices[side.voice],
			during.Round(time.Millisecond), side.heard.Audio.Lost, longest.Round(time.Millisecond))
		if n := side.heard.Voices[side.voice]; n < least {
			t.Errorf("%s of %s heard %d packets of the other in %s, expected %d", side.who, p.caller, n, during, least)
		}
		if longest > gap {
			t.Errorf("%s of %s heard nothing for %s", side.who, p.caller, longest)
		}
	}
}

// alive fails when one of the two was hung up.
func (p *pair) alive(t *testing.T) {
	t.Helper()
	for who, call := range map[string]*phone.Call{"caller": p.out, "agent": p.in} {
		select {
		case <-call.Done():
			t.Fatalf("the %s of %s was hung up: %s", who, p.caller, call.Cause())
		default:
		}
	}
}

// hangUp has the caller hang up, and returns how long the agent's phone took to hear of it.
func (p *pair) hangUp(t *testing.T) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	began := time.Now()
	told := make(chan time.Duration, 1)
	go func() { <-p.in.Done(); told <- time.Since(began) }()
	if err := p.out.HangUp(ctx); err != nil {
		t.Errorf("the BYE of %s: %v", p.caller, err)
	}
	select {
	case took := <-told:
		return took
	case <-time.After(10 * time.Second):
		t.Fatalf("the agent of %s was not hung up within 10 s", p.caller)
		return 0
	}
}

// refused returns the status with which a call was refused, 0 when it was not.
func refused(err error) int {
	var r *phone.Refused
	if errors.As(err, &r) {
		return r.Status
	}
	return 0
}

// sender is a raw socket that speaks SIP without a stack.
type sender struct {
	*net.UDPConn
	local string
}

func newSender(t *testing.T, addr string, to netip.AddrPort) *sender {
	t.Helper()
	conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(addr)}, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &sender{conn, conn.LocalAddr().String()}
}

// message is a request of that sender with a Call-ID and a branch of its own.
func (s *sender) message(method, uri, id, more, body string) []byte {
	if body != "" {
		more += "Content-Type: application/sdp\r\n"
	}
	return fmt.Appendf(nil, "%s %s SIP/2.0\r\nVia: SIP/2.0/UDP %s;branch=z9hG4bK%s;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:flood@%s>;tag=%s\r\nTo: <%s>\r\nCall-ID: %s@flood\r\nCSeq: 1 %s\r\nContact: <sip:flood@%s>\r\n%sContent-Length: %d\r\n\r\n%s",
		method, uri, s.local, id, s.local, id, uri, id, method, s.local, more, len(body), body)
}

// cancel takes an INVITE back (RFC 3261 s.9.1).
func (s *sender) cancel(invite []byte) []byte {
	head, _, _ := strings.Cut(string(invite), "\r\nContact:")
	return []byte(strings.ReplaceAll(head, "INVITE", "CANCEL") + "\r\nContent-Length: 0\r\n\r\n")
}

const someSDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 43000 RTP/AVP 0\r\n"

// exchangeRepeated is exchange with the repetitions of UDP (RFC 3261 s.17.1).
func (s *sender) exchangeRepeated(t *testing.T, request []byte) (answer string, err error) {
	for range 8 {
		if answer, err = s.exchange(t, request, time.Second); err == nil {
			return answer, nil
		}
	}
	return "", err
}

// fieldOf returns the value of a header field.
func fieldOf(message, name string) string {
	for line := range strings.Lines(message) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// answerTo answers a digest challenge with SHA-256 (RFC 7616 s.3.4.1): the header field, and
// the response in it, which is a secret too.
func answerTo(t *testing.T, challenge, user, password, method, uri string, nc int) (field, response string) {
	found := regexp.MustCompile(`(?m)^WWW-Authenticate: Digest (.*algorithm="?SHA-256"?.*)$`).FindStringSubmatch(challenge)
	if found == nil {
		t.Errorf("no SHA-256 challenge in %s", challenge)
		return "", ""
	}
	of := func(name string) string {
		value := regexp.MustCompile(`\b` + name + `="([^"]*)"`).FindStringSubmatch(found[1])
		if value == nil {
			t.Errorf("no %s in %s", name, found[1])
			return ""
		}
		return value[1]
	}
	sum := func(text string) string {
		b := sha256.Sum256([]byte(text))
		return hex.EncodeToString(b[:])
	}
	response = sum(fmt.Sprintf("%s:%s:%08x:c:auth:%s", sum(user+":"+of("realm")+":"+password), of("nonce"), nc, sum(method+":"+uri)))
	return fmt.Sprintf("Authorization: Digest username=%q, realm=%q, nonce=%q, uri=%q, response=%q, algorithm=SHA-256, qop=auth, nc=%08x, cnonce=\"c\"\r\n",
		user, of("realm"), of("nonce"), uri, response, nc), response
}

// exchange sends one request and returns the first answer that is not provisional.
func (s *sender) exchange(t *testing.T, request []byte, within time.Duration) (string, error) {
	t.Helper()
	if _, err := s.Write(request); err != nil {
		return "", err
	}
	if err := s.SetReadDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	buffer := make([]byte, 8192)
	for {
		n, err := s.Read(buffer)
		if err != nil {
			return "", err
		}
		if answer := string(buffer[:n]); !strings.HasPrefix(answer, "SIP/2.0 1") {
			return answer, nil
		}
	}
}
