// Package call is the back-to-back user agent: a caller's leg, an agent's leg, and the
// way of an interaction from one to the other. A call is a value that can be written
// down; one file holds what happens in one phase.
package call

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

// Phase is where a call is.
//
//	Arriving -> Greeting -> Queued <-> Offering -> Bridged
//	   every phase -> (Announcing ->) Ending -> Ended
type Phase string

// The phases.
const (
	Arriving   Phase = "arriving"   // INVITE taken, a media port is being opened
	Greeting   Phase = "greeting"   // hears the welcome that must come first
	Queued     Phase = "queued"     // waits for an agent
	Offering   Phase = "offering"   // an agent is reserved for it or rings
	Bridged    Phase = "bridged"    // talks to an agent
	Announcing Phase = "announcing" // hears why it will not be served
	Ending     Phase = "ending"     // over for both parties; legs are being closed
	Ended      Phase = "ended"      // nothing of it is left but its CDR
)

// Bounds of one call. The timeline keeps its head; what does not fit is counted by the CDR's reader as a gap.
const (
	maxFading   = 16
	maxTimeline = 400
)

// Call is one voice interaction. What always holds:
//  1. Offer is set exactly in Offering; Agent may be set in Offering, and is in Bridged.
//  2. Termination and EndedAt are set exactly in Ending and Ended.
//  3. At most one leg is the agent's; legs that are being taken back are in Fading.
//  4. An agent is Reserved, Ringing, Talking or Held at the desk exactly while this call
//     is in Offering or Bridged with that agent.
type Call struct {
	ID       core.InteractionID `json:"id"`
	Tenant   core.TenantID      `json:"tenant"`
	Node     core.NodeID        `json:"node"` // the anchor
	Phase    Phase              `json:"phase"`
	From     string             `json:"from"` // ANI
	To       string             `json:"to"`   // DNIS
	Display  string             `json:"display,omitempty"`
	Queue    core.QueueID       `json:"queue"`
	Priority int                `json:"priority,omitempty"`
	Skills   map[string]int     `json:"skills,omitempty"`

	ArrivedAt  core.Time `json:"arrived_at"`
	QueuedAt   core.Time `json:"queued_at,omitzero"`
	AnsweredAt core.Time `json:"answered_at,omitzero"`
	EndedAt    core.Time `json:"ended_at,omitzero"`
	OverflowAt core.Time `json:"overflow_at,omitzero"`

	Caller leg.Leg   `json:"caller"`
	Agent  *leg.Leg  `json:"agent,omitempty"`
	Offer  *Offer    `json:"offer,omitempty"`
	Fading []leg.Leg `json:"fading,omitempty"`
	Legs   int       `json:"legs"` // numbers given

	Audio       Audio             `json:"audio,omitzero"`
	Timeline    []core.Moment     `json:"timeline"`
	Reports     []core.LegReport  `json:"reports,omitempty"`
	Termination *core.Termination `json:"termination,omitempty"`
	Why         core.EndReason    `json:"why,omitempty"`         // Announcing: what the end will say
	Filed       bool              `json:"filed,omitempty"`       // the CDR is in the outbox
	Incarnation core.Revision     `json:"incarnation,omitempty"` // of the anchor's process
	Mover       core.NodeID       `json:"mover,omitempty"`       // the node that gave the call to its anchor, until that one has taken it

	open    []core.LegID // media legs that are not closed yet
	opening []core.LegID // those of them whose port is not there yet
}

// Audio is what the caller hears while no agent talks.
type Audio struct {
	File string `json:"file"`
	Loop bool   `json:"loop,omitempty"`
	Play uint32 `json:"play"`
}

// Offer is one try to give the call to an agent.
type Offer struct {
	Agent     core.AgentID  `json:"agent"`
	Leg       core.LegID    `json:"leg"`      // of the phone that is rung now
	Contacts  registrar.Set `json:"contacts"` // the phones that are left to try, the next first
	RingUntil core.Time     `json:"ring_until"`
}

