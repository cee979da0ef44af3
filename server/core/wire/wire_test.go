package wire

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// old and young are two versions of one record: young has more, in the middle, inside a
// group and at the end.
type old struct {
	name, tail string
	n          int64
	parts      []string
}

type young struct {
	old
	extra  string
	inner  string
	many   []string
	count  uint64
	factor float64
	flag   bool
}

func describeOld(c *Coder, v *old) {
	Text(c, 1, &v.name)
	Int(c, 4, &v.n)
	List(c, 6, &v.parts, func(c *Coder, s *string) { Text(c, 1, s) })
	Text(c, 9, &v.tail)
}

func describeYoung(c *Coder, v *young) {
	Text(c, 1, &v.name)
	Text(c, 2, &v.extra)
	Int(c, 4, &v.n)
	Group(c, 5, &v.inner, func(c *Coder, s *string) {
		Text(c, 1, s)
		List(c, 2, &v.many, func(c *Coder, s *string) { Text(c, 1, s) })
	})
	List(c, 6, &v.parts, func(c *Coder, s *string) { Text(c, 1, s) })
	Int(c, 7, &v.count)
	Text(c, 9, &v.tail)
	Float(c, 10, &v.factor)
	Bool(c, 63, &v.flag)
}

// A record of a later version is read by an earlier one, which sees what it knows: also
// texts that name one it has skipped. And the other way round.
func TestVersionsReadEachOther(t *testing.T) {
	word := rapid.SampledFrom([]string{"", "a", "same text", "other text", "\x00\x01"})
	rapid.Check(t, func(t *rapid.T) {
		y := young{
			old:   old{name: word.Draw(t, "name"), tail: word.Draw(t, "tail"), n: rapid.Int64().Draw(t, "n"), parts: rapid.SliceOfN(word, 0, 3).Draw(t, "parts")},
			extra: word.Draw(t, "extra"), inner: word.Draw(t, "inner"), many: rapid.SliceOfN(word, 0, 3).Draw(t, "many"),
			count: rapid.Uint64().Draw(t, "count"), factor: rapid.Float64().Draw(t, "factor"), flag: rapid.Bool().Draw(t, "flag"),
		}
		b := Encode(nil, func(c *Coder) { describeYoung(c, &y) })
		var o old
		if err := Decode(b, func(c *Coder) { describeOld(c, &o) }); err != nil {
			t.Fatal(err)
		}
		if o.name != y.name || o.tail != y.tail || o.n != y.n || !equal(o.parts, y.parts) {
			t.Fatalf("%+v read of %+v", o, y)
		}
		var back young
		if err := Decode(b, func(c *Coder) { describeYoung(c, &back) }); err != nil {
			t.Fatal(err)
		}
		if math.Float64bits(back.factor) != math.Float64bits(y.factor) || back.count != y.count || back.flag != y.flag ||
			back.extra != y.extra || back.inner != y.inner || !equal(back.many, y.many) || back.tail != y.tail {
			t.Fatalf("%+v read of %+v", back, y)
		}
		var later young
		if err := Decode(Encode(nil, func(c *Coder) { describeOld(c, &o) }), func(c *Coder) { describeYoung(c, &later) }); err != nil {
			t.Fatal(err)
		}
		if later.name != o.name || later.tail != o.tail || later.extra != "" || later.flag {
			t.Fatalf("%+v read of %+v", later, o)
		}
		for cut := range b {
			if Decode(b[:cut], func(c *Coder) { describeYoung(c, new(young)) }) == nil {
				t.Fatalf("%d of %d bytes are taken for a record", cut, len(b))
			}
		}
	})
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// A text is written once, however often it occurs.
func TestTextsAreWrittenOnce(t *testing.T) {
	y := young{old: old{name: "a long text", tail: "a long text", parts: []string{"a long text", "a long text"}}}
	b := Encode(nil, func(c *Coder) { describeYoung(c, &y) })
	if n := bytes.Count(b, []byte("a long text")); n != 1 || len(b) > 30 {
		t.Errorf("%d times in %d bytes", n, len(b))
	}
}

// A number that does not fit its field is damage, not another number.
func TestNumbersThatDoNotFit(t *testing.T) {
	big := uint32(1 << 16)
	b := Encode(nil, func(c *Coder) { Int(c, 1, &big) })
	var small uint16
	if err := Decode(b, func(c *Coder) { Int(c, 1, &small) }); err == nil {
		t.Errorf("%d read of %d", small, big)
	}
}

// Nothing panics, and depth is bounded.
func FuzzDecode(f *testing.F) {
	f.Add(Encode(nil, func(c *Coder) { describeYoung(c, &young{inner: "text", many: []string{"text"}}) }))
	f.Add(append([]byte{Mark}, bytes.Repeat([]byte{3<<2 | group}, 1000)...))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = Decode(b, func(c *Coder) { describeOld(c, new(old)) })
		_ = Decode(b, func(c *Coder) { describeYoung(c, new(young)) })
	})
}
