package loadgen

import (
	"cmp"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

func TestLedgerCountsWhoWasFree(t *testing.T) {
	l := newLedger(2, 1000)
	l.add([]cluster.Move{
		{At: 1, What: cluster.Dialled, Index: 0},  // two agents are idle, nobody else waits
		{At: 2, What: cluster.Dialled, Index: 1},  // one of them is for caller 0
		{At: 3, What: cluster.Dialled, Index: 2},  // both are spoken for
		{At: 4, What: cluster.Offered, Index: 0},  //
		{At: 5, What: cluster.Offered, Index: 1},  //
		{At: 6, What: cluster.Left, Index: 2},     // gave up
		{At: 7, What: cluster.Declined, Index: 1}, // one agent is idle again, and caller 1 waits again
		{At: 8, What: cluster.Dialled, Index: 3},  //
		{At: 9, What: cluster.Left, Index: 1},     //
		{At: 10, What: cluster.Dialled, Index: 4}, // caller 3 still waits for that one
		{At: 11, What: cluster.Freed, Index: 0},   //
		{At: 12, What: cluster.Dialled, Index: 5}, // two idle, 3 and 4 wait
		{At: 13, What: cluster.Freed, Index: -1},  //
		{At: 14, What: cluster.Dialled, Index: 6}, // three idle: an agent of whom we did not know; 3, 4 and 5 wait
		{At: 15, What: cluster.Left, Index: 3},
		{At: 16, What: cluster.Left, Index: 4},
		{At: 17, What: cluster.Offered, Index: 5},
		{At: 18, What: cluster.Left, Index: 5},     // hangs up while the phone rings,
		{At: 19, What: cluster.Declined, Index: 5}, // so it does not wait again
		{At: 20, What: cluster.Left, Index: 6},
		{At: 21, What: cluster.Dialled, Index: 7},
	})
	l.settle()
	for index, want := range []int{2, 1, 0, 0, 0, 0, 0, 3} {
		if got := l.take(int64(index)); got != want {
			t.Errorf("caller %d: %d free, expected %d", index, got, want)
		}
	}
	if len(l.free) != 0 || len(l.held) != 0 {
		t.Errorf("kept: %v %v", l.free, l.held)
	}
}

// In whatever order the moves of several workers come in, as long as none is late by more than
// the ledger waits, the account is the same.
func TestLedgerDoesNotDependOnTheOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const wait = 50
		agents := rapid.IntRange(1, 4).Draw(t, "agents")
		var all []cluster.Move
		at := measure.Micros(0)
		for i := range int64(rapid.IntRange(1, 30).Draw(t, "callers")) {
			at += measure.Micros(rapid.IntRange(1, 20).Draw(t, "gap"))
			offered := at + measure.Micros(rapid.IntRange(1, 60).Draw(t, "wait"))
			freed := offered + measure.Micros(rapid.IntRange(1, 60).Draw(t, "talk"))
			all = append(all, cluster.Move{At: at * 100, What: cluster.Dialled, Index: i}, cluster.Move{At: offered*100 + measure.Micros(i)*2 + 1, What: cluster.Offered, Index: i},
				cluster.Move{At: freed*100 + measure.Micros(i)*2 + 2, What: cluster.Freed, Index: i})
		}
		slices.SortStableFunc(all, func(a, b cluster.Move) int { return cmp.Compare(a.At, b.At) })
		inOrder := newLedger(agents, 0)
		inOrder.add(all)
		inOrder.settle()

		type late struct {
			cluster.Move
			comes measure.Micros
		}
		var mixed []late
		for _, m := range all {
			mixed = append(mixed, late{m, m.At + measure.Micros(rapid.IntRange(0, wait-1).Draw(t, "late"))})
		}
		slices.SortStableFunc(mixed, func(a, b late) int { return cmp.Compare(a.comes, b.comes) })
		outOfOrder := newLedger(agents, wait)
		for _, m := range mixed {
			outOfOrder.add([]cluster.Move{m.Move})
		}
		outOfOrder.settle()
		for index, free := range inOrder.free {
			if got := outOfOrder.free[index]; got != free {
				t.Fatalf("caller %d: %d free, in order %d", index, got, free)
			}
		}
	})
}

// A ledger forgets what has been asked for: its size is that of the calls that are up.
func TestLedgerDoesNotGrow(t *testing.T) {
	l := newLedger(1, 10)
	for i := range int64(10_000) {
		at := measure.Micros(i * 100)
		l.add([]cluster.Move{{At: at, What: cluster.Dialled, Index: i}, {At: at + 1, What: cluster.Offered, Index: i}, {At: at + 2, What: cluster.Freed, Index: i}, {At: at + 3, What: cluster.Left, Index: i}})
		if i > 0 {
			if free := l.take(i - 1); free != 1 {
				t.Fatalf("caller %d: %d free", i-1, free)
			}
		}
	}
	if len(l.free) > 2 || len(l.held) > 8 || len(l.waiting)+len(l.here) > 1 {
		t.Errorf("kept: %d %d %d", len(l.free), len(l.held), len(l.waiting))
	}
}
