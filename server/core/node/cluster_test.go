package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/call"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/digest"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// group is some nodes on one store, in one order of events: the plainest world in which
// they can meet. Phones answer at once.
type group struct {
	t        *testing.T
	now      core.Time
	members  map[core.NodeID]*member
	revision core.Revision
	keys     map[string]core.Entry
	port     uint16
	cseq     uint32
	rings    bool // phones ring and do not answer
	noPorts  bool // for agents' legs
	offered  int  // offers that were committed
	mute     bool // phones say nothing at all
	deaf     bool // callers do not acknowledge a 200
	reverse  bool // the store shows a commit's changes in reverse
	sent     []message
	cdrs     map[core.InteractionID]int
	replies  []core.Reply
}

type member struct {
	*Node
	id     core.NodeID
	self   core.Revision
	inbox  []core.Event
	paused bool
}

// message is a request that a node sent.
type message struct {
	by  core.NodeID
	to  string // the user
	req *core.Request
	txn core.TxnID
}

func (m message) String() string {
	return fmt.Sprintf("%s:%s->%s %s/%d", m.by, m.req.Method, m.to, m.req.CallID, m.req.CSeq)
}

func newGroup(t *testing.T, ids ...core.NodeID) *group {
	g := &group{t: t, now: core.Time(1_000_000_000 * 1e9), members: map[core.NodeID]*member{}, keys: map[string]core.Entry{},
		port: 20000, cseq: 10, cdrs: map[core.InteractionID]int{}}
	for _, id := range ids {
		g.join(id)
	}
	g.wait(5 * time.Second) // shards come to rest
	first := g.members[ids[0]]
	conf := tenant.DefaultTenant()
	conf.ID, conf.Domain, conf.Name = "demo", "demo.localhost", "Demo"
	conf.Sources = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	g.do(first, command.CreateTenant{Tenant: conf, Key: core.HashKey("key")})
	q := tenant.DefaultQueue()
	q.ID = "support"
	g.do(first, command.PutQueue{Queue: q})
	for _, id := range []core.AgentID{"1001", "1002"} {
		a := tenant.DefaultAgent()
		a.ID, a.Queues, a.Password, a.ReadyOnRegister = id, []core.QueueID{"support"}, "secret", true
		g.do(first, command.PutAgent{Agent: a})
	}
	m := tenant.DefaultNumber()
	m.Number, m.Queue = "5000", "support"
	g.do(first, command.PutNumber{Number: m})
	return g
}

// join starts a process of a node.
func (g *group) join(id core.NodeID) {
	var last [32]byte
	copy(last[:], id)
	last[31] = byte(g.revision)
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, id[0] - 'a' + 1}), 5060)
	m := &member{id: id, Node: New(Config{ID: id, Seed: last, Operator: core.HashKey("op"), Literal: "demo", MaxCalls: 1000, SourceRate: 1000,
		Contact: map[core.Transport]netip.AddrPort{core.UDP: at, core.TCP: at}, MediaAddr: at.Addr()})}
	g.revision++
	m.self = g.revision
	record := cluster.NodeRecord{HTTP: netip.AddrPortFrom(at.Addr(), 8080), Peer: netip.AddrPortFrom(at.Addr(), 7000)}
	g.put("", cluster.NodeKey(id), record.Encode())
	g.members[id] = m
	var entries []core.Entry
	for _, k := range slices.Sorted(maps.Keys(g.keys)) {
		entries = append(entries, g.keys[k])
	}
	m.inbox = []core.Event{core.Restored{Incarnation: m.self, Entries: entries}}
	g.settle()
}

func (g *group) put(t core.TenantID, key string, value []byte) core.Change {
	full := string(t) + "\x00" + key
	if value == nil {
		delete(g.keys, full)
	} else {
		g.keys[full] = core.Entry{Tenant: t, Key: key, Value: value, Revision: g.revision}
	}
	c := core.Change{Tenant: t, Key: key, Value: value, Revision: g.revision}
	if t == "" && strings.HasPrefix(key, "nodes/") {
		g.tell(core.Watched{Changes: []core.Change{c}})
	}
	return c
}

func (g *group) tell(ev core.Event) {
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		g.members[id].inbox = append(g.members[id].inbox, ev)
	}
}

