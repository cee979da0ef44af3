package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/digest"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// run carries one command out and returns the effects in words.
func (s *script) run(args []string) string {
	cmd, args := args[0], args[1:]
	switch cmd {
	case "register":
		// register 1001: the phone of 1001 at 127.0.0.1:1001 registers, challenge included.
		return s.register(args[0], 3600)
	case "unregister":
		return s.register(args[0], 0)
	case "invite":
		// invite bob 5000 [offer=sendrecv|none|g729|opus]: bob at 127.0.0.1:9000 calls.
		return s.invite(args)
	case "ring", "answer", "reject":
		// ring 1001 | answer 1001 | reject 1001 486: the phone responds to its INVITE.
		return s.respond(cmd, args)
	case "ack":
		// ack bob: the ACK to the 200 that bob got.
		return s.inDialog(args[0], core.ACK, nil)
	case "cancel":
		// cancel bob: a CANCEL for bob's INVITE.
		inv := s.invites[args[0]]
		req := *inv
		req.Method, req.Body = core.CANCEL, nil
		return s.step(core.RequestReceived{Txn: s.newTxn(), Cancels: s.txns[args[0]], From: s.peer(args[0]), Request: &req})
	case "bye":
		// bye bob | bye 1001: hangs up.
		return s.inDialog(args[0], core.BYE, nil)
	case "hold", "resume", "mute":
		// hold bob: a re-INVITE with sendonly; resume: sendrecv; mute: inactive.
		d := map[string]sdp.Direction{"hold": sdp.SendOnly, "resume": sdp.SendRecv, "mute": sdp.Inactive}[cmd]
		return s.inDialog(args[0], core.INVITE, s.offer(args[0], d, sdp.G711()))
	case "ok", "fail":
		// ok 1001 BYE: the phone answers our last request of that kind with 200; fail 1001 INVITE 491.
		return s.answerOurs(cmd, args)
	case "stranger":
		// stranger bob: a BYE with the tag of our side, from somebody who is not the dialog's peer.
		ok := s.answers[args[0]]
		m := core.Message{From: ok.From.WithTag("other"), To: ok.To, CallID: ok.CallID, CSeq: 99}
		return s.step(core.RequestReceived{Txn: s.newTxn(), From: s.peer(args[0]), Request: &core.Request{Method: core.BYE, Message: m}})
	case "nobody_answers":
		// nobody_answers 1001: our INVITE to the phone ends without any response.
		return s.step(core.TransactionFailed{Txn: s.txns[args[0]], Cause: core.TimedOut})
	case "noport":
		// noport: the oldest open port request is refused.
		leg := s.media[0]
		s.media = s.media[1:]
		return s.step(core.MediaRefused{Leg: leg, Cause: "none left"})
	case "idle", "heard":
		// idle call1/1: no RTP comes from that leg; heard: it comes again.
		if cmd == "idle" {
			return s.step(core.MediaIdle{Leg: s.legID(args[0])})
		}
		return s.step(core.MediaResumed{Leg: s.legID(args[0])})
	case "played":
		// played call1/1 1: that playback has ended.
		n, _ := strconv.Atoi(args[1])
		return s.step(core.PlaybackDone{Leg: s.legID(args[0]), Play: uint32(n)})
	case "wait":
		// wait 20s: time passes; the node is woken at each of its deadlines.
		return s.wait(args[0])
	case "manual", "automatic":
		// manual: from now on the store and the media answer only by committed and opened.
		s.manual = cmd == "manual"
		return ""
	case "committed", "unknown", "refused":
		// committed: the oldest open Store is; unknown: its outcome is open; refused: a conflict.
		return s.outcome(cmd)
	case "opened":
		// opened: the oldest open port request is granted.
		leg := s.media[0]
		s.media = s.media[1:]
		return s.step(core.MediaOpened{Leg: leg, Local: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.port)})
	case "crash":
		// crash: the node dies and starts on what was committed.
		return s.crash()
	case "queue":
		// queue wrap_up=10 max_waiting=1 welcome=w welcome_first after=5 announce=busy nobody: changes queue support.
		return s.queue(args)
	case "status":
		// status 1001 ready|not_ready|logged_out
		return s.status(args[0], acd.Status(args[1]))
	case "agents":
		return s.agentLine("1001") + s.agentLine("1002")
	case "hangup":
		// hangup call1: by the API.
		return s.do(command.HangUp{ID: core.InteractionID(s.full(args[0]))})
	case "drain":
		// drain 30s
		d, _ := time.ParseDuration(args[0])
		return s.step(core.DrainRequested{Within: d})
	case "timeline":
		// timeline call1: of a live call.
		return s.timeline(args[0])
	}
	return "unknown command " + cmd
}

func (s *script) newTxn() core.TxnID {
	s.count["txn"]++
	return core.TxnID("txn" + strconv.Itoa(s.count["txn"]))
}

