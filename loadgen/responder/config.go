// Package responder is a small call center that misbehaves to order: a registrar, one
// queue and a back-to-back user agent which delays, loses, doubles and reorders what passes
// through it, by a seed, and writes down what it really did. A load generator is honest if
// it reports the same.
//
// It shares nothing with the generator's phones and streams, so that a mistake is not made
// on both sides and cancelled.
package responder

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Config is what goes wrong, and where to listen. The zero value of a fault is none.
type Config struct {
	Listen   netip.AddrPort // SIP over UDP; port 0 takes any. RTP ports are opened on the same address
	Password string         // of all agents, by digest; empty: whoever registers is an agent
	Seed     uint64         // of all chance: the same seed and the same traffic give the same faults

	// Audio, each direction by itself.
	Delay     time.Duration // each packet is held so long, up to 10 s
	Jitter    time.Duration // plus or minus so much, evenly; at most Delay
	Loss      float64       // share of packets that vanish, 0 to 1
	Duplicate float64       // share of packets that are sent twice
	Reorder   float64       // share of packets held 30 ms + 2 Jitter longer, so that others overtake them
	Transcode bool          // agents are offered A-law, callers mu-law

	// Signalling, up to 10 s each.
	InviteDelay time.Duration // caller's INVITE to its 100 and to the agent's INVITE (when one is free)
	RingDelay   time.Duration // agent's 180 to the caller's
	AnswerDelay time.Duration // agent's 200 to the caller's
	ByeDelay    time.Duration // BYE of one party to that of the other
	Refuse      []Refusal     // calls that get this status after InviteDelay
	DropSIP     float64       // share of SIP messages that vanish, in and out
}

// Refusal is a share of the calls and what they are told.
type Refusal struct {
	Status int     // 300 to 699
	Share  float64 // 0 to 1
}

const (
	longest    = 10 * time.Second // of any delay
	mostCalls  = 10_000           // at a time, with those that ended in the last 32 s
	mostAgents = 20_000
	mostHeld   = 100_000 // packets at a time, and as many timers of SIP
	mostTold   = 200_000 // calls in a Truth; later ones are counted only
)

func (c *Config) check() error {
	if !c.Listen.Addr().IsValid() {
		return errors.New("listen: an address is missing, such as 127.0.0.1:5060")
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"delay", c.Delay}, {"jitter", c.Jitter}, {"invite-delay", c.InviteDelay}, {"ring-delay", c.RingDelay},
		{"answer-delay", c.AnswerDelay}, {"bye-delay", c.ByeDelay}} {
		if d.value < 0 || d.value > longest {
			return fmt.Errorf("%s %v: must be 0 to %v", d.name, d.value, longest)
		}
	}
	if c.Jitter > c.Delay {
		return fmt.Errorf("jitter %v: must not exceed the delay of %v, no packet leaves before it came", c.Jitter, c.Delay)
	}
	for _, s := range []struct {
		name  string
		value float64
	}{{"loss", c.Loss}, {"duplicate", c.Duplicate}, {"reorder", c.Reorder}, {"drop-sip", c.DropSIP}} {
		if !(s.value >= 0 && s.value <= 1) {
			return fmt.Errorf("%s %v: must be a share of 0 to 1 (0%% to 100%%)", s.name, s.value)
		}
	}
	sum := 0.0
	for _, r := range c.Refuse {
		if r.Status < 300 || r.Status > 699 || !(r.Share >= 0 && r.Share <= 1) {
			return fmt.Errorf("refuse %d:%v: must be a status of 300 to 699 and a share of 0 to 1", r.Status, r.Share)
		}
		sum += r.Share
	}
	if sum > 1.000001 {
		return fmt.Errorf("refuse: the shares add up to %v, more than all calls", sum)
	}
	return nil
}
