package clusterctl

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

func TestStatusOfAHealthyCluster(t *testing.T) {
	w := healthy(t)
	w.calls("acme", "n1", w.lives["n1"], 3)
	w.calls("acme", "n2", w.lives["n2"], 2)
	w.calls("zeta", "n2", w.lives["n2"], 1)
	w.put("t/acme/config/tenant", []byte("{}")) // passed over
	w.put("t/acmes/config/tenant", []byte("{}"))
	got := typeIn(t, "status", "--json")
	got.wants(exitWell)
	r := got.report
	if !r.Well || len(r.Wrong) != 0 || r.Calls != 6 || r.Revision == 0 {
		t.Errorf("%+v", r)
	}
	var rows []string
	for _, n := range r.Nodes {
		rows = append(rows, fmt.Sprintf("%s %s %d calls %d shards %s %s", n.Name, n.Standing, n.Calls, n.Shards, n.Version, n.Address))
	}
	want := []string{"n1 alive 3 calls 22 shards 1.2.3 127.61.9.9:7946", "n2 alive 3 calls 21 shards 1.2.3 127.61.9.9:7946", "n10 alive 0 calls 21 shards 1.2.3 127.61.9.9:7946"}
	if !slices.Equal(rows, want) {
		t.Errorf("nodes are\n%s\nwant\n%s", strings.Join(rows, "\n"), strings.Join(want, "\n"))
	}
	if len(r.Etcd.Members) != 1 || !r.Etcd.Members[0].Leader || r.Etcd.Members[0].Version == "" || r.Etcd.Members[0].Size == 0 {
		t.Errorf("etcd is %+v", r.Etcd)
	}
	if s := r.Shards[30]; s.Shard != 30 || s.Owner != "n2" || s.Epoch <= w.lives["n2"] || s.Incarnation != w.lives["n2"] {
		t.Errorf("shard 30 is %+v", s)
	}
	plain := typeIn(t, "status")
	plain.wants(exitWell, "WELL", "3 nodes, 6 calls, 1 of 1 member of etcd", "0-20, 63", "n10", "1h30m", "leader")
	if strings.Contains(plain.stdout, "\x1b") {
		t.Error("colours in a pipe")
	}
}

