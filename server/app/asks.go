package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/node"
)

// ownTokens are those of commands that the program itself gives; the API counts from below.
const ownTokens core.Token = 1 << 62

// answers waits for the replies to the program's own commands.
type answers struct {
	mu      sync.Mutex
	next    core.Token
	waiting map[core.Token]chan core.Reply
}

// take hands a reply to who waits for it; false: it is not one of the program's own.
func (a *answers) take(r core.Reply) bool {
	if r.Token < ownTokens {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if waiting, ok := a.waiting[r.Token]; ok {
		delete(a.waiting, r.Token)
		waiting <- r // holds one
	}
	return true
}

// command asks the core, as any client of the API would, with the operator's key.
func (m *Main) command(ctx context.Context, tenant core.TenantID, do any) (any, error) {
	reply := make(chan core.Reply, 1)
	m.asks.mu.Lock()
	m.asks.next++
	token := ownTokens + m.asks.next
	m.asks.waiting[token] = reply
	m.asks.mu.Unlock()
	defer func() {
		m.asks.mu.Lock()
		delete(m.asks.waiting, token)
		m.asks.mu.Unlock()
	}()
	if !m.emit(core.Commanded{Token: token, Key: core.HashKey(m.OperatorKey().Reveal()), Tenant: tenant, Do: do}) {
		return nil, errors.New("the core takes no commands")
	}
	select {
	case r := <-reply:
		if r.Problem != nil {
			return nil, r.Problem
		}
		return r.Value, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the core does not answer: %w", ctx.Err())
	}
}

// glance is the last look into the node.
type glance struct {
	mu sync.Mutex
	at time.Time
	g  node.Gauges
	ok bool
}

// How old a look may be: probes and scrapes, however many, ask the loop ten times a second.
const glanceAge = 100 * time.Millisecond

// gauges returns the node in numbers; false: the loop did not answer within a second.
func (m *Main) gauges() (node.Gauges, bool) {
	m.glance.mu.Lock()
	defer m.glance.mu.Unlock()
	if time.Since(m.glance.at) > glanceAge {
		m.glance.g, m.glance.ok = m.look()
		m.glance.at = time.Now()
	}
	return m.glance.g, m.glance.ok
}

func (m *Main) look() (node.Gauges, bool) {
	l := m.loop.Load()
	if l == nil {
		return node.Gauges{}, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	answer := make(chan node.Gauges, 1) // a late answer must not race with the caller
	if l.Ask(ctx, func() { answer <- m.node.Gauges() }) != nil {
		return node.Gauges{}, false
	}
	return <-answer, true
}
