package loadgen

import (
	"container/heap"

	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// ledger knows how many agents were free for a caller when it dialled: those who were idle,
// less the callers who dialled before it and still waited. The moves come from several
// processes, not in order; so each is held until all that happened before it must have come.
type ledger struct {
	wait    measure.Micros // how long moves may be on their way
	now     measure.Micros // the latest seen
	held    moves
	arrived int64 // number of the next move, which decides among equals
	idle    int
	here    map[int64]bool // callers who are on the line
	waiting map[int64]bool // those of them without an agent
	free    map[int64]int  // by caller, until it is asked for
}

func newLedger(agents int, wait measure.Micros) *ledger {
	return &ledger{wait: wait, idle: agents, here: map[int64]bool{}, waiting: map[int64]bool{}, free: map[int64]int{}}
}

// add takes moves and books what is old enough.
func (l *ledger) add(batch []cluster.Move) {
	for _, m := range batch {
		heap.Push(&l.held, move{m, l.arrived})
		l.arrived++
		l.now = max(l.now, m.At)
	}
	l.book(l.now - l.wait)
}

// settle books all moves that are held.
func (l *ledger) settle() { l.book(l.now) }

// take says how many agents were free when a caller dialled, and forgets it.
func (l *ledger) take(index int64) int {
	free := l.free[index]
	delete(l.free, index)
	return free
}

func (l *ledger) book(until measure.Micros) {
	for len(l.held) > 0 && l.held[0].At <= until {
		switch m := heap.Pop(&l.held).(move); m.What {
		case cluster.Dialled:
			l.free[m.Index] = max(0, l.idle-len(l.waiting))
			l.here[m.Index], l.waiting[m.Index] = true, true
		case cluster.Offered:
			l.idle--
			delete(l.waiting, m.Index)
		case cluster.Declined:
			l.idle++
			if l.here[m.Index] { // and has not hung up while the phone rang
				l.waiting[m.Index] = true
			}
		case cluster.Freed:
			l.idle++
		case cluster.Left:
			delete(l.here, m.Index)
			delete(l.waiting, m.Index)
		}
	}
}

// move is a move in the order in which it came.
type move struct {
	cluster.Move
	order int64
}

// moves is a heap, the earliest on top.
type moves []move

func (m moves) Len() int { return len(m) }
func (m moves) Less(i, k int) bool {
	return m[i].At < m[k].At || m[i].At == m[k].At && m[i].order < m[k].order
}
func (m moves) Swap(i, k int) { m[i], m[k] = m[k], m[i] }
func (m *moves) Push(x any)   { *m = append(*m, x.(move)) }
func (m *moves) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}
