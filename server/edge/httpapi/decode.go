package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dialtone-cc/dialtone/server/core"
)

const (
	deepest       = 8  // nesting of a body
	mostComplaint = 20 // that one answer lists
)

// A decoder collects what is wrong with a body. encoding/json would take members in any
// case, twice, or with null, and would stop at the first that it refuses.
type decoder struct{ complaints []complaint }

// A reading puts one JSON value, found at a pointer, where it belongs.
type reading func(d *decoder, at string, v any)

// members are those that an object may have.
type members map[string]reading

// decode reads a body that must be one JSON object with no members but those.
func decode(body []byte, m members) *problem {
	v, err := parse(body)
	if err != nil {
		whole := ""
		return &problem{Kind: core.Invalid, Detail: "The body is not JSON.",
			Errors: []complaint{{Pointer: &whole, Detail: err.Error()}}}
	}
	var d decoder
	object(m)(&d, "", v)
	if len(d.complaints) == 0 {
		return nil
	}
	return &problem{Kind: core.Invalid, Detail: "The body is not as it must be.", Errors: d.complaints}
}

func (d *decoder) refuse(at, format string, args ...any) {
	if len(d.complaints) < mostComplaint {
		d.complaints = append(d.complaints, complaint{Pointer: &at, Detail: fmt.Sprintf(format, args...)})
	}
}

// object reads an object whose members are known.
func object(m members) reading {
	allowed := strings.Join(slices.Sorted(maps.Keys(m)), ", ")
	return func(d *decoder, at string, v any) {
		each(d, at, v, func(name, at string, v any) {
			if read, known := m[name]; known {
				read(d, at, v)
			} else {
				d.refuse(at, "is not known; allowed: %s", or(allowed, "none"))
			}
		})
	}
}

// each visits the members of an object in order.
func each(d *decoder, at string, v any, visit func(name, at string, v any)) {
	o, fits := v.(map[string]any)
	if !fits {
		d.refuse(at, "must be an object")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if len(d.complaints) >= mostComplaint {
			return
		}
		visit(name, at+"/"+escape(name), o[name])
	}
}

// escape writes a member's name as a part of a JSON pointer (RFC 6901 s.3).
func escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

func text[T ~string](into *T) reading {
	return func(d *decoder, at string, v any) {
		if s, fits := v.(string); fits {
			*into = T(s)
		} else {
			d.refuse(at, "must be a string")
		}
	}
}

func optional[T any](into **T, read func(*T) reading) reading {
	return func(d *decoder, at string, v any) {
		*into = new(T)
		read(*into)(d, at, v)
	}
}

// same reads an id that the path has named already.
func same(id string) reading {
	return func(d *decoder, at string, v any) {
		if v != id {
			d.refuse(at, "must equal the id in the path, or be left out")
		}
	}
}

func flag(into *bool) reading {
	return func(d *decoder, at string, v any) {
		if b, fits := v.(bool); fits {
			*into = b
		} else {
			d.refuse(at, "must be true or false")
		}
	}
}

func number(into *float64) reading {
	return func(d *decoder, at string, v any) {
		n, fits := v.(json.Number)
		f, err := n.Float64()
		if !fits || err != nil {
			d.refuse(at, "must be a number")
			return
		}
		*into = f
	}
}

// integer takes what JSON Schema calls an integer: 20, and also 20.0 and 2e1.
func integer(into *int) reading {
	return func(d *decoder, at string, v any) {
		n, fits := v.(json.Number)
		f, err := n.Float64()
		if !fits || err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			d.refuse(at, "must be a whole number")
			return
		}
		*into = int(f)
	}
}

func array[T any](into *[]T, read func(*T) reading) reading {
	return func(d *decoder, at string, v any) {
		values, fits := v.([]any)
		if !fits {
			d.refuse(at, "must be an array")
			return
		}
		*into = make([]T, len(values))
		for i := range values {
			if len(d.complaints) >= mostComplaint {
				return
			}
			read(&(*into)[i])(d, fmt.Sprintf("%s/%d", at, i), values[i])
		}
	}
}

func proficiencies(into *map[string]int) reading {
	return func(d *decoder, at string, v any) {
		*into = map[string]int{}
		each(d, at, v, func(name, at string, v any) {
			var n int
			integer(&n)(d, at, v)
			(*into)[name] = n
		})
	}
}

// parse reads one JSON value (RFC 8259): numbers as json.Number, no name twice in an
// object, valid UTF-8, nothing behind it.
func parse(body []byte) (any, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("must be UTF-8")
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, new(json.RawMessage)); errors.As(err, &syntax) {
		return nil, fmt.Errorf("%s at byte %d", strings.TrimPrefix(syntax.Error(), "json: "), syntax.Offset)
	} else if err != nil {
		return nil, errors.New("must be one JSON object")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return value(d, 0)
}

func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	open, nested := t.(json.Delim)
	if !nested {
		return t, nil
	}
	if depth >= deepest {
		return nil, fmt.Errorf("must not be nested more than %d deep", deepest)
	}
	var list = []any{}
	object := map[string]any{}
	for d.More() {
		name := ""
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return nil, err
			}
			name, _ = t.(string)
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("member %.40q must be given once", name)
			}
		}
		v, err := value(d, depth+1)
		if err != nil {
			return nil, err
		}
		if open == '{' {
			object[name] = v
		} else {
			list = append(list, v)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if open == '{' {
		return object, nil
	}
	return list, nil
}
