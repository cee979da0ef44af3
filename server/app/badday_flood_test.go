package app

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// A flood comes from one address: so many messages a second, fifty times what the node is
// told to take. More would test the kernel: what a slow machine with the race detector cannot
// read in time is lost before anybody can tell a flood from a call.
const (
	floodFrom = "127.0.0.9"
	floodRate = 1000
	floodTime = 2 * time.Second
)

// tallied counts what a flood got back, by status; 0 counts what is no SIP, and -503 a 503
// that does not say when to come back.
type tallied struct {
	mu sync.Mutex
	by map[int]int
}

func (c *tallied) count(answer []byte) {
	status := 0
	if bytes.HasPrefix(answer, []byte("SIP/2.0 ")) && len(answer) > 11 {
		status, _ = strconv.Atoi(string(answer[8:11]))
	}
	if status == 503 && !bytes.Contains(answer, []byte("Retry-After: ")) {
		status = -503
	}
	c.mu.Lock()
	c.by[status]++
	c.mu.Unlock()
}

func (c *tallied) get(statuses ...int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range statuses {
		n += c.by[s]
	}
	return n
}

// besides counts all answers but those.
func (c *tallied) besides(statuses ...int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, count := range c.by {
		if !slices.Contains(statuses, s) {
			n += count
		}
	}
	return n
}

func (c *tallied) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, status := range slices.Sorted(maps.Keys(c.by)) {
		all = append(all, fmt.Sprintf("%d x %d", c.by[status], status))
	}
	return strings.Join(all, ", ")
}

// flood sends what next makes, evenly, and counts the answers; it returns when all is sent.
func flood(s *sender, next func(i int) []byte) *tallied {
	c := &tallied{by: map[int]int{}}
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, err := s.Read(buffer)
			if err == nil {
				c.count(buffer[:n])
			} else if !strings.Contains(err.Error(), "refused") {
				return // the socket was closed
			}
		}
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for began, sent := time.Now(), 0; time.Since(began) < floodTime; <-tick.C {
		for due := int(time.Since(began).Seconds() * floodRate); sent < due; sent++ {
			_, _ = s.Write(next(sent))
		}
	}
	return c
}

// during floods, and has normal calls placed from another address until the flood is over.
func (h home) during(t *testing.T, agent *phone.Phone, s *sender, next func(i int) []byte) *tallied {
	t.Helper()
	h.ask(t, "PUT", "/v1/agents/1005/status", `{"status":"ready"}`, 200) // whatever a flood before has left
	over := make(chan *tallied, 1)
	go func() { over <- flood(s, next) }()
	name := strings.ReplaceAll(t.Name()[strings.IndexByte(t.Name(), '/')+1:], "/", "-")
	slowest := time.Duration(0)
	for calls := 1; ; calls++ {
		slowest = max(slowest, h.vipCall(t, fmt.Sprintf("%s-%d", name, calls), agent))
		select {
		case got := <-over:
			t.Logf("%d normal calls meanwhile, the slowest was answered after %s; the flood got %s", calls, slowest.Round(time.Millisecond), got)
			return got
		default:
		}
	}
}

// vip makes a queue of its own for the calls that must work in spite of a flood.
func (h home) vip(t *testing.T) *phone.Phone {
	t.Helper()
	h.ask(t, "PUT", "/v1/queues/vip", `{}`, 201)
	h.ask(t, "PUT", "/v1/numbers/6000", `{"queue":"vip"}`, 201)
	h.ask(t, "PUT", "/v1/agents/1005", `{"password":"`+secretPassword+`","queues":["vip"],"ready_on_register":true}`, 200)
	return h.agent(t, "1005")
}

