package stream

import (
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

func micros() *rapid.Generator[measure.Micros] {
	return rapid.Custom(func(t *rapid.T) measure.Micros {
		return measure.Micros(rapid.Int64Range(0, 1<<rapid.IntRange(0, 26).Draw(t, "bits")-1).Draw(t, "us"))
	})
}

// 2-3% is what a report needs; it is 1.6%.
func TestQuantilesAreWithinAPercentOrTwo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(micros(), 1, 300).Draw(t, "values")
		var s spread
		for _, v := range values {
			s.add(v)
		}
		slices.Sort(values)
		for _, q := range []float64{0.5, 0.9, 0.99, 1} {
			exact := float64(values[max(0, int(q*float64(len(values))+0.5)-1)])
			if got := float64(s.quantile(q)); math.Abs(got-exact) > exact/63+0.5 {
				t.Fatalf("quantile %v is %v, exactly %v", q, got, exact)
			}
		}
		if s.max != values[len(values)-1] || s.n != uint64(len(values)) {
			t.Fatalf("max %d of %v", s.max, values)
		}
	})
}

func TestBucketsAreInOrderAndHoldTheirMiddle(t *testing.T) {
	for i := range spreadSize {
		if bucket(middle(i)) != i {
			t.Errorf("bucket %d: its middle, %d us, is in bucket %d", i, middle(i), bucket(middle(i)))
		}
		if i > 0 && middle(i) <= middle(i-1) {
			t.Errorf("bucket %d is not above the one before", i)
		}
	}
	if bucket(-1) != 0 || bucket(1<<40) != spreadSize-1 {
		t.Error("what is out of range is not in the outermost buckets")
	}
}

// However the packets are given to workers, the merged series is that of one.
func TestMergedSecondsAreThoseOfOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all, some [2][5]spread
		for range rapid.IntRange(0, 200).Draw(t, "packets") {
			at, worker, v := rapid.IntRange(0, 4).Draw(t, "second"), rapid.IntRange(0, 1).Draw(t, "worker"), micros().Draw(t, "us")
			all[0][at].add(v)
			some[worker][at].add(v)
		}
		series := func(s [5]spread) (out []Second) {
			for at := range s {
				if s[at].n > 0 {
					out = append(out, s[at].second(int64(at)))
				}
			}
			return out
		}
		want := series(all[0])
		for _, got := range [][]Second{Merge(series(some[0]), series(some[1])), Merge(nil, want), Merge(want, nil)} {
			if !reflect.DeepEqual(got, want) {
				t.Fatal(cmp.Diff(want, got))
			}
		}
	})
}
