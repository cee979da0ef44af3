package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// cluster is three members of etcd and some nodes, each a process of its own.
type cluster struct {
	etcds []*process
	nodes []*server
}

// startCluster starts a cluster with the demo tenant.
func startCluster(t testing.TB, nodes int, args ...string) *cluster {
	t.Helper()
	dir := workdir(t, "cluster")
	c := &cluster{}
	const members = 3
	var clients, peers []string
	for i := range members {
		at := ports(t, 2)
		clients = append(clients, fmt.Sprintf("127.0.0.1:%d", at))
		peers = append(peers, fmt.Sprintf("e%d=http://127.0.0.1:%d", i+1, at+1))
	}
	for i := range members {
		name := fmt.Sprintf("e%d", i+1)
		_, peer, _ := strings.Cut(peers[i], "//")
		c.etcds = append(c.etcds, spawn(t, exec.Command(suite.program, "etcd", "--name", name, "--dir", filepath.Join(dir, name),
			"--client", clients[i], "--peer", peer, "--cluster", strings.Join(peers, ",")), filepath.Join(dir, name+".log")))
	}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		at := ports(t, 6)
		s := &server{dir: filepath.Join(dir, name), log: filepath.Join(dir, name+".log"), domain: demoDomain,
			sip: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at)), http: fmt.Sprintf("127.0.0.1:%d", at+2)}
		s.args = append([]string{"server", "--node", name, "--data", filepath.Join(s.dir, "data"), "--sip", s.sip.String(), "--http", s.http,
			"--rtp", portRange(t, 200), "--operator-key", operatorKey, "--etcd-endpoints", strings.Join(clients, ","),
			"--cluster-listen", fmt.Sprintf("127.0.0.1:%d", at+4), "--drain-timeout", "2s", "--log-level", "debug"}, args...)
		c.nodes = append(c.nodes, s)
	}
	for _, s := range c.nodes {
		s.start(t)
	}
	t.Cleanup(func() {
		for _, s := range c.nodes {
			s.report(t, 0)
			s.kill()
		}
		for _, e := range c.etcds {
			e.kill()
		}
	})
	eventually(t, "the tenant is made", func() bool { // each shard has an owner in a moment
		status, _ := c.nodes[0].ask("POST", "/v1/tenants", `{"id":"demo","domain":"demo.localhost","name":"Demo"}`, operatorKey, "")
		return status == 201 || status == 409
	})
	for _, s := range c.nodes {
		eventually(t, "the tenant takes calls from here", func() bool {
			status, _ := s.ask("PATCH", "/v1/tenants/demo", `{"sources":["127.0.0.0/8"]}`, operatorKey, "")
			return status == 200
		})
	}
	return c
}

// desk furnishes a queue and waits until every node knows it: they learn it by their watch.
func (c *cluster) desk(t testing.TB, agents int, config string) desk {
	t.Helper()
	d := newDesk(t, c.nodes[0], agents, config)
	for _, s := range c.nodes {
		eventually(t, "the node knows the desk", func() bool {
			status, _ := s.ask("GET", "/v1/agents/"+d.agents[agents-1], "", operatorKey, demo)
			return status == 200
		})
	}
	return d
}

// at is a desk as a node shows it.
func (d desk) at(s *server) desk {
	d.s = s
	return d
}

// hearEachOther says how long neither party heard the other at most, since Forget.
func hearEachOther(t testing.TB, a, b *phone.Call, toneOfA, toneOfB float64) time.Duration {
	t.Helper()
	soon(t, "one party", hearing(a), toneOfB, 0.8)
	soon(t, "the other party", hearing(b), toneOfA, 0.8)
	return time.Duration(max(a.Media.Heard().Audio.LongestGap, b.Media.Heard().Audio.LongestGap)) * time.Microsecond
}

