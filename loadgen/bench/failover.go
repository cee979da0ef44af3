package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// fleet is `dialtone cluster up`: three members of etcd and three nodes, each a process.
type fleet struct {
	*process
	dir, domain, password string
	answered              chan *phone.Call // by the agents
}

// node is one of a fleet's nodes, as machine.json has it.
type node struct {
	Name string         `json:"name"`
	SIP  netip.AddrPort `json:"sip"`
	HTTP string         `json:"http"`
	Pid  int            `json:"pid"`
}

func (s *Suite) startFleet(ctx context.Context) (*fleet, error) {
	dir, err := os.MkdirTemp(s.work, "cluster-")
	if err != nil {
		return nil, err
	}
	p, err := start(dir, "cluster", nil, s.binary, "cluster", "up", "--json", "--restart", "--base-ip", "127.8.1.", "--data", filepath.Join(dir, "data"))
	if err != nil {
		return nil, err
	}
	f := &fleet{process: p, dir: dir, answered: make(chan *phone.Call, 100)}
	err = until(ctx, time.Minute, func() bool { // it prints the machine when all is there
		text, _ := os.ReadFile(p.log)
		return f.ended() || json.Valid(text)
	})
	if err == nil && f.ended() {
		err = errors.New("it ended")
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("the cluster does not come up: %w\n%s", err, f.tail())
	}
	return f, nil
}

func (f *fleet) close() {
	f.stop()
	_ = os.RemoveAll(f.dir)
}

// nodes reads who runs at the moment.
func (f *fleet) nodes() ([]node, error) {
	text, err := os.ReadFile(filepath.Join(f.dir, "data", "machine.json"))
	if err != nil {
		return nil, err
	}
	var m struct {
		Domain   string `json:"domain"`
		Password string `json:"agent_password"`
		Nodes    []node `json:"nodes"`
	}
	err = json.Unmarshal(text, &m)
	f.domain, f.password = m.Domain, m.Password
	return m.Nodes, err
}

func (n node) ready() bool {
	if n.Pid == 0 {
		return false
	}
	resp, err := http.Get(n.HTTP + "/readyz")
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// failover kills nodes and listens: how long is each party of each call without the other's
// voice, and is any call lost? Each kill hits the node that anchors all calls of its round.
func (s *Suite) failover(ctx context.Context) error {
	kills, calls := s.kills, 4
	if s.quick {
		kills = min(kills, 6)
	}
	f, err := s.startFleet(ctx)
	if err != nil {
		return err
	}
	defer f.close()
	nodes, err := f.nodes()
	if err != nil {
		return err
	}
	engine, err := stream.New(stream.Config{})
	if err != nil {
		return err
	}
	defer engine.Close()
	staff, err := f.hire(ctx, engine, nodes, calls)
	if err != nil {
		return err
	}
	defer staff.Close()
	var gaps []float64 // ms, one for each direction of each call
	lost := 0
	for round := range kills {
		heard, gone, err := f.round(ctx, engine, round, calls)
		if err != nil {
			return fmt.Errorf("kill %d: %w", round+1, err)
		}
		gaps, lost = append(gaps, heard...), lost+gone
		if (round+1)%10 == 0 || s.quick {
			s.say("failover: %d of %d kills, longest silence p50 %.0f ms, p99 %.0f ms, %d calls lost", round+1, kills, quantile(gaps, 0.5), quantile(gaps, 0.99), lost)
		}
	}
	condition := fmt.Sprintf("%d kills (kill -9) of the anchor, %d calls each, 3 durable members of etcd, all on this machine", kills, calls)
	for _, q := range []struct {
		name string
		at   float64
		goal float64
	}{{"p50", 0.5, 60}, {"p90", 0.9, 0}, {"p99", 0.99, 250}, {"max", 1, 0}} {
		row := Row{Experiment: "silence after a kill, " + q.name, Condition: condition, Subject: "dialtone", Unit: "ms", Runs: []float64{quantile(gaps, q.at)}, Samples: len(gaps)}
		if q.goal > 0 {
			row.Goal = AtMost(q.goal)
		}
		s.add(row)
	}
	s.add(Row{Experiment: "calls lost by kills", Condition: condition, Subject: "dialtone", Unit: "calls", Runs: []float64{float64(lost)}, Samples: kills * calls, Goal: AtMost(0)})
	s.Silences = gaps
	return nil
}

// hire registers agents that answer at once. Over UDP every node reaches them itself.
func (f *fleet) hire(ctx context.Context, engine *stream.Engine, nodes []node, agents int) (*phone.Endpoint, error) {
	e, err := phone.Listen(phone.EndpointConfig{Target: phone.Target{Addr: nodes[0].SIP}, Media: engine})
	if err != nil {
		return nil, err
	}
	for i := range agents {
		p, err := e.Phone(phone.Config{User: fmt.Sprint(1001 + i), Password: f.password, Domain: f.domain, AnySource: true})
		if err == nil {
			err = p.Register(ctx, time.Hour)
		}
		if err != nil {
			e.Close()
			return nil, err
		}
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case c := <-p.Incoming():
					if c.Answer(ctx) == nil {
						f.answered <- c
					}
				}
			}
		}()
	}
	return e, nil
}

