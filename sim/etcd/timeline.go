package etcd

import "github.com/dialtone-cc/dialtone/server/core"

// happening is what a moment is about. It is a number because every moment is compared with it.
type happening uint8

// The happenings.
const (
	arrives    happening = iota // a request arrives at a member
	forwarded                   // a proposal reaches the leader
	confirmed                   // the leader has confirmed a read
	renews                      // a keepalive reaches the leader
	flushed                     // the log is synced at a majority
	applies                     // a member has carried out the log
	answers                     // an answer reaches its client
	tells                       // a message of a watch reaches its client
	gives                       // a client gives up
	redials                     // a client connects anew
	resumes                     // a client opens its watch anew
	pumps                       // a member looks after a watch
	progresses                  // a member owes progress notifications
	silence                     // a client has heard nothing for too long
	lapses                      // a member has heard no leader for too long
	monitors                    // a member has had no leader for too long
	elects                      // an election ends
	ticks                       // the leader looks for leases that have expired
	compacts                    // periodic compaction
	heals                       // a fault ends
)

// moment is one thing that will happen. Which members are set depends on what it is.
type moment struct {
	what    happening
	member  *member
	conn    *conn
	call    *call
	watcher *watcher
	watch   *watch
	message *message
	fault   *Fault
	view    view
	n       uint64 // generation, index or serial
}

// timeline is a heap of moments, ordered by their time and then by when they were planned.
type timeline struct {
	heap    []node
	moments []moment
	free    []int32
	planned uint64
}

type node struct {
	at  core.Time
	seq uint64
	i   int32
}

func (a node) before(b node) bool { return a.at < b.at || a.at == b.at && a.seq < b.seq }

func (t *timeline) push(at core.Time, m moment) {
	var i int32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
		t.moments[i] = m
	} else {
		i = int32(len(t.moments))
		t.moments = append(t.moments, m)
	}
	t.planned++
	t.heap = append(t.heap, node{at, t.planned, i})
	for c := len(t.heap) - 1; c > 0; {
		p := (c - 1) / 2
		if !t.heap[c].before(t.heap[p]) {
			break
		}
		t.heap[c], t.heap[p] = t.heap[p], t.heap[c]
		c = p
	}
}

func (t *timeline) next() core.Time {
	if len(t.heap) == 0 {
		return never
	}
	return t.heap[0].at
}

func (t *timeline) pop() (core.Time, moment) {
	first := t.heap[0]
	last := len(t.heap) - 1
	t.heap[0] = t.heap[last]
	t.heap = t.heap[:last]
	for p := 0; ; {
		c := 2*p + 1
		if c >= last {
			break
		}
		if c+1 < last && t.heap[c+1].before(t.heap[c]) {
			c++
		}
		if !t.heap[c].before(t.heap[p]) {
			break
		}
		t.heap[c], t.heap[p] = t.heap[p], t.heap[c]
		p = c
	}
	m := t.moments[first.i]
	t.moments[first.i] = moment{}
	t.free = append(t.free, first.i)
	return first.at, m
}