// The reason why dialtone exists: a node is killed, and its callers hear a click. Calls that
// talk go on talking, those that wait keep their place, and one that is anchored elsewhere
// notices nothing.
func TestKilledNodeKeepsItsCalls(t *testing.T) {
	c := startCluster(t, 3)
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
	d := c.desk(t, 2, `{"wrap_up_s":0}`)
	first := phoneAgent(t, d.at(n1), 0, agentTone)
	caller := dials(t, d.at(n1), "caller", callerTone)
	call := answers(t, first)
	second := baresipAgent(t, d.at(n2), 1, account{tone: agentTone})
	listener := dials(t, d.at(n1), "listener", callerTone)
	soon(t, "the caller of a baresip", hearing(listener), agentTone, 0.8)
	waits := dials(t, d.at(n1), "waits", callerTone)
	eventually(t, "one waits", func() bool { return d.at(n3).waiting(t) == 1 })
	later := dials(t, d.at(n2), "later", callerTone)
	eventually(t, "two wait", func() bool { return d.at(n3).waiting(t) == 2 })
	hearEachOther(t, caller, call, callerTone, agentTone)

	for _, k := range []*phone.Call{caller, call, listener, waits, later} {
		k.Media.Forget()
	}
	n1.kill()

	heard := since(second.heard)
	gap := hearEachOther(t, caller, call, callerTone, agentTone)
	soon(t, "the caller of a baresip", hearing(listener), agentTone, 0.8)
	soon(t, "the baresip", heard, callerTone, 0.8)
	t.Logf("longest gap: %v between our phones, %v for the caller of a baresip", gap, time.Duration(listener.Media.Heard().Audio.LongestGap)*time.Microsecond)
	for name, k := range map[string]*phone.Call{"the caller who waits": waits, "the caller at another node": later} {
		musicPlays(t, name, hearing(k))
	}
	for _, k := range []*phone.Call{caller, call, listener, waits, later} {
		select {
		case <-k.Done():
			t.Fatalf("a call ended by %s", k.Cause())
		default:
		}
	}

	// Who waited longest is next, though it waited at the node that died.
	hangsUp(t, caller)
	over(t, call)
	next := answers(t, first)
	soon(t, "who waited longest", hearing(waits), agentTone, 0.8)
	hangsUp(t, waits)
	over(t, next)
	next = answers(t, first)
	soon(t, "who came later", hearing(later), agentTone, 0.8)
	hangsUp(t, later)
	over(t, next)
	hangsUp(t, listener)

	records := map[string]int{}
	eventually(t, "each call is on record", func() bool {
		clear(records)
		for _, s := range []*server{n2, n3} {
			for _, i := range s.interactions(t, "ended", d.queue) {
				records[i.ID]++
			}
		}
		return len(records) == 4
	})
	for id, n := range records {
		if n != 1 {
			t.Errorf("%d records of %s", n, id)
		}
	}
	n1.start(t) // it joins again
	d.at(n1).reaches(t, 0, "ready", "idle")
}

// A node that is stopped (SIGSTOP: a hypervisor, a swap storm) is silent and keeps its
// connections: heartbeats find it. When it wakes it is nobody's anchor any more. It says
// nothing to the phones, and joins again by itself.
func TestStoppedNodeLosesItsCallsAndJoinsAgain(t *testing.T) {
	c := startCluster(t, 3)
	n1, n2 := c.nodes[0], c.nodes[1]
	d := c.desk(t, 1, "")
	agent := phoneAgent(t, d.at(n2), 0, agentTone)
	caller := dials(t, d.at(n1), "caller", callerTone)
	call := answers(t, agent)
	hearEachOther(t, caller, call, callerTone, agentTone)
	caller.Media.Forget()
	call.Media.Forget()
	if err := n1.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the call is taken over", func() bool {
		for _, i := range n2.interactions(t, "live", d.queue) {
			if i.did("recovered") == 1 {
				return true
			}
		}
		return false
	})
	t.Logf("longest gap: %v", hearEachOther(t, caller, call, callerTone, agentTone))
	if err := n1.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the node joins again", func() bool {
		text, _ := os.ReadFile(n1.log)
		status, _ := n1.ask("GET", "/readyz", "", "", "")
		return strings.Contains(string(text), "joining again") && status == 200
	})
	caller.Media.Forget()
	call.Media.Forget()
	hearEachOther(t, caller, call, callerTone, agentTone)
	hangsUp(t, caller)
	over(t, call)
	second := dials(t, d.at(n1), "second", callerTone) // it takes calls again
	call = answers(t, agent)
	hearEachOther(t, second, call, callerTone, agentTone)
	hangsUp(t, second)
}

// Three nodes are restarted one by one, as an upgrade does it. No call is lost.
func TestNodesAreRestartedOneByOne(t *testing.T) {
	c := startCluster(t, 3, "--drain-timeout", "0s")
	d := c.desk(t, 3, "")
	var calls [][2]*phone.Call
	for i, s := range c.nodes {
		agent := phoneAgent(t, d.at(s), i, agentTone)
		caller := dials(t, d.at(s), fmt.Sprintf("caller%d", i), callerTone)
		calls = append(calls, [2]*phone.Call{caller, answers(t, agent)})
	}
	waits := dials(t, d.at(c.nodes[0]), "waits", callerTone)
	for i, s := range c.nodes {
		for _, k := range calls {
			k[0].Media.Forget()
			k[1].Media.Forget()
		}
		if err := s.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if code := s.status(t, 20*time.Second); code != 0 {
			t.Fatalf("node %d ended with %d", i+1, code)
		}
		for n, k := range calls {
			if gap := hearEachOther(t, k[0], k[1], callerTone, agentTone); gap > 60*time.Millisecond {
				t.Logf("node %d ends: a gap of %v in call %d", i+1, gap, n+1)
			}
		}
		s.start(t)
	}
	for n, k := range append(calls, [2]*phone.Call{waits, waits}) {
		select {
		case <-k[0].Done():
			t.Errorf("call %d ended by %s", n+1, k[0].Cause())
		default:
		}
	}
	for _, k := range calls {
		hangsUp(t, k[0])
		over(t, k[1])
	}
	hangsUp(t, waits)
}