// commit is etcd: all or nothing, in order.
func (g *group) commit(m *member, s core.Store) {
	if g.keys["\x00"+cluster.NodeKey(m.id)].Revision != m.self {
		m.inbox = append(m.inbox, core.Fenced{Token: s.Token})
		return
	}
	for _, c := range s.If {
		if g.keys[string(c.Tenant)+"\x00"+c.Key].Revision != c.Revision {
			m.inbox = append(m.inbox, core.Conflict{Token: s.Token})
			return
		}
	}
	g.revision++
	var w core.Watched
	for _, op := range s.Ops {
		if strings.HasPrefix(op.Key, offerPrefix) && op.Value != nil {
			g.offered++
		}
		full := string(s.Tenant) + "\x00" + op.Key
		if op.Value == nil {
			delete(g.keys, full)
		} else {
			g.keys[full] = core.Entry{Tenant: s.Tenant, Key: op.Key, Value: op.Value, Revision: g.revision}
		}
		w.Changes = append(w.Changes, core.Change{Tenant: s.Tenant, Key: op.Key, Value: op.Value, Revision: g.revision})
	}
	if g.reverse {
		slices.Reverse(w.Changes)
	}
	m.inbox = append(m.inbox, core.Stored{Token: s.Token, Revision: g.revision})
	g.tell(w)
}

// settle lets everything happen that is on its way.
func (g *group) settle() {
	for range 100_000 {
		moved := false
		for _, id := range slices.Sorted(maps.Keys(g.members)) {
			m := g.members[id]
			if m.paused || len(m.inbox) == 0 {
				continue
			}
			ev := m.inbox[0]
			m.inbox = m.inbox[1:]
			g.step(m, ev)
			moved = true
		}
		if !moved {
			return
		}
	}
	g.t.Fatal("it does not come to rest")
}

func (g *group) step(m *member, ev core.Event) {
	g.now += core.Time(time.Microsecond)
	for _, e := range m.Step(g.now, ev, nil) {
		switch e := e.(type) {
		case core.Store:
			g.commit(m, e)
		case core.OpenMedia:
			if g.noPorts && !strings.HasSuffix(string(e.Leg), "/1") {
				m.inbox = append(m.inbox, core.MediaRefused{Leg: e.Leg, Cause: "no port"})
				break
			}
			g.port += 2
			m.inbox = append(m.inbox, core.MediaOpened{Leg: e.Leg, Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), g.port)})
		case core.CloseMedia:
			m.inbox = append(m.inbox, core.MediaClosed{Leg: e.Leg})
		case core.Deliver:
			g.cdrs[e.CDR.ID]++
			m.inbox = append(m.inbox, core.Delivered{ID: e.CDR.ID})
		case core.SetPeers:
			for _, p := range e.Members {
				if o := g.members[p.ID]; o != nil && o.self == p.Incarnation {
					m.inbox = append(m.inbox, core.PeerUp{Peer: p})
				}
			}
		case core.AskPeer:
			if o := g.members[e.Whom.ID]; o != nil {
				o.inbox = append(o.inbox, core.PeerAsked{From: core.Member{ID: m.id, Incarnation: m.self}, About: e.About})
			}
		case core.TellPeer:
			if o := g.members[e.Whom.ID]; o != nil {
				o.inbox = append(o.inbox, core.PeerTold{From: core.Member{ID: m.id, Incarnation: m.self}, About: e.About, Hears: e.Hears})
			}
		case core.SendRequest:
			g.sent = append(g.sent, message{m.id, e.Request.To.URI.User, e.Request, e.Txn})
			g.phone(m, e)
		case core.Respond:
			g.caller(m, e)
		case core.Reply:
			g.replies = append(g.replies, e)
		case core.Log:
			if e.Level >= 8 && !strings.HasPrefix(e.Text, "fenced") {
				g.t.Errorf("%s: %s %v", m.id, e.Text, e.Attrs)
			}
		}
	}
	if err := m.Valid(); err != nil {
		g.t.Fatalf("%s after %T: %v", m.id, ev, err)
	}
}

func phoneAt(user string) netip.AddrPort {
	n, err := strconv.Atoi(user)
	if err != nil {
		n = 9000
	}
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(n))
}