// Each fault gives its words, and nothing else is said to be wrong.
func TestStatusSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*world)
		want []string
	}{
		{"one shard", func(w *world) { w.remove(cluster.ShardKey(12)) }, []string{"shard 12 has no owner"}},
		{"some shards", func(w *world) {
			for _, i := range []int{3, 4, 5, 60} {
				w.remove(cluster.ShardKey(i))
			}
		}, []string{"shards 3-5, 60 have no owner"}},
		{"a node's lease has ended", func(w *world) { w.remove(cluster.NodeKey("n2")) },
			[]string{"shards 21-41 have as owner node n2, which is not there"}},
		{"a node has restarted", func(w *world) { w.node("n2") }, []string{"shards 21-41 have as owner an earlier process of node n2"}},
		{"an estate", func(w *world) {
			life := w.lives["n2"]
			w.calls("acme", "n2", life, 3)
			w.remove(cluster.NodeKey("n2"))
			w.claim("n2", life, "n1", "n1", "n10")
			w.shards("n1", 21, 41)
		}, []string{"is claimed, but 3 calls are left"}},
		{"an estate of two lives", func(w *world) {
			life := w.lives["n2"]
			w.calls("acme", "n2", life-1, 1)
			w.calls("acme", "n2", life, 1)
			w.claim("n2", life, "n1", "n1")
			w.node("n2")
			w.shards("n2", 21, 41)
		}, []string{"is claimed, but 1 call is left", "is claimed, but 1 call is left"}},
		{"a claim on an earlier life", func(w *world) {
			was := w.lives["n2"]
			w.node("n2")
			w.shards("n2", 21, 41)
			w.claim("n2", was, "n1", "n1")
			w.calls("acme", "n2", w.lives["n2"], 1)
		}, nil},
		{"a claim that is done", func(w *world) { w.claim("n7", 5, "n1", "n1", "n2") }, nil},
		{"a dead node's calls", func(w *world) { w.calls("acme", "n8", 7, 1) }, []string{"1 call is anchored at node n8, which is neither there nor claimed"}},
		{"calls of a former life", func(w *world) { w.calls("acme", "n1", w.lives["n1"]-1, 2) },
			[]string{"2 calls of an earlier process of node n1"}},
		{"a forgotten drain", func(w *world) { w.put(cluster.DrainKey("n7"), cluster.DrainRecord{}.Encode()) },
			[]string{"node n7 is to drain and is not there"}},
		{"a drain", func(w *world) { w.put(cluster.DrainKey("n2"), cluster.DrainRecord{}.Encode()) }, nil},
		{"all drain", func(w *world) {
			for name := range w.lives {
				w.put(cluster.DrainKey(name), []byte("{"))
			}
		}, []string{"every node drains"}},
		{"records that wait", func(w *world) { w.put("t/acme/outbox/a", []byte("{}")); w.put("t/acme/outbox/b", []byte("{}")) },
			[]string{"2 finished interactions wait for the records store"}},
		{"damage", func(w *world) {
			w.put("nodes/n1/chain", []byte("x"))
			w.put("shards/64", []byte("{}"))
			w.put("shards/1", []byte("{}"))
			w.put("claims/n1", []byte("{}"))
			w.put("t/acme/calls/x", []byte("{"))
		}, []string{`"nodes/n1/chain" cannot be read`, `"shards/1" cannot be read`, `"shards/64" cannot be read`, `"claims/n1" cannot be read`, "1 record of calls cannot be read"}},
		{"nothing", func(w *world) { _ = newStore(w.t) }, []string{"no node is there", "shards 0-63 have no owner"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := healthy(t)
			c.do(w)
			got := typeIn(t, "status", "--json")
			code := exitWell
			if len(c.want) > 0 {
				code = exitWrong
			}
			got.wants(code)
			if len(got.report.Wrong) != len(c.want) {
				t.Errorf("wrong: %q, want %q", got.report.Wrong, c.want)
			}
			for i := range min(len(c.want), len(got.report.Wrong)) {
				if !strings.Contains(got.report.Wrong[i], c.want[i]) {
					t.Errorf("wrong: %q, want %q", got.report.Wrong[i], c.want[i])
				}
			}
			typeIn(t, "status").wants(code, c.want...)
		})
	}
}

func TestStatusReadsAllPagesOfAllTenants(t *testing.T) {
	w := healthy(t)
	for i := range 5 {
		w.calls(fmt.Sprintf("tenant-%d", i), "n1", w.lives["n1"], (page+20)/5)
	}
	w.calls("tenant-2x", "n2", w.lives["n2"], page+1)
	got := typeIn(t, "status", "--json")
	got.wants(exitWell)
	if want := (page+20)/5*5 + page + 1; got.report.Calls != want {
		t.Errorf("%d calls, want %d", got.report.Calls, want)
	}
}

func TestDrainingNodesAreSaid(t *testing.T) {
	w := healthy(t)
	w.node("n3")
	for _, name := range []core.NodeID{"n2", "n3"} {
		w.put(cluster.DrainKey(name), cluster.DrainRecord{}.Encode())
	}
	got := typeIn(t, "status", "--json")
	standings := map[core.NodeID]standing{}
	for _, n := range got.report.Nodes {
		standings[n.Name] = n.Standing
	}
	if standings["n1"] != alive || standings["n2"] != draining || standings["n3"] != drained {
		t.Errorf("standings are %v", standings)
	}
}

// etcd-io/etcd: NOSPACE is a state that nobody leaves by himself.
func TestAlarmsAreSaid(t *testing.T) {
	healthy(t)
	s := etcdState{Members: []memberState{
		{ID: "1", Name: "e1", Leader: true, HasLeader: true, Applied: 9000, Alarms: []string{"NOSPACE"}, Size: 3, Quota: 4},
		{ID: "2", Name: "e2", HasLeader: true, Applied: 3000, Size: 1 << 30, Quota: 2 << 30},
		{ID: "3", Failure: "connection refused"},
		{ID: "4", Learner: true, Failure: "connection refused"},
	}}
	text := strings.Join(s.wrong(), "\n")
	for _, want := range []string{"e1 is out of space", "e2 lags 6000", "3 does not answer: connection refused; if one more goes", "a learner, does not answer"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\n") + 1; n != 4 {
		t.Errorf("%d faults:\n%s", n, text)
	}
	s.Members[0].HasLeader, s.Members[1].HasLeader = false, false
	s.Members[1].Size = 1700 << 20
	if text = strings.Join(s.wrong(), "\n"); !strings.HasPrefix(text, "etcd has no leader") || !strings.Contains(text, "e2 has filled 83 % of its quota (1.7 GiB of 2.0 GiB") {
		t.Errorf("%s", text)
	}
}

