package clusterctl

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// standing is how a node stands.
type standing string

// The standings of a node.
const (
	alive    standing = "alive"
	draining standing = "draining" // it is to be empty, and is not yet
	drained  standing = "drained"  // it has neither calls nor shards: it may be ended
	gone     standing = "gone"     // no process of this name is there
)

// report is what is said of a cluster.
type report struct {
	At       time.Time    `json:"at"`
	Revision int64        `json:"revision"` // of etcd, at which all of it was read
	Well     bool         `json:"well"`
	Wrong    []string     `json:"wrong"`
	Nodes    []nodeState  `json:"nodes"`
	Shards   []shardState `json:"shards"`
	Claims   []claimState `json:"claims"`
	Calls    int          `json:"calls"`  // records of calls, ended ones that are being closed included
	Outbox   int          `json:"outbox"` // finished interactions that wait for the records store
	Etcd     etcdState    `json:"etcd"`
}

// nodeState is one node. One that is gone has a name only, and what is still in its name.
type nodeState struct {
	Name        core.NodeID   `json:"name"`
	Standing    standing      `json:"standing"`
	Incarnation core.Revision `json:"incarnation,omitempty"`
	Version     string        `json:"version,omitempty"`
	Address     string        `json:"address,omitempty"` // where its peers reach it
	Since       time.Time     `json:"since,omitzero"`
	Calls       int           `json:"calls"`
	Shards      int           `json:"shards"`
}

// shardState is one shard. Without an owner the epoch is 0.
type shardState struct {
	Shard       int           `json:"shard"`
	Owner       core.NodeID   `json:"owner,omitempty"`
	Incarnation core.Revision `json:"incarnation,omitempty"`
	Epoch       core.Revision `json:"epoch,omitempty"`
}

// claimState is a dead process whose estate was claimed.
type claimState struct {
	Node        core.NodeID   `json:"node"`
	Incarnation core.Revision `json:"incarnation"`
	By          core.NodeID   `json:"by"`
	Survivors   []core.NodeID `json:"survivors"`
	Calls       int           `json:"calls"` // that nobody has taken over yet
}

// life is one process: a node's name, and which of its lives.
type life struct {
	node        core.NodeID
	incarnation core.Revision
}

// judge makes the report of what was read.
func judge(r *reading, etcd etcdState, now time.Time) *report {
	j := &report{At: now, Revision: r.revision, Shards: r.shards, Etcd: etcd, Outbox: r.outbox, Nodes: r.states(), Claims: []claimState{}}
	j.Claims = append(j.Claims, r.claims...)
	for l, n := range r.calls {
		j.Calls += n
		if i := r.covering(l); i >= 0 {
			j.Claims[i].Calls += n
		}
	}
	j.Wrong = slices.Concat(etcd.wrong(), r.nodesWrong(j.Nodes), r.shardsWrong(), r.callsWrong(), []string{})
	j.Well = len(j.Wrong) == 0
	return j
}

// states is every node that a record names, by name.
func (r *reading) states() []nodeState {
	names := map[core.NodeID]bool{}
	for name := range r.nodes {
		names[name] = true
	}
	for name := range r.drains {
		names[name] = true
	}
	for l := range r.calls {
		if r.covering(l) < 0 { // else they are the survivors', and named with the claim
			names[l.node] = true
		}
	}
	for _, s := range r.shards {
		if s.Owner != "" {
			names[s.Owner] = true
		}
	}
	states := []nodeState{}
	for name := range names {
		states = append(states, r.state(name))
	}
	slices.SortFunc(states, func(a, b nodeState) int { return natural(string(a.Name), string(b.Name)) })
	return states
}

func (r *reading) state(name core.NodeID) nodeState {
	s, there := r.nodes[name]
	s.Name, s.Standing = name, alive
	for _, shard := range r.shards {
		if shard.Owner == name {
			s.Shards++
		}
	}
	for l, n := range r.calls {
		if l.node == name && r.covering(l) < 0 {
			s.Calls += n
		}
	}
	switch drains := r.drains[name]; {
	case !there:
		s.Standing = gone
	case drains && s.Calls == 0 && s.Shards == 0:
		s.Standing = drained
	case drains:
		s.Standing = draining
	}
	return s
}

// others reports whether any other node takes calls, and so the shards of this one.
func (r *reading) others(name core.NodeID) bool {
	for other := range r.nodes {
		if other != name && !r.drains[other] {
			return true
		}
	}
	return false
}

