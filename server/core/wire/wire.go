// Package wire is the form in which records are written down when JSON is too large and too
// slow: numbered fields, as in protocol buffers, each text once.
//
// One function describes a value for both directions: it names the fields in the order of
// their numbers, and the Coder writes each, or reads it. So what is written is what is read.
//
// The rules of an upgrade: a number is never given another meaning, and a field never
// another type. A field that is absent has its zero value; one that is not known is skipped.
//
//	record = mark *field end
//	field  = (number << 2 | kind) content    number 1 to 63, ascending
//	kind 0 = zigzag varint    1 = length, text    2 = which text of those so far    3 = *field end
//	end    = 0
package wire

import (
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/bits"
	"net/netip"
	"slices"
)

// Mark is the first byte of a record: no JSON text begins with it.
const Mark = 1

// The kinds of fields.
const (
	number = iota
	text
	again
	group
)

const (
	end      = 0
	minAgain = 4   // shorter texts are written out
	maxAgain = 255 // texts that can be named again
	maxDepth = 32
)

// ErrDamaged says that a record is not what Encode writes.
var ErrDamaged = errors.New("wire: record is cut short or damaged")

// Coder writes a value or reads one.
type Coder struct {
	b       []byte // written, or still to be read
	reading bool
	failed  bool
	kind    byte // of the field that was found
	texts   []string
}

// Encode returns what describe names, appended to b.
func Encode(b []byte, describe func(*Coder)) []byte {
	c := &Coder{b: append(b, Mark), texts: make([]string, 0, 64)}
	describe(c)
	return append(c.b, end)
}

// Decode fills what describe names from a record.
func Decode(b []byte, describe func(*Coder)) error {
	if len(b) == 0 || b[0] != Mark {
		return ErrDamaged
	}
	c := &Coder{b: b[1:], reading: true}
	describe(c)
	c.close(0)
	if c.failed || len(c.b) > 0 {
		return ErrDamaged
	}
	return nil
}

func (c *Coder) fail() { c.failed, c.b = true, nil }

// at looks for field n, past those before it, and takes its tag.
func (c *Coder) at(n int) bool {
	for len(c.b) > 0 {
		tag := c.b[0]
		switch {
		case tag == end || int(tag>>2) > n:
			return false
		case int(tag>>2) == n:
			c.b, c.kind = c.b[1:], tag&3
			return true
		}
		c.b, c.kind = c.b[1:], tag&3
		c.skip(0)
	}
	c.fail()
	return false
}

// skip passes over a field whose tag is taken. Its text counts: later ones may name it.
func (c *Coder) skip(depth int) {
	switch c.kind {
	case number:
		c.uvarint()
	case text, again:
		c.takeText()
	case group:
		c.close(depth + 1)
	}
}

// close passes over what is left of a group, and its end.
func (c *Coder) close(depth int) {
	if depth > maxDepth {
		c.fail()
	}
	for len(c.b) > 0 {
		tag := c.b[0]
		c.b, c.kind = c.b[1:], tag&3
		if tag == end {
			return
		}
		c.skip(depth)
	}
	c.fail()
}

func (c *Coder) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *Coder) takeText() string {
	v := c.uvarint()
	switch {
	case c.kind == again && v < uint64(len(c.texts)):
		return c.texts[v]
	case c.kind == text && v <= uint64(len(c.b)):
		s := string(c.b[:v])
		c.b = c.b[v:]
		c.remember(s)
		return s
	}
	c.fail()
	return ""
}

func (c *Coder) remember(s string) {
	if len(s) >= minAgain && len(c.texts) < maxAgain {
		c.texts = append(c.texts, s)
	}
}

func (c *Coder) tag(n int, kind byte) { c.b = append(c.b, byte(n)<<2|kind) }

func (c *Coder) putText(n int, s string) {
	if len(s) >= minAgain {
		for i := range c.texts { // some dozens: a map would cost more
			if len(c.texts[i]) == len(s) && c.texts[i] == s {
				c.tag(n, again)
				c.b = binary.AppendUvarint(c.b, uint64(i))
				return
			}
		}
	}
	c.tag(n, text)
	c.b = binary.AppendUvarint(c.b, uint64(len(s)))
	c.b = append(c.b, s...)
	c.remember(s)
}

