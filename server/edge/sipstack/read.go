package sipstack

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
)

// Bounds of one message. They are far above what phones and trunks send.
const (
	maxFields  = 100       // header fields, each value of a list counted
	maxHeader  = 16 * 1024 // bytes of start line and header fields
	maxTag     = 256       // bytes of a tag or a Call-ID
	maxCSeq    = 1<<31 - 1 // RFC 3261 s.8.1.1.5
	maxForward = 255       // RFC 3261 s.20.22
)

// parsed is one message from a peer: a request or a response.
type parsed struct {
	request  *core.Request
	response *core.Response
	via      via // topmost, as the peer wrote it
}

// fault says that a message can't be handed on. A request that still shows where it came
// from is answered with status; anything else is dropped.
type fault struct {
	status int // 0: no answer is possible
	why    string
	reply  rawReply
}

func (f *fault) Error() string { return f.why }

var (
	errGarbage  = errors.New("not SIP")
	errTooLarge = errors.New("message too large")
	errFields   = errors.New("malformed header field")
	errScheme   = errors.New("unsupported URI scheme")

	errHeadersInURI = errors.New("header fields in Request-URI") // s.19.1.5
	errEmptyBranch  = errors.New("empty branch")                 // RFC 4475 s.3.2.1
)

// newParser returns the library's parser with all header fields left as text but
// Content-Length, which it needs to find the end of the body.
func newParser(maxMessage int) *sip.Parser {
	length := sip.DefaultHeadersParser()["content-length"]
	p := sip.NewParser(sip.WithHeadersParsers(map[string]sip.HeaderParser{"content-length": length, "l": length}))
	p.MaxMessageLength = maxMessage
	return p
}

// read turns the bytes of one whole message into core terms. errGarbage means that it is
// not SIP at all: a scanner, STUN, noise.
func read(p *sip.Parser, data []byte, from netip.AddrPort) (parsed, error) {
	line, ok := startLine(data)
	if !ok {
		return parsed{}, errGarbage
	}
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return parsed{}, refuse(data, from, 400, errFields)
	}
	if end > maxHeader || bytes.Count(data[:end], []byte{'\n'}) > 3*maxFields || len(data) > p.MaxMessageLength {
		return parsed{}, refuse(data[:min(end, maxHeader)], from, 513, errTooLarge)
	}
	msg, err := parse(p, data)
	if err != nil {
		if _, uri, _ := cut3(string(line)); foreign(uri) { // the library knows letters only in a scheme
			return parsed{}, refuse(data, from, 416, errScheme)
		}
		return parsed{}, refuse(data, from, 400, errFields)
	}
	switch msg := msg.(type) {
	case *sip.Request:
		m, status, err := readRequest(msg, string(line), from)
		if err != nil {
			return parsed{}, refuse(data, from, status, err)
		}
		return m, nil
	case *sip.Response:
		m, err := readResponse(msg)
		if err != nil {
			return parsed{}, &fault{why: err.Error()}
		}
		return m, nil
	}
	return parsed{}, errGarbage
}

// parse runs the library's parser on bytes that anybody may have sent. It is fuzzed here,
// but a panic in it would end every call of the node, so it costs one message instead.
func parse(p *sip.Parser, data []byte) (msg sip.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			msg, err = nil, fmt.Errorf("parser: %v", r)
		}
	}()
	return p.ParseSIP(data)
}

// startLine returns the first line when it could be SIP: printable, naming a SIP version.
func startLine(data []byte) ([]byte, bool) {
	end := bytes.IndexByte(data, '\r')
	if end < len("SIP/2.0 1") || end > maxHeader || !tokenByte(data[0]) {
		return nil, false
	}
	line := data[:end]
	if !bytes.Contains(line, []byte("SIP/")) && !bytes.Contains(bytes.ToUpper(line), []byte("SIP/")) {
		return nil, false
	}
	return line, true
}

// completeRequest reads the Request-URI and checks what concerns the request as a whole.
func completeRequest(r *core.Request, uri string, f *fieldReader, from netip.AddrPort) (err error) {
	if r.URI, err = parseURI(uri); err != nil {
		return err
	}
	switch {
	case r.URI.Scheme != "sip" && r.URI.Scheme != "sips":
		return errScheme
	case strings.IndexByte(uri[strings.IndexByte(uri, '@')+1:], '?') >= 0:
		return errHeadersInURI
	case f.top.branch == cookie:
		return errEmptyBranch
	}
	r.Via[0] = f.top.stamped(from)
	return nil
}

func readRequest(msg *sip.Request, line string, from netip.AddrPort) (parsed, int, error) {
	if !strings.EqualFold(msg.SipVersion, "SIP/2.0") {
		return parsed{}, 505, errors.New("version not supported")
	}
	_, uri, _ := cut3(line)
	r := &core.Request{}
	f := fieldReader{m: &r.Message}
	if err := f.readAll(msg.Headers()); err != nil {
		return parsed{}, f.status(), err
	}
	if !strings.EqualFold(f.method, string(msg.Method)) {
		return parsed{}, 400, errors.New("CSeq method mismatch")
	}
	r.Method = f.method // the library's copy is in upper case, but methods know case (s.7.1)
	switch err := completeRequest(r, uri, &f, from); err {
	case nil:
	case errScheme:
		return parsed{}, 416, err
	default:
		return parsed{}, 400, err
	}
	r.Body = msg.Body()
	return parsed{request: r, via: f.top}, 0, nil
}