// vipCall places a call to that queue, has it answered, listens, and hangs up. It returns
// the time until the caller was answered.
func (h home) vipCall(t *testing.T, caller string, agent *phone.Phone) time.Duration {
	t.Helper()
	// Another address each time: the limits of one source are not what is tested here.
	p := &pair{caller: caller, from: h.phone(t, caller, fmt.Sprintf("127.0.2.%d", 1+sha256.Sum256([]byte(caller))[0]))}
	defer p.from.Close()
	var err error
	if p.out, err = h.dialTo(t, p.from, "6000", 10*time.Second); err != nil {
		t.Fatalf("the call of %s: %v", caller, err)
	}
	p.pickUp(t, agent)
	if took := p.hangUp(t); took > 5*time.Second {
		t.Errorf("the hang-up of %s took %s", caller, took)
	}
	at := p.out.Times()
	return at.Answered.Sub(at.Invited)
}

// baseline is what a node uses when it has nothing to do.
type baseline struct{ goroutines, files, heapMiB, ports float64 }

func (c *child) rests(t *testing.T) baseline {
	t.Helper()
	heap := c.heap(t)
	m := c.metrics(t)
	return baseline{m["go_goroutines"], m["process_open_fds"], heap / (1 << 20), m["dialtone_media_free_port_pairs"] + m["dialtone_media_resting_port_pairs"]}
}

// returns waits until the node uses no more than before, give or take the odd goroutine.
func (c *child) returns(t *testing.T, before baseline, heapMiB float64) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		m := c.metrics(t)
		busy := m["dialtone_sip_server_transactions"] + m["dialtone_sip_client_transactions"] + m["dialtone_sip_flows"] + m["dialtone_media_legs"] +
			m["dialtone_outbox_records"] + m["dialtone_held_records"] + live(m)
		ports := m["dialtone_media_free_port_pairs"] + m["dialtone_media_resting_port_pairs"]
		if busy == 0 && ports == before.ports && m["go_goroutines"] <= before.goroutines+8 && m["process_open_fds"] <= before.files+4 {
			break
		}
		if time.Since(began) > 50*time.Second {
			for _, name := range slices.Sorted(maps.Keys(m)) {
				if m[name] != 0 && strings.HasPrefix(name, "dialtone_") && !strings.Contains(name, "_bucket") {
					t.Log(name, m[name])
				}
			}
			t.Fatalf("not at rest after 50 s: %v goroutines, %v files, %v ports; before: %+v", m["go_goroutines"], m["process_open_fds"], ports, before)
		}
	}
	after := c.rests(t)
	t.Logf("at rest: %+v; before: %+v", after, before)
	if grown := after.heapMiB - before.heapMiB; grown > heapMiB {
		t.Errorf("the heap has grown by %.1f MiB, %.0f are allowed", grown, heapMiB)
	}
}

// live counts the interactions of all phases.
func live(m map[string]float64) (n float64) {
	for name, v := range m {
		if strings.HasPrefix(name, "dialtone_live_interactions") {
			n += v
		}
	}
	return n
}

// Floods from one source are answered up to the limits and refused beyond them; another
// source is served meanwhile; afterwards nothing of them is left (livekit/sip#701,
// signalwire/freeswitch#1311: what a storm leaves behind).
func TestBadDayFloods(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute: a call without ACK lives for 32 s (RFC 3261 s.13.3.1.4)")
	}
	t.Parallel()
	// RTP below the ports that phones get: its flood is for the server alone.
	c := newChild(t.TempDir(), "--source-rate", "20", "--register-rate", "20", "--rtp", "2000-3999")
	c.environ = append(c.environ, t1Variable+"=50ms") // transactions are kept for 64*T1
	c.start(t)
	t.Cleanup(func() { c.close(t) })
	demo := c.demo()
	agent := demo.vip(t)
	demo.vipCall(t, "warm-up", agent)
	before := c.rests(t)
	t.Run("INVITE", func(t *testing.T) { demo.inviteFlood(t, agent) })
	t.Run("INVITE of unknown numbers", func(t *testing.T) { demo.unknownFlood(t, agent) })
	t.Run("INVITE that is broken", func(t *testing.T) { demo.brokenFlood(t, agent) })
	t.Run("REGISTER", func(t *testing.T) { demo.registerFlood(t, agent) })
	t.Run("OPTIONS", func(t *testing.T) {
		s := newSender(t, floodFrom, c.sip)
		got := demo.during(t, agent, s, func(i int) []byte {
			return s.message("OPTIONS", "sip:"+demoDomain, fmt.Sprintf("o%d", i), "", "")
		})
		if got.get(200, 503) == 0 || got.besides(200, 503) > 0 {
			t.Errorf("answers: %s", got)
		}
	})
	t.Run("garbage", func(t *testing.T) { demo.garbageFlood(t, agent) })
	t.Run("RTP", func(t *testing.T) { demo.rtpFlood(t, agent) })
	t.Run("storm", func(t *testing.T) { demo.storm(t, 300) })
	c.returns(t, before, 40)
	if lost := c.metrics(t)["dialtone_sip_lost_events_total"]; lost != 0 {
		t.Errorf("%v events were lost", lost)
	}
	demo.stormIsFiled(t, 300)
}