// Text is a field that is a text.
func Text[T ~string](c *Coder, n int, v *T) {
	switch {
	case !c.reading:
		if *v != "" {
			c.putText(n, string(*v))
		}
	case c.at(n):
		if c.kind != text && c.kind != again {
			c.fail()
			return
		}
		*v = T(c.takeText())
	}
}

// Bytes is a field that is a sequence of bytes; an empty one is as good as none.
func Bytes(c *Coder, n int, v *[]byte) {
	s := ""
	if !c.reading {
		s = string(*v)
	}
	if Text(c, n, &s); c.reading && s != "" {
		*v = []byte(s)
	}
}

// Addr is a field that is an address; the zero one is as good as none.
func Addr(c *Coder, n int, v *netip.AddrPort) {
	var b []byte
	if !c.reading && *v != (netip.AddrPort{}) {
		b, _ = v.MarshalBinary() // never fails
	}
	if Bytes(c, n, &b); c.reading && len(b) > 0 && v.UnmarshalBinary(b) != nil {
		c.fail()
	}
}

// Int is a field that is a whole number.
func Int[T ~int | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64](c *Coder, n int, v *T) {
	switch {
	case !c.reading:
		if *v != 0 {
			i := int64(*v)
			c.tag(n, number)
			c.b = binary.AppendUvarint(c.b, uint64(i<<1)^uint64(i>>63))
		}
	case c.at(n):
		if c.kind != number {
			c.fail()
			return
		}
		u := c.uvarint()
		i := int64(u>>1) ^ -int64(u&1)
		if *v = T(i); int64(*v) != i {
			c.fail()
		}
	}
}

// Bool is a field that is true, or absent.
func Bool(c *Coder, n int, v *bool) {
	var i int
	if !c.reading && *v {
		i = 1
	}
	if Int(c, n, &i); c.reading {
		*v = i != 0
	}
}

// Float is a field that is a number with a fraction.
func Float(c *Coder, n int, v *float64) {
	var u uint64
	if !c.reading {
		u = bits.ReverseBytes64(math.Float64bits(*v)) // round numbers have their zeros at the end
	}
	if Int(c, n, &u); c.reading {
		*v = math.Float64frombits(bits.ReverseBytes64(u))
	}
}

// Group is a field with fields of its own; one without any is as good as none.
func Group[T any](c *Coder, n int, v *T, describe func(*Coder, *T)) {
	switch {
	case !c.reading:
		from := len(c.b)
		c.tag(n, group)
		describe(c, v)
		if len(c.b) == from+1 {
			c.b = c.b[:from]
			return
		}
		c.b = append(c.b, end)
	case c.at(n):
		c.open(func() { describe(c, v) })
	}
}

func (c *Coder) open(f func()) {
	if c.kind != group {
		c.fail()
		return
	}
	f()
	c.close(0)
}

// Maybe is a group that may be there or not, which is not the same as empty.
func Maybe[T any](c *Coder, n int, v **T, describe func(*Coder, *T)) {
	switch {
	case !c.reading:
		if *v != nil {
			c.tag(n, group)
			describe(c, *v)
			c.b = append(c.b, end)
		}
	case c.at(n):
		*v = new(T)
		c.open(func() { describe(c, *v) })
	}
}

// List is a field that comes as often as there are elements.
func List[S ~[]T, T any](c *Coder, n int, v *S, describe func(*Coder, *T)) {
	if !c.reading {
		for i := range *v {
			c.tag(n, group)
			describe(c, &(*v)[i])
			c.b = append(c.b, end)
		}
		return
	}
	for c.at(n) {
		var one T
		c.open(func() { describe(c, &one) })
		*v = append(*v, one)
	}
}

type count struct {
	name string
	n    int
}

// Counts is a field that gives each of some names a number.
func Counts(c *Coder, n int, v *map[string]int) {
	var all []count
	if !c.reading {
		for _, key := range slices.Sorted(maps.Keys(*v)) {
			all = append(all, count{key, (*v)[key]})
		}
	}
	List(c, n, &all, func(c *Coder, e *count) {
		Text(c, 1, &e.name)
		Int(c, 2, &e.n)
	})
	if c.reading && len(all) > 0 {
		*v = make(map[string]int, len(all))
		for _, e := range all {
			(*v)[e.name] = e.n
		}
	}
}