// phone answers a node's request.
func (g *group) phone(m *member, e core.SendRequest) {
	req, user := e.Request, e.Request.To.URI.User
	from := core.Peer{Transport: core.UDP, Addr: phoneAt(user)}
	reply := func(status int, tag string, body bool) {
		r := req.Reply(status, tag)
		if body {
			offer, err := sdp.Parse(req.Body)
			if err != nil {
				g.t.Fatalf("the offer: %v", err)
			}
			a, err := sdp.Local{ID: 2, Version: uint64(g.revision), Addr: netip.AddrPortFrom(from.Addr.Addr(), from.Addr.Port()+20000), Direction: sdp.SendRecv, Formats: sdp.G711()}.Answer(offer)
			if err != nil {
				g.t.Fatal(err)
			}
			r.Contact, r.ContentType, r.Body = []core.Address{{URI: uri(user, from.Addr)}}, "application/sdp", a.Marshal()
		}
		m.inbox = append(m.inbox, core.ResponseReceived{Txn: e.Txn, From: from, Response: r})
	}
	switch {
	case req.Method == core.ACK || g.mute:
	case req.Method == core.INVITE && req.To.Tag() == "":
		reply(180, "phone-"+user, false)
		if !g.rings {
			reply(200, "phone-"+user, true)
		}
	case req.Method == core.INVITE:
		reply(200, "", true)
	default:
		reply(200, "", false)
	}
}

// caller acknowledges what answers its INVITE.
func (g *group) caller(m *member, e core.Respond) {
	r := e.Response
	if r.Method != core.INVITE || r.Status != 200 || r.CSeq != 1 || g.deaf {
		return
	}
	ack := &core.Request{Method: core.ACK, Message: core.Message{From: r.From, To: r.To, CallID: r.CallID, CSeq: 1, Contact: []core.Address{{URI: uri("bob", phoneAt("bob"))}}}}
	m.inbox = append(m.inbox, core.RequestReceived{From: core.Peer{Transport: core.UDP, Addr: phoneAt("bob")}, Request: ack})
}

// wait lets time pass; every node is woken at its deadlines.
func (g *group) wait(d time.Duration) {
	g.settle()
	until := g.now.Add(d)
	for range 100_000 {
		var next *member
		at := until
		for _, id := range slices.Sorted(maps.Keys(g.members)) {
			m := g.members[id]
			if t, _ := m.Deadline(); t < at && !m.paused {
				next, at = m, t
			}
		}
		if next == nil {
			g.now = max(g.now, until)
			return
		}
		g.now = max(g.now, at)
		g.step(next, core.Woken{})
		g.settle()
	}
	g.t.Fatal("time does not pass")
}

func (g *group) do(m *member, what any) core.Reply {
	m.inbox = append(m.inbox, core.Commanded{Token: 7, Key: core.HashKey("op"), Tenant: "demo", Do: what})
	g.settle()
	r := g.replies[len(g.replies)-1]
	if r.Elsewhere.IsValid() {
		return g.do(g.members[core.NodeID(string(rune('a'+r.Elsewhere.Addr().As4()[3]-1)))], what)
	}
	if r.Problem != nil {
		g.t.Fatalf("%T: %v", what, r.Problem)
	}
	return r
}

func (g *group) register(at core.NodeID, user string) {
	m, p := g.members[at], phoneAt(user)
	aor := core.URI{Scheme: "sip", User: user, Host: "demo.localhost"}
	g.cseq++
	req := &core.Request{Method: core.REGISTER, URI: core.URI{Scheme: "sip", Host: "demo.localhost"}, Message: core.Message{
		From: core.Address{URI: aor, Params: ";tag=r"}, To: core.Address{URI: aor}, CallID: "reg-" + user, CSeq: g.cseq,
		Contact: []core.Address{{URI: uri(user, p)}}, Header: []core.Field{{Name: "Expires", Value: "3600"}}}}
	challenge := m.auth.Challenge(g.now, "demo.localhost", false)[0].Value
	value, err := digest.Answer(core.REGISTER, "sip:demo.localhost", user, "secret", challenge, "cnonce", 1)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header = append(req.Header, core.Field{Name: "Authorization", Value: value})
	m.inbox = append(m.inbox, core.RequestReceived{Txn: core.TxnID(fmt.Sprint("reg", g.cseq)), From: core.Peer{Transport: core.UDP, Addr: p}, Request: req})
	g.wait(200 * time.Millisecond)
}

