package etcdstore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// claimOf is what a survivor writes when a node is dead.
func claimOf(token core.Token, dead core.NodeID, incarnation core.Revision, by string) core.Store {
	claim := claimKey(dead, int64(incarnation))
	return core.Store{Token: token,
		If:  []core.Guard{{Key: nodeKey(dead), Revision: incarnation}},
		Ops: []core.Op{{Key: nodeKey(dead)}, {Key: claim, Value: []byte(by)}, {Key: "shards/001", Value: []byte(by)}, {Key: "shards/002", Value: []byte(by)}},
	}
}

func TestOneClaimantWins(t *testing.T) {
	r := newRig(t)
	const survivors, rounds = 8, 25
	var stores []*Store
	var heards []*heard
	for i := range survivors {
		s, h := r.open(core.NodeID(fmt.Sprint("n", i)), pace{})
		stores, heards = append(stores, s), append(heards, h)
	}
	for round := range core.Token(rounds) {
		dead := core.NodeID(fmt.Sprint("dead", round))
		if _, err := r.plain.Put(t.Context(), nodeKey(dead), ""); err != nil {
			t.Fatal(err)
		}
		incarnation := r.revision(nodeKey(dead))
		var wait sync.WaitGroup
		for i, s := range stores {
			wait.Go(func() {
				s.Do(put(1000+round, "demo", fmt.Sprint("busy", i), "x"))
				s.Do(claimOf(1+round, dead, incarnation, fmt.Sprint("n", i)))
			})
		}
		wait.Wait()
		winner := ""
		for i, h := range heards {
			said := ""
			h.await(t, "the outcome of a claim", func() bool { said = h.said[1+round]; return said != "" })
			switch {
			case said == "stored" && winner == "":
				winner = fmt.Sprint("n", i)
			case said != "conflict":
				t.Fatalf("round %d: n%d: %s, and %q had won", round, i, said, winner)
			}
		}
		for _, key := range []string{claimKey(dead, int64(incarnation)), "shards/001", "shards/002"} {
			reply, err := r.plain.Get(t.Context(), key)
			if err != nil || len(reply.Kvs) != 1 || string(reply.Kvs[0].Value) != winner {
				t.Fatalf("round %d: %s is %v, %q has won (%v)", round, key, reply.Kvs, winner, err)
			}
		}
	}
}

// A node whose lease has expired claims itself again, and a survivor claims what is left of
// it, both with the key absent: one of them wins.
func TestExpiredNodeAndSurvivorRace(t *testing.T) {
	r := newRig(t)
	s2, h2 := r.open("n2", pace{})
	won := map[string]int{}
	for round := range core.Token(12) {
		node := core.NodeID(fmt.Sprint("a", round))
		s, h := r.open(node, pace{})
		incarnation := r.revision(nodeKey(node))
		claim := claimOf(1+round, node, 0, "n2")
		claim.Ops[1].Key = claimKey(node, int64(incarnation))
		claim.If = append(claim.If, core.Guard{Key: claim.Ops[1].Key})
		r.expire(node)
		if round%3 == 0 {
			s2.Do(claim)
		}
		s.Do(put(1, "demo", string(node), "x"))
		if round%3 == 1 {
			until(t, "the node's key", func() bool { return r.revision(nodeKey(node)) != 0 })
		}
		if round%3 != 0 {
			s2.Do(claim)
		}
		own, other := "", ""
		h.await(t, "the write of the expired node", func() bool { own = h.said[1]; return own != "" })
		h2.await(t, "the claim", func() bool { other = h2.said[1+round]; return other != "" })
		if own == "stored" && other == "conflict" || own == "fenced" && other == "stored" {
			won[own]++
			if wrote := r.value("demo", string(node)) != ""; wrote != (own == "stored") {
				t.Fatalf("round %d: %s, but written: %v", round, own, wrote)
			}
			continue
		}
		t.Fatalf("round %d: the node's write %s, the claim %s", round, own, other)
	}
	t.Log(won)
	if won["stored"] == 0 || won["fenced"] == 0 {
		t.Errorf("the race has one outcome only: %v", won)
	}
}