func TestStatusWithoutEtcd(t *testing.T) {
	begin := time.Now()
	got := typeWith(t, nil, "status", "--etcd", "127.61.0.9:2379,127.61.0.9:2378")
	got.wants(exitUnknown, "etcd cannot be read", "127.61.0.9:2379", "connection refused", "--etcd")
	if took := time.Since(begin); took > 3*readWithin+30*time.Second {
		t.Errorf("it took %s to say so", took)
	}
}

func TestWhereEtcdIs(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	listed := file("list.yaml", "node: n1\noperator_key: hushhush\netcd:\n  endpoints: [10.0.0.1:2379, 10.0.0.2:2379]\n  ca: /ca.pem\n  cert: /c.pem\n  key: /k.pem\n")
	dotted := file("dotted.yaml", "etcd.endpoints: 10.0.0.3:2379\n")
	alone := file("alone.yaml", "node: n1\n")
	broken := file("broken.yaml", "operator_key: hushhush\netcd: [\n")
	odd := file("odd.yaml", "etcd:\n  endpoints: {a: b}\n")
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{nil, nil, "127.0.0.1:2379"},
		{nil, []string{"DIALTONE_ETCD_ENDPOINTS=a:1"}, "a:1"},
		{[]string{"--etcd", "b:2"}, []string{"DIALTONE_ETCD_ENDPOINTS=a:1"}, "b:2"},
		{[]string{"--config", listed}, nil, "10.0.0.1:2379,10.0.0.2:2379 /ca.pem /c.pem /k.pem"},
		{[]string{"--config", listed, "--etcd-ca", "/mine"}, []string{"DIALTONE_ETCD_CERT=/v"}, "10.0.0.1:2379,10.0.0.2:2379 /mine /v /k.pem"},
		{nil, []string{"DIALTONE_CONFIG=" + dotted}, "10.0.0.3:2379"},
		{[]string{"--config", alone}, nil, "error: " + alone + " has no etcd.endpoints"},
		{[]string{"--config", broken}, nil, "error: --config: " + broken},
		{[]string{"--config", odd}, nil, "error: --config: " + odd + ": etcd.endpoints is not a text"},
		{[]string{"--config", filepath.Join(dir, "none")}, nil, "error: --config: open"},
		{[]string{"--etcd-ca", "/ca"}, []string{"DIALTONE_ETCD_USERNAME=u", "DIALTONE_ETCD_PASSWORD_FILE=/p"}, "127.0.0.1:2379 /ca   u /p"},
	} {
		line := newCommandLine("cluster status", "", nil, nil)
		var at access
		at.bind(line)
		if _, _, ok := line.read(c.args, 0); !ok {
			t.Fatal(c.args)
		}
		got := ""
		if err := at.complete(c.environ); err != nil {
			got = "error: " + err.Error()
		} else {
			got = strings.TrimSpace(strings.Join([]string{at.endpoints, at.ca, at.cert, at.key, at.user, at.password}, " "))
		}
		if got != c.want && !(strings.HasPrefix(c.want, "error: ") && strings.HasPrefix(got, c.want)) {
			t.Errorf("%v %v: %q, want %q", c.args, c.environ, got, c.want)
		}
		if strings.Contains(got, "hush") {
			t.Errorf("a secret in %q", got)
		}
	}
}

func TestWrongUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "dialtone cluster status"},
		{[]string{"stauts"}, "did you mean status?"},
		{[]string{"status", "--jsn"}, "did you mean --json?"},
		{[]string{"status", "n1"}, `"n1" is not expected`},
		{[]string{"status", "--etcd", "nowhere"}, "is not HOST:PORT"},
		{[]string{"status", "--etcd-ca", "/no/such/file"}, "/no/such/file"},
		{[]string{"status", "--etcd-cert", "/c"}, "belong together"},
		{[]string{"status", "--etcd-username", "u"}, "etcd:"},
		{[]string{"drain"}, "the node is missing"},
		{[]string{"drain", "n1", "n2"}, `"n2" is not expected`},
		{[]string{"drain", "n1", "--timeout", "0s"}, "above 0"},
		{[]string{"undrain"}, "the node is missing"},
		{[]string{"up", "--nodes", "0"}, "1 to 9"},
		{[]string{"up", "--etcds", "2"}, "1, 3 or 5"},
		{[]string{"up", "--base-ip", "10.0.0."}, "loopback"},
		{[]string{"up", "--base-ip", "127.0.0.1"}, "first three numbers"},
	} {
		typeWith(t, nil, c.args...).wants(exitUsage, c.want)
	}
	for _, sub := range []string{"up", "status", "drain", "undrain"} {
		got := typeWith(t, nil, sub, "--help")
		got.wants(exitWell, "dialtone cluster "+sub, "Exit codes", "--")
		if strings.Contains(got.stdout, "`") || got.stderr != "" {
			t.Errorf("help of %s:\n%s%s", sub, got.stdout, got.stderr)
		}
		for line := range strings.Lines(got.stdout) {
			if len(line) > 121 && strings.HasPrefix(line, "d") {
				t.Errorf("a long line in the help of %s: %s", sub, line)
			}
		}
	}
	typeWith(t, nil, "--help").wants(exitWell, "dialtone cluster drain NODE")
}

// What the report says fits what was read, whatever that is: no call is counted twice or left
// out, and a shard is complained about exactly when no process of now owns it.
func TestReportFitsWhatWasRead(t *testing.T) {
	names := []core.NodeID{"a", "b", "c", "n1", "n10", "n9"}
	rapid.Check(t, func(rt *rapid.T) {
		some := func(label string) []core.NodeID {
			return rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, len(names), rapid.ID[core.NodeID]).Draw(rt, label)
		}
		r := newReading()
		incarnation := rapid.Custom(func(rt *rapid.T) core.Revision { return core.Revision(rapid.IntRange(1, 4).Draw(rt, "life")) })
		for _, name := range some("nodes") {
			r.nodes[name] = nodeState{Incarnation: incarnation.Draw(rt, "incarnation")}
		}
		for _, name := range some("drains") {
			r.drains[name] = true
		}
		for _, name := range some("claims") {
			r.claims = append(r.claims, claimState{Node: name, Incarnation: incarnation.Draw(rt, "claimed")})
		}
		total := 0
		for _, name := range some("anchors") {
			l := life{name, incarnation.Draw(rt, "anchor")}
			r.calls[l] = rapid.IntRange(1, 9).Draw(rt, "calls")
			total += r.calls[l]
		}
		ownerless := []int{}
		for i := range r.shards {
			if rapid.Bool().Draw(rt, "owned") {
				r.shards[i].Owner, r.shards[i].Incarnation = rapid.SampledFrom(names).Draw(rt, "owner"), incarnation.Draw(rt, "of")
			}
			if n, there := r.nodes[r.shards[i].Owner]; !there || n.Incarnation != r.shards[i].Incarnation {
				ownerless = append(ownerless, i)
			}
		}
		led := etcdState{Members: []memberState{{ID: "1", Name: "e1", Leader: true, HasLeader: true}}}
		j := judge(r, led, time.Now())
		counted := 0
		for _, n := range j.Nodes {
			counted += n.Calls
			if _, there := r.nodes[n.Name]; there == (n.Standing == gone) {
				rt.Fatalf("node %s is %s", n.Name, n.Standing)
			}
		}
		for _, c := range j.Claims {
			counted += c.Calls
		}
		if counted != total || j.Calls != total {
			rt.Fatalf("%d calls were read, %d are counted at nodes and claims, %d in all", total, counted, j.Calls)
		}
		named := []int{}
		for _, text := range j.Wrong {
			if words := strings.SplitN(text, " ", 2); strings.HasPrefix(words[0], "shard") {
				list, _, _ := strings.Cut(words[1], " ha")
				named = append(named, numbersIn(rt, list)...)
			}
		}
		slices.Sort(named)
		if !slices.Equal(named, ownerless) {
			rt.Fatalf("shards %v have no owner, %v are named", ownerless, named)
		}
		if j.Well != (len(j.Wrong) == 0) {
			rt.Fatal("well, and not")
		}
		if text := (paint{}).text(j); !strings.Contains(text, "read at revision") || strings.HasPrefix(text, " WELL") != j.Well {
			rt.Fatal(text)
		}
	})
}