func (h home) inviteFlood(t *testing.T, agent *phone.Phone) {
	s := newSender(t, floodFrom, h.sip)
	got := h.during(t, agent, s, func(i int) []byte {
		return s.message("INVITE", "sip:"+demoNumber+"@"+h.domain, fmt.Sprintf("i%d", i), "", someSDP)
	})
	// 20 a second and a burst of twice that, for two seconds and some; a 200 is repeated.
	if got.get(503) == 0 || got.get(200) == 0 || got.besides(100, 200, 503) > 0 {
		t.Errorf("answers: %s", got)
	}
	if n := live(h.metrics(t)); n < 20 || n > 200 {
		t.Errorf("%v calls of the flood were let in", n)
	}
}

func (h home) unknownFlood(t *testing.T, agent *phone.Phone) {
	s := newSender(t, floodFrom, h.sip)
	got := h.during(t, agent, s, func(i int) []byte {
		uri := []string{"sip:%d@" + h.domain, "sip:%d@unknown.example", "sip:" + demoNumber + "%d@10.1.2.3"}[i%3]
		return s.message("INVITE", fmt.Sprintf(uri, i), fmt.Sprintf("u%d", i), "", someSDP)
	})
	if got.get(503) == 0 || got.get(404) == 0 || got.besides(100, 200, 404, 503) > 0 { // 200: repetitions for the flood before
		t.Errorf("answers: %s", got)
	}
}

// Broken requests get 4xx where an answer can be addressed, and never a call.
func (h home) brokenFlood(t *testing.T, agent *phone.Phone) {
	s := newSender(t, floodFrom, h.sip)
	large := strings.Repeat("a=x\r\n", 11000) // a datagram of 55 kB
	got := h.during(t, agent, s, func(i int) []byte {
		id := fmt.Sprintf("b%d", i)
		whole := s.message("INVITE", "sip:"+demoNumber+"@"+h.domain, id, "", someSDP)
		switch i % 10 {
		case 0:
			return bytes.Replace(whole, []byte("CSeq: 1 INVITE"), []byte("CSeq: one BYE"), 1)
		case 1:
			return bytes.Replace(whole, []byte("v=0\r\n"), []byte("v=?\r\n"), 1)
		case 2:
			return bytes.Replace(whole, []byte("Content-Length: "), []byte("Content-Length: 9"), 1)
		case 3:
			return bytes.Replace(whole, []byte("From: <sip:"), []byte("From: <<"), 1)
		case 4:
			return whole[:len(whole)/2]
		case 5:
			return bytes.Replace(whole, []byte("Max-Forwards: 70"), []byte("Max-Forwards: -1\r\nRequire: "+strings.Repeat("x", 3000)), 1)
		case 6:
			return s.message("INVITE", "sip:"+demoNumber+"@"+h.domain, id, "", someSDP+large)
		case 7:
			return bytes.ReplaceAll(whole, []byte(s.local), []byte("999.999.999.999:99999"))
		case 8:
			return s.message("INVITE", "tel:+1555", id, "", someSDP)
		default:
			return s.message("FROBNICATE", "sip:"+h.domain, id, "", "")
		}
	})
	if n := got.besides(100, 400, 404, 405, 413, 415, 416, 420, 483, 488, 501, 503, 513); n > got.get(200) || got.get(400) == 0 {
		t.Errorf("answers: %s", got)
	}
}