// Everything that an owner asked for when another claims it is either Stored, and committed
// before the claim, or Fenced, and never written. One that asks for nothing is told too.
func TestClaimedOwnerIsFencedAtOnce(t *testing.T) {
	r := newRig(t)
	busy, hb := r.open("busy", pace{})
	_, hi := r.open("idle", pace{})
	s, h := r.open("n1", pace{})
	stop := make(chan struct{})
	var wait sync.WaitGroup
	last := core.Token(0)
	wait.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			last++
			busy.Do(put(last, "demo", fmt.Sprint("k", last), "v"))
			time.Sleep(50 * time.Microsecond)
		}
	})
	hb.await(t, "some writes", func() bool { return len(hb.said) > 300 })
	s.Do(claimOf(1, "busy", r.revision("nodes/busy"), "n1"))
	began := time.Now()
	s.Do(claimOf(2, "idle", r.revision("nodes/idle"), "n1"))
	h.awaitFinal(t, 1, "stored")
	h.awaitFinal(t, 2, "stored")
	hi.awaitFinal(t, 0, "fenced")
	t.Logf("the idle owner knew %v after it was asked for", time.Since(began))
	until(t, "Fenced", func() bool { return busy.Gauges().Fenced })
	close(stop)
	wait.Wait()
	hb.awaitFinals(t, 1, last+1)
	claimed := r.revision(claimOf(1, "busy", 1, "").Ops[2].Key)
	final, count := hb.final(t), map[string]int{}
	for token := core.Token(1); token <= last; token++ {
		count[final[token]]++
		rev := r.revision(fmt.Sprint("t/demo/k", token))
		if final[token] == "stored" && (rev == 0 || rev > claimed) || final[token] == "fenced" && rev != 0 {
			t.Errorf("token %d: %s, revision %d, the claim has %d", token, final[token], rev, claimed)
		}
	}
	if len(hi.all()) != 1 {
		t.Errorf("the idle owner heard %v", hi.all())
	}
	t.Log(count)
}

// The claim of a paused node is removed before it wakes: its key is gone, and no claim says
// so. It is fenced all the same, and nothing that waited is written.
func TestForgottenClaimFences(t *testing.T) {
	for _, kind := range []fault{noFault, lostReply} {
		t.Run("before: "+string(kind), func(t *testing.T) {
			r := newRig(t)
			s1, h1 := r.open("n1", pace{})
			h2 := newHeard()
			s2, _, err := Open(t.Context(), Config{Client: r.plain, Node: "n2", Emit: h2.emit})
			if err != nil {
				t.Fatal(err)
			}
			defer s2.Close(t.Context())
			r.faults.set(func(*pb.TxnRequest) fault { r.faults.away = true; return kind })
			want := "fenced"
			if kind == noFault {
				r.faults.setAway(true)
			} else {
				want = "stored" // its reply is lost, and the claim is in the chain behind it
			}
			s1.Do(put(1, "demo", "a", "1"))
			h1.awaitUnknown(t, 1)
			incarnation := r.revision("nodes/n1")
			s2.Do(claimOf(1, "n1", incarnation, "n2"))
			h2.awaitFinal(t, 1, "stored")
			s2.Do(core.Store{Token: 2, Ops: []core.Op{{Key: claimKey("n1", int64(incarnation))}}})
			h2.awaitFinal(t, 2, "stored")
			r.faults.set(nil)
			h1.awaitFinal(t, 1, want)
			s1.Do(put(2, "demo", "b", "2"))
			h1.awaitFinal(t, 2, "fenced")
			if a := r.value("demo", "a"); (a == "1") != (want == "stored") || r.value("demo", "b") != "" {
				t.Errorf("a %q, b %q", a, r.value("demo", "b"))
			}
		})
	}
}

// ownerEnv holds the address of the etcd that an owner in a process of its own writes to.
const ownerEnv = "DIALTONE_TEST_ETCDSTORE_OWNER"

