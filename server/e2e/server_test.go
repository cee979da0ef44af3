package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	operatorKey = "e2e-operator-key-0123456789"
	password    = "e2e-pass"
	demo        = "demo"
	demoDomain  = "demo.localhost"
)

// server is the program under test as a child.
type server struct {
	*process
	args     []string
	dir, log string
	sip      netip.AddrPort
	http     string
	domain   string // of the demo tenant, where an address does not stand for it
}

// newServer starts a server of the test's own on fresh data.
func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	dir := workdir(t, "server")
	s := startServer(t, dir, args...)
	t.Cleanup(func() {
		s.report(t, 0)
		s.kill()
	})
	return s
}

func startServer(t testing.TB, dir string, args ...string) *server {
	t.Helper()
	sip := ports(t, 4)
	s := &server{dir: dir, log: filepath.Join(dir, "server.log"),
		sip: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sip)), http: fmt.Sprintf("127.0.0.1:%d", sip+2)}
	s.args = append([]string{"dev", "--data", filepath.Join(dir, "data"), "--sip", s.sip.String(), "--http", s.http,
		"--rtp", portRange(t, 400), "--operator-key", operatorKey, "--agent-password", password}, args...)
	s.start(t)
	return s
}

// start runs the server, for the first time or again on the same data and ports.
func (s *server) start(t testing.TB) {
	t.Helper()
	s.process = spawn(t, exec.Command(suite.program, s.args...), s.log)
	eventually(t, "the server is ready", func() bool {
		if !s.running() {
			t.Fatalf("the server ended: %v\n%s", s.err, tail(s.log, 20))
		}
		status, _ := s.ask("GET", "/readyz", "", "", "")
		return status == 200
	})
}

// report shows, after a failure, what the server said since the test began, and where its
// flight record is.
func (s *server) report(t testing.TB, since int64) {
	if !t.Failed() {
		return
	}
	if s.running() {
		_ = s.Process.Signal(syscall.SIGUSR1)
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if found, _ := filepath.Glob(filepath.Join(s.dir, "data", "flight-*.txt")); len(found) > 0 {
				t.Logf("flight record: %s", found[len(found)-1])
				break
			}
		}
	}
	content, _ := os.ReadFile(s.log)
	lines := strings.Split(string(content[min(since, int64(len(content))):]), "\n")
	t.Logf("the server's log (%s):\n%s", s.log, strings.Join(lines[max(0, len(lines)-40):], "\n"))
}

// shared is a server for many tests: each brings a queue and agents of its own.
type shared struct {
	once   sync.Once
	server *server
	desks  int
	mu     sync.Mutex
}

func (c *shared) end() {
	if c.server != nil {
		c.server.kill()
	}
}

// commonServer returns the server that the tests share.
func commonServer(t testing.TB) *server {
	t.Helper()
	c := &suite.common
	c.once.Do(func() { c.server = startServer(t, suite.dir) })
	if c.server == nil {
		t.Fatal("the shared server did not start")
	}
	var size int64
	if info, err := os.Stat(c.server.log); err == nil {
		size = info.Size()
	}
	t.Cleanup(func() { c.server.report(t, size) })
	return c.server
}

// ask makes a request of the API. The tenant goes with the operator's key.
func (s *server) ask(method, path, body, key, tenant string) (int, []byte) {
	request, err := http.NewRequest(method, "http://"+s.http+path, strings.NewReader(body))
	if err != nil {
		return 0, []byte(err.Error())
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	if tenant != "" {
		request.Header.Set("Dialtone-Tenant", tenant)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return 0, []byte(err.Error())
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, []byte(err.Error())
	}
	return response.StatusCode, content
}

// demo asks about the demo tenant; anything but 2xx fails the test.
func (s *server) demo(t testing.TB, method, path, body string, into any) {
	t.Helper()
	status, content := s.ask(method, path, body, operatorKey, demo)
	if status/100 != 2 {
		t.Fatalf("%s %s: %d %s", method, path, status, content)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal(content, into); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, content)
	}
}

// interaction is what the tests read of one.
type interaction struct {
	ID          string    `json:"id"`
	Phase       string    `json:"phase"`
	Caller      string    `json:"caller"`
	Queue       string    `json:"queue"`
	Agent       string    `json:"agent"`
	ArrivedAt   time.Time `json:"arrived_at"`
	Termination *struct {
		Result    string `json:"result"`
		Reason    string `json:"reason"`
		HungUpBy  string `json:"hung_up_by"`
		SIPStatus int    `json:"sip_status"`
	} `json:"termination"`
	Timeline []struct {
		What   string `json:"what"`
		Agent  string `json:"agent"`
		Detail string `json:"detail"`
	} `json:"timeline"`
	Legs []struct {
		Party     string `json:"party"`
		Agent     string `json:"agent"`
		SIPCallID string `json:"sip_call_id"`
		Codec     string `json:"codec"`
		Audio     struct {
			Received uint64 `json:"packets_received"`
			Sent     uint64 `json:"packets_sent"`
		} `json:"audio"`
	} `json:"legs"`
}