func (s *script) peer(who string) core.Peer {
	port := uint16(9000)
	if n, err := strconv.Atoi(who); err == nil {
		port = uint16(n)
	}
	return core.Peer{Transport: core.UDP, Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)}
}

func uri(user string, at netip.AddrPort) core.URI {
	return core.URI{Scheme: "sip", User: user, Host: at.Addr().String(), Port: at.Port()}
}

func (s *script) register(who string, expires int) string {
	p := s.peer(who)
	req := &core.Request{Method: core.REGISTER, URI: core.URI{Scheme: "sip", Host: "demo.localhost"}, Message: core.Message{
		From:   core.Address{URI: core.URI{Scheme: "sip", User: who, Host: "demo.localhost"}, Params: ";tag=r"},
		To:     core.Address{URI: core.URI{Scheme: "sip", User: who, Host: "demo.localhost"}},
		CallID: "reg-" + who, CSeq: s.inDlg, Contact: []core.Address{{URI: uri(who, p.Addr)}},
		Header: []core.Field{{Name: "Expires", Value: strconv.Itoa(expires)}}}}
	s.inDlg++
	challenge := s.n.auth.Challenge(s.now, "demo.localhost", false)[0].Value
	value, err := digest.Answer(core.REGISTER, "sip:demo.localhost", who, "secret", challenge, "cnonce", 1)
	if err != nil {
		return err.Error()
	}
	req.Header = append(req.Header, core.Field{Name: "Authorization", Value: value})
	return s.step(core.RequestReceived{Txn: s.newTxn(), From: p, Request: req})
}

func (s *script) offer(who string, d sdp.Direction, formats []sdp.Format) []byte {
	s.count["sdp"]++
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.peer(who).Addr.Port()+20000)
	return sdp.Local{ID: 1, Version: uint64(s.count["sdp"]), Addr: at, Direction: d, Formats: formats}.Offer().Marshal()
}

func (s *script) invite(args []string) string {
	who := args[0]
	formats := sdp.G711()
	var kind string
	if len(args) > 2 {
		kind = strings.TrimPrefix(args[2], "offer=")
	}
	switch kind {
	case "g729":
		formats = []sdp.Format{{Payload: 18, Name: "G729", Clock: 8000, Channels: 1}}
	case "opus":
		formats = sdp.PassThrough()[1:]
	}
	target := core.URI{Scheme: "sip", User: args[1], Host: "127.0.0.1", Port: 5060}
	req := &core.Request{Method: core.INVITE, URI: target, Message: core.Message{
		From: core.Address{URI: core.URI{Scheme: "sip", User: who, Host: "example.net"}, Params: ";tag=" + who},
		To:   core.Address{URI: target}, CallID: "call-" + who, CSeq: 1, Contact: []core.Address{{URI: uri(who, s.peer(who).Addr)}}}}
	if kind != "none" {
		req.ContentType, req.Body = "application/sdp", s.offer(who, sdp.SendRecv, formats)
	}
	s.invites[who], s.txns[who] = req, s.newTxn()
	return s.step(core.RequestReceived{Txn: s.txns[who], From: s.peer(who), Request: req})
}

func (s *script) respond(cmd string, args []string) string {
	who := args[0]
	inv := s.invites[who]
	if inv == nil {
		return who + " has no INVITE\n"
	}
	status := map[string]int{"ring": 180, "answer": 200}[cmd]
	if cmd == "reject" {
		status, _ = strconv.Atoi(args[1])
	}
	resp := inv.Reply(status, "phone-"+who)
	if status < 300 {
		resp.Contact = []core.Address{{URI: uri(who, s.peer(who).Addr)}}
	}
	if status == 200 {
		resp.ContentType, resp.Body = "application/sdp", s.answerTo(who, inv.Body)
		s.answers[who] = resp
	}
	return s.step(core.ResponseReceived{Txn: s.txns[who], From: s.peer(who), Response: resp})
}

func (s *script) answerTo(who string, body []byte) []byte {
	offer, err := sdp.Parse(body)
	if err != nil {
		return nil
	}
	s.count["sdp"]++
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.peer(who).Addr.Port()+20000)
	answer, err := sdp.Local{ID: 2, Version: uint64(s.count["sdp"]), Addr: at, Direction: sdp.SendRecv,
		Formats: append(sdp.G711(), sdp.PassThrough()...)}.Answer(offer)
	if err != nil {
		return nil
	}
	return answer.Marshal()
}