// A REGISTER flood guesses passwords with a valid nonce: it may guess 20 a second, after a
// burst of ten times that.
func (h home) registerFlood(t *testing.T, agent *phone.Phone) {
	s := newSender(t, floodFrom, h.sip)
	uri := "sip:" + h.domain
	var challenge string
	await(t, "a challenge", func() bool { // the flood before may have used up the source's tokens
		challenge, _ = s.exchange(t, s.message("REGISTER", uri, fmt.Sprintf("c%d", time.Now().UnixNano()), "", ""), time.Second)
		return strings.HasPrefix(challenge, "SIP/2.0 401")
	})
	var mu sync.Mutex
	got := h.during(t, agent, s, func(i int) []byte {
		field, response := answerTo(t, challenge, "1001", wrongPassword, "REGISTER", uri, i+1)
		if i%100 == 0 {
			mu.Lock()
			h.hide(response)
			mu.Unlock()
		}
		return bytes.ReplaceAll(s.message("REGISTER", uri, fmt.Sprintf("r%d", i), field, ""), []byte("sip:flood@"), []byte("sip:1001@"))
	})
	if got.get(503) == 0 || got.get(401) == 0 || got.get(401) > 400 || got.besides(401, 503) > 0 {
		t.Errorf("answers: %s", got)
	}
}

// What is no SIP is not answered, for an answer could be turned on others.
func (h home) garbageFlood(t *testing.T, agent *phone.Phone) {
	s := newSender(t, floodFrom, h.sip)
	got := h.during(t, agent, s, func(i int) []byte {
		noise := make([]byte, 1+i%1400)
		_, _ = rand.Read(noise)
		switch i % 4 {
		case 0:
			return append([]byte("INVITE sip:"), noise...)
		case 1:
			return append([]byte("SIP/2.0 200 OK\r\n"), noise...)
		case 2:
			return bytes.Repeat([]byte{0}, 1+i%1400)
		}
		return noise
	})
	if n := got.besides(400); n > 0 {
		t.Errorf("answers: %s", got)
	}
}

// RTP, RTCP and noise from a stranger to every port of the range: who talks hears only who
// talks, and the ports of dead calls answer nobody.
func (h home) rtpFlood(t *testing.T, agent *phone.Phone) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(floodFrom)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	h.emptyQueue(t)
	support := h.agent(t, "1001")
	talk := h.talk(t, "listens", "127.0.0.2", support)
	talk.forget()
	began := time.Now()
	got := h.during(t, agent, &sender{UDPConn: conn}, func(i int) []byte {
		packet := make([]byte, 12+i%200)
		_, _ = rand.Read(packet)
		if i%2 == 0 {
			packet[0], packet[1] = 0x80, 0 // RTP of PCMU
		}
		_, _ = conn.WriteToUDP(packet, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2000 + i%2000})
		return nil
	})
	if got.besides() > 0 {
		t.Errorf("answers: %s", got)
	}
	talk.alive(t)
	talk.heard(t, time.Since(began), 0.9, 2*time.Second)
	for who, heard := range map[string]measure.Audio{"caller": talk.out.Media.Heard().Audio, "agent": talk.in.Media.Heard().Audio} {
		if stray := heard.Received - heard.Voice; stray > 0 {
			t.Errorf("the %s heard %d packets that nobody spoke", who, stray)
		}
	}
	talk.hangUp(t)
	if m := h.metrics(t); m["dialtone_media_refused_packets_total"] == 0 {
		t.Error("no packet of the stranger was refused")
	}
}

