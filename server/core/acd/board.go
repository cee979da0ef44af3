package acd

import (
	"math/bits"
	"slices"
)

// set is a set of small numbers.
type set []uint64

func (s set) has(i int) bool { return i>>6 < len(s) && s[i>>6]>>(i&63)&1 == 1 }

func (s *set) add(i int) {
	for i>>6 >= len(*s) {
		*s = append(*s, 0)
	}
	(*s)[i>>6] |= 1 << (i & 63)
}

func (s set) drop(i int) {
	if i>>6 < len(s) {
		s[i>>6] &^= 1 << (i & 63)
	}
}

// common returns how many numbers are in both sets.
func (s set) common(t set) int {
	n := 0
	for w := range min(len(s), len(t)) {
		n += bits.OnesCount64(s[w] & t[w])
	}
	return n
}

// board knows of a number of collections (lines of entries, teams of agents), each with a
// number, which are not empty and how their first elements compare: enough to find the
// first element over those collections that fit.
type board struct {
	places []place    // by number, of the first element; stale where not filled
	filled set        // which collections are not empty
	heads  order[int] // the numbers of those by place
}

// update tells the board what the first element of a collection is now.
func update[V any](b *board, number int, o *order[V]) {
	var now place
	if o.n > 0 {
		now = o.first().place
	}
	was := b.filled.has(number)
	if was && o.n > 0 && b.places[number] == now {
		return
	}
	if was {
		b.heads.remove(b.places[number])
		b.filled.drop(number)
	}
	if o.n == 0 {
		return
	}
	if number >= len(b.places) {
		b.places = slices.Grow(b.places, number+1-len(b.places))[:number+1]
	}
	b.places[number] = now
	b.filled.add(number)
	b.heads.insert(now, number)
}

// first returns the number of the collection whose first element comes first among those
// that fit, -1 when all of them are empty.
//
// With c fitting collections, c steps along the sorted heads find it unless those that
// don't fit crowd the front; then c comparisons find it. So where most fit (an agent of a
// thousand queues, a plain queue of ten thousand agents with a skill set each) it takes a
// step or two, and where few fit it takes those few.
func (b *board) first(fits set) int {
	c := b.filled.common(fits)
	if c == 0 {
		return -1
	}
	steps := c
	for _, block := range b.heads.blocks {
		for i := range block {
			if steps == 0 {
				return b.least(fits)
			}
			if fits.has(block[i].value) {
				return block[i].value
			}
			steps--
		}
	}
	return b.least(fits)
}

// least is first by comparing every fitting collection.
func (b *board) least(fits set) int {
	best := -1
	for w := range min(len(fits), len(b.filled)) {
		for word := fits[w] & b.filled[w]; word != 0; word &= word - 1 {
			number := w<<6 + bits.TrailingZeros64(word)
			if best < 0 || b.places[number].compare(b.places[best]) < 0 {
				best = number
			}
		}
	}
	return best
}
