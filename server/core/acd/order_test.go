package acd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

// The order holds what a sorted list holds, through growth, shrinkage and replacement, at
// the ends and in the middle; and its blocks stay as they must.
func TestOrderIsASortedList(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 0))
		var o order[int]
		var list []place
		next := core.Time(1)
		for step := range 6000 {
			grow := step%3000 < 1500 // up to some 1,000 items, and down again
			switch n := r.IntN(10); {
			case n < 6 == grow:
				p := place{rank: int64(r.IntN(2)), at: core.Time(r.IntN(5000)), id: fmt.Sprint(r.IntN(3))}
				if seed%2 == 0 { // as a queue grows: mostly at its end
					p = place{at: next, id: "x"}
					next++
				}
				o.insert(p, int(p.at))
				if i, found := slices.BinarySearchFunc(list, p, place.compare); !found {
					list = slices.Insert(list, i, p)
				}
			case len(list) > 0:
				i := r.IntN(len(list))
				if seed%4 == 0 {
					i = 0 // as a queue shrinks
				}
				if !o.remove(list[i]) {
					t.Fatalf("seed %d step %d: %v is not there", seed, step, list[i])
				}
				list = slices.Delete(list, i, i+1)
			}
			if o.remove(place{at: -1}) {
				t.Fatalf("seed %d step %d: removed what is not there", seed, step)
			}
			if err := o.valid(); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			if step%20 != 0 {
				continue
			}
			var got []place
			for _, block := range o.blocks {
				for _, it := range block {
					if it.value != int(it.at) {
						t.Fatalf("seed %d step %d: value %d at %v", seed, step, it.value, it.place)
					}
					got = append(got, it.place)
				}
			}
			if !slices.Equal(got, list) || len(list) > 0 && o.first().place != list[0] {
				t.Fatalf("seed %d step %d: holds %v, want %v", seed, step, got, list)
			}
		}
	}
}

// A board finds the same collection whether few or many fit.
func TestBoardFirst(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 0))
		var b board
		lists := make([]order[int], 1+r.IntN(200))
		for range 400 {
			n := r.IntN(len(lists))
			l := &lists[n]
			if r.IntN(2) == 0 {
				l.insert(place{at: core.Time(r.IntN(100)), id: fmt.Sprint(n, r.Int())}, n)
			} else if l.n > 0 {
				l.remove(l.first().place)
			}
			update(&b, n, l)
			var fits set
			for i := range lists {
				if r.IntN(1+r.IntN(20)) == 0 {
					fits.add(i)
				}
			}
			want := -1
			for i := range lists {
				if fits.has(i) && lists[i].n > 0 && (want < 0 || lists[i].first().compare(lists[want].first().place) < 0) {
					want = i
				}
			}
			if got := b.first(fits); got != want {
				t.Fatalf("seed %d: first is %d, want %d", seed, got, want)
			}
		}
	}
}

// Signatures differ where lists do, whatever skills are called.
func TestSignature(t *testing.T) {
	lists := [][]level{nil, {{"a", 1}}, {{"a", 11}}, {{"a=1 ", 1}}, {{"a", 1}, {"b", 1}}, {{"a=1 1:b", 1}}, {{"", 1}}, {{"1:a", 1}}}
	seen := map[string]int{}
	for i, l := range lists {
		if j, double := seen[signature(l)]; double {
			t.Errorf("%v and %v have one signature", l, lists[j])
		}
		seen[signature(l)] = i
	}
}
