package sim

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// driver is everybody who uses the API: the operator who configures, scripts that ask at
// random, and the agents who say what they are ready for.
type driver struct {
	w     *World
	token core.Token
	asked map[core.Token]asking
	live  []core.InteractionID // some that were listed
	whose []*company           // their tenants
}

type asking struct {
	of      *company
	do      any
	foreign string
	absent  bool
	passed  int // from node to node
	then    func(core.Reply)
}

func newDriver(w *World) *driver { return &driver{w: w, asked: map[core.Token]asking{}} }

// tenantOf says for whom a reply is; "" when it may name anybody.
func (a *driver) tenantOf(t core.Token) core.TenantID {
	if q, ok := a.asked[t]; ok && q.of != nil && q.foreign == "" {
		return q.of.id
	}
	return ""
}

// ask sends a command; of nil is the operator.
func (a *driver) ask(q asking) {
	at := a.w.nodes[0]
	if len(a.w.nodes) > 1 {
		at = a.w.nodes[a.w.rng.IntN(len(a.w.nodes))]
	}
	a.askAt(at, q)
}

// askAt asks one node.
func (a *driver) askAt(at *server, q asking) {
	if !at.up || at.core == nil {
		return
	}
	a.token++
	a.asked[a.token] = q
	ev := core.Commanded{Token: a.token, Key: core.HashKey(operatorKey), Do: q.do}
	if q.of != nil {
		ev.Key, ev.Tenant = q.of.key, q.of.id
	}
	at.emit(ev)
}

func (a *driver) reply(by *server, e core.Reply) {
	q, ok := a.asked[e.Token]
	if !ok {
		a.w.fail("api", "a reply to nobody: token "+strconv.FormatUint(uint64(e.Token), 10))
		return
	}
	delete(a.asked, e.Token)
	if e.Elsewhere.IsValid() {
		a.w.marks.hit("API passed on to another node")
		a.w.after(a.w.between(200*time.Microsecond, 3*time.Millisecond), func() {
			for _, s := range a.w.nodes {
				if q.passed++; s.addr.Addr() == e.Elsewhere.Addr() && q.passed < 30 {
					a.askAt(s, q)
				}
			}
		})
		return
	}
	if q.of != nil {
		a.w.fact(check.Answered{Tenant: q.of.id, Do: q.do, Value: e.Value, Problem: e.Problem, Foreign: q.foreign, Absent: q.absent, Behind: by.behind()})
	}
	if q.then != nil {
		a.w.after(a.w.between(0, time.Millisecond), func() { q.then(e) }) // never inside of the step that answered
	}
}

// configure puts tenants, queues, agents and numbers, one after the other, and then lets
// the agents' phones start.
func (a *driver) configure() {
	var all []asking
	for _, c := range a.w.tenants {
		all = append(all, asking{do: command.CreateTenant{Key: c.key, Tenant: tenant.Tenant{ID: c.id, Domain: c.domain, Name: c.marker + " Ltd",
			Sources: sources()}}})
		for _, q := range append(c.queues, spareQueue("only-"+c.marker)) {
			all = append(all, asking{of: c, do: command.PutQueue{Queue: q}})
		}
		for _, g := range append(c.agents, tenant.Agent{ID: core.AgentID("only-" + c.marker), Password: "x-nobody-uses-it", Queues: []core.QueueID{c.queues[0].ID}}) {
			all = append(all, asking{of: c, do: command.PutAgent{Agent: g}})
		}
		for _, n := range append(c.numbers, tenant.Number{Number: c.spare(), Queue: c.queues[0].ID}) {
			all = append(all, asking{of: c, do: command.PutNumber{Number: n}})
		}
	}
	a.next(all)
}

func spareQueue(id string) tenant.Queue {
	return tenant.Queue{ID: core.QueueID(id), Strategy: tenant.RoundRobin, RingTimeoutS: 5, MaxWaiting: 10, ServiceLevelS: 20, ShortAbandonS: 5}
}

