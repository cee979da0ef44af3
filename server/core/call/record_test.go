package call

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core/leg"
)

var rewrite = flag.Bool("rewrite", false, "write the golden record anew")

// filler sets every member that JSON shows. Number gives the next value of so many bits.
type filler struct {
	number func(bits int) uint64
	empty  func() bool
}

func (f filler) fill(v reflect.Value) {
	if v.Type() == reflect.TypeFor[netip.AddrPort]() {
		if !f.empty() {
			n := f.number(16)
			v.Set(reflect.ValueOf(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), uint16(n)|1)))
		}
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.IsExported() && t.Tag.Get("json") != "-" {
				f.fill(v.Field(i))
			}
		}
		return
	}
	if f.empty() {
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(strings.Repeat("x", int(f.number(3))) + string(rune('a'+f.number(4))))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64: // Time: a year that JSON can show
		v.SetInt(int64(f.number(61)) | 1)
	case reflect.Int:
		v.SetInt(int64(f.number(31)) - 1<<20)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(f.number(v.Type().Bits()) | 1)
	case reflect.Float64:
		v.SetFloat(float64(f.number(20)) / 8)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{byte(f.number(8)), 0, 1})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1+int(f.number(1)), 2))
		for i := range v.Len() {
			f.fill(v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]int{"skill": int(f.number(4)), "b": -1}))
	default:
		panic("a record has a member of a kind that this test does not know: " + v.Type().String())
	}
}

func same(a, b *Call) string {
	return cmp.Diff(a, b, cmpopts.IgnoreUnexported(Call{}, leg.Leg{}), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{}))
}

// What comes back is what JSON brings back. So a member that is added to a record and
// forgotten in describe is found here, not at the first failover.
func TestRecordEqualsJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := rapid.IntRange(0, 3).Draw(t, "empty of 4")
		f := filler{
			number: func(bits int) uint64 { return rapid.Uint64Max(1<<(bits-1)<<1-1).Draw(t, "n") },
			empty:  func() bool { return rapid.IntRange(0, 3).Draw(t, "empty") < share },
		}
		c := new(Call)
		f.fill(reflect.ValueOf(c).Elem())
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Decode(text)
		if err != nil {
			t.Fatalf("JSON of an earlier version: %v", err)
		}
		b := c.Encode()
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := same(want, got); d != "" {
			t.Fatalf("JSON (-) and record (+) differ:\n%s", d)
		}
		for _, cut := range []int{1, len(b) / 2, len(b) - 1} {
			if _, err := Decode(b[:cut]); err == nil {
				t.Fatalf("the first %d of %d bytes are taken for a record", cut, len(b))
			}
		}
	})
}

// A record that was written by this version is read by every later one: the golden record
// has every member set, and its JSON beside it.
func TestGoldenRecord(t *testing.T) {
	n := uint64(0)
	f := filler{empty: func() bool { return false }, number: func(bits int) uint64 { n = n*31 + 7; return n & (1<<(bits-1)<<1 - 1) }}
	full := new(Call)
	f.fill(reflect.ValueOf(full).Elem())
	if *rewrite {
		text, err := json.MarshalIndent(full, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/record.json", text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("testdata/record.hex", []byte(hex.EncodeToString(full.Encode())), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("testdata/record.json")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	digits, err := os.ReadFile("testdata/record.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(string(digits))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := same(want, got); d != "" {
		t.Errorf("the golden record is read otherwise (a number was changed? only new ones may be added):\n%s", d)
	}
}

// Nothing that is read panics, and what is taken is written again to the same value.
func FuzzDecode(f *testing.F) {
	if digits, err := os.ReadFile("testdata/record.hex"); err == nil {
		b, _ := hex.DecodeString(string(digits))
		f.Add(b)
	}
	f.Add([]byte{1, 0})
	f.Add([]byte(`{"id":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		once := c.Encode()
		again, err := Decode(once)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(once, again.Encode()) {
			t.Fatal("written, read and written again, it is another")
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	n := uint64(0)
	f := filler{empty: func() bool { return false }, number: func(bits int) uint64 { n = n*31 + 7; return n & (1<<(bits-1)<<1 - 1) }}
	c := new(Call)
	f.fill(reflect.ValueOf(c).Elem())
	b.Run("record", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.SetBytes(int64(len(c.Encode())))
		}
	})
	b.Run("json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			text, err := json.Marshal(c)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
		}
	})
}
