package etcd

import (
	"fmt"
	"strconv"
	"strings"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// step is one action of a program. Revisions are relative to where the program begins, and
// leases and watches are numbered in the order in which the program makes them, so that one
// program runs on any store.
type step struct {
	Txn    *Txn   // its leases and revisions are relative
	Range  *Range // likewise
	Grant  int64  // seconds
	Alive  int    // of a lease
	Revoke int
	Past   core.Revision // compact: offset
	Watch  *Watch        // From is an offset; 0: from now on
	What   string
}

type program []step

// alphabet is the keys of programs; some are parts of others.
var alphabet = [...]string{"a", "b", "b\x00", "ba", "c", "d/e", "d/f", "e"}

var ends = [...]string{"", "", "", "", "b", "c", "d0", "f", "\x00"}

// noLease is a lease that nobody has.
const noLease = 99

// roll draws a number below n, nearly evenly: rapid's own ranges prefer small numbers so much
// that what is to be rare would not be.
func roll(t *rapid.T, n int, label string) int {
	return int(rapid.Uint64().Draw(t, label) >> 3 % uint64(n))
}

func one[T any](t *rapid.T, of []T, label string) T { return of[roll(t, len(of), label)] }

func genKey() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string { return one(t, alphabet[:], "of") })
}

func genEnd() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string { return one(t, ends[:], "of") })
}

func genValue() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte { return []byte(rapid.StringMatching(`[x-z]{0,3}`).Draw(t, "value")) })
}

// genRevision draws an offset around what a short program reaches; 0 stands for none.
func genRevision() *rapid.Generator[core.Revision] {
	return rapid.Custom(func(t *rapid.T) core.Revision {
		if roll(t, 3, "now") > 0 {
			return 0
		}
		return core.Revision(roll(t, 22, "revision"))
	})
}

func genCompare() *rapid.Generator[Compare] {
	return rapid.Custom(func(t *rapid.T) Compare {
		c := Compare{
			Key:    genKey().Draw(t, "key"),
			Target: one(t, []Target{CreateRevision, ModRevision, Version, Value}, "target"),
			Is:     one(t, []Relation{Equal, NotEqual, Greater, Less}, "is"),
		}
		switch c.Target {
		case Value:
			c.Value = genValue().Draw(t, "value")
		case Version:
			c.Number = int64(roll(t, 4, "version"))
		default:
			c.Number = int64(genRevision().Draw(t, "number"))
		}
		return c
	})
}

func genOp(leases int) *rapid.Generator[Op] {
	return rapid.Custom(func(t *rapid.T) Op {
		o := Op{Kind: one(t, []OpKind{Put, Put, Put, Delete, Get}, "kind"), Key: genKey().Draw(t, "key")}
		if roll(t, 150, "empty") == 149 {
			o.Key = ""
		}
		switch o.Kind {
		case Put:
			o.Value = genValue().Draw(t, "value")
			o.Lease = LeaseID(genLease(leases, 0).Draw(t, "lease"))
		case Delete:
			o.End = genEnd().Draw(t, "end")
		case Get:
			o.End = genEnd().Draw(t, "end")
			o.Limit = int64(roll(t, 4, "limit"))
			if roll(t, 10, "past") == 0 {
				o.Revision = genRevision().Draw(t, "revision")
			}
		}
		return o
	})
}

// genLease draws a lease of those made so far, rarely one that nobody has, and else none.
func genLease(leases int, none int) *rapid.Generator[int] {
	return rapid.Custom(func(t *rapid.T) int {
		switch n := roll(t, 40, "which"); {
		case n == 39:
			return noLease
		case n < 16 && leases > 0:
			return 1 + n%leases
		}
		return none
	})
}

// apart leaves out what etcd would refuse to have in one Txn, most of the time.
func apart(t *rapid.T, ops []Op) []Op {
	if roll(t, 10, "apart") == 9 {
		return ops
	}
	var out []Op
	for _, o := range ops {
		if !twiceOfFew(append(out, o)) {
			out = append(out, o)
		}
	}
	return out
}

// many repeats operations beyond what one Txn may hold, now and then.
func many(t *rapid.T, ops []Op) []Op {
	switch roll(t, 300, "many") {
	case 299:
		for i := range 129 - len(ops) {
			ops = append(ops, Op{Kind: Put, Key: "m" + strconv.Itoa(i)})
		}
	case 298:
		for i := range 128 - len(ops) {
			ops = append(ops, Op{Kind: Put, Key: "m" + strconv.Itoa(i)})
		}
	case 297:
		ops = append(ops, Op{Kind: Put, Key: "large", Value: make([]byte, 1_600_000)})
	case 296:
		ops = append(ops, Op{Kind: Put, Key: "large", Value: make([]byte, 1_500_000)})
	}
	return ops
}

