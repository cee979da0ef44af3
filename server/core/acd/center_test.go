package acd_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// center is a whole contact center as its callers and agents see it: it knows what they did
// and what they were told, and nothing of how a Center decides.
type center struct {
	*acd.Center
	now     core.Time
	queues  []tenant.Queue
	agents  []tenant.Agent
	ready   map[core.AgentID]bool
	hasCall map[core.AgentID]core.InteractionID
	talks   map[core.AgentID]bool
	wrapUp  map[core.AgentID]core.Time
	waiting []acd.Entry
	next    int
}

func newCenter(t *rapid.T) *center {
	c := &center{Center: acd.New(), now: 1, ready: map[core.AgentID]bool{}, hasCall: map[core.AgentID]core.InteractionID{},
		talks: map[core.AgentID]bool{}, wrapUp: map[core.AgentID]core.Time{}}
	for i := range rapid.IntRange(1, 3).Draw(t, "queues") {
		q := tenant.Queue{ID: core.QueueID(fmt.Sprint("q", i)), MaxWaiting: 1000,
			Strategy: rapid.SampledFrom([]tenant.Strategy{tenant.LongestIdle, tenant.RoundRobin, tenant.MostSkilled}).Draw(t, "strategy"),
			AgeingS:  rapid.SampledFrom([]float64{0, 1, 60}).Draw(t, "ageing")}
		c.queues = append(c.queues, q)
		c.PutQueue(q)
	}
	for i := range rapid.IntRange(1, 4).Draw(t, "agents") {
		a := tenant.Agent{ID: core.AgentID(fmt.Sprint("a", i)), Skills: map[string]int{"s": rapid.IntRange(0, 2).Draw(t, "grade")}}
		for _, q := range c.queues {
			if rapid.Bool().Draw(t, "member") {
				a.Queues = append(a.Queues, q.ID)
			}
		}
		c.agents = append(c.agents, a)
		c.PutAgent(a)
		c.SetReachable(c.now, a.ID, true)
	}
	return c
}

// free says that an agent could take something, as the agent sees it.
func (c *center) free(id core.AgentID) bool {
	return c.ready[id] && c.hasCall[id] == "" && c.wrapUp[id] <= c.now
}

func (c *center) fits(a tenant.Agent, e acd.Entry) bool {
	return slices.Contains(a.Queues, e.Queue) && a.Skills["s"] >= e.Skills["s"]
}

func (c *center) offered(id core.InteractionID) bool {
	return slices.ContainsFunc(c.agents, func(a tenant.Agent) bool { return c.hasCall[a.ID] == id })
}

// first says that x is served before y: by priority, then first arrival, within their queue.
func (c *center) first(x, y acd.Entry) bool {
	i := slices.IndexFunc(c.queues, func(q tenant.Queue) bool { return q.ID == x.Queue })
	head := func(e acd.Entry) core.Time {
		if c.queues[i].AgeingS == 0 {
			return e.ArrivedAt - core.Time(e.Priority)*core.Time(1000*time.Hour)
		}
		return e.ArrivedAt.Add(-time.Duration(e.Priority) * time.Duration(c.queues[i].AgeingS*1e9))
	}
	return head(x) < head(y)
}

// match takes the reservations and checks each as it comes.
func (c *center) match(t *rapid.T) {
	for _, r := range c.Match(c.now) {
		a := c.agents[slices.IndexFunc(c.agents, func(a tenant.Agent) bool { return a.ID == r.Agent })]
		i := slices.IndexFunc(c.waiting, func(e acd.Entry) bool { return e.ID == r.Interaction })
		if i < 0 || c.offered(r.Interaction) {
			t.Fatalf("%v: it does not wait, or another agent has it", r)
		}
		e := c.waiting[i]
		if !c.free(a.ID) || !c.fits(a, e) || e.Queue != r.Queue {
			t.Fatalf("%v: agent %v, ready %t, with %q, wrap-up until %s, now %s", r, a, c.ready[a.ID], c.hasCall[a.ID], c.wrapUp[a.ID], c.now)
		}
		for _, other := range c.waiting {
			if other.Queue == e.Queue && !c.offered(other.ID) && c.fits(a, other) && c.first(other, e) {
				t.Fatalf("%v: %v was to be served before %v", r, other, e)
			}
		}
		c.hasCall[a.ID] = e.ID
	}
	for _, e := range c.waiting { // nobody waits while an agent who fits is free
		for _, a := range c.agents {
			if c.free(a.ID) && c.fits(a, e) && !c.offered(e.ID) {
				t.Fatalf("%v waits, %v is free", e, a)
			}
		}
	}
}