// owner writes for ever, and joins again when it is fenced.
func owner() {
	client, err := Connect(ClientConfig{Endpoints: []string{os.Getenv(ownerEnv)}})
	for n := core.Token(0); err == nil; {
		ended := make(chan struct{})
		var once sync.Once
		var s *Store
		var restored core.Restored
		s, restored, err = Open(context.Background(), Config{Client: client, Node: "owner", Emit: func(ev core.Event) bool {
			switch ev := ev.(type) {
			case core.Stored:
				fmt.Println("stored", ev.Token)
			case core.Fenced:
				fmt.Println("fenced", ev.Token)
				once.Do(func() { close(ended) })
			}
			return true
		}})
		if err != nil {
			break
		}
		fmt.Println("open", restored.Incarnation)
		for open := true; open; {
			select {
			case <-ended:
				open = false
			case <-time.After(200 * time.Microsecond):
				n++
				s.Do(put(n, "demo", fmt.Sprint("w", n), "v"))
			}
		}
		for range 50 { // it goes on trying: all in vain
			n++
			s.Do(put(n, "demo", fmt.Sprint("w", n), "v"))
		}
		err = s.Close(context.Background())
	}
	fmt.Println("error", err)
	os.Exit(1)
}

// A process that is paused (SIGSTOP) in the middle of its writing, and whose key another
// deletes meanwhile: when it goes on, nothing of what it sends is written, and it is told.
func TestPausedOwnerWritesNothing(t *testing.T) {
	e, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", MinFree: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), ownerEnv+"="+e.Addr())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(syscall.SIGKILL)
	said, claims := map[int]string{}, map[int]int64{} // by token; the claim that ended it
	var last int64                                    // revision of the last claim
	rounds, tokens := 0, 0
	for lines := bufio.NewScanner(out); rounds < 10 && lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(rest)
		switch word {
		case "stored", "fenced":
			if said[n] != "" && n != 0 {
				t.Fatalf("token %d: %s after %s", n, word, said[n])
			}
			said[n], claims[n] = word, last
			if word == "stored" {
				if tokens++; tokens%200 == 0 { // in the midst of it
					last = claimPaused(t, e.Client(), cmd.Process)
					rounds++
				}
			}
		case "error":
			t.Fatal(lines.Text())
		}
	}
	count := map[string]int{}
	reply, err := e.Client().Get(t.Context(), "t/demo/w", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	written := map[int]bool{}
	for _, kv := range reply.Kvs {
		n, _ := strconv.Atoi(strings.TrimPrefix(string(kv.Key), "t/demo/w"))
		written[n] = true
		if said[n] == "fenced" {
			t.Errorf("token %d was fenced, and is written at revision %d", n, kv.ModRevision)
		}
	}
	for n, word := range said {
		if count[word]++; word == "stored" && !written[n] {
			t.Errorf("token %d was stored, and is not there", n)
		}
	}
	t.Logf("%d rounds: %v", rounds, count)
	if count["fenced"] < 100 {
		t.Errorf("too few writes of a fenced owner: %v", count)
	}
}

// claimPaused stops the process, deletes its key as a survivor does, and lets it go on.
func claimPaused(t *testing.T, client *clientv3.Client, p *os.Process) int64 {
	p.Signal(syscall.SIGSTOP)
	defer p.Signal(syscall.SIGCONT)
	reply, err := client.Get(t.Context(), "nodes/owner")
	if err != nil || len(reply.Kvs) != 1 {
		t.Fatalf("the owner's key: %v %v", reply, err)
	}
	rev := reply.Kvs[0].ModRevision
	txn, err := client.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision("nodes/owner"), "=", rev)).
		Then(clientv3.OpDelete("nodes/owner"), clientv3.OpPut(claimKey("owner", rev), "n2")).Commit()
	if err != nil || !txn.Succeeded {
		t.Fatalf("claim: %v %v", txn, err)
	}
	return txn.Header.Revision
}

