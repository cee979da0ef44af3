package etcd

import (
	"cmp"
	"slices"
)

// record is one key: as it stands, and where its past is.
type record struct {
	KeyValue // of a deleted key, of the deletion
	deleted  bool
	last     int       // place of this version in history
	floor    *KeyValue // as it stood where history begins, if it has changed since
}

// index is the records in order of their keys: a list of short lists, since to move a
// whole list of ten thousand for one new key takes longer than all the rest of a commit.
type index struct{ leaves [][]*record }

const leafSize = 256

// leaf returns the leaf in which a key is or would be.
func (x *index) leaf(key string) int {
	i, found := slices.BinarySearchFunc(x.leaves, key, func(l []*record, key string) int { return cmp.Compare(l[0].Key, key) })
	if !found && i > 0 {
		i--
	}
	return i
}

func place(leaf []*record, key string) (int, bool) {
	return slices.BinarySearchFunc(leaf, key, func(r *record, key string) int { return cmp.Compare(r.Key, key) })
}

// insert adds a record whose key is not there.
func (x *index) insert(r *record) {
	if len(x.leaves) == 0 {
		x.leaves = append(x.leaves, make([]*record, 0, leafSize))
		x.leaves[0] = append(x.leaves[0], r)
		return
	}
	i := x.leaf(r.Key)
	at, _ := place(x.leaves[i], r.Key)
	l := slices.Insert(x.leaves[i], at, r)
	if len(l) < leafSize {
		x.leaves[i] = l
		return
	}
	right := append(make([]*record, 0, leafSize), l[leafSize/2:]...)
	clear(l[leafSize/2:])
	x.leaves[i] = l[:leafSize/2]
	x.leaves = slices.Insert(x.leaves, i+1, right)
}

// filter keeps the records of which keep says so.
func (x *index) filter(keep func(*record) bool) {
	for i := range x.leaves {
		x.leaves[i] = slices.DeleteFunc(x.leaves[i], func(r *record) bool { return !keep(r) })
	}
	x.leaves = slices.DeleteFunc(x.leaves, func(l []*record) bool { return len(l) == 0 })
}

// visit calls do with each record of a range, in order, until it returns false.
func (x *index) visit(key, end string, do func(*record) bool) {
	if len(x.leaves) == 0 {
		return
	}
	i := x.leaf(key)
	at, _ := place(x.leaves[i], key)
	for ; i < len(x.leaves); i++ {
		for _, r := range x.leaves[i][at:] {
			if !inside(r.Key, key, end) || !do(r) {
				return
			}
		}
		at = 0
	}
}

// inside reports whether a key lies in a range as etcd writes it: one key without an end,
// and all from key on with the end "\x00".
func inside(k, key, end string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return k >= key && k < end
}