// Env is what a call may use during one step.
type Env struct {
	leg.Env
	Node      core.Member // this process: the anchor of what it takes
	Domain    string
	Desk      *acd.Center
	QueueOf   func(core.QueueID) (tenant.Queue, bool)
	Ring      time.Duration // overrides the ring timeout of queues; 0: theirs
	IdleAfter core.Millis

	If     []core.Guard   // what must hold for this step's commit
	With   []core.Op      // other records that this step's commit changes
	Agents []core.AgentID // whose record changed with this step
	Tell   []core.Publish
	CDR    *core.CDR // to be filed with this step's commit
	NoPort bool      // an agent's leg found no media port
}

// New takes the INVITE of a caller for a number. The answer waits for a media port.
func New(env *Env, id core.TenantID, txn core.TxnID, invite *core.Request, from core.Peer, n tenant.Number) *Call {
	c := &Call{ID: env.Rand.Interaction(env.Now), Tenant: id, Node: env.Node.ID, Incarnation: env.Node.Incarnation, Phase: Arriving,
		From: cmp.Or(invite.From.URI.User, invite.From.URI.Host), To: n.Number, Display: invite.From.Display,
		Queue: n.Queue, Priority: n.Priority, Skills: n.Skills, ArrivedAt: env.Now}
	c.Caller = leg.NewUAS(&env.Env, c.nextLeg(), txn, invite, from)
	c.note(env, core.Moment{What: core.Arrived})
	c.openMedia(env, c.Caller.ID)
	return c
}

func (c *Call) nextLeg() core.LegID {
	c.Legs++
	return core.LegID(string(c.ID) + "/" + strconv.Itoa(c.Legs))
}

// note adds a moment to the timeline and tells the tenant's listeners.
func (c *Call) note(env *Env, m core.Moment) {
	m.At = env.Now
	if len(c.Timeline) < maxTimeline || m.What == core.Ended {
		c.Timeline = append(c.Timeline, m)
	}
	env.Tell = append(env.Tell, core.Publish{Tenant: c.Tenant, Kind: "interaction." + string(m.What),
		Data: Notice{Interaction: c.ID, Queue: c.Queue, Moment: m}})
}

// Notice is what listeners are told of a moment.
type Notice struct {
	Interaction core.InteractionID `json:"interaction"`
	Queue       core.QueueID       `json:"queue"`
	core.Moment
}

func (c *Call) queue(env *Env) tenant.Queue { q, _ := env.QueueOf(c.Queue); return q }

// leg returns the leg with that id, nil when it is not of this call any more.
func (c *Call) leg(id core.LegID) *leg.Leg {
	if c.Caller.ID == id {
		return &c.Caller
	}
	if c.Agent != nil && c.Agent.ID == id {
		return c.Agent
	}
	for i := range c.Fading {
		if c.Fading[i].ID == id {
			return &c.Fading[i]
		}
	}
	return nil
}

// EachLeg calls f for every leg, the caller's first.
func (c *Call) EachLeg(f func(*leg.Leg)) {
	f(&c.Caller)
	if c.Agent != nil {
		f(c.Agent)
	}
	for i := range c.Fading {
		f(&c.Fading[i])
	}
}

// Deadline returns when the call wants Wake, and why.
func (c *Call) Deadline() (core.Time, core.Reason) {
	at, why := core.Never, core.Reason("")
	c.EachLeg(func(l *leg.Leg) {
		if t, r := l.Deadline(); t < at {
			at, why = t, r
		}
	})
	if c.Offer != nil && c.Offer.RingUntil < at {
		at, why = c.Offer.RingUntil, "ring timeout"
	}
	if c.OverflowAt != 0 && c.OverflowAt < at && c.waiting() {
		at, why = c.OverflowAt, "overflow"
	}
	return at, why
}

func (c *Call) waiting() bool { return c.Phase == Queued || c.Phase == Offering || c.Phase == Greeting }