// round makes calls at one node, kills it, and returns for how long each party heard
// nothing at most, and how many calls were lost by it.
func (f *fleet) round(ctx context.Context, engine *stream.Engine, round, calls int) (silences []float64, lost int, err error) {
	nodes, err := f.nodes()
	if err != nil {
		return nil, 0, err
	}
	victim := nodes[round%len(nodes)]
	e, up, err := f.callAt(ctx, engine, victim, round, calls)
	if err != nil {
		return nil, 0, err
	}
	defer e.Close()
	talking := func(c *phone.Call, packets uint64) bool { return c.Media.Heard().Audio.Voice > packets }
	if err := until(ctx, 20*time.Second, func() bool {
		return slices.IndexFunc(up, func(c *phone.Call) bool { return !talking(c, 25) }) < 0
	}); err != nil {
		return nil, 0, fmt.Errorf("the calls at %s do not come up: %w", victim.Name, err)
	}
	for _, c := range up {
		c.Media.Forget()
	}
	pause(ctx, 100*time.Millisecond)
	if err := syscall.Kill(victim.Pid, syscall.SIGKILL); err != nil {
		return nil, 0, err
	}
	pause(ctx, 1500*time.Millisecond)
	silent := make([]float64, len(up))
	for i, c := range up {
		silent[i] = float64(c.Media.Heard().Audio.LongestGap) / 1000
		c.Media.Forget()
	}
	pause(ctx, 300*time.Millisecond)
	var dead [2]int // callers and agents whose call has ended, or who hear nothing any more
	for i, c := range up {
		select {
		case <-c.Done():
			dead[i/calls]++
		default:
			if talking(c, 0) {
				silences = append(silences, silent[i])
			} else {
				dead[i/calls]++
			}
		}
	}
	for _, c := range up[:calls] {
		_ = c.HangUp(ctx)
	}
	err = until(ctx, 30*time.Second, func() bool {
		nodes, err := f.nodes()
		return err == nil && slices.IndexFunc(nodes, func(n node) bool { return !n.ready() || n.Name == victim.Name && n.Pid == victim.Pid }) < 0
	})
	if err != nil {
		err = fmt.Errorf("%s does not come back: %w\n%s", victim.Name, err, f.tail())
	}
	return silences, max(dead[0], dead[1]), err
}

// callAt makes calls at a node and returns both sides of each: the callers, then the agents.
func (f *fleet) callAt(ctx context.Context, engine *stream.Engine, at node, round, calls int) (e *phone.Endpoint, up []*phone.Call, err error) {
	if e, err = phone.Listen(phone.EndpointConfig{Target: phone.Target{Addr: at.SIP}, Media: engine}); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	for i := range calls {
		p, err := e.Phone(phone.Config{User: fmt.Sprintf("caller%d", i), Domain: f.domain, AnySource: true, Voice: uint64(round*calls + i + 1)})
		if err != nil {
			return nil, nil, err
		}
		c, err := p.Call(ctx, "sip:5000@"+f.domain)
		if err != nil {
			return nil, nil, err
		}
		up = append(up, c)
	}
	for range calls {
		select {
		case c := <-f.answered:
			up = append(up, c)
		case <-time.After(20 * time.Second):
			return nil, nil, errors.New("no agent was called within 20 s")
		}
	}
	return e, up, nil
}

// quantile of some values, 0 to 1; 1 is the largest.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
