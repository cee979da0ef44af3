// Package tenant holds what a tenant has configured: queues, agents, numbers, limits.
// Every value is checked once, by Valid, before it is stored; past that point the core
// trusts it.
package tenant

import (
	"net/netip"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Tenant is one customer of the server. Its SIP domain and its id are unique.
type Tenant struct {
	ID      core.TenantID  `json:"id"`
	Domain  string         `json:"domain"` // host part of its addresses; also the digest realm
	Name    string         `json:"name"`
	Sources []netip.Prefix `json:"sources,omitempty"` // who may send INVITE; loopback is listed in dev
	Limits  Limits         `json:"limits"`
	Keys    []core.KeyHash `json:"keys,omitempty"` // hashes of API keys; never shown
}

// Limits bound what one tenant can take from the others. Zero means the default.
type Limits struct {
	MaxCalls       int `json:"max_calls"`        // live interactions, 1..100000, default 5000
	CallsPerSecond int `json:"calls_per_second"` // accepted INVITEs, 1..10000, default 1000; the burst is one second's worth
}

// Strategy says which of the fitting ready agents gets the next interaction.
type Strategy string

// The strategies.
const (
	LongestIdle Strategy = "longest_idle"
	RoundRobin  Strategy = "round_robin"
	MostSkilled Strategy = "most_skilled" // highest sum of required proficiencies, then longest idle
)

// Queue is where interactions wait for an agent.
type Queue struct {
	ID            core.QueueID   `json:"id"`
	Strategy      Strategy       `json:"strategy"`           // default longest_idle
	RingTimeoutS  float64        `json:"ring_timeout_s"`     // 0.1..300, default 20
	WrapUpS       float64        `json:"wrap_up_s"`          // 0..3600, default 0
	MaxWaiting    int            `json:"max_waiting"`        // 0..100000, default 1000
	Skills        map[string]int `json:"skills,omitempty"`   // required skill -> least proficiency, 1..10
	AgeingS       float64        `json:"ageing_s"`           // waiting this long equals one step of priority; 0..3600, default 60; 0: priority is absolute
	Overflow      *Overflow      `json:"overflow,omitempty"` // nil: wait for ever
	Welcome       string         `json:"welcome,omitempty"`  // audio played once on arrival; "" for none
	WelcomeFirst  bool           `json:"welcome_first"`      // no agent is offered before the welcome has ended
	Music         string         `json:"music,omitempty"`    // audio of waiting and held parties; default "music"
	ServiceLevelS float64        `json:"service_level_s"`    // answered within so many seconds counts as in time; default 20
	ShortAbandonS float64        `json:"short_abandon_s"`    // abandoned sooner is left out of the service level; default 5
}

// Overflow says what becomes of an interaction that waits too long.
type Overflow struct {
	AfterS     float64      `json:"after_s"`            // 0: only when nobody is logged in; up to 86400
	WhenNobody bool         `json:"when_nobody"`        // at once when no agent of the queue is logged in
	Queue      core.QueueID `json:"queue,omitempty"`    // move there, with the first arrival kept; "": end the call
	Announce   string       `json:"announce,omitempty"` // audio played before the call is ended
}

// Agent is a person who takes interactions.
type Agent struct {
	ID              core.AgentID   `json:"id"` // also the user part of its SIP address
	Name            string         `json:"name,omitempty"`
	Password        core.Secret    `json:"password,omitempty"` // on the way in only
	Credentials     []Credential   `json:"-"`                  // what is kept of it
	Queues          []core.QueueID `json:"queues"`
	Skills          map[string]int `json:"skills,omitempty"` // skill -> proficiency, 1..10
	ReadyOnRegister bool           `json:"ready_on_register"`
}

// Credential is H(user:realm:password), the A1 hash of RFC 7616 s.3.4.2, for one algorithm.
type Credential struct {
	Algorithm string `json:"algorithm"` // "MD5" or "SHA-256"
	Hash      string `json:"hash"`      // hex
}

// Number is an address that callers dial.
type Number struct {
	Number   string         `json:"number"`
	Queue    core.QueueID   `json:"queue"`
	Priority int            `json:"priority"`         // 0..10, higher is sooner, default 0
	Skills   map[string]int `json:"skills,omitempty"` // required beside those of the queue
}