// Wake does what is due.
func (c *Call) Wake(env *Env) {
	defer c.settle(env)
	for _, id := range c.legIDs() {
		if l := c.leg(id); l != nil {
			c.react(env, l, l.Wake(&env.Env))
		}
	}
	if c.Offer != nil && c.Offer.RingUntil <= env.Now {
		c.ringTimeout(env)
	}
	if c.OverflowAt != 0 && c.OverflowAt <= env.Now && c.waiting() {
		c.overflow(env, core.MaxWait)
	}
}

func (c *Call) legIDs() []core.LegID {
	ids := make([]core.LegID, 0, 4)
	c.EachLeg(func(l *leg.Leg) { ids = append(ids, l.ID) })
	return ids
}

// react carries a leg's report into the call.
func (c *Call) react(env *Env, l *leg.Leg, r leg.Report) {
	switch {
	case r == leg.Nothing || c.Phase == Ending || c.Phase == Ended:
	case l == &c.Caller:
		c.callerReported(env, r)
	case l == c.Agent && c.Phase == Offering:
		c.offerReported(env, r)
	case l == c.Agent:
		c.agentReported(env, r)
	}
}

func (c *Call) callerReported(env *Env, r leg.Report) {
	switch r {
	case leg.HungUp:
		reason := core.CallerHangup
		if c.Caller.Status == 487 {
			reason = core.CallerCancel
		}
		c.end(env, c.result(core.Abandoned), reason, core.Caller, 0)
	case leg.Lost:
		c.end(env, c.result(core.Abandoned), core.CallerLost, core.System, 0)
	case leg.Silent:
		c.end(env, c.result(core.Abandoned), core.CallerSilent, core.System, 0)
	case leg.Unacked:
		c.end(env, c.result(core.Failed), core.NoAck, core.System, 0)
	case leg.Unstored:
		c.end(env, c.result(core.Failed), core.StoreAway, core.System, 0)
	case leg.Changed:
		c.held(env, &c.Caller)
	}
}

// result returns Completed when an agent was bridged, else the given one.
func (c *Call) result(otherwise core.Result) core.Result {
	if c.AnsweredAt != 0 {
		return core.Completed
	}
	return otherwise
}

// settle brings what follows from the call's new state up to date: media, and its end.
func (c *Call) settle(env *Env) {
	c.arrange(env)
	c.fade()
	c.finish(env)
}

// fade forgets legs that were taken back and are closed.
func (c *Call) fade() {
	kept := c.Fading[:0]
	for _, l := range c.Fading {
		if l.State != leg.Gone {
			kept = append(kept, l)
		}
	}
	if len(kept) > maxFading {
		kept = kept[len(kept)-maxFading:]
	}
	clear(c.Fading[len(kept):])
	c.Fading = kept
}

// Valid checks the numbered invariants above.
func (c *Call) Valid() error {
	over := c.Phase == Ending || c.Phase == Ended
	switch {
	case (c.Offer != nil) != (c.Phase == Offering):
		return fmt.Errorf("call %s: offer %v in phase %s", c.ID, c.Offer != nil, c.Phase)
	case c.ID == "" || c.Tenant == "" || c.Caller.ID.Interaction() != c.ID:
		return fmt.Errorf("call %q of tenant %q: caller's leg is %q", c.ID, c.Tenant, c.Caller.ID)
	case c.Phase == Bridged && c.Agent == nil:
		return fmt.Errorf("call %s: bridged to nobody", c.ID)
	case over != (c.Termination != nil) || over != (c.EndedAt != 0):
		return fmt.Errorf("call %s: phase %s, termination %v", c.ID, c.Phase, c.Termination)
	case len(c.Fading) > maxFading || len(c.Timeline) > maxTimeline+1:
		return fmt.Errorf("call %s: %d fading legs, %d moments", c.ID, len(c.Fading), len(c.Timeline))
	}
	var err error
	c.EachLeg(func(l *leg.Leg) {
		if e := l.Valid(); e != nil && err == nil {
			err = e
		}
	})
	return err
}