// The Txn of a fenced owner in its barest form, very often.
func TestFencedTxnsAreAllRefused(t *testing.T) {
	r := newRig(t)
	s, h := r.open("n1", pace{})
	s.Do(put(1, "demo", "a", "1"))
	h.awaitFinal(t, 1, "stored")
	at := position{incarnation: int64(r.revision("nodes/n1")), link: int64(r.revision("chains/n1"))}
	if err := r.takeAway("n1"); err != nil {
		t.Fatal(err)
	}
	began, refused := time.Now(), 0
	const n = 2000
	for i := range n {
		a := s.commit(t.Context(), at, "late", []change{{fmt.Sprint("t/demo/late", i), []byte("x")}}, nil)
		if a.err != nil || a.ok || !a.sight.claimed {
			t.Fatalf("%+v", a)
		}
		refused++
	}
	t.Logf("%d of %d refused, %.0f a second", refused, n, n/time.Since(began).Seconds())
	h.awaitFinal(t, 0, "fenced")
}

// A claim goes before what tenants wait for, alone, and nothing else changes its place.
func TestClaimsOvertakeTenants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var tenants, clusters, taken []core.Token
		for i := range core.Token(rapid.IntRange(1, 150).Draw(t, "stores")) {
			var st core.Store
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				st = claimOf(i, "dead", 5, "x")
				clusters = append(clusters, i)
			case 1:
				st = put(i, "", "shards/005", "x")
				clusters = append(clusters, i)
			default:
				st = put(i, "demo", fmt.Sprint("k", i), "x")
				tenants = append(tenants, i)
			}
			w, err := accept(st, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			q.push(w)
			if w.claim && !q.stores[0].claim {
				for _, before := range q.stores {
					if before.token == i {
						break
					}
					if !before.cluster && !after(q.stores, before.token) {
						t.Fatalf("claim %d waits behind tenant's %d for nothing", i, before.token)
					}
				}
			}
		}
		var order [2][]core.Token
		for len(q.stores) > 0 {
			b := q.take("id", false)
			for _, w := range b.stores {
				if w.claim && len(b.stores) > 1 {
					t.Fatalf("a claim in a batch of %d", len(b.stores))
				}
				taken = append(taken, w.token)
				if w.cluster {
					order[1] = append(order[1], w.token)
				} else {
					order[0] = append(order[0], w.token)
				}
			}
		}
		if fmt.Sprint(order[0]) != fmt.Sprint(tenants) || fmt.Sprint(order[1]) != fmt.Sprint(clusters) || q.claims != 0 {
			t.Fatalf("taken %v; tenants %v, clusters %v, claims left %d", taken, tenants, clusters, q.claims)
		}
	})
}

// after reports whether a record of the cluster that is no claim waits behind a token.
func after(stores []waiting, token core.Token) bool {
	seen := false
	for _, w := range stores {
		if seen && w.cluster && !w.claim {
			return true
		}
		seen = seen || w.token == token
	}
	return false
}

// A claim behind a long queue is committed with the next batch but one at the latest.
func TestClaimIsCommittedBeforeALongQueue(t *testing.T) {
	r := newRig(t)
	if _, err := r.plain.Put(t.Context(), "nodes/dead", ""); err != nil {
		t.Fatal(err)
	}
	s, h := r.open("n1", pace{})
	const n = 3000
	for i := range core.Token(n) {
		s.Do(put(1+i, "demo", fmt.Sprint("k", i), "v"))
	}
	before := len(h.all())
	s.Do(claimOf(n+1, "dead", r.revision("nodes/dead"), "n1"))
	h.awaitFinal(t, n+1, "stored")
	h.awaitFinal(t, n, "stored")
	stored := 0
	for _, ev := range h.all()[before:] {
		if ev == core.Event(core.Stored{Token: n + 1}) {
			break
		}
		if _, ok := ev.(core.Stored); ok {
			stored++
		}
	}
	if stored > 3*batchOps { // what was in flight, and what was taken while this test read a revision
		t.Errorf("%d Stores of tenants came before the claim", stored)
	}
	t.Logf("%d of the Stores that waited came before the claim", stored)
}

func quietClient(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