// spare is a number that only this tenant has and nobody calls.
func (c *company) spare() string {
	return "7" + strconv.Itoa(len(c.marker)) + strconv.Itoa(int(c.marker[0]))
}

func (a *driver) next(all []asking) {
	w := a.w
	if len(all) == 0 {
		for _, p := range w.phones {
			if p.device != nil {
				w.after(w.between(0, time.Second), p.device.boot)
			}
		}
		a.chatter()
		return
	}
	q := all[0]
	done := false
	q.then = func(e core.Reply) {
		if done {
			return
		}
		done = true
		switch {
		case e.Problem == nil || e.Problem.Kind == core.Exists:
			a.next(all[1:])
		case e.Problem.Kind == core.Unavailable,
			w.commits != nil && (e.Problem.Kind == core.Unauthorized || e.Problem.Kind == core.Invalid): // another node, which has not heard of the tenant or the queue
			w.marks.hit("API at a node that is behind")
			w.after(500*time.Millisecond, func() { a.next(all) })
		default:
			text, _ := json.Marshal(q.do)
			w.fail("api", "the configuration is refused: "+e.Problem.Error()+" "+string(text)+asText(e.Problem.Fields))
		}
	}
	a.ask(q)
	w.after(10*time.Second, func() {
		if !done {
			done = true
			a.next(all)
		}
	})
}

// chatter asks at random for as long as the chaos lasts; agents come back from a pause.
func (a *driver) chatter() {
	w := a.w
	var people, scripts func()
	people = func() {
		if w.phase == "chaos" {
			person := w.agents[w.rng.IntN(len(w.agents))]
			a.status(person, acd.Ready)
			w.after(w.about(6*time.Second), people)
		}
	}
	w.after(3*time.Second, people)
	if w.opt.API == 0 {
		return
	}
	scripts = func() {
		if w.phase == "chaos" {
			a.random()
			w.after(w.about(w.opt.API), scripts)
		}
	}
	w.after(2*time.Second, scripts)
}

func (a *driver) status(of *agent, s acd.Status) {
	reason := ""
	if s == acd.NotReady {
		reason = "lunch"
	}
	a.ask(asking{of: of.company, do: command.SetStatus{Agent: of.conf.ID, Status: s, Reason: reason}})
}

// random is one command of any kind.
func (a *driver) random() {
	w := a.w
	c := w.tenants[w.rng.IntN(len(w.tenants))]
	q := c.queues[w.rng.IntN(len(c.queues))]
	g := c.agents[w.rng.IntN(len(c.agents))]
	n := c.numbers[w.rng.IntN(len(c.numbers))]
	page := command.Range{Limit: 1 + w.rng.IntN(100)}
	switch w.rng.IntN(20) {
	case 0:
		q.ServiceLevelS = float64(1 + w.rng.IntN(60))
		a.ask(asking{of: c, do: command.PutQueue{Queue: q}})
	case 1:
		g.Password, g.Name = "", "agent of "+c.marker+" renamed"
		a.ask(asking{of: c, do: command.PutAgent{Agent: g}})
	case 2:
		a.ask(asking{of: c, do: command.PutNumber{Number: n}})
	case 3:
		a.ask(asking{of: c, do: command.GetQueue{ID: q.ID}})
	case 4:
		a.ask(asking{of: c, do: command.GetAgent{ID: g.ID}})
	case 5:
		a.ask(asking{of: c, do: command.ListAgents{Range: page}})
	case 6:
		a.ask(asking{of: c, do: command.ListQueues{Range: page}})
	case 7:
		a.ask(asking{of: c, do: command.ListNumbers{Range: page}})
	case 8, 9:
		a.ask(asking{of: c, do: command.GetRealtime{Queue: q.ID}})
	case 10, 11:
		a.list(c, page)
	case 12:
		a.hangUp()
	case 13, 14, 15:
		a.foreign(c)
	case 16:
		a.spares(c)
	case 17:
		a.status(w.agents[w.rng.IntN(len(w.agents))], acd.NotReady)
	case 18:
		if w.rng.IntN(4) == 0 {
			a.status(w.agents[w.rng.IntN(len(w.agents))], acd.LoggedOut)
		}
	default:
		a.status(w.agents[w.rng.IntN(len(w.agents))], acd.Ready)
	}
}