func (c *center) end(a core.AgentID, o acd.Outcome, wrapUp time.Duration) error {
	delete(c.hasCall, a)
	delete(c.talks, a)
	if o == acd.Done {
		c.wrapUp[a] = c.now.Add(wrapUp)
	} else if o != acd.Withdrawn {
		c.ready[a] = false
	}
	return c.Release(c.now, a, o, wrapUp)
}

func (c *center) stop(id core.InteractionID) {
	c.Leave(c.now, id)
	c.waiting = slices.DeleteFunc(c.waiting, func(e acd.Entry) bool { return e.ID == id })
}

func (c *center) actions() map[string]func(*rapid.T) {
	agent := func(t *rapid.T) core.AgentID { return rapid.SampledFrom(c.agents).Draw(t, "agent").ID }
	return map[string]func(*rapid.T){
		"call": func(t *rapid.T) {
			c.next++
			e := acd.Entry{ID: core.InteractionID(fmt.Sprint("i", c.next)), Queue: rapid.SampledFrom(c.queues).Draw(t, "queue").ID,
				Priority: rapid.IntRange(0, 3).Draw(t, "priority"), Skills: map[string]int{"s": rapid.IntRange(0, 2).Draw(t, "grade")},
				ArrivedAt: max(1, c.now-core.Time(rapid.IntRange(0, 100).Draw(t, "earlier"))*core.Time(time.Second))}
			if err := c.Enqueue(c.now, e); err != nil {
				t.Fatal(err)
			}
			c.waiting = append(c.waiting, e)
		},
		"status": func(t *rapid.T) {
			id, s := agent(t), rapid.SampledFrom([]acd.Status{acd.Ready, acd.Ready, acd.NotReady, acd.LoggedOut}).Draw(t, "status")
			c.SetStatus(c.now, id, s, "")
			c.ready[id] = s == acd.Ready
		},
		"answer": func(t *rapid.T) {
			id := agent(t)
			if c.hasCall[id] == "" || c.talks[id] {
				return
			}
			c.stop(c.hasCall[id])
			c.talks[id] = true
			if err := c.Progress(c.now, id, acd.Talking); err != nil {
				t.Fatal(err)
			}
		},
		"fail": func(t *rapid.T) {
			id, o := agent(t), rapid.SampledFrom([]acd.Outcome{acd.NoAnswer, acd.Rejected, acd.Busy, acd.Unreachable, acd.Withdrawn}).Draw(t, "outcome")
			if c.hasCall[id] == "" || c.talks[id] {
				return
			}
			if err := c.end(id, o, 0); err != nil {
				t.Fatal(err)
			}
		},
		"finish": func(t *rapid.T) {
			if id := agent(t); c.talks[id] {
				if err := c.end(id, acd.Done, time.Duration(rapid.IntRange(0, 9).Draw(t, "wrap-up"))*time.Second); err != nil {
					t.Fatal(err)
				}
			}
		},
		"hang up": func(t *rapid.T) {
			if len(c.waiting) > 0 {
				c.stop(rapid.SampledFrom(c.waiting).Draw(t, "entry").ID)
			}
		},
		"time": func(t *rapid.T) {
			c.now = c.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond)
			c.Expire(c.now)
		},
		"match": c.match,
		"": func(t *rapid.T) {
			if err := c.Valid(); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// TestCenter lets callers and agents do what they like, and then lets them be reasonable:
// everybody whom somebody fits is answered within so many steps as there are callers.
func TestCenter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCenter(t)
		t.Repeat(c.actions())
		for round := 0; ; round++ {
			c.now = c.now.Add(10 * time.Second)
			c.Expire(c.now)
			for _, a := range c.agents {
				switch id := c.hasCall[a.ID]; {
				case c.talks[a.ID]:
					if err := c.end(a.ID, acd.Done, 0); err != nil {
						t.Fatal(err)
					}
				case id != "" && slices.ContainsFunc(c.waiting, func(e acd.Entry) bool { return e.ID == id }):
					c.stop(id)
					c.talks[a.ID] = true
					if err := c.Progress(c.now, a.ID, acd.Talking); err != nil {
						t.Fatal(err)
					}
				case id != "": // the caller has gone
					if err := c.end(a.ID, acd.Withdrawn, 0); err != nil {
						t.Fatal(err)
					}
				}
				c.SetStatus(c.now, a.ID, acd.Ready, "")
				c.ready[a.ID] = true
			}
			c.match(t)
			left := slices.ContainsFunc(c.waiting, func(e acd.Entry) bool {
				return slices.ContainsFunc(c.agents, func(a tenant.Agent) bool { return c.fits(a, e) })
			})
			if !left {
				return
			}
			if round > 10+3*c.next {
				t.Fatalf("%v still waits", c.waiting)
			}
		}
	})
}

