package sipstack

import "bytes"

// splice changes the routing fields of a message and leaves every other byte as it came: a
// proxy must not touch what it does not understand (RFC 3261 s.16.6, s.20).
type splice struct {
	above    []byte // whole header lines, put before all others
	via      string // replaces the topmost Via value; "": that goes
	unroute  bool   // the topmost Route value goes
	forwards string // replaces the value of Max-Forwards; "": it stays
}

// clean reports whether the lines of a message are what splice takes them for. The parser
// lets a line feed alone pass inside a line, and white space before the first field; what
// comes next might not, and read another message than was checked here.
func clean(data []byte) bool {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	head := data[:end+2]
	line := bytes.Index(head, []byte("\r\n"))
	if next := line + 2; next < len(head) && (head[next] == ' ' || head[next] == '\t') {
		return false
	}
	pairs := bytes.Count(head, []byte("\r\n"))
	return bytes.Count(head, []byte{'\n'}) == pairs && bytes.Count(head, []byte{'\r'}) == pairs
}

// append writes the changed message. The message was read before, so it has its fields.
func (e *splice) append(b, data []byte) []byte {
	end := bytes.Index(data, []byte("\r\n\r\n")) + 2
	at := bytes.Index(data, []byte("\r\n")) + 2
	b = append(append(b, data[:at]...), e.above...)
	via, route := true, e.unroute
	for at < end {
		next := fieldEnd(data, at, end)
		line := data[at:next]
		at = next
		switch kind, name := routing(line); {
		case kind == viaField && via:
			via = false
			b = appendRest(b, line, "Via", e.via)
		case name == "Route" && route:
			route = false
			b = appendRest(b, line, name, "")
		case kind == forwardsField && e.forwards != "":
			b = appendField(b, "Max-Forwards", e.forwards)
		default:
			b = append(b, line...)
		}
	}
	return append(b, data[end:]...)
}

// fieldEnd returns where the header field at an offset ends, folded lines included.
func fieldEnd(data []byte, at, end int) int {
	for at < end {
		at += bytes.Index(data[at:end], []byte("\r\n")) + 2
		if at < end && data[at] != ' ' && data[at] != '\t' {
			break
		}
	}
	return at
}

// routing returns what a header line is, if it may be of those that splice changes: their
// first letters save the others a search and a copy of their names.
func routing(line []byte) (field, string) {
	name, _, _ := bytes.Cut(line, []byte{':'})
	name = bytes.TrimSpace(name)
	if len(name) > 0 {
		switch name[0] | 0x20 {
		case 'v', 'r', 'm':
			return fieldName(string(name))
		}
	}
	return other, ""
}

// appendRest writes a line without its first value, or with another in its place.
func appendRest(b, line []byte, name, first string) []byte {
	_, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\r\n")), []byte{':'})
	rest := value[firstComma(value):]
	if first == "" {
		if len(rest) == 0 {
			return b
		}
		rest = bytes.TrimLeft(rest[1:], " \t\r\n") // a line that begins with its folding is legal and rare
	}
	b = append(append(b, name...), ": "...)
	b = append(append(b, first...), rest...)
	return append(b, "\r\n"...)
}

// firstComma is where splitList cuts first; the length when it does not.
func firstComma(s []byte) int {
	quoted, bracket := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"' && !bracket:
			quoted = !quoted
		case quoted:
		case c == '<':
			bracket = true
		case c == '>':
			bracket = false
		case c == ',' && !bracket:
			return i
		}
	}
	return len(s)
}