// inDialog sends a request inside the dialog that who's INVITE made.
func (s *script) inDialog(who, method string, body []byte) string {
	ok := s.answers[who]
	if ok == nil {
		return who + " has no dialog\n"
	}
	m := core.Message{From: ok.From, To: ok.To, CallID: ok.CallID, CSeq: ok.CSeq}
	if _, err := strconv.Atoi(who); err == nil { // the phone was called: the tags are the other way round
		m.From, m.To = ok.To, ok.From
	}
	if method != core.ACK {
		s.inDlg++
		m.CSeq = s.inDlg
	} else if last := s.answers["last "+who]; last != nil {
		m.CSeq = last.CSeq
	}
	if body != nil {
		m.ContentType, m.Body = "application/sdp", body
	}
	if method == core.ACK && s.invites[who] != nil && len(s.invites[who].Body) == 0 {
		m.ContentType, m.Body = "application/sdp", s.answerTo(who, ok.Body)
	}
	m.Contact = []core.Address{{URI: uri(who, s.peer(who).Addr)}}
	if method == core.INVITE {
		s.answers["last "+who] = &core.Response{Message: core.Message{CSeq: m.CSeq}}
	}
	return s.step(core.RequestReceived{Txn: s.newTxn(), From: s.peer(who), Request: &core.Request{Method: method, Message: m}})
}

// answerOurs answers a request that the node has open towards who.
func (s *script) answerOurs(cmd string, args []string) string {
	who, method := args[0], args[1]
	status := 200
	if cmd == "fail" {
		status, _ = strconv.Atoi(args[2])
	}
	for _, txn := range slices.Sorted(maps.Keys(s.n.asked)) {
		c := s.n.calls[s.n.asked[txn].Interaction()]
		if c == nil {
			continue
		}
		if resp := s.reply(who, method, status, txn); resp != nil {
			return s.step(core.ResponseReceived{Txn: txn, From: s.peer(who), Response: resp})
		}
	}
	return "nothing is open\n"
}

// sent remembers our open requests by transaction: filled by watching effects.
func (s *script) reply(who, method string, status int, txn core.TxnID) *core.Response {
	req := s.open(txn)
	if req == nil || req.Method != method || req.URI.User != who {
		return nil
	}
	resp := req.Reply(status, "")
	if method == core.INVITE && status == 200 {
		resp.Contact = []core.Address{{URI: uri(who, s.peer(who).Addr)}}
		resp.ContentType, resp.Body = "application/sdp", s.answerTo(who, req.Body)
	}
	return resp
}

func (s *script) wait(text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		return err.Error()
	}
	until := s.now.Add(d)
	var b strings.Builder
	for range 10_000 {
		at, why := s.n.Deadline()
		if at > until {
			break
		}
		s.now = max(at, s.now) - core.Time(time.Millisecond) // step adds it again
		if out := s.step(core.Woken{}); out != "" {
			fmt.Fprintf(&b, "%s:\n%s", why, out)
		}
	}
	s.now = until
	return b.String()
}

func (s *script) outcome(cmd string) string {
	if len(s.stores) == 0 {
		return "no store is open\n"
	}
	e := s.stores[0]
	switch cmd {
	case "unknown":
		return s.step(core.Unknown{Token: e.Token})
	case "refused":
		s.stores = s.stores[1:]
		return s.step(core.Conflict{Token: e.Token})
	}
	s.stores = s.stores[1:]
	return s.step(s.commit(e))
}

func (s *script) crash() string {
	var entries []core.Entry
	for _, k := range slices.Sorted(maps.Keys(s.db)) {
		entries = append(entries, s.db[k])
	}
	s.cfg.Seed[0]++
	s.stores, s.media, s.requests = nil, nil, nil
	s.n = New(s.cfg)
	return s.step(core.Restored{Entries: entries})
}

func (s *script) queue(args []string) string {
	q := s.n.tenants["demo"].queues["support"]
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		number, _ := strconv.ParseFloat(value, 64)
		if q.Overflow == nil && (name == "after" || name == "announce" || name == "nobody") {
			q.Overflow = &tenant.Overflow{}
		}
		switch name {
		case "wrap_up":
			q.WrapUpS = number
		case "max_waiting":
			q.MaxWaiting = int(number)
		case "welcome":
			q.Welcome = value
		case "welcome_first":
			q.WelcomeFirst = true
		case "after":
			q.Overflow.AfterS = number
		case "announce":
			q.Overflow.Announce = value
		case "nobody":
			q.Overflow.WhenNobody = true
		}
	}
	return s.do(command.PutQueue{Queue: q})
}

// full returns the identifier that a short name stands for.
func (s *script) full(short string) string {
	for _, id := range slices.Sorted(maps.Keys(s.names)) {
		if s.names[id] == short {
			return id
		}
	}
	return short
}

func (s *script) legID(short string) core.LegID {
	call, number, _ := strings.Cut(short, "/")
	return core.LegID(s.full(call) + "/" + number)
}

func (s *script) timeline(short string) string {
	c := s.n.calls[core.InteractionID(s.full(short))]
	if c == nil {
		return "no such call\n"
	}
	var b strings.Builder
	for _, m := range c.Timeline {
		fmt.Fprintf(&b, "%s\n", strings.TrimSpace(fmt.Sprint(m.What, " ", m.Agent, " ", m.Party, " ", m.Detail)))
	}
	return b.String()
}
