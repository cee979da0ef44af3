package commit

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"pgregory.net/rapid"
)

func effect(i int) core.Effect {
	return core.Respond{Txn: core.TxnID(fmt.Sprint(i)), Response: &core.Response{Status: i}}
}

func number(e core.Effect) int { return e.(core.Respond).Response.Status }

// TestLine drives a Line at random and holds it against the three invariants of its
// comment, with a record of which Store covers which effect that is kept outside.
func TestLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Line
		var now core.Time
		var token, inFlight core.Token
		version, written, durable := 0, 0, 0 // of the record: in memory, in the Store in flight, committed
		need := map[int]int{}                // effect -> version that must be durable first
		urgent := map[int]bool{}
		var left, gone []int
		count := 0
		take := func(out []core.Effect, grace bool) {
			for _, e := range out {
				i := number(e)
				if slices.Contains(left, i) || slices.Contains(gone, i) {
					t.Fatalf("effect %d left twice, or after it was withdrawn", i)
				}
				if need[i] > durable && !(grace && urgent[i]) {
					t.Fatalf("effect %d left at version %d, needs %d", i, durable, need[i])
				}
				left = append(left, i)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if l.Held()+len(left)+len(gone) != count {
					t.Fatalf("%d effects wait, %d left, %d withdrawn of %d", l.Held(), len(left), len(gone), count)
				}
				if l.Idle() && l.Held() > 0 {
					t.Fatalf("idle with %d effects", l.Held())
				}
			},
			"change": func(t *rapid.T) { version++; l.Touch(now) },
			"add": func(t *rapid.T) {
				count++
				need[count], urgent[count] = version, rapid.Bool().Draw(t, "urgent")
				take(l.Add(now, []Waiting{{Effect: effect(count), Urgent: urgent[count]}}, nil), false)
			},
			"send": func(t *rapid.T) {
				if l.Due(0) > now {
					t.Skip("nothing to write")
				}
				token++
				inFlight, written = token, version
				l.Send(token, "t")
			},
			"committed": func(t *rapid.T) {
				if inFlight == 0 {
					t.Skip("nothing in flight")
				}
				inFlight, durable = 0, written
				take(l.Committed(now, nil), false)
			},
			"refused": func(t *rapid.T) {
				if inFlight == 0 {
					t.Skip("nothing in flight")
				}
				inFlight = 0
				l.Refused(nil)
			},
			"withdraw": func(t *rapid.T) {
				i := rapid.IntRange(1, count+1).Draw(t, "effect")
				waits := i <= count && !slices.Contains(left, i) && !slices.Contains(gone, i)
				if l.Withdraw(core.TxnID(fmt.Sprint(i))) != waits {
					t.Fatalf("withdraw %d: expected %v", i, waits)
				}
				if waits {
					gone = append(gone, i)
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "ms")) * time.Millisecond)
				due := l.Deadline(500*time.Millisecond) <= now
				before := len(left)
				take(l.Overdue(now, 500*time.Millisecond, nil), true)
				if due && len(left) == before {
					t.Fatalf("due, and nothing left")
				}
			},
		})
	})
}

// TestOrder: effects that wait for a commit leave in the order of their Add.
func TestOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l Line
		var left []int
		count := 0
		take := func(out []core.Effect) {
			for _, e := range out {
				left = append(left, number(e))
			}
		}
		var token core.Token
		open := false
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "change") {
					l.Touch(0)
				}
				count++
				take(l.Add(0, []Waiting{{Effect: effect(count)}}, nil))
			},
			"store": func(t *rapid.T) {
				switch {
				case open:
					open = false
					take(l.Committed(0, nil))
				case l.Due(0) <= 0:
					token++
					open = true
					l.Send(token, "t")
				}
			},
			"": func(t *rapid.T) {
				if !slices.IsSorted(left) {
					t.Fatalf("left in the order %v", left)
				}
			},
		})
	})
}

// TestLastOpWins: one Store names a key once, with its newest value.
func TestLastOpWins(t *testing.T) {
	var l Line
	l.Touch(0, core.Op{Key: "a", Value: []byte("1")})
	l.Touch(0, core.Op{Key: "a", Value: []byte("2")}, core.Op{Key: "b", Value: []byte("3")})
	s := l.Send(1, "t", core.Op{Key: "b", Value: []byte("4")})
	if len(s.Ops) != 2 || string(s.Ops[0].Value) != "2" || string(s.Ops[1].Value) != "4" {
		t.Fatalf("ops %v", s.Ops)
	}
	l.Touch(0, core.Op{Key: "a", Value: []byte("5")})
	l.Refused(s.Ops)
	s = l.Send(2, "t")
	if len(s.Ops) != 2 || string(s.Ops[0].Value) != "5" {
		t.Fatalf("after a refusal: ops %v", s.Ops)
	}
}

// TestLinger: a change that nobody waits for is written a little later, one that somebody
// waits for at once, and then all of it.
func TestLinger(t *testing.T) {
	const linger = 50 * time.Millisecond
	var l Line
	if l.Due(linger) != core.Never {
		t.Fatal("clean, and due")
	}
	l.Touch(100)
	l.Add(100, []Waiting{{Effect: effect(1), Patience: time.Hour}}, nil)
	if at := l.Due(linger); at != core.Time(100).Add(linger) {
		t.Fatalf("patient: due at %d", at)
	}
	l.Touch(200)
	if at := l.Due(linger); at != core.Time(100).Add(linger) {
		t.Fatalf("a second change moved it to %d", at)
	}
	l.Add(200, []Waiting{{Effect: effect(2)}}, nil)
	if l.Due(linger) > 200 {
		t.Fatal("somebody waits, and it is not due")
	}
	l.Send(1, "t")
	if l.Due(linger) != core.Never {
		t.Fatal("in flight, and due")
	}
	if out := l.Committed(300, nil); len(out) != 2 {
		t.Fatalf("%d effects left", len(out))
	}
}

// TestPatience: a change is due when the first who waits for it has lost its patience, and
// joins another's Store from half of that on; not earlier, and never while it is in flight.
func TestPatience(t *testing.T) {
	const linger, brief = 50 * time.Millisecond, 20 * time.Millisecond
	var l Line
	l.Touch(0)
	l.Add(0, []Waiting{{Effect: effect(1), Patience: linger}}, nil)
	l.Add(10, []Waiting{{Effect: effect(2), Patience: brief}}, nil)
	due := core.Time(10).Add(brief)
	if at := l.Due(linger); at != due {
		t.Fatalf("due at %d, not %d", at, due)
	}
	if l.Joins(due/2-1, linger) || !l.Joins(due/2, linger) {
		t.Fatal("it joins before half of its patience, or not from then on")
	}
	l.Send(1, "t")
	if l.Joins(due, linger) {
		t.Fatal("it is in flight, and joins")
	}
	l.Touch(due)
	l.Add(due, []Waiting{{Effect: effect(3), Patience: brief}}, nil)
	l.Refused(nil)
	if at := l.Due(linger); at > due {
		t.Fatalf("refused, and due at %d only", at)
	}
}
