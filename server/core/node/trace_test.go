package node

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

var rewrite = flag.Bool("rewrite", false, "write the traces that were seen into testdata")

// TestTraces runs the scripts of testdata and compares every effect with what stands there.
// A script is a list of blocks:
//
//	command arguments…
//	----
//	the effects, one a line
//	(empty line)
//
// The commands are documented at their case in script.run.
func TestTraces(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runFile(t, file) })
	}
}

func runFile(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t)
	var seen strings.Builder
	for i, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		head, want, _ := strings.Cut(block, "\n----")
		lines := strings.Split(head, "\n")
		for _, l := range lines[:len(lines)-1] {
			seen.WriteString(l + "\n") // comments
		}
		cmd := lines[len(lines)-1]
		got := strings.TrimRight(s.run(strings.Fields(cmd))+s.linger(), "\n")
		if got == "" {
			got = "(nothing)"
		}
		seen.WriteString(cmd + "\n----\n" + got + "\n\n")
		if want = strings.Trim(want, "\n"); want != got && !*rewrite {
			t.Errorf("%s, block %d: %s\n--- want\n%s\n--- got\n%s\n(go test ./server/core/node -run TestTraces -rewrite accepts it)", file, i+1, cmd, want, got)
		}
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimSpace(seen.String())+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// script is a node, the parties around it, and what they have seen.
type script struct {
	t       *testing.T
	n       *Node
	cfg     Config
	now     core.Time
	db      map[string]core.Entry
	stores  []core.Store
	media   []core.LegID
	invites map[string]*core.Request // the last INVITE that a phone got, or a caller sent
	answers map[string]*core.Response
	txns    map[string]core.TxnID
	names   map[string]string // long identifiers, as they first appeared
	count   map[string]int
	manual  bool // the store and the media edge answer only when told to
	port    uint16
	inDlg   uint32

	requests []core.SendRequest // that the node has sent
}

// open returns the request of ours that a transaction carries.
func (s *script) open(txn core.TxnID) *core.Request {
	for _, r := range s.requests {
		if r.Txn == txn && r.Request.Method != core.CANCEL {
			return r.Request
		}
	}
	return nil
}

func newScript(t *testing.T) *script {
	s := &script{t: t, now: core.Time(1_000_000_000 * 1e9), db: map[string]core.Entry{},
		invites: map[string]*core.Request{}, answers: map[string]*core.Response{}, txns: map[string]core.TxnID{},
		names: map[string]string{}, count: map[string]int{}, port: 20000, inDlg: 10,
		cfg: Config{ID: "n1", Operator: core.HashKey("op"), Literal: "demo", Contact: map[core.Transport]netip.AddrPort{
			core.UDP: netip.MustParseAddrPort("127.0.0.1:5060"), core.TCP: netip.MustParseAddrPort("127.0.0.1:5060")}}}
	s.n = New(s.cfg)
	s.step(core.Restored{})
	s.setUp()
	return s
}

// setUp makes tenant demo with queue support, number 5000 and agents 1001 and 1002.
func (s *script) setUp() {
	conf := tenant.DefaultTenant()
	conf.ID, conf.Domain, conf.Name = "demo", "demo.localhost", "Demo"
	conf.Sources = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s.do(command.CreateTenant{Tenant: conf, Key: core.HashKey("key")})
	q := tenant.DefaultQueue()
	q.ID = "support"
	s.do(command.PutQueue{Queue: q})
	for _, id := range []core.AgentID{"1001", "1002"} {
		a := tenant.DefaultAgent()
		a.ID, a.Queues, a.Password, a.ReadyOnRegister = id, []core.QueueID{"support"}, "secret", true
		s.do(command.PutAgent{Agent: a})
	}
	m := tenant.DefaultNumber()
	m.Number, m.Queue = "5000", "support"
	s.do(command.PutNumber{Number: m})
}

func (s *script) do(what any) string {
	return s.step(core.Commanded{Token: 7, Key: core.HashKey("op"), Tenant: "demo", Do: what})
}

// step gives the node one event, answers what the edges answer at once, and returns the
// effects in words.
func (s *script) step(ev core.Event) string {
	s.now += core.Time(time.Millisecond)
	var b strings.Builder
	queue := []core.Event{ev}
	for len(queue) > 0 {
		ev, queue = queue[0], queue[1:]
		for _, eff := range s.n.Step(s.now, ev, nil) {
			if line := s.words(eff); line != "" {
				b.WriteString(line + "\n")
			}
			if answer := s.edge(eff); answer != nil {
				queue = append(queue, answer)
			}
		}
		if err := s.n.Valid(); err != nil {
			s.t.Fatalf("after %T: %v", ev, err)
		}
	}
	return b.String()
}