func genProgram() *rapid.Generator[program] {
	return rapid.Custom(func(t *rapid.T) program {
		var p program
		leases := 0
		for range 1 + roll(t, 80, "steps") {
			var s step
			switch n := roll(t, 100, "what"); {
			case n < 50:
				s.Txn = &Txn{
					If:   rapid.SliceOfN(genCompare(), 0, 3).Draw(t, "if"),
					Then: many(t, apart(t, rapid.SliceOfN(genOp(leases), 0, 5).Draw(t, "then"))),
					Else: apart(t, rapid.SliceOfN(genOp(leases), 0, 3).Draw(t, "else")),
				}
			case n < 60:
				s.Range = &Range{Key: genKey().Draw(t, "key"), End: genEnd().Draw(t, "end"),
					Limit: int64(roll(t, 4, "limit")), Revision: genRevision().Draw(t, "revision")}
			case n < 69:
				s.Grant = int64(one(t, []int{600, 600, 600, 600, 1000, 9_000_000_001}, "ttl"))
				if s.Grant < maxTTL {
					leases++
				}
			case n < 72:
				s.Alive = genLease(leases, noLease).Draw(t, "lease")
			case n < 82:
				s.Revoke = genLease(leases, noLease).Draw(t, "lease")
			case n < 89:
				s.Past = core.Revision(1 + roll(t, 20, "compact"))
			default:
				s.Watch = &Watch{Key: genKey().Draw(t, "key"), End: genEnd().Draw(t, "end"), From: genRevision().Draw(t, "from")}
			}
			p = append(p, s)
		}
		return p
	})
}

// show writes an answer in words; leases are numbered.
func show(a Answer, base core.Revision, lease func(LeaseID) int) string {
	var b strings.Builder
	if a.Err != "" {
		fmt.Fprintf(&b, "error: %s", a.Err)
		if w, ok := a.Reply.(WatchReply); ok && w.Compacted != 0 {
			fmt.Fprintf(&b, " (%d)", w.Compacted-base)
		}
		return b.String()
	}
	found := func(r RangeReply) {
		fmt.Fprintf(&b, " count=%d more=%t", r.Count, r.More)
		for _, kv := range r.KVs {
			b.WriteString(" " + showKV(kv, base, lease))
		}
	}
	fmt.Fprintf(&b, "revision=%d", a.Revision-base)
	switch r := a.Reply.(type) {
	case TxnReply:
		fmt.Fprintf(&b, " succeeded=%t", r.Succeeded)
		for _, one := range r.Results {
			fmt.Fprintf(&b, " [%s", one.Kind)
			switch one.Kind {
			case Get:
				found(one.Range)
			case Delete:
				fmt.Fprintf(&b, " %d", one.Deleted)
			}
			b.WriteString("]")
		}
	case RangeReply:
		found(r)
	case LeaseReply:
		fmt.Fprintf(&b, " ttl=%d lease=%d", r.TTL, lease(r.Lease))
	}
	return b.String()
}

func showKV(kv KeyValue, base core.Revision, lease func(LeaseID) int) string {
	at := func(r core.Revision) core.Revision {
		if r == 0 {
			return 0
		}
		return r - base
	}
	value := kv.Value
	if len(value) > 8 {
		value = []byte("bytes:" + strconv.Itoa(len(value)))
	}
	return fmt.Sprintf("%q=%q(c%d m%d v%d l%d)", kv.Key, value, at(kv.Create), at(kv.Mod), kv.Version, lease(kv.Lease))
}

func showEvent(e Event, base core.Revision, lease func(LeaseID) int) string {
	if e.Deleted {
		return fmt.Sprintf("-%q(m%d)", e.KV.Key, e.KV.Mod-base)
	}
	return "+" + showKV(e.KV, base, lease)
}

// String is the program in words.
func (p program) String() string {
	var b strings.Builder
	for i, s := range p {
		switch {
		case s.Txn != nil:
			fmt.Fprintf(&b, "%d: If %v Then %s Else %s\n", i, s.Txn.If, showOps(s.Txn.Then), showOps(s.Txn.Else))
		case s.Range != nil:
			fmt.Fprintf(&b, "%d: %+v\n", i, *s.Range)
		case s.Watch != nil:
			fmt.Fprintf(&b, "%d: %+v\n", i, *s.Watch)
		default:
			fmt.Fprintf(&b, "%d: grant %d, alive %d, revoke %d, compact %d\n", i, s.Grant, s.Alive, s.Revoke, s.Past)
		}
	}
	return b.String()
}

func showOps(ops []Op) string {
	if len(ops) > 20 {
		return fmt.Sprintf("(%d operations)", len(ops))
	}
	var b strings.Builder
	for _, o := range ops {
		value := string(o.Value)
		if len(value) > 8 {
			value = strconv.Itoa(len(value)) + " bytes"
		}
		fmt.Fprintf(&b, "{%s %q %q %q lease %d limit %d rev %d}", o.Kind, o.Key, o.End, value, o.Lease, o.Limit, o.Revision)
	}
	return b.String()
}
