package sipstack

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

var errFraming = errors.New("Content-Length missing or malformed")

const firstRead = 4096

// framer finds whole messages in a byte stream (RFC 3261 s.18.3). The bytes of a message
// are valid until the next call of room.
type framer struct {
	limit int    // bytes of one message
	buf   []byte // what is read and not yet handed out
	used  int    // handed out, at the start of buf
	seen  int    // searched for the end of the header, from used
	total int    // length of the message at used, once known
	lines int    // line ends in a row between messages
}

// room returns space to read into; grew says how much of it was filled.
func (f *framer) room() []byte {
	if f.used > 0 {
		rest := copy(f.buf, f.buf[f.used:])
		f.buf, f.used = f.buf[:rest], 0
	}
	if len(f.buf) == 0 && cap(f.buf) > 4*firstRead {
		f.buf = nil // a large message must not hold its memory for the life of the connection
	}
	if cap(f.buf)-len(f.buf) < firstRead/2 {
		f.buf = append(make([]byte, 0, max(firstRead, 2*cap(f.buf))), f.buf...)
	}
	return f.buf[len(f.buf):cap(f.buf)]
}

func (f *framer) grew(n int) { f.buf = f.buf[:len(f.buf)+n] }

// partial reports that a message has begun and is not complete.
func (f *framer) partial() bool { return len(f.buf) > f.used }

// next returns the next whole message, or nil when more bytes are needed, and whether a
// keep-alive ping was read before it (RFC 5626 s.3.5.1: CRLF CRLF). After an error the
// stream has no known boundary any more; msg then holds what there is of the message.
func (f *framer) next() (msg []byte, ping bool, err error) {
	ping = f.skipLines()
	data := f.buf[f.used:]
	if len(data) == 0 || len(data) == 1 && data[0] == '\r' {
		return nil, ping, nil
	}
	if !tokenByte(data[0]) {
		return nil, ping, errGarbage
	}
	if f.total == 0 {
		if f.total, err = f.measure(data); err != nil {
			return data, ping, err
		}
	}
	if f.total == 0 || len(data) < f.total {
		return nil, ping, nil
	}
	msg = data[:f.total]
	f.used += f.total
	f.seen, f.total = 0, 0
	return msg, ping, nil
}

func (f *framer) skipLines() (ping bool) {
	if f.total > 0 || f.seen > 0 {
		return false
	}
	for bytes.HasPrefix(f.buf[f.used:], []byte("\r\n")) {
		f.used += 2
		if f.lines++; f.lines == 2 {
			ping, f.lines = true, 0
		}
	}
	if data := f.buf[f.used:]; len(data) > 0 && data[0] != '\r' {
		f.lines = 0
	}
	return ping
}

// measure returns the length of the message at the start of data, 0 while its header is
// incomplete.
func (f *framer) measure(data []byte) (int, error) {
	from := max(0, f.seen-3)
	end := bytes.Index(data[from:], []byte("\r\n\r\n"))
	if end < 0 {
		f.seen = len(data)
		if len(data) > maxHeader {
			return 0, errTooLarge
		}
		return 0, nil
	}
	head := data[:from+end]
	if len(head) > maxHeader {
		return 0, errTooLarge
	}
	body, err := bodyLength(head)
	if err != nil {
		return 0, err
	}
	if total := len(head) + 4 + body; total <= f.limit {
		return total, nil
	}
	return 0, errTooLarge
}

// bodyLength reads Content-Length. Two that differ would let a peer hide a request in a
// body, so they are refused (RFC 4475 s.3.3.9).
func bodyLength(head []byte) (int, error) {
	length := -1
	_, rest, _ := bytes.Cut(head, []byte("\r\n"))
	for len(rest) > 0 {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if len(line) == 0 || line[0]|0x20 != 'c' && line[0]|0x20 != 'l' {
			continue
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		if kind, _ := fieldName(strings.TrimSpace(string(name))); kind != lengthField {
			continue
		}
		for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') { // folded
			line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
			value = append(append(bytes.Clone(value), ' '), line...)
		}
		n, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 10, 31)
		if err != nil || length >= 0 && int(n) != length {
			return 0, errFraming
		}
		length = int(n)
	}
	if length < 0 {
		return 0, errFraming
	}
	return length, nil
}