// edge remembers what an edge would, and returns its answer.
func (s *script) edge(eff core.Effect) core.Event {
	switch e := eff.(type) {
	case core.OpenMedia:
		s.port += 2
		if s.manual {
			s.media = append(s.media, e.Leg)
			return nil
		}
		return core.MediaOpened{Leg: e.Leg, Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port)}
	case core.CloseMedia:
		return core.MediaClosed{Leg: e.Leg, Stats: core.AudioStats{PacketsReceived: 50}}
	case core.Store:
		if s.manual {
			s.stores = append(s.stores, e)
			return nil
		}
		return s.commit(e)
	case core.Deliver:
		return core.Delivered{ID: e.CDR.ID}
	case core.SendRequest:
		s.requests = append(s.requests, e)
		if e.Request.Method == core.INVITE {
			who := e.Request.To.URI.User
			if e.Request.To.Tag() != "" {
				who = "re-" + who
			}
			s.invites[who], s.txns[who] = e.Request, e.Txn
		}
	case core.Respond:
		user := e.Response.From.URI.User
		if _, err := strconv.Atoi(user); err != nil && e.Response.Method == core.INVITE && e.Response.Status == 200 {
			s.answers[user] = e.Response // a phone that was called has its own answer
		}
	}
	return nil
}

// linger lets the writes that nobody waits for follow at once.
func (s *script) linger() string {
	if s.manual {
		return ""
	}
	s.now += core.Time(linger)
	return s.step(core.Woken{})
}

func (s *script) commit(e core.Store) core.Event {
	for _, op := range e.Ops {
		if op.Value == nil {
			delete(s.db, string(e.Tenant)+"/"+op.Key)
		} else {
			s.db[string(e.Tenant)+"/"+op.Key] = core.Entry{Tenant: e.Tenant, Key: op.Key, Value: op.Value}
		}
	}
	return core.Stored{Token: e.Token}
}

// name gives a long identifier a short one that does not depend on chance.
func (s *script) name(kind, id string) string {
	if id == "" {
		return "-"
	}
	if n, ok := s.names[id]; ok {
		return n
	}
	s.count[kind]++
	s.names[id] = kind + strconv.Itoa(s.count[kind])
	return s.names[id]
}

func (s *script) leg(id core.LegID) string {
	call, number, _ := strings.Cut(string(id), "/")
	return s.name("call", call) + "/" + number
}

// words says what an effect is. Listeners' news and log lines are left out.
func (s *script) words(eff core.Effect) string {
	switch e := eff.(type) {
	case core.SendRequest:
		r := e.Request
		return fmt.Sprintf("send %s %s to %s:%d cseq %s%s", r.Method, r.URI.User, e.To.Host, e.To.Port, s.cseq(r.CallID, r.CSeq), direction(r.Body))
	case core.Respond:
		r := e.Response
		line := fmt.Sprintf("respond %d to %s %s%s", r.Status, r.Method, e.To.Addr, direction(r.Body))
		for _, f := range r.Header {
			if f.Name == "Retry-After" {
				line += " " + f.Name
			}
		}
		return line
	case core.OpenMedia:
		return "open " + s.leg(e.Leg)
	case core.CloseMedia:
		return "close " + s.leg(e.Leg)
	case core.SetMedia:
		return fmt.Sprintf("media %s remote %s %s send %v receive %v hears %s", s.leg(e.Leg), e.Spec.Remote, e.Spec.Codec.Name, e.Spec.Send, e.Spec.Receive, s.hears(e.Spec.Hear))
	case core.Store:
		var keys []string
		for _, op := range e.Ops {
			kind, id, _ := strings.Cut(op.Key, "/")
			if kind == "calls" || kind == "outbox" {
				id = s.name("call", id)
			}
			sign := "+"
			if op.Value == nil {
				sign = "-"
			}
			keys = append(keys, sign+kind+"/"+id)
		}
		return "store " + strings.Join(keys, " ")
	case core.Deliver:
		t := e.CDR.Termination
		return fmt.Sprintf("deliver %s %s %s by %s agent %q sip %d q850 %d", s.name("call", string(e.CDR.ID)), t.Result, t.Reason, t.HungUpBy, e.CDR.Agent, t.SIPStatus, t.Q850)
	case core.Reply:
		if e.Problem != nil {
			return "reply " + string(e.Problem.Kind)
		}
		return fmt.Sprintf("reply %T", e.Value)
	case core.Drained:
		return "drained"
	}
	return ""
}

// cseq shows sequence numbers relative to the first of their dialog.
func (s *script) cseq(callID string, n uint32) string {
	if _, ok := s.count["cseq "+callID]; !ok {
		s.count["cseq "+callID] = int(n)
	}
	return fmt.Sprintf("%+d", int(n)-s.count["cseq "+callID])
}

func direction(body []byte) string {
	if len(body) == 0 {
		return ""
	}
	d, err := sdp.Parse(body)
	if err != nil {
		return " SDP " + err.Error()
	}
	return " " + string(d.Direction)
}

func (s *script) hears(h core.Source) string {
	switch h.Kind {
	case core.Playback:
		return h.File
	case core.Bridge:
		return s.leg(h.Peer)
	}
	return "silence"
}

func (s *script) agentLine(id core.AgentID) string {
	a, _ := s.n.tenants["demo"].desk.Agent(id)
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", id, a.Status, a.State, a.Reason)) + "\n"
}

func (s *script) status(id string, st acd.Status) string {
	return s.do(command.SetStatus{Agent: core.AgentID(id), Status: st, Reason: "test"})
}