// did counts a step in the timeline.
func (i interaction) did(what string) (n int) {
	for _, m := range i.Timeline {
		if m.What == what {
			n++
		}
	}
	return n
}

func (i interaction) String() string {
	text, _ := json.Marshal(i)
	return string(text)
}

// interactions returns those of a queue ("" for all) that are live or ended.
func (s *server) interactions(t testing.TB, phase, queue string) (found []interaction) {
	t.Helper()
	after := ""
	for {
		var page struct {
			Data []interaction `json:"data"`
			More bool          `json:"has_more"`
			Next string        `json:"next"`
		}
		s.demo(t, "GET", "/v1/interactions?limit=100&phase="+phase+after, "", &page)
		for _, i := range page.Data {
			if queue == "" || i.Queue == queue {
				found = append(found, i)
			}
		}
		if !page.More {
			return found
		}
		after = "&after=" + page.Next
	}
}

// record waits for the record of a desk's only call.
func (d desk) record(t testing.TB) interaction {
	t.Helper()
	return d.records(t, 1)[0]
}

// records waits until n calls of a desk are on record, and none lives but those whose last
// BYE a dead phone does not answer.
func (d desk) records(t testing.TB, n int) []interaction {
	t.Helper()
	var ended []interaction
	eventually(t, fmt.Sprintf("%d calls of %s are on record and none lives", n, d.queue), func() bool {
		for _, i := range d.s.interactions(t, "live", d.queue) {
			if i.Phase != "ending" {
				return false
			}
		}
		ended = d.s.interactions(t, "ended", d.queue)
		if len(ended) > n {
			t.Fatalf("%d records of %d calls: %v", len(ended), n, ended)
		}
		return len(ended) == n
	})
	seen := map[string]bool{}
	for _, i := range ended {
		if seen[i.ID] {
			t.Fatalf("two records of %s", i.ID)
		}
		seen[i.ID] = true
	}
	return ended
}

// desk is a queue with its number and agents, for one test.
type desk struct {
	s      *server
	queue  string
	number string
	agents []string
}

// newDesk furnishes a queue; config is the queue's JSON, "" for the defaults.
func newDesk(t testing.TB, s *server, agents int, config string) desk {
	t.Helper()
	suite.common.mu.Lock()
	suite.common.desks++
	n := suite.common.desks
	suite.common.mu.Unlock()
	d := desk{s: s, queue: fmt.Sprintf("desk%d", n), number: fmt.Sprint(6000 + n)}
	if config == "" {
		config = `{}`
	}
	s.demo(t, "PUT", "/v1/queues/"+d.queue, config, nil)
	s.demo(t, "PUT", "/v1/numbers/"+d.number, fmt.Sprintf(`{"queue":%q}`, d.queue), nil)
	for i := range agents {
		id := fmt.Sprintf("a%d-%d", n, i+1)
		d.agents = append(d.agents, id)
		s.demo(t, "PUT", "/v1/agents/"+id, fmt.Sprintf(`{"password":%q,"queues":[%q],"ready_on_register":true}`, password, d.queue), nil)
	}
	return d
}

// uri is what a caller dials.
func (d desk) uri() string {
	if d.s.domain != "" {
		return "sip:" + d.number + "@" + d.s.domain
	}
	return "sip:" + d.number + "@" + d.s.sip.String()
}

// agent is what the tests read of one.
type agent struct {
	Status      string `json:"status"`
	Reason      string `json:"reason"`
	State       string `json:"state"`
	Interaction string `json:"interaction"`
	Registered  int    `json:"registered_contacts"`
}

func (d desk) agent(t testing.TB, n int) (a agent) {
	t.Helper()
	d.s.demo(t, "GET", "/v1/agents/"+d.agents[n], "", &a)
	return a
}

// reaches waits until an agent is seen in a status and a state; "" is any.
func (d desk) reaches(t testing.TB, n int, status, state string) {
	t.Helper()
	var a agent
	defer func() {
		if t.Failed() {
			t.Logf("agent %s: %+v", d.agents[n], a)
		}
	}()
	eventually(t, fmt.Sprintf("agent %s is %s %s", d.agents[n], status, state), func() bool {
		a = d.agent(t, n)
		return (status == "" || a.Status == status) && (state == "" || a.State == state)
	})
}

// waiting returns how many wait in the desk's queue.
func (d desk) waiting(t testing.TB) int {
	t.Helper()
	var r struct {
		Waiting int `json:"waiting"`
	}
	d.s.demo(t, "GET", "/v1/queues/"+d.queue+"/realtime", "", &r)
	return r.Waiting
}

// metric reads the sum of a metric over its labels.
func (s *server) metric(t testing.TB, name string) (sum float64) {
	t.Helper()
	status, content := s.ask("GET", "/metrics", "", "", "")
	if status != 200 {
		t.Fatalf("/metrics: %d", status)
	}
	found := false
	for line := range bytes.Lines(content) {
		rest, ok := strings.CutPrefix(string(line), name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:], &v); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		found, sum = true, sum+v
	}
	if !found {
		t.Fatalf("no metric %s", name)
	}
	return sum
}