// natural orders names so that n10 comes after n9.
func natural(a, b string) int {
	stem := func(s string) (string, int) {
		digits := len(s) - len(strings.TrimRight(s, "0123456789"))
		n, _ := strconv.Atoi(s[len(s)-digits:])
		return s[:len(s)-digits], n
	}
	stemA, nA := stem(a)
	stemB, nB := stem(b)
	return cmp.Or(strings.Compare(stemA, stemB), cmp.Compare(nA, nB), strings.Compare(a, b))
}

func (r *reading) nodesWrong(states []nodeState) []string {
	var found []string
	serving := 0
	for _, s := range states {
		_, drains := r.drains[s.Name]
		switch {
		case s.Standing == alive:
			serving++
		case s.Standing == gone && drains:
			found = append(found, fmt.Sprintf("node %s is to drain and is not there: when it comes back it takes no calls until `dialtone cluster undrain %s`", s.Name, s.Name))
		}
	}
	switch {
	case len(r.nodes) == 0:
		found = append(found, "no node is there: no call is taken")
	case serving == 0:
		found = append(found, "every node drains: no new call is taken")
	}
	return append(found, r.unreadable...)
}

// shardsWrong names the shards that nobody serves: their tenants' callers wait.
func (r *reading) shardsWrong() []string {
	var order []string
	by := map[string][]int{}
	note := func(why string, shard int) {
		if by[why] == nil {
			order = append(order, why)
		}
		by[why] = append(by[why], shard)
	}
	for _, s := range r.shards {
		n, there := r.nodes[s.Owner]
		switch {
		case s.Owner == "":
			note("no owner", s.Shard)
		case !there:
			note(fmt.Sprintf("as owner node %s, which is not there", s.Owner), s.Shard)
		case n.Incarnation != s.Incarnation:
			note(fmt.Sprintf("as owner an earlier process of node %s", s.Owner), s.Shard)
		}
	}
	var found []string
	for _, why := range order {
		if shards := by[why]; len(shards) == 1 {
			found = append(found, fmt.Sprintf("shard %d has %s", shards[0], why))
		} else {
			found = append(found, fmt.Sprintf("shards %s have %s", ranges(shards), why))
		}
	}
	return found
}

// callsWrong names the calls that are anchored at a process that is no more.
func (r *reading) callsWrong() []string {
	var found []string
	lives := make([]life, 0, len(r.calls))
	for l := range r.calls {
		lives = append(lives, l)
	}
	slices.SortFunc(lives, func(a, b life) int {
		return cmp.Or(natural(string(a.node), string(b.node)), cmp.Compare(a.incarnation, b.incarnation))
	})
	for _, l := range lives {
		left := counted(r.calls[l], "call")
		verb := "are"
		if r.calls[l] == 1 {
			verb = "is"
		}
		n, there := r.nodes[l.node]
		switch {
		case r.covering(l) >= 0:
			found = append(found, fmt.Sprintf("node %s (incarnation %d) is claimed, but %s %s left", l.node, l.incarnation, left, verb))
		case !there:
			found = append(found, fmt.Sprintf("%s %s anchored at node %s, which is neither there nor claimed", left, verb, l.node))
		case l.incarnation != 0 && l.incarnation != n.Incarnation:
			found = append(found, fmt.Sprintf("%s of an earlier process of node %s (incarnation %d) %s not taken up yet", left, l.node, l.incarnation, verb))
		}
	}
	if r.outbox > 0 {
		found = append(found, fmt.Sprintf("%s for the records store: it does not take them", waits(r.outbox, "finished interaction")))
	}
	return found
}

// covering returns the claim on a process, -1 for none. A claim is on the earlier lives of its
// node too that no claim before it was on.
func (r *reading) covering(l life) int {
	found := -1
	for i, c := range r.claims {
		if c.Node == l.node && c.Incarnation >= l.incarnation && (found < 0 || c.Incarnation < r.claims[found].Incarnation) {
			found = i
		}
	}
	return found
}

func waits(n int, noun string) string {
	if n == 1 {
		return "1 " + noun + " waits"
	}
	return fmt.Sprintf("%d %ss wait", n, noun)
}

// ranges writes ascending numbers as 0-5, 7.
func ranges(numbers []int) string {
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		if last == i {
			parts = append(parts, strconv.Itoa(numbers[i]))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", numbers[i], numbers[last]))
		}
		i = last + 1
	}
	return strings.Join(parts, ", ")
}