func (a *driver) list(c *company, page command.Range) {
	a.ask(asking{of: c, do: command.ListLive{Range: page}, then: func(e core.Reply) {
		if p, ok := e.Value.(command.Page[command.Interaction]); ok {
			for _, i := range p.Data {
				a.live, a.whose = append(a.live, i.ID), append(a.whose, c)
			}
			if n := len(a.live); n > 20 {
				a.live, a.whose = a.live[n-20:], a.whose[n-20:]
			}
		}
	}})
}

func (a *driver) hangUp() {
	if len(a.live) == 0 {
		return
	}
	i := a.w.rng.IntN(len(a.live))
	a.w.marks.hit("API hang-up")
	a.ask(asking{of: a.whose[i], do: command.HangUp{ID: a.live[i]}})
}

// follow asks for an interaction whose agent has just left it, now and a little later: at
// every moment it is either with the node or in the history.
func (a *driver) follow(of *company, id core.InteractionID) {
	for _, most := range []time.Duration{0, 100 * time.Millisecond, time.Second} {
		a.w.after(a.w.between(0, most), func() { a.ask(asking{of: of, do: command.GetInteraction{ID: id}}) })
	}
}

// spares deletes and puts things that no call needs.
func (a *driver) spares(c *company) {
	switch a.w.rng.IntN(4) {
	case 0:
		a.ask(asking{of: c, do: command.DeleteNumber{Number: c.spare()}})
	case 1:
		a.ask(asking{of: c, do: command.PutNumber{Number: tenant.Number{Number: c.spare(), Queue: c.queues[0].ID}}})
	case 2:
		a.ask(asking{of: c, do: command.DeleteQueue{ID: core.QueueID("spare-" + c.marker)}})
	default:
		a.ask(asking{of: c, do: command.PutQueue{Queue: spareQueue("spare-" + c.marker)}})
	}
}

// foreign asks for something of another tenant, or for something that nobody has: the
// two answers must not differ.
func (a *driver) foreign(c *company) {
	w := a.w
	other := w.tenants[w.rng.IntN(len(w.tenants))]
	id, absent := "only-"+other.marker, other == c
	if absent {
		id = "only-nobody"
	}
	kind := w.rng.IntN(6)
	if kind >= 4 {
		a.foreignCall(c, kind == 4)
		return
	}
	number := other.spare()
	if absent {
		number = "79999"
	}
	q := asking{of: c, foreign: id, absent: absent}
	switch kind {
	case 0:
		q.do = command.GetQueue{ID: core.QueueID(id)}
	case 1:
		q.do = command.GetAgent{ID: core.AgentID(id)}
	case 2:
		q.do, q.foreign = command.GetNumber{Number: number}, number
	default:
		q.do = command.SetStatus{Agent: core.AgentID(id), Status: acd.Ready}
	}
	w.marks.hit("asked for a foreign id")
	a.ask(q)
}

func (a *driver) foreignCall(c *company, hang bool) {
	id, absent := "int_0123456789abcdefghjkmn", true
	if len(a.live) > 0 {
		if i := a.w.rng.IntN(len(a.live)); a.whose[i] != c {
			id, absent = string(a.live[i]), false
			a.w.marks.hit("asked for a foreign call")
		}
	}
	q := asking{of: c, foreign: id, absent: absent, do: command.GetInteraction{ID: core.InteractionID(id)}}
	if hang {
		q.do = command.HangUp{ID: core.InteractionID(id)}
	}
	a.ask(q)
}

// asText is a value as JSON, for looking into it.
func asText(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(text)
}
