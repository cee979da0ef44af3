package clusterctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

func (w *world) drainOf(name string) *cluster.DrainRecord {
	w.t.Helper()
	reply, err := w.client.Get(w.t.Context(), "drains/"+name)
	if err != nil {
		w.t.Fatal(err)
	}
	if len(reply.Kvs) == 0 {
		return nil
	}
	r := new(cluster.DrainRecord)
	if err := json.Unmarshal(reply.Kvs[0].Value, r); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestDrainAndUndrain(t *testing.T) {
	w := healthy(t)
	typeIn(t, "drain", "n2").wants(exitWell, "node n2 drains")
	if r := w.drainOf("n2"); r == nil || r.At.IsZero() || r.By == "" || r.V == 0 {
		t.Errorf("the order is %+v", r)
	}
	typeIn(t, "drain", "n2").wants(exitWell, "node n2 drains") // twice is as good as once
	typeIn(t, "undrain", "n2").wants(exitWell, "node n2 takes calls")
	if r := w.drainOf("n2"); r != nil {
		t.Errorf("the order stands: %+v", r)
	}
	typeIn(t, "undrain", "n2").wants(exitWell, "was not to drain")
}

func TestUnknownNodes(t *testing.T) {
	w := healthy(t)
	w.node("frankfurt")
	w.put("nodes/n1/chain", []byte("x"))
	typeIn(t, "drain", "frankfrut").wants(exitUsage, `no node "frankfrut"`, "did you mean frankfurt?")
	typeIn(t, "drain", "zebra").wants(exitUsage, "There are frankfurt, n1, n2, n10.")
	typeIn(t, "undrain", "zebra").wants(exitUsage, "There are frankfurt, n1, n2, n10.")
	if w.drainOf("zebra") != nil || w.drainOf("frankfrut") != nil {
		t.Error("an order for a node that is not there was written")
	}
	newStore(t)
	typeIn(t, "drain", "n1").wants(exitUsage, "nor any other: is this the right etcd?")
}

// Who is replaced is not there when the order is taken back.
func TestUndrainOfANodeThatIsAway(t *testing.T) {
	w := healthy(t)
	typeIn(t, "drain", "n2").wants(exitWell)
	w.remove(cluster.NodeKey("n2"))
	typeIn(t, "undrain", "n2").wants(exitWell, "node n2 takes calls")
	if w.drainOf("n2") != nil {
		t.Error("the order stands")
	}
	typeIn(t, "undrain", "n2").wants(exitUsage, "no node")
}

// waiting runs `drain --wait`, and returns its output and how to await its code.
func waiting(ctx context.Context, t *testing.T, args ...string) (*watched, func() typed) {
	t.Helper()
	out, done := new(watched), make(chan int, 1)
	go func() {
		done <- Command(ctx, append([]string{"drain", "--wait"}, args...), []string{"DIALTONE_ETCD_ENDPOINTS=" + storeAddress}, out, out)
	}()
	return out, func() typed {
		code := <-done
		return typed{t: t, code: code, stdout: out.String(), command: args}
	}
}

func TestDrainWaits(t *testing.T) {
	w := healthy(t)
	w.calls("acme", "n2", w.lives["n2"], 1)
	out, ended := waiting(t.Context(), t, "n2")
	out.await(t, "node n2 drains")
	w.shards("n1", 21, 41)
	if strings.Contains(out.String(), "empty") {
		t.Error("a node with a call is empty")
	}
	w.remove(fmt.Sprintf("t/acme/calls/n2-%d-0", w.lives["n2"]))
	ended().wants(exitWell, "node n2 is empty after")
}

func TestDrainOfTheLastNode(t *testing.T) {
	w := newWorld(t)
	w.node("n1")
	w.shards("n1", 0, 63)
	_, ended := waiting(t.Context(), t, "n1")
	ended().wants(exitWell, "node n1 is empty after", "keeps 64 shards, for no other node takes calls")
}

func TestDrainEnds(t *testing.T) {
	healthy(t)
	_, ended := waiting(t.Context(), t, "n2", "--timeout", "1s")
	ended().wants(exitWrong, "not empty in time: 0 calls and 21 shards left; it drains on")

	out, ended := waiting(t.Context(), t, "n2")
	out.await(t, "node n2 drains")
	typeIn(t, "undrain", "n2").wants(exitWell)
	ended().wants(exitWrong, "somebody has taken the order back")

	ctx, stop := context.WithCancel(t.Context())
	out, ended = waiting(ctx, t, "n2")
	out.await(t, "node n2 drains")
	stop()
	ended().wants(exitWrong, "drains on")
}

func TestDrainWithoutEtcd(t *testing.T) {
	var out bytes.Buffer
	if code := Command(t.Context(), []string{"undrain", "n1", "--etcd", "127.61.0.9:2379"}, nil, &out, &out); code != exitUnknown ||
		!strings.Contains(out.String(), "connection refused") {
		t.Errorf("%d %s", code, out.String())
	}
}