// The constant shift of entryPlace orders as the definition of ageing does: by priority plus
// the waiting time in ageing periods, at whatever instant one looks.
func TestAgeingIsWorth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ageing := rapid.IntRange(1, 3600).Draw(t, "ageing")
		c := acd.New()
		c.PutQueue(tenant.Queue{ID: "q", MaxWaiting: 2, AgeingS: float64(ageing)})
		worth := func(e acd.Entry, now core.Time) *big.Rat {
			waited := big.NewRat(int64(now-e.ArrivedAt), int64(ageing)*int64(time.Second))
			return waited.Add(waited, big.NewRat(int64(e.Priority), 1))
		}
		var e [2]acd.Entry
		for i := range e {
			e[i] = acd.Entry{ID: core.InteractionID(fmt.Sprint(i)), Queue: "q", Priority: rapid.IntRange(0, 10).Draw(t, "priority"),
				ArrivedAt: core.Time(rapid.Int64Range(1, 40_000_000_000_000).Draw(t, "arrival"))}
			if err := c.Enqueue(1, e[i]); err != nil {
				t.Fatal(err)
			}
		}
		now := core.Time(rapid.Int64Range(40_000_000_000_000, 90_000_000_000_000).Draw(t, "now"))
		first := 1
		if worth(e[1], now).Cmp(worth(e[0], now)) > 0 {
			first = 2
		}
		if got := c.Position("0"); got != first {
			t.Fatalf("%v of %v is %d, want %d", e[0], e, got, first)
		}
	})
}

// Equal operations give equal reservations, whatever maps do.
func TestDeterministic(t *testing.T) {
	script := func() string {
		p := &play{desk: acd.New()}
		out := ""
		for i := range 30 {
			p.run(fmt.Sprintf("queue q%d", i))
		}
		for i := range 60 {
			p.run(fmt.Sprintf("agent a%d queues=q%d,q%d skills=s%d:1", i, i%30, i*7%30, i%3))
		}
		for i := range 200 {
			p.run(fmt.Sprintf("enqueue i%d queue=q%d skills=s%d:1", i, i%30, i%3))
		}
		for i := range 60 {
			p.run(fmt.Sprintf("login a%d", i))
		}
		for range 5 {
			out += p.run("match")
			for i := range 60 {
				p.run(fmt.Sprintf("progress a%d talking", i))
				p.run(fmt.Sprintf("release a%d done", i))
			}
		}
		return out
	}
	once := script()
	for range 5 {
		if again := script(); again != once {
			t.Fatalf("once\n%s\nagain\n%s", once, again)
		}
	}
}