// cut3 takes a start line apart.
func cut3(line string) (a, b, c string) {
	a, b, _ = strings.Cut(line, " ")
	b, c, _ = strings.Cut(b, " ")
	return a, b, c
}

// foreign reports a well-formed URI of another scheme than sip and sips.
func foreign(uri string) bool {
	u, err := parseURI(uri)
	return err == nil && u.Scheme != "sip" && u.Scheme != "sips"
}

func readResponse(msg *sip.Response) (parsed, error) {
	if !strings.EqualFold(msg.SipVersion, "SIP/2.0") || msg.StatusCode < 100 || msg.StatusCode > 699 {
		return parsed{}, errors.New("malformed status line")
	}
	r := &core.Response{Status: msg.StatusCode, Phrase: msg.Reason}
	if hasControl(r.Phrase) {
		return parsed{}, errFields
	}
	f := fieldReader{m: &r.Message}
	if err := f.readAll(msg.Headers()); err != nil {
		return parsed{}, err
	}
	r.Method, r.Body = f.method, msg.Body()
	return parsed{response: r, via: f.top}, nil
}

// fieldReader sorts header fields into a core.Message.
type fieldReader struct {
	m      *core.Message
	top    via
	method string // of CSeq
	count  int
	seen   [nameCount]bool // of the fields that may come once
	length string
}

func (f *fieldReader) status() int {
	if f.count > maxFields {
		return 513
	}
	return 400
}

func (f *fieldReader) readAll(all []sip.Header) error {
	for _, h := range all {
		if err := f.read(h.Name(), h.Value()); err != nil {
			return err
		}
		if f.count > maxFields {
			return errTooLarge
		}
	}
	return f.complete()
}

func (f *fieldReader) complete() error {
	for n, name := range mandatory {
		if name != "" && !f.seen[n] {
			return errors.New("missing " + name)
		}
	}
	return nil
}

func (f *fieldReader) read(name, value string) error {
	f.count++
	if hasControl(value) {
		return errFields
	}
	kind, long := fieldName(name)
	if kind != other && kind != listed && kind != viaField {
		if f.seen[kind] && !(kind == lengthField && value == f.length) {
			return errors.New("repeated " + long)
		}
	}
	f.seen[kind] = true
	var err error
	switch kind {
	case viaField:
		err = f.readVia(value)
	case fromField:
		f.m.From, err = readParty(value)
	case toField:
		f.m.To, err = readParty(value)
	case callIDField:
		if f.m.CallID = value; value == "" || len(value) > maxTag || strings.ContainsAny(value, " \t,") {
			err = errors.New("malformed Call-ID")
		}
	case cseqField:
		f.m.CSeq, f.method, err = readCSeq(value)
	case typeField:
		f.m.ContentType = value
	case lengthField:
		f.length = value
	case listed:
		err = f.readList(long, value)
	default:
		err = f.readOther(kind, long, value)
	}
	return err
}

func (f *fieldReader) readVia(value string) error {
	all, err := splitList(value)
	if err != nil {
		return err
	}
	for _, one := range all {
		v, err := parseVia(one)
		switch {
		case err != nil:
			return err
		case v.version != "2.0":
			return errVia
		case f.m.Via == nil:
			f.top = v
		}
		f.m.Via = append(f.m.Via, one)
	}
	f.count += len(all) - 1
	return nil
}

func (f *fieldReader) readList(name, value string) error {
	if name == "Contact" && value == "*" && f.m.Contact == nil && !f.m.Star {
		f.m.Star = true
		return nil
	}
	all, err := splitList(value)
	if err != nil {
		return err
	}
	f.count += len(all) - 1
	for _, one := range all {
		a, err := parseAddress(one)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch name {
		case "Contact":
			if f.m.Star { // s.10.2.2: the star stands alone
				return errAddress
			}
			f.m.Contact = append(f.m.Contact, a)
		case "Route":
			f.m.Route = append(f.m.Route, a)
		case "Record-Route":
			f.m.RecordRoute = append(f.m.RecordRoute, a)
		}
	}
	return nil
}

func (f *fieldReader) readOther(kind field, name, value string) error {
	if !isToken(name) {
		return errNotToken
	}
	if kind == forwardsField {
		if n, err := strconv.ParseUint(value, 10, 32); err != nil || n > maxForward {
			return errors.New("malformed Max-Forwards")
		}
	}
	f.m.Header = append(f.m.Header, core.Field{Name: name, Value: value})
	return nil
}

// readParty reads From or To. Both hold one address, and a tag of bounded length.
func readParty(value string) (core.Address, error) {
	all, err := splitList(value)
	if err != nil {
		return core.Address{}, err
	}
	if len(all) != 1 {
		return core.Address{}, errAddress
	}
	a, err := parseAddress(value)
	if err == nil && len(a.Tag()) > maxTag {
		err = errors.New("tag too long")
	}
	return a, err
}

func readCSeq(value string) (uint32, string, error) {
	number, method, ok := strings.Cut(strings.ReplaceAll(value, "\t", " "), " ")
	n, err := strconv.ParseUint(number, 10, 64)
	method = strings.TrimLeft(method, " ")
	if !ok || err != nil || n > maxCSeq || !isToken(method) || len(method) > 64 {
		return 0, "", errors.New("malformed CSeq")
	}
	return uint32(n), method, nil
}

// hasControl reports what could pass for a line end, or end a text, further on. A quoted
// pair may hold any character but those of a line end (RFC 3261 s.25.1).
func hasControl(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			i++
			if s[i] != '\r' && s[i] != '\n' {
				continue
			}
			return true
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}