// invite has a caller call 5000 at a node.
func (g *group) invite(at core.NodeID, who string) {
	target := core.URI{Scheme: "sip", User: "5000", Host: "127.0.0.1", Port: 5060}
	body := sdp.Local{ID: 1, Version: 1, Addr: netip.MustParseAddrPort("127.0.0.1:29000"), Direction: sdp.SendRecv, Formats: sdp.G711()}.Offer().Marshal()
	req := &core.Request{Method: core.INVITE, URI: target, Message: core.Message{
		From: core.Address{URI: core.URI{Scheme: "sip", User: who, Host: "example.net"}, Params: ";tag=" + who}, To: core.Address{URI: target},
		CallID: "call-" + who, CSeq: 1, Contact: []core.Address{{URI: uri("bob", phoneAt("bob"))}}, ContentType: "application/sdp", Body: body}}
	m := g.members[at]
	m.inbox = append(m.inbox, core.RequestReceived{Txn: core.TxnID("txn-" + who), From: core.Peer{Transport: core.UDP, Addr: phoneAt("bob")}, Request: req})
	g.wait(200 * time.Millisecond)
}

// kill ends a process at once; the others notice.
func (g *group) kill(id core.NodeID) {
	gone := g.members[id]
	delete(g.members, id)
	g.missed(id, gone)
	g.wait(300 * time.Millisecond)
}

// missed tells the others that a process has ended, which may be a mistake.
func (g *group) missed(id core.NodeID, gone *member) {
	for _, o := range slices.Sorted(maps.Keys(g.members)) {
		if o == id {
			continue
		}
		g.members[o].inbox = append(g.members[o].inbox, core.PeerDead{Peer: core.Member{ID: id, Incarnation: gone.self}})
	}
}

// calls lists the live calls as who anchors them, in which phase.
func (g *group) calls() string {
	var all []string
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		m := g.members[id]
		for _, c := range slices.Sorted(maps.Keys(m.Node.calls)) {
			all = append(all, fmt.Sprintf("%s:%s", id, m.Node.calls[c].Phase))
		}
	}
	return strings.Join(all, " ")
}

// agent returns what each node's desk says of an agent, once if they agree.
func (g *group) agent(id core.AgentID) string {
	var all []string
	for _, n := range slices.Sorted(maps.Keys(g.members)) {
		a, _ := g.members[n].tenants["demo"].desk.Agent(id)
		all = append(all, fmt.Sprintf("%s/%s", a.Status, a.State))
	}
	return strings.Join(slices.Compact(all), " ")
}

func (g *group) owner() core.NodeID {
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		if g.members[id].owns("demo") {
			return id
		}
	}
	g.t.Fatal("nobody owns the shard")
	return ""
}

// other returns a node that does not own the desk.
func (g *group) other() core.NodeID {
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		if id != g.owner() {
			return id
		}
	}
	return ""
}

func (g *group) count(method, to string) (n int) {
	for _, m := range g.sent {
		if m.req.Method == method && m.to == to {
			n++
		}
	}
	return n
}

func TestShardsAreDividedAndFollowTheNodes(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	owned := func() map[core.NodeID]int {
		n := map[core.NodeID]int{}
		for shard := range cluster.Shards {
			m, _, ok := g.members[slices.Sorted(maps.Keys(g.members))[0]].view.Owner(shard)
			if !ok {
				t.Errorf("shard %d has no owner", shard)
			}
			n[m.ID]++
		}
		return n
	}
	if n := owned(); n["a"] < 10 || n["b"] < 10 || n["c"] < 10 {
		t.Errorf("shards: %v", n)
	}
	g.kill("b")
	g.wait(3 * time.Second)
	if n := owned(); n["b"] != 0 || n["a"] < 15 || n["c"] < 15 {
		t.Errorf("after b: %v", n)
	}
	g.join("b")
	g.wait(20 * time.Second)
	if n := owned(); n["b"] < 10 {
		t.Errorf("b is back: %v", n)
	}
}

