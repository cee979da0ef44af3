package sim

import "github.com/dialtone-cc/dialtone/server/core"

// moment is one thing that will happen.
type moment struct {
	at  core.Time
	tie uint32 // seeded: things of one instant happen in any order, but the same each time
	seq uint64
	do  func()
}

// timeline is the one heap of a world, ordered by (time, tie, sequence). Written out
// rather than container/heap, whose interface calls were a fifth of a world's time.
type timeline struct {
	moments []moment
	seq     uint64
}

func before(a, b *moment) bool {
	if a.at != b.at {
		return a.at < b.at
	}
	if a.tie != b.tie {
		return a.tie < b.tie
	}
	return a.seq < b.seq
}

func (t *timeline) push(m moment) {
	t.seq++
	m.seq = t.seq
	t.moments = append(t.moments, m)
	for i := len(t.moments) - 1; i > 0; {
		parent := (i - 1) / 2
		if !before(&t.moments[i], &t.moments[parent]) {
			break
		}
		t.moments[i], t.moments[parent] = t.moments[parent], t.moments[i]
		i = parent
	}
}

func (t *timeline) peek() (core.Time, bool) {
	if len(t.moments) == 0 {
		return 0, false
	}
	return t.moments[0].at, true
}

func (t *timeline) pop() moment {
	top := t.moments[0]
	last := len(t.moments) - 1
	t.moments[0] = t.moments[last]
	t.moments[last] = moment{}
	t.moments = t.moments[:last]
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < last; child++ {
			if before(&t.moments[child], &t.moments[least]) {
				least = child
			}
		}
		if least == i {
			return top
		}
		t.moments[i], t.moments[least] = t.moments[least], t.moments[i]
		i = least
	}
}
