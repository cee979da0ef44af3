package sim

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
	"github.com/dialtone-cc/dialtone/sim/check"
)

// company is a tenant and all that belongs to it. Its marker is in every name that it
// alone has, in letters that no identifier of the core is made of, so that a text that
// names another tenant is found by looking.
type company struct {
	id      core.TenantID
	marker  string
	domain  string
	key     core.KeyHash
	queues  []tenant.Queue
	agents  []tenant.Agent
	numbers []tenant.Number
}

var markers = [...]string{"sololio", "lulumoi", "miuioli"}

// build makes the tenants, their agents and the agents' phones. The ids of queues, agents
// and numbers are the same in every tenant: whoever forgets the tenant in a key is found.
func (w *World) build() {
	for t := range w.opt.Tenants {
		m := markers[t]
		c := &company{id: core.TenantID(m), marker: m, domain: m + ".example", key: core.HashKey("key of " + m)}
		for q := range w.opt.Queues {
			c.queues = append(c.queues, w.queue(m, q))
		}
		for n := range c.queues {
			c.numbers = append(c.numbers,
				tenant.Number{Number: strconv.Itoa(5000 + n), Queue: c.queues[n].ID},
				tenant.Number{Number: strconv.Itoa(6000 + n), Queue: c.queues[n].ID, Priority: 1 + w.rng.IntN(10)})
		}
		if w.rng.IntN(3) == 0 {
			c.numbers[0].Skills = map[string]int{"english": 1 + w.rng.IntN(5)}
		}
		w.tenants = append(w.tenants, c)
		for a := range w.opt.Agents {
			w.employ(c, t, a)
		}
	}
	if w.opt.Strangers {
		w.strangers()
	}
}

func (w *World) queue(marker string, i int) tenant.Queue {
	q := tenant.Queue{ID: core.QueueID("queue" + strconv.Itoa(i)), RingTimeoutS: float64(2 + w.rng.IntN(8)),
		WrapUpS: float64(w.rng.IntN(4)), MaxWaiting: 1000, AgeingS: float64([]int{0, 5, 60}[w.rng.IntN(3)]), Music: marker + "-music",
		Strategy: []tenant.Strategy{tenant.LongestIdle, tenant.RoundRobin, tenant.MostSkilled}[w.rng.IntN(3)], ServiceLevelS: 20, ShortAbandonS: 5}
	if w.rng.IntN(6) == 0 {
		q.MaxWaiting = 1 + w.rng.IntN(4)
	}
	if w.rng.IntN(3) == 0 {
		q.Welcome, q.WelcomeFirst = marker+"-welcome", w.rng.IntN(2) == 0
	}
	if w.rng.IntN(3) == 0 {
		q.Skills = map[string]int{"sales": 1 + w.rng.IntN(5)}
	}
	if w.rng.IntN(3) == 0 {
		q.Overflow = &tenant.Overflow{AfterS: float64(5 + w.rng.IntN(30)), WhenNobody: w.rng.IntN(3) == 0, Announce: marker + "-sorry"}
		if i > 0 {
			q.Overflow.Queue, q.Overflow.Announce = "queue0", ""
		}
	}
	return q
}

// employ makes an agent. The first agent of a tenant serves every queue with every skill,
// so that nobody has to wait for ever.
func (w *World) employ(c *company, t, i int) {
	id := core.AgentID(strconv.Itoa(1001 + i))
	a := tenant.Agent{ID: id, Name: "agent of " + c.marker, Password: core.Secret(c.marker + "-secret-" + string(id)),
		ReadyOnRegister: w.rng.IntN(5) > 0, Skills: map[string]int{}}
	for _, q := range c.queues {
		if i == 0 || w.rng.IntN(3) > 0 {
			a.Queues = append(a.Queues, q.ID)
		}
	}
	if a.Queues == nil {
		a.Queues = append(a.Queues, c.queues[0].ID)
	}
	for _, skill := range []string{"english", "sales"} {
		if i == 0 {
			a.Skills[skill] = 10
		} else if level := w.rng.IntN(11); level > 0 {
			a.Skills[skill] = level
		}
	}
	c.agents = append(c.agents, a)
	person := &agent{company: c, conf: a}
	w.agents = append(w.agents, person)
	phones := 1
	if w.chance(w.opt.TwoPhones) {
		phones = 2
	}
	for n := range phones {
		w.device(person, string(id), netip.AddrFrom4([4]byte{10, 1, byte(16*t + n), byte(i + 1)}))
	}
}

