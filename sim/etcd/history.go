package etcd

import (
	"sort"

	"github.com/dialtone-cc/dialtone/server/core"
)

// history is all changes, in order, of which a beginning may be forgotten. A change is
// known by its place, which it keeps.
type history struct {
	leaves [][]change // full but for the last
	base   int        // place of the first that is kept
	next   int        // place of the next one
}

type change struct {
	Event
	before int // place of the former change of the same key; -1: none
}

const historyLeaf = 1024

func (h *history) at(place int) *change {
	i := place - h.base
	return &h.leaves[i/historyLeaf][i%historyLeaf]
}

func (h *history) add(e Event, before int) (place int) {
	if (h.next-h.base)%historyLeaf == 0 {
		h.leaves = append(h.leaves, make([]change, 0, historyLeaf))
	}
	last := &h.leaves[len(h.leaves)-1]
	*last = append(*last, change{e, before})
	h.next++
	return h.next - 1
}

// find returns the place of the first change of a revision or a later one.
func (h *history) find(rev core.Revision) int {
	return h.base + sort.Search(h.next-h.base, func(i int) bool { return h.at(h.base+i).KV.Mod >= rev })
}

// forget lets go of what was before a place, as far as that is easily done.
func (h *history) forget(place int) {
	n := (place - h.base) / historyLeaf
	if n <= 0 {
		return
	}
	h.leaves = append([][]change(nil), h.leaves[n:]...)
	h.base += n * historyLeaf
}