// Each pairing of who anchors the call and who owns the desk.
func TestCallerReachesAgentAcrossNodes(t *testing.T) {
	for _, at := range []core.NodeID{"a", "b", "c"} {
		t.Run(string(at), func(t *testing.T) {
			g := newGroup(t, "a", "b", "c")
			g.register(g.other(), "1001")
			if s := g.agent("1001"); s != "ready/idle" {
				t.Fatalf("the agent: %s", s)
			}
			g.invite(at, "bob")
			if s := g.calls(); s != string(at)+":bridged" {
				t.Errorf("calls: %s", s)
			}
			if s := g.agent("1001"); s != "ready/talking" {
				t.Errorf("the agent: %s", s)
			}
			if n := g.count(core.INVITE, "1001"); n != 1 {
				t.Errorf("%d INVITEs to the agent", n)
			}
			g.invite(at, "eve") // nobody is free
			if s := g.calls(); s != string(at)+":bridged "+string(at)+":queued" {
				t.Errorf("calls: %s", s)
			}
		})
	}
}

// A killed node's calls are taken over by the others, each by one, with place and agents kept.
func TestKilledNodesCallsLiveOn(t *testing.T) {
	for _, victim := range []string{"owner", "other"} {
		t.Run(victim, func(t *testing.T) {
			g := newGroup(t, "a", "b", "c")
			at := g.owner()
			if victim == "other" {
				at = g.other()
			}
			g.register("a", "1001")
			g.register("b", "1002")
			for i := range 12 {
				g.invite(at, fmt.Sprintf("caller%d", i))
			}
			var order []core.InteractionID
			m := g.members[at]
			for _, id := range slices.Sorted(maps.Keys(m.Node.calls)) {
				if m.Node.calls[id].Phase == call.Queued {
					order = append(order, id)
				}
			}
			arrived := map[core.InteractionID]core.Time{}
			for _, id := range order {
				arrived[id] = m.Node.calls[id].ArrivedAt
			}
			before := len(g.sent)
			g.kill(at)
			alive := map[call.Phase]int{}
			by := map[core.NodeID]int{}
			for _, id := range slices.Sorted(maps.Keys(g.members)) {
				for _, c := range slices.Sorted(maps.Keys(g.members[id].Node.calls)) {
					k := g.members[id].Node.calls[c]
					alive[k.Phase]++
					by[id]++
					if was, ok := arrived[c]; ok && k.ArrivedAt != was {
						t.Errorf("the wait clock of %s: %v, was %v", c, k.ArrivedAt, was)
					}
				}
			}
			if alive[call.Bridged] != 2 || alive[call.Queued] != 10 || len(by) != 2 {
				t.Errorf("after the kill: %v, by node %v", alive, by)
			}
			if s := g.agent("1001") + " " + g.agent("1002"); s != "ready/talking ready/talking" {
				t.Errorf("the agents: %s", s)
			}
			for _, m := range g.sent[before:] {
				if m.req.Method == core.BYE || m.req.Method == core.INVITE && m.req.To.Tag() == "" {
					t.Errorf("%s sent %s to %s", m.by, m.req.Method, m.to)
				}
			}
			// Who waited longest is next, whoever owns the desk now.
			talking := g.agentsCall("1001")
			g.do(g.members[slices.Sorted(maps.Keys(g.members))[0]], command.HangUp{ID: talking})
			g.wait(2 * time.Minute)
			if next := g.agentsCall("1001"); next != order[0] {
				t.Errorf("1001 got %s, %s waited longest", next, order[0])
			}
		})
	}
}

func (g *group) agentsCall(id core.AgentID) core.InteractionID {
	a, _ := g.members[g.owner()].tenants["demo"].desk.Agent(id)
	return a.Interaction
}

// A caller whose ACK came after the record was written is asked with a re-INVITE: its phone
// need not acknowledge the 200 once more.
func TestTakeoverOfAnAnsweredCallerWithoutItsAck(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	at := g.other()
	g.invite(at, "bob") // waits: nothing is written after the 200
	g.deaf = true
	g.kill(at)
	g.wait(time.Minute)
	if s := g.calls(); !strings.HasSuffix(s, ":queued") {
		t.Errorf("calls: %q", s)
	}
	if n := g.count(core.INVITE, "bob"); n != 1 {
		t.Errorf("%d re-INVITEs to the caller", n)
	}
}