// numbersIn reads what ranges has written.
func numbersIn(t interface{ Fatalf(string, ...any) }, text string) (all []int) {
	for part := range strings.SplitSeq(text, ", ") {
		var from, to int
		if n, _ := fmt.Sscanf(part, "%d-%d", &from, &to); n < 2 {
			if n, _ := fmt.Sscanf(part, "%d", &from); n < 1 {
				t.Fatalf("%q is no list of numbers", text)
			}
			to = from
		}
		for i := from; i <= to; i++ {
			all = append(all, i)
		}
	}
	return all
}

// Whatever stands in etcd is read, or said to be unreadable; a text that steers a terminal
// does not reach one.
func FuzzRecords(f *testing.F) {
	f.Add("n1", cluster.NodeRecord{Version: "1"}.Encode())
	f.Add("012", cluster.ShardRecord{Owner: "n1", Incarnation: 3}.Encode())
	f.Add("n1/7", cluster.ClaimRecord{By: "n2", Survivors: []cluster.Process{{ID: "n2", Incarnation: 3}}}.Encode())
	f.Add("a\x1b[2J", []byte(`{"version":"\u001b[2J","owner":"\u001b","by":"\u009b"}`))
	f.Fuzz(func(t *testing.T, rest string, value []byte) {
		r := newReading()
		for _, take := range []func(string, core.Revision, []byte) error{r.takeNode, r.takeShard, r.takeClaim, r.takeDrain} {
			if err := take(rest, 5, value); err != nil {
				r.unreadable = append(r.unreadable, err.Error())
			}
		}
		text := (paint{}).text(judge(r, etcdState{}, time.Unix(1, 0)))
		if i := strings.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Errorf("%q reaches the terminal", text[i:min(len(text), i+20)])
		}
	})
}

// A file that is no node's gives an error without a line of it, since a line may hold a secret.
func FuzzKeys(f *testing.F) {
	f.Add("etcd:\n  endpoints: [10.0.0.1:2379, 10.0.0.2:2379]\n")
	f.Add("etcd.endpoints: a:1\netcd: 7\n")
	f.Add("operator_key: hushhush\n\t- [")
	f.Add("operator_key: &hushhush [*hushhush]\netcd: *hushhush\n")
	f.Fuzz(func(t *testing.T, content string) {
		found, err := parseKeys("file", []byte(content))
		if err != nil && (strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("the error shows the file: %s", err)
		}
		if err != nil && found != nil {
			t.Error("both keys and an error")
		}
	})
}

// One that is asked while the store is compacted under it reads again.
func TestCompactionWhileReading(t *testing.T) {
	w := healthy(t)
	seen, err := read(t.Context(), w.client)
	if err != nil {
		t.Fatal(err)
	}
	was := w.lives["n1"]
	w.node("n1")
	w.calls("acme", "n1", w.lives["n1"], 1)
	old := newReading()
	old.revision = seen.revision
	if err := old.fill(t.Context(), w.client); err != nil || old.nodes["n1"].Incarnation != was || len(old.calls) != 0 {
		t.Errorf("%v: what was written later is seen: %+v", err, old)
	}
	if _, err := w.client.Compact(t.Context(), int64(w.lives["n1"]), clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if err := old.fill(t.Context(), w.client); err == nil { // its revision is fixed, and gone
		t.Error("a compacted revision was read")
	}
	again, err := read(t.Context(), w.client)
	if err != nil || again.revision <= seen.revision {
		t.Errorf("%v %d", err, again.revision)
	}
}
