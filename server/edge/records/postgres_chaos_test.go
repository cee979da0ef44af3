package records

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/dialtone-cc/dialtone/server/core"
)

// ward plays a node: what waits in its outbox is delivered again until it is said to be there.
type ward struct {
	writer *Writer

	mu     sync.Mutex
	outbox map[core.InteractionID]*core.CDR
	told   map[core.InteractionID]bool
	cause  string // of the last failure
	fails  int
	over   bool
}

func newWard(t *testing.T, s *Postgres) *ward {
	w := &ward{outbox: map[core.InteractionID]*core.CDR{}, told: map[core.InteractionID]bool{}}
	w.writer = NewWriter(s, w.emit, nil)
	t.Cleanup(func() { // also when the test has failed
		w.mu.Lock()
		w.over = true
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.writer.Close(ctx)
	})
	return w
}

func (w *ward) emit(ev core.Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch e := ev.(type) {
	case core.Delivered:
		delete(w.outbox, e.ID)
		w.told[e.ID] = true
	case core.DeliveryFailed:
		w.fails++
		w.cause = e.Cause
		if cdr := w.outbox[e.ID]; cdr != nil && !w.over {
			time.AfterFunc(100*time.Millisecond, func() { w.writer.Do(core.Deliver{CDR: cdr}) })
		}
	}
	return true
}

func (w *ward) file(cdr core.CDR) {
	w.mu.Lock()
	w.outbox[cdr.ID] = &cdr
	w.mu.Unlock()
	w.writer.Do(core.Deliver{CDR: &cdr})
}

func (w *ward) left() (n int, cause string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.outbox), w.cause
}

// fault is what strikes in one round.
type fault string

const (
	cutConnections fault = "connections are cut"
	cutAnswers     fault = "answers are lost after the commit"
	kill9          fault = "the server is killed and started again"
)

// Four nodes deliver the same interactions, each in its own words, while answers
// are lost after commits, connections cut, and the server is killed with -9 and started
// again. What was said to be delivered is there from then on, unchanged; at the end each id
// is there once.
func TestPostgresChaos(t *testing.T) {
	server := newServer(t) // of its own: after each kill -9 a server looks through all that it has
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("DIALTONE_TEST_SEED"), 10, 64); err == nil {
		seed = given
	}
	t.Logf("DIALTONE_TEST_SEED=%d go test -run TestPostgresChaos ./server/edge/records", seed)
	chance := rand.New(rand.NewPCG(seed, 2))
	database := server.database(t)
	way := newProxy(t, server)
	faults := []fault{cutConnections, cutConnections, cutAnswers, cutAnswers, cutAnswers, cutAnswers, kill9, kill9, kill9}
	chance.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	const nodes, part = 4, 60
	each := part * len(faults)
	var wards []*ward
	var orders [][]int // in which a node files the interactions
	for range nodes {
		s := openPostgres(t, server.at(database, way.addr()))
		t.Cleanup(func() { s.Close() })
		wards, orders = append(wards, newWard(t, s)), append(orders, chance.Perm(each))
	}
	first := map[core.InteractionID]core.CDR{}
	for round, fault := range faults {
		cut := way.cut.Load()
		if fault == cutAnswers {
			way.cutAnswers.Store(2)
		}
		for node, w := range wards {
			for _, n := range orders[node][round*part : (round+1)*part] {
				c := sample(core.TenantID(fmt.Sprint("t", n%3)), n)
				c.Node = core.NodeID(fmt.Sprint("n", node))
				w.file(c)
			}
		}
		time.Sleep(time.Duration(chance.IntN(300)) * time.Millisecond) // when within the deliveries it strikes
		switch fault {
		case cutConnections:
			way.cutAll()
		case cutAnswers:
			for deadline := time.Now().Add(30 * time.Second); way.cut.Load() == cut; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("seed %d: no answer was cut", seed)
				}
			}
			way.cutAnswers.Store(0)
		case kill9:
			server.stop(t, syscall.SIGKILL)
			time.Sleep(time.Duration(chance.IntN(500)) * time.Millisecond)
			server.start(t)
		}
		lookAgain(t, server, database, wards, first)
	}
	for i, w := range wards {
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			n, cause := w.left()
			if n == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("seed %d: node %d has %d CDRs left; the last failure: %s", seed, i, n, cause)
			}
		}
	}
	lookAgain(t, server, database, wards, first)
	rows := server.number(t, database, `SELECT count(*) FROM dialtone.cdr`)
	ids := server.number(t, database, `SELECT count(DISTINCT id) FROM dialtone.cdr`)
	if rows != each || ids != each || len(first) != each {
		t.Errorf("seed %d: %d rows, %d ids, %d delivered, of %d", seed, rows, ids, len(first), each)
	}
	fails := 0
	for _, w := range wards {
		w.mu.Lock()
		fails += w.fails
		w.mu.Unlock()
	}
	t.Logf("%d answers were cut, %d connections made, %d deliveries failed", way.cut.Load(), way.accepted.Load(), fails)
}

// lookAgain reads all that was said to be delivered, and compares it with what was read before.
func lookAgain(t *testing.T, server *postgresServer, database string, wards []*ward, first map[core.InteractionID]core.CDR) {
	t.Helper()
	told := map[core.InteractionID]bool{}
	for _, w := range wards {
		w.mu.Lock()
		for id := range w.told {
			told[id] = true
		}
		w.mu.Unlock()
	}
	there := map[core.InteractionID]core.CDR{}
	conn, err := pgx.Connect(t.Context(), server.adminURL(database))
	must(t, err)
	defer conn.Close(context.Background())
	rows, err := conn.Query(t.Context(), `SELECT id, record FROM dialtone.cdr`)
	must(t, err)
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (none struct{}, err error) {
		var id string
		var text []byte
		if err := row.Scan(&id, &text); err != nil {
			return none, err
		}
		there[core.InteractionID(id)], err = decode(id, text)
		return none, err
	})
	must(t, err)
	for id := range told {
		c, ok := there[id]
		if !ok {
			t.Fatalf("%s was delivered and is not there", id)
		}
		if before, known := first[id]; known && !cmp.Equal(before, c) {
			t.Fatalf("%s has changed: %s", id, cmp.Diff(before, c))
		}
		first[id] = c
	}
}
