package cluster

import (
	"net/netip"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// retry is after how long a Store whose Guards still stand as they stood is made again. It
// can do no harm; as a rule the watch brings what has changed within milliseconds.
const retry = time.Second

// attempt is the last Store about one subject.
type attempt struct {
	subject string
	token   core.Token // 0: its outcome is known
	guards  []core.Guard
	until   core.Time // not again before, unless a Guard would differ; counts from the outcome
}

// Due returns what this process should do now: questions to peers, whom to keep in touch
// with, Stores with tokens that token gives. It is called after each event for which the
// View was fed, and when Deadline has come; without either it costs a comparison.
func (v *View) Due(now core.Time, token func() core.Token, out []core.Effect) []core.Effect {
	if !v.dirty && now < v.wake {
		return out
	}
	v.dirty, v.wake, v.why = false, core.Never, ""
	if v.fenced || v.here(v.self) == nil {
		return out
	}
	v.attempts = slices.DeleteFunc(v.attempts, func(a attempt) bool { return a.token == 0 && a.until <= now })
	out = v.keepInTouch(out)
	out = v.suspect(now, out)
	out = v.claimDead(now, token, out)
	out = v.claimAbsent(now, token, out)
	out = v.takeFree(now, token, out)
	out = v.handOver(now, token, out)
	return v.forget(now, token, out)
}

// Deadline returns when Due is to be called next if nothing happens before, and why.
func (v *View) Deadline() (core.Time, core.Reason) { return v.wake, v.why }

func (v *View) alarm(at core.Time, why core.Reason) {
	if at < v.wake {
		v.wake, v.why = at, why
	}
}

func (v *View) keepInTouch(out []core.Effect) []core.Effect {
	peers := slices.DeleteFunc(v.Members(), func(m core.Member) bool { return m.ID == v.self.ID })
	if slices.Equal(peers, v.peers) && v.known == v.self.Incarnation {
		return out
	}
	v.peers, v.known = peers, v.self.Incarnation
	var from []netip.Addr
	for _, p := range peers {
		record, _ := v.Node(p.ID)
		for _, transport := range []core.Transport{core.UDP, core.TCP} {
			if at := record.SIP[transport].Addr(); at.IsValid() && !slices.Contains(from, at) {
				from = append(from, at)
			}
		}
	}
	return append(out, core.SetPeers{Self: v.known, Members: slices.Clone(peers), SIP: from})
}

// try asks for a Store, if there is anything in it and no other of its subject is open.
// After one whose Guards stand as they stood this waits for what the watch brings: be it
// committed or refused, something is on its way that explains it.
func (v *View) try(now core.Time, subject string, s core.Store, token func() core.Token, out []core.Effect) []core.Effect {
	if len(s.Ops) == 0 {
		return out
	}
	i := slices.IndexFunc(v.attempts, func(a attempt) bool { return a.subject == subject })
	if i < 0 {
		i = len(v.attempts)
		v.attempts = append(v.attempts, attempt{subject: subject})
	} else if a := v.attempts[i]; a.token != 0 {
		return out
	} else if slices.Equal(a.guards, s.If) {
		v.alarm(a.until, "a record of the cluster is tried again")
		return out
	}
	s.Token = token()
	v.attempts[i] = attempt{subject, s.Token, slices.Clone(s.If), core.Never}
	return append(out, s)
}

// settle takes the outcome of a Store.
func (v *View) settle(now core.Time, token core.Token) {
	if i := v.attempt(token); i >= 0 {
		v.attempts[i].token, v.attempts[i].until = 0, now.Add(retry)
		v.dirty = true
	}
}

func (v *View) attempt(token core.Token) int {
	return slices.IndexFunc(v.attempts, func(a attempt) bool { return a.token == token && token != 0 })
}