func (w *World) device(person *agent, user string, ip netip.Addr) *device {
	transport := core.UDP
	if w.chance(w.opt.TCP) {
		transport = core.TCP
	}
	c := person.company
	p := newPhone(w, c, c.marker+"-"+user+"-at-"+ip.String(), netip.AddrPortFrom(ip, 5060), transport)
	p.user, p.far.Agent = user, core.AgentID(user)
	d := &device{p: p, of: person, password: person.conf.Password.Reveal()}
	p.device = d
	person.devices = append(person.devices, d)
	return d
}

// strangers are phones that must get nothing: a wrong password, an unknown user.
func (w *World) strangers() {
	for i, user := range []string{"1001", "9999"} {
		c := w.tenants[0]
		ip := netip.AddrFrom4([4]byte{10, 3, 0, byte(i + 1)})
		p := newPhone(w, c, "stranger-"+user, netip.AddrPortFrom(ip, 5060), core.UDP)
		p.user = user
		p.device = &device{p: p, of: &agent{company: c}, password: "guess", stranger: true}
	}
}

// setup is what the checkers may know.
func (w *World) setup() *check.Setup {
	// What is on its way when a connection is reset is lost, and nobody sends it again.
	s := &check.Setup{Nodes: w.opt.Nodes, Lossless: w.opt.Faults == 0 && w.opt.Loss == 0 && (w.opt.Resets == 0 || w.opt.TCP == 0), MaxHeld: 20_000, MaxStep: 2_000,
		Slack: core.Millis(3*w.opt.StoreMean.Milliseconds() + 2*w.opt.Shuffle.Milliseconds() + 50)}
	if w.opt.StoreSlow > 0 || w.opt.Unknown > 0 {
		s.Slack += core.Millis(6 * w.opt.StoreWorst.Milliseconds())
	}
	for _, c := range w.tenants {
		s.Tenants = append(s.Tenants, check.Tenant{ID: c.id, Queues: c.queues, Agents: c.agents, Numbers: c.numbers})
	}
	return s
}

// tainted looks for the marker of one tenant in what the node makes for another.
func (w *World) tainted(ef core.Effect) {
	if len(w.tenants) < 2 {
		return
	}
	var owner core.TenantID
	where := ""
	var texts []string
	switch e := ef.(type) {
	case core.SendRequest:
		owner, where = w.nodes[0].far(w.nodes[0].addrTo(e.To)).Tenant, e.Request.Method
		texts = append(textsOf(&e.Request.Message), e.Request.URI.String())
	case core.Respond:
		owner, where = w.nodes[0].far(e.To.Addr).Tenant, "a response to "+e.Response.Method
		texts = textsOf(&e.Response.Message)
	case core.Store:
		owner, where = e.Tenant, "a record"
		for _, op := range e.Ops {
			texts = append(texts, op.Key, string(op.Value))
		}
	case core.Publish:
		owner, where, texts = e.Tenant, "an event "+e.Kind, []string{asText(e.Data)}
	case core.Deliver:
		owner, where, texts = e.CDR.Tenant, "a CDR", []string{asText(e.CDR)}
	case core.Reply:
		owner, where, texts = w.api.tenantOf(e.Token), "a reply", []string{asText(e.Value), asText(e.Problem)}
	}
	if owner == "" {
		return
	}
	for _, c := range w.tenants {
		for _, text := range texts {
			if c.id != owner && strings.Contains(text, c.marker) {
				w.fact(check.Written{Tenant: owner, Where: where, Names: c.id})
			}
		}
	}
}

func textsOf(m *core.Message) []string {
	texts := []string{m.From.String(), m.To.String(), m.CallID, string(m.Body)}
	for _, a := range m.Contact {
		texts = append(texts, a.String())
	}
	for _, f := range m.Header {
		texts = append(texts, f.Value)
	}
	return texts
}
