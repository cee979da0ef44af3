package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
	"github.com/dialtone-cc/dialtone/server/edge/httpapi"
)

// The demo tenant, as scripts rely on it.
const (
	demoTenant = core.TenantID("demo")
	demoDomain = "demo.localhost"
	demoQueue  = core.QueueID("support")
	demoNumber = "5000"
	firstAgent = 1001
	lastAgent  = 1020
)

// furnish makes what is missing of the demo tenant, by commands like those of any client.
// What is there stays as it was changed; only a new password is carried to the agents.
func (m *Main) furnish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := m.ensure(ctx, command.GetTenant{ID: demoTenant}, command.CreateTenant{
		Tenant: tenant.Tenant{ID: demoTenant, Domain: demoDomain, Name: "Demo", Sources: loopback()}.WithDefaults(),
		Key:    core.HashKey(httpapi.NewKey()), // nobody knows it: the operator's key does in dev
	})
	if err != nil {
		return err
	}
	queue := tenant.DefaultQueue()
	queue.ID, queue.Welcome, queue.Music = demoQueue, "welcome", "music"
	if err := m.ensure(ctx, command.GetQueue{ID: demoQueue}, command.PutQueue{Queue: queue}); err != nil {
		return err
	}
	number := tenant.Number{Number: demoNumber, Queue: demoQueue}
	if err := m.ensure(ctx, command.GetNumber{Number: demoNumber}, command.PutNumber{Number: number}); err != nil {
		return err
	}
	return m.furnishAgents(ctx)
}

// furnishAgents makes the agents, or gives them the new password. The password is written
// down last: after a crash in between all of it is done again.
func (m *Main) furnishAgents(ctx context.Context) error {
	before := m.identity.AgentPassword
	password := kept(m.cfg.AgentPassword.Reveal())
	if password == "" {
		password = before
	}
	if password == "" {
		password = kept(rand.Text()[:12])
	}
	for number := firstAgent; number <= lastAgent; number++ {
		id := core.AgentID(strconv.Itoa(number))
		found, err := m.command(ctx, demoTenant, command.GetAgent{ID: id})
		agent := tenant.Agent{ID: id, Name: "Agent " + string(id), Queues: []core.QueueID{demoQueue}, ReadyOnRegister: true}
		switch {
		case err == nil && password == before:
			continue
		case err == nil:
			agent = found.(command.AgentView).Agent
		case !absent(err):
			return err
		}
		agent.Password = password.secret()
		if _, err := m.command(ctx, demoTenant, command.PutAgent{Agent: agent}); err != nil {
			return fmt.Errorf("agent %s: %w", id, err)
		}
	}
	m.identity.AgentPassword = password
	return m.identity.write(m.cfg.Data)
}

// ensure puts what get does not find.
func (m *Main) ensure(ctx context.Context, get, put any) error {
	_, err := m.command(ctx, demoTenant, get)
	if absent(err) {
		_, err = m.command(ctx, demoTenant, put)
	}
	return err
}

func absent(err error) bool {
	var problem *core.Problem
	return errors.As(err, &problem) && problem.Kind == core.NotFound
}

func loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}