// The changes of a commit come in any order: an offer goes with the record that takes it.
func TestOfferLeavesWithTheRecordThatTakesIt(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		g := newGroup(t, "a", "b", "c")
		g.reverse = reverse
		g.register("a", "1001")
		g.invite(g.other(), "bob")
		if s := g.agent("1001"); s != "ready/talking" {
			t.Errorf("reverse %v: the agent: %s", reverse, s)
		}
		for _, k := range slices.Sorted(maps.Keys(g.keys)) {
			if strings.Contains(k, offerPrefix) {
				t.Errorf("reverse %v: left over: %q", reverse, k)
			}
		}
		if n := g.count(core.INVITE, "1001"); n != 1 {
			t.Errorf("reverse %v: %d INVITEs to the agent", reverse, n)
		}
	}
}

// A caller whose agent rings when the anchor dies keeps the place and is offered anew; the
// phone rings for one call only.
func TestRingingCallIsOfferedAnew(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.rings = true
	g.register("a", "1001")
	at := g.other()
	g.invite(at, "bob")
	if s := g.agent("1001"); s != "ready/ringing" {
		t.Fatalf("the agent: %s", s)
	}
	g.kill(at)
	g.wait(time.Second)
	if n := g.count(core.CANCEL, "1001"); n == 0 {
		t.Error("the dead node's INVITE is not cancelled")
	}
	if n := g.count(core.INVITE, "1001"); n != 2 {
		t.Errorf("%d INVITEs, want the first and the new one", n)
	}
	if s := g.agent("1001"); s != "ready/ringing" {
		t.Errorf("the agent: %s", s)
	}
}

// A node that is drained gives its calls to the others: nobody is hung up, and nothing of it
// is left.
func TestDrainMovesCalls(t *testing.T) {
	for _, how := range []string{"ends", "stays"} {
		t.Run(how, func(t *testing.T) {
			g := newGroup(t, "a", "b", "c")
			g.register("a", "1001")
			g.register("b", "1002")
			for i := range 6 {
				g.invite("b", fmt.Sprintf("bob%d", i))
			}
			before := len(g.sent)
			b := g.members["b"]
			if how == "ends" {
				b.inbox = append(b.inbox, core.DrainRequested{Within: 10 * time.Second})
			} else {
				g.revision++
				g.tell(core.Watched{Changes: []core.Change{{Key: cluster.DrainKey("b"), Value: cluster.DrainRecord{By: "test"}.Encode(), Revision: g.revision}}})
			}
			g.wait(5 * time.Second)
			if n := len(b.Node.calls); how == "ends" && n != 6 {
				t.Errorf("%d calls before the limit", n)
			}
			g.wait(10 * time.Second)
			if n := len(b.Node.calls); n != 0 {
				t.Errorf("%d calls are left", n)
			}
			if s := strings.Count(g.calls(), ":bridged"); s != 2 {
				t.Errorf("calls: %s", g.calls())
			}
			if s := strings.Count(g.calls(), ":queued"); s != 4 {
				t.Errorf("calls: %s", g.calls())
			}
			for _, m := range g.sent[before:] {
				if m.req.Method == core.BYE || m.by == "b" {
					t.Errorf("it sent %v", m)
				}
			}
			if how == "ends" {
				if b.life != Over {
					t.Errorf("the node is %s", b.life)
				}
				return
			}
			g.invite("b", "eve")
			if n := len(b.Node.calls); n != 0 {
				t.Error("a node that is to be empty took a call")
			}
			for shard := range cluster.Shards {
				if m, _, ok := g.members["a"].view.Owner(shard); !ok || m.ID == "b" {
					t.Fatalf("shard %d is owned by %q", shard, m.ID)
				}
			}
		})
	}
}

// Calls are taken over some at a time, those that talk first, and phones that say nothing
// do not stop the others.
func TestTakeoverIsBounded(t *testing.T) {
	g := newGroup(t, "a", "b")
	g.register("b", "1001")
	g.invite("a", "bob0")
	for i := range 199 {
		g.invite("a", fmt.Sprintf("bob%d", i+1))
	}
	g.mute = true
	before := len(g.sent)
	gone := g.members["a"]
	delete(g.members, "a")
	g.missed("a", gone)
	g.settle()
	first := g.sent[before:]
	if len(first) != rescues+1 || first[0].to != "1001" && first[1].to != "1001" {
		t.Fatalf("%d re-INVITEs at once, the first to %s and %s: %v", len(first), first[0].to, first[1].to, first)
	}
	g.wait(10 * time.Second)
	reached := map[string]bool{}
	for _, m := range g.sent[before:] {
		reached[m.req.CallID] = true
	}
	if len(reached) != 201 {
		t.Errorf("%d dialogs were told, want 201", len(reached))
	}
}

