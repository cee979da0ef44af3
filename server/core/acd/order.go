package acd

import (
	"fmt"
	"slices"
)

// order is a sorted collection of values by place: a B-tree of two levels. A search takes
// O(log n) comparisons; an insertion or removal moves at most blockSize items, and the
// outer slice once in many. It has no chance in it: equal operations give an equal shape.
//
// Invariants:
//  1. places ascend strictly over all blocks;
//  2. no block holds more than blockSize, and none but the only one is empty;
//  3. two neighbours hold more than blockSize/2 together, so that memory follows n;
//  4. n is the number of items.
type order[V any] struct {
	blocks [][]item[V]
	n      int
}

type item[V any] struct {
	place
	value V
}

// blockSize trades the moving of items against the length of the outer slice: 10,000 items
// are some 200 blocks of 2 KB.
const blockSize = 64

// first returns the least item. It must not be called on an empty order.
func (o *order[V]) first() *item[V] { return &o.blocks[0][0] }

// find returns where p is, or where it would have to be inserted.
func (o *order[V]) find(p place) (block, index int, found bool) {
	low, high := 0, len(o.blocks)-1
	for low < high { // the first block whose last item is not before p; else the last block
		mid := (low + high) / 2
		b := o.blocks[mid]
		if b[len(b)-1].compare(p) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	i, found := slices.BinarySearchFunc(o.blocks[low], p, func(it item[V], p place) int { return it.compare(p) })
	return low, i, found
}

// insert adds a value, in place of one that is there already.
func (o *order[V]) insert(p place, v V) {
	if len(o.blocks) == 0 {
		o.blocks = append(o.blocks, nil)
	}
	b, i, found := o.find(p)
	if found {
		o.blocks[b][i].value = v
		return
	}
	if len(o.blocks[b]) == blockSize {
		b, i = o.split(b, i)
	}
	o.blocks[b] = slices.Insert(o.blocks[b], i, item[V]{p, v})
	o.n++
}

// split makes room in the full block b for an insertion at i, and returns where that is now.
// What is appended opens a block of its own: queues grow at the end, and halves would stay
// half empty.
func (o *order[V]) split(b, i int) (block, index int) {
	if i == blockSize {
		o.blocks = slices.Insert(o.blocks, b+1, nil)
		return b + 1, 0
	}
	const half = blockSize / 2
	right := append(make([]item[V], 0, blockSize), o.blocks[b][half:]...)
	o.blocks[b] = slices.Delete(o.blocks[b], half, blockSize)
	o.blocks = slices.Insert(o.blocks, b+1, right)
	if i > half {
		return b + 1, i - half
	}
	return b, i
}

// remove takes the item at p out and reports whether it was there.
func (o *order[V]) remove(p place) bool {
	if o.n == 0 {
		return false
	}
	b, i, found := o.find(p)
	if !found {
		return false
	}
	o.blocks[b] = slices.Delete(o.blocks[b], i, i+1)
	o.n--
	if b+1 < len(o.blocks) {
		o.merge(b)
	}
	if b > 0 {
		o.merge(b - 1)
	}
	return true
}

// merge joins block b and its right neighbour when they are small.
func (o *order[V]) merge(b int) {
	left, right := o.blocks[b], o.blocks[b+1]
	if len(left)+len(right) > blockSize/2 {
		if len(left) > 0 && len(right) > 0 {
			return
		}
		if len(left) == 0 {
			o.blocks[b] = right
		}
	} else {
		o.blocks[b] = append(left, right...)
	}
	o.blocks = slices.Delete(o.blocks, b+1, b+2)
}

// valid checks the invariants above.
func (o *order[V]) valid() error {
	n := 0
	for b, block := range o.blocks {
		if len(block) > blockSize || (len(block) == 0 && len(o.blocks) > 1) {
			return fmt.Errorf("order: block %d of %d holds %d items", b, len(o.blocks), len(block))
		}
		if b > 0 && len(block)+len(o.blocks[b-1]) <= blockSize/2 {
			return fmt.Errorf("order: blocks %d and %d should be one", b-1, b)
		}
		for i, it := range block {
			if i > 0 && block[i-1].compare(it.place) >= 0 || i == 0 && b > 0 && o.blocks[b-1][len(o.blocks[b-1])-1].compare(it.place) >= 0 {
				return fmt.Errorf("order: %v is not after its predecessor", it.place)
			}
		}
		n += len(block)
	}
	if n != o.n {
		return fmt.Errorf("order: counts %d items, holds %d", o.n, n)
	}
	return nil
}