// emptyQueue hangs up whoever lives, as an operator would after an attack.
func (h home) emptyQueue(t *testing.T) {
	t.Helper()
	await(t, "nobody waits", func() bool {
		status, body, err := h.try("GET", "/v1/interactions?phase=live&limit=100", "", h.tenant)
		if err != nil || status != 200 {
			return false
		}
		waiting := 0
		page, _ := interactionsIn(body)
		for _, one := range page {
			if one.Phase != "ending" {
				waiting++
				_, _, _ = h.try("POST", "/v1/interactions/"+one.ID+"/hangup", "", h.tenant)
			}
		}
		return waiting == 0
	})
}

// storm places short calls: INVITE, 200, ACK, BYE, from many addresses, thirty at a time.
func (h home) storm(t *testing.T, calls int) {
	began := time.Now()
	var all sync.WaitGroup
	work := make(chan int)
	for worker := range 30 {
		all.Go(func() {
			s := newSender(t, fmt.Sprintf("127.0.1.%d", 1+worker), h.sip)
			for i := range work {
				if err := s.shortCall(t, h, i); err != nil {
					t.Errorf("call %d of the storm: %v", i, err)
				}
			}
		})
	}
	for i := range calls {
		work <- i
	}
	close(work)
	all.Wait()
	t.Logf("%d short calls in %s", calls, time.Since(began).Round(time.Millisecond))
}

func (s *sender) shortCall(t *testing.T, h home, i int) error {
	id := fmt.Sprintf("s%d", i)
	user := []byte(fmt.Sprintf("sip:storm-%d@", i))
	invite := bytes.ReplaceAll(s.message("INVITE", "sip:"+demoNumber+"@"+h.domain, id, "", someSDP), []byte("sip:flood@"), user)
	answer, err := s.exchangeRepeated(t, invite)
	if err != nil || !strings.HasPrefix(answer, "SIP/2.0 200") {
		return fmt.Errorf("INVITE: %v %.60q", err, answer)
	}
	to := fieldOf(answer, "To")
	for _, method := range []string{"ACK", "BYE"} {
		m := bytes.ReplaceAll(s.message(method, "sip:dialtone@"+h.sip.String(), id+method, "", ""), []byte("sip:flood@"), user)
		m = bytes.Replace(m, []byte(fmt.Sprintf("tag=%s%s", id, method)), []byte("tag="+id), 1)
		m = bytes.Replace(m, []byte("Call-ID: "+id+method), []byte("Call-ID: "+id), 1)
		m = bytes.Replace(m, []byte("To: <sip:dialtone@"+h.sip.String()+">"), []byte("To: "+to), 1)
		if method == "ACK" {
			if _, err := s.Write(m); err != nil {
				return err
			}
			continue
		}
		m = bytes.Replace(m, []byte("CSeq: 1"), []byte("CSeq: 2"), 1)
		if answer, err = s.exchangeRepeated(t, m); err != nil || !strings.HasPrefix(answer, "SIP/2.0 200") || fieldOf(answer, "CSeq") != "2 BYE" {
			return fmt.Errorf("BYE: %v %.60q", err, answer)
		}
	}
	return nil
}

// stormIsFiled checks that every call of the storm has one CDR that says how it was.
func (h home) stormIsFiled(t *testing.T, calls int) {
	t.Helper()
	all, err := h.cdrs(h.tenant)
	if err != nil {
		t.Fatal(err)
	}
	filed := map[string]int{}
	for _, r := range all {
		filed[r.Caller]++
		if strings.HasPrefix(r.Caller, "storm-") && (r.Termination.Reason != "caller_hangup" || r.Termination.Result != "abandoned") {
			t.Errorf("a CDR of the storm: %+v", r)
		}
	}
	for i := range calls {
		if n := filed[fmt.Sprintf("storm-%d", i)]; n != 1 {
			t.Errorf("call %d of the storm has %d CDRs", i, n)
		}
	}
	if filed["warm-up"] != 1 || filed["listens"] != 1 {
		t.Errorf("CDRs of normal calls: %d, %d", filed["warm-up"], filed["listens"])
	}
}