// A node that slept through its own end changes nothing when it wakes.
func TestPausedNodeIsFenced(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	at := g.other()
	g.register("a", "1001")
	g.invite(at, "bob")
	asleep := g.members[at]
	asleep.paused = true
	g.missed(at, asleep)
	before := len(g.sent)
	asleep.paused = false
	g.wait(30 * time.Second)
	if asleep.life != Over {
		t.Errorf("the node that slept is %s", asleep.life)
	}
	for _, m := range g.sent[before:] {
		if m.by == at {
			t.Errorf("the node that slept sent %s to %s", m.req.Method, m.to)
		}
	}
	delete(g.members, at)
	if s := g.calls(); !strings.HasSuffix(s, ":bridged") || strings.Contains(s, " ") {
		t.Errorf("calls: %s", s)
	}
}

// A lease that ends while etcd is away costs a node nothing, if nobody has claimed it: its
// store writes its record anew.
func TestLapsedLeaseLosesNoCall(t *testing.T) {
	g := newGroup(t, "a")
	g.register("a", "1001")
	g.invite("a", "bob")
	g.invite("a", "eve")
	a := g.members["a"]
	value := g.keys["\x00"+cluster.NodeKey("a")].Value
	before := len(g.sent)
	g.revision++
	g.put("", cluster.NodeKey("a"), nil)
	g.settle()
	g.revision++
	a.self = g.revision
	g.put("", cluster.NodeKey("a"), value)
	g.wait(10 * time.Second)
	if s := g.calls(); s != "a:bridged a:queued" {
		t.Errorf("calls: %q", s)
	}
	if a.life != Serving || !a.owns("demo") {
		t.Errorf("the node is %s, owner: %v", a.life, a.owns("demo"))
	}
	g.do(a, command.HangUp{ID: g.agentsCall("1001")})
	g.wait(2 * time.Minute)
	if s := g.calls(); s != "a:bridged" {
		t.Errorf("after a hang-up: %q", s)
	}
	for _, m := range g.sent[before:] {
		if m.req.Method == core.INVITE && m.req.To.Tag() != "" {
			t.Errorf("sent %v", m)
		}
	}
}

// An agent whose phone does not answer is not ready any more, on every node, whoever
// anchors the call and whoever owns the desk.
func TestNoAnswerIsSeenEverywhere(t *testing.T) {
	g := newGroup(t, "a", "b", "c")
	g.rings = true
	g.register("a", "1001")
	g.invite(g.other(), "bob")
	g.wait(time.Minute)
	if s := g.agent("1001"); s != "not_ready/idle" {
		t.Errorf("the agent: %s", s)
	}
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		if a, _ := g.members[id].tenants["demo"].desk.Agent("1001"); a.Reason != acd.NoAnswer.Reason() {
			t.Errorf("at %s the reason is %q", id, a.Reason)
		}
	}
}

// Bindings as one node alone wrote them, before there were others: they become its own.
func TestFormerBindingsAreTakenUp(t *testing.T) {
	g := newGroup(t, "a")
	g.register("a", "1001")
	key := "demo\x00" + bindingsKey("1001", "a")
	former := g.keys[key]
	former.Key = "bindings/1001"
	delete(g.keys, key)
	g.keys["demo\x00bindings/1001"] = former
	delete(g.members, "a")
	g.join("a") // a restart
	g.wait(5 * time.Second)
	if s := g.agent("1001"); s != "ready/idle" {
		t.Errorf("the agent: %s", s)
	}
	if _, ok := g.keys["demo\x00bindings/1001"]; ok {
		t.Error("the former record is left")
	}
	if _, ok := g.keys[key]; !ok {
		t.Error("the node has not written its own")
	}
	g.invite("a", "bob")
	if s := g.calls(); s != "a:bridged" {
		t.Errorf("calls: %q", s)
	}
}
