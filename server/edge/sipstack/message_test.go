package sipstack

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/emiago/sipgo/sip"
	"pgregory.net/rapid"
)

// Generators of what the core may hand to this edge.

func genToken(t *rapid.T, label string) string {
	return rapid.StringMatching(`[a-zA-Z0-9.!%*_+~-]{1,12}`).Draw(t, label)
}

func genParams(t *rapid.T, label string) string {
	text := ""
	for range rapid.IntRange(0, 3).Draw(t, label+" params") {
		text += ";x" + genToken(t, label+" param")
		switch rapid.IntRange(0, 2).Draw(t, label+" value kind") {
		case 1:
			text += "=" + genToken(t, label+" value")
		case 2:
			text += `="a;b,\"` + genToken(t, label+" quoted value") + `\\ <c>"`
		}
	}
	return text
}

func genURI(t *rapid.T, label string) core.URI {
	u := core.URI{Scheme: rapid.SampledFrom([]string{"sip", "sips"}).Draw(t, label+" scheme")}
	u.User = rapid.StringMatching(`([a-z0-9_.!~*'()&=+$,;?/:-]|%[0-9A-F]{2}){0,12}`).Draw(t, label+" user")
	u.Host = rapid.SampledFrom([]string{"example.com", "a", "192.0.2.1", "2001:db8::1", "::1"}).Draw(t, label+" host")
	u.Port = rapid.Uint16().Draw(t, label+" port")
	for range rapid.IntRange(0, 2).Draw(t, label+" URI params") {
		u.Params += ";" + rapid.SampledFrom([]string{"lr", "transport=tcp", "user=phone", "x=%3B"}).Draw(t, label+" URI param")
	}
	return u
}

func genAddress(t *rapid.T, label string) core.Address {
	a := core.Address{URI: genURI(t, label), Params: genParams(t, label)}
	if rapid.IntRange(0, 9).Draw(t, label+" other scheme") == 0 {
		a.URI = rapid.SampledFrom([]core.URI{
			{Scheme: "tel", Host: "+49301234", Params: ";phone-context=x"},
			{Scheme: "urn", Params: "service:sos"}, {Scheme: "isbn", Host: "2983792873"},
		}).Draw(t, label+" other URI")
	}
	a.Display = rapid.StringOfN(rapid.RuneFrom([]rune("aZ0 .,;:<>@\"\\'()äß大–")), 0, 10, -1).Draw(t, label+" display")
	return a
}

func genAddresses(t *rapid.T, label string) []core.Address {
	var all []core.Address
	for i := range rapid.IntRange(0, 3).Draw(t, label+"s") {
		all = append(all, genAddress(t, fmt.Sprint(label, i)))
	}
	return all
}

func genMessage(t *rapid.T) core.Message {
	m := core.Message{
		From: genAddress(t, "From").WithTag(genToken(t, "tag")), To: genAddress(t, "To"),
		CallID:  genToken(t, "Call-ID") + "@" + genToken(t, "Call-ID host"),
		CSeq:    rapid.Uint32Range(0, maxCSeq).Draw(t, "CSeq"),
		Contact: genAddresses(t, "Contact"), Route: genAddresses(t, "Route"), RecordRoute: genAddresses(t, "Record-Route"),
	}
	if m.Contact == nil {
		m.Star = rapid.Bool().Draw(t, "star")
	}
	for range rapid.IntRange(0, 5).Draw(t, "fields") {
		name := rapid.SampledFrom([]string{"Expires", "Supported", "X-" + genToken(t, "name"), "Refer-To", "Authorization"}).Draw(t, "name")
		value := rapid.StringMatching(`([!-~]([ -~]{0,20}[!-~])?)?`).Draw(t, "value")
		m.Header = append(m.Header, core.Field{Name: name, Value: value})
	}
	if body := rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "body"); len(body) > 0 {
		m.Body, m.ContentType = body, "application/sdp"
	}
	return m
}

// disguise writes the same message as other implementations would: compact names, several
// values in one field, folded lines, odd case, white space around separators.
func disguise(t *rapid.T, wire []byte) []byte {
	head, body, _ := bytes.Cut(wire, []byte("\r\n\r\n"))
	lines := strings.Split(string(head), "\r\n")
	out, last := []string{lines[0]}, ""
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		list := name == "Contact" || name == "Route" || name == "Record-Route" || name == "Via"
		if list && name == last && rapid.Bool().Draw(t, "join") {
			out[len(out)-1] += rapid.SampledFrom([]string{",", " , ", ",\r\n ", "\r\n\t, "}).Draw(t, "comma") + value
			continue
		}
		last = name
		compact := map[string]string{"Via": "v", "From": "f", "To": "t", "Call-ID": "i", "Contact": "m",
			"Content-Length": "l", "Content-Type": "c", "Supported": "k", "Refer-To": "r"}
		switch short := compact[name]; {
		case short != "" && rapid.Bool().Draw(t, "compact"):
			name = short
		case short != "" && rapid.Bool().Draw(t, "case") && name != "Supported" && name != "Refer-To":
			name = strings.ToUpper(name)
		}
		out = append(out, name+rapid.SampledFrom([]string{":", ": ", " :  ", ":\r\n "}).Draw(t, "colon")+value)
	}
	return append([]byte(strings.Join(out, "\r\n")+"\r\n\r\n"), body...)
}

func ownVia() string {
	return writeVia(core.UDP, netip.MustParseAddrPort("127.0.0.1:5060"), "z9hG4bKproperty")
}

// without returns fields without those that the edge adds.
func without(fields []core.Field, names ...string) []core.Field {
	var rest []core.Field
next:
	for _, f := range fields {
		for _, name := range names {
			if f.Name == name {
				continue next
			}
		}
		rest = append(rest, f)
	}
	return rest
}

// A request survives the wire, however it is written there.
func TestRequestRoundTrip(t *testing.T) {
	p := newParser(1 << 16)
	rapid.Check(t, func(t *rapid.T) {
		want := core.Request{Method: rapid.SampledFrom([]string{"INVITE", "BYE", "x-Odd!"}).Draw(t, "method"), URI: genURI(t, "URI"), Message: genMessage(t)}
		wire := disguise(t, appendRequest(nil, &want, ownVia(), "dialtone"))
		m, err := read(p, wire, netip.MustParseAddrPort("127.0.0.1:5070"))
		if err != nil {
			t.Fatalf("%v\n%s", err, wire)
		}
		got := *m.request
		if wantVia := "SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKproperty;rport=5070;received=127.0.0.1"; len(got.Via) != 1 || got.Via[0] != wantVia {
			t.Fatalf("Via %q, want %q", got.Via, wantVia)
		}
		got.Via, got.Header = nil, without(got.Header, "Max-Forwards", "User-Agent")
		if len(want.Body) == 0 {
			got.Body = nil
		}
		compare(t, want, got, wire)
	})
}

// The edge writes addresses itself, for speed; they are the core's all the same.
func TestAddressesAsTheCoreWritesThem(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genAddress(t, "address")
		if got, want := string(appendAddress(nil, "To", a)), "To: "+a.String()+"\r\n"; got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

// A response survives the wire too, with several Via values.
func TestResponseRoundTrip(t *testing.T) {
	p := newParser(1 << 16)
	rapid.Check(t, func(t *rapid.T) {
		want := core.Response{Status: rapid.IntRange(100, 699).Draw(t, "status"), Method: "INVITE", Message: genMessage(t)}
		want.Phrase = rapid.StringMatching(`[A-Za-z][A-Za-z \\"äß]{0,20}[a-z]`).Draw(t, "phrase")
		for range rapid.IntRange(1, 3).Draw(t, "vias") {
			want.Via = append(want.Via, "SIP/2.0/UDP h.example.com;branch=z9hG4bK"+genToken(t, "branch"))
		}
		wire := disguise(t, appendResponse(nil, &want, "dialtone"))
		m, err := read(p, wire, stranger())
		if err != nil {
			t.Fatalf("%v\n%s", err, wire)
		}
		got := *m.response
		got.Header = without(got.Header, "Server")
		if len(want.Body) == 0 {
			got.Body = nil
		}
		compare(t, want, got, wire)
	})
}

func compare(t *rapid.T, want, got any, wire []byte) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("\nwant %#v\n got %#v\nwire\n%s", want, got, wire)
	}
}

// RFC 3261 s.20.10, s.25.1.
func TestAddresses(t *testing.T) {
	for text, want := range map[string]string{
		`sip:a@b`:                                `<sip:a@b>`,
		`sip:a@b;tag=1`:                          `<sip:a@b>;tag=1`,
		`<sip:a@b;lr>;tag=1`:                     `<sip:a@b;lr>;tag=1`,
		`"A \"q\" \\ B"  <sip:a@b> ; tag = 1 `:   `"A \"q\" \\ B" <sip:a@b>;tag=1`,
		`Anna  B. Smith <sip:a@B.Example>`:       `"Anna B. Smith" <sip:a@b.example>`,
		`"<sip:evil@x>" <sip:a@b>`:               `"<sip:evil@x>" <sip:a@b>`,
		`<sip:a:pw@[2001:db8::1]:5062>`:          `<sip:a:pw@[2001:db8::1]:5062>`,
		`<sip:a;b?c@host>`:                       `<sip:a;b?c@host>`,
		`<sip:a@b>;+sip.instance="<urn:uuid:1>"`: `<sip:a@b>;+sip.instance="<urn:uuid:1>"`,
		`<tel:+1-201;phone-context=x>`:           `<tel:+1-201;phone-context=x>`,
		`<urn:service:sos>`:                      `<urn:service:sos>`,
	} {
		a, err := parseAddress(text)
		if err != nil || a.String() != want {
			t.Errorf("%s: got %s, %v; want %s", text, a, err, want)
		}
	}
	for _, text := range []string{``, `*`, `<>`, `sip:`, `<sip:a@b`, `"open <sip:a@b>`, `"a" sip:a@b`, `< sip:a@b>`, `a,b <sip:a@b>`,
		`sip:a@b?x=y`, `<sip:a@b> tag=1`, `<sip:a@b>;tag="1`, `<sip:a@b>;=1`, `<sip:a@b@c>`, `<sip:a@b:0>`, `<sip:a@b:70000>`, `<sip:a b@c>`, `<sip:@b>`, `<sip:[::1>`} {
		if a, err := parseAddress(text); err == nil {
			t.Errorf("%q was accepted as %s", text, a)
		}
	}
}

// RFC 3261 s.18.2.1, s.18.2.2; RFC 3581 s.4.
func TestViaRouting(t *testing.T) {
	from := netip.MustParseAddrPort("192.0.2.9:1234")
	for _, c := range []struct{ via, stamped, datagram, later string }{
		{"SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bKa", "SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bKa", "192.0.2.9:5070", "192.0.2.9:5070"},
		{"SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKa", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKa", "192.0.2.9:5060", "192.0.2.9:5060"},
		{"SIP/2.0/UDP phone.lan:5070;branch=z9hG4bKa", "SIP/2.0/UDP phone.lan:5070;branch=z9hG4bKa;received=192.0.2.9", "192.0.2.9:5070", "192.0.2.9:5070"},
		{"SIP/2.0/UDP 10.0.0.1:5070;rport;branch=z9hG4bKa", "SIP/2.0/UDP 10.0.0.1:5070;rport=1234;branch=z9hG4bKa;received=192.0.2.9", "192.0.2.9:1234", "192.0.2.9:1234"},
		// What a stranger wrote into received and rport aims nothing.
		{"SIP/2.0/UDP 10.0.0.1;received=198.51.100.1;rport=9;branch=z9hG4bKa", "SIP/2.0/UDP 10.0.0.1;rport=1234;branch=z9hG4bKa;received=192.0.2.9", "192.0.2.9:1234", "192.0.2.9:1234"},
		{"SIP/2.0/TCP 10.0.0.1:5070;rport;branch=z9hG4bKa", "SIP/2.0/TCP 10.0.0.1:5070;rport=1234;branch=z9hG4bKa;received=192.0.2.9", "192.0.2.9:1234", "192.0.2.9:5070"},
		{"SIP/2.0/UDP [2001:db8::1]:5070;branch=z9hG4bKa", "SIP/2.0/UDP [2001:db8::1]:5070;branch=z9hG4bKa;received=192.0.2.9", "192.0.2.9:5070", "192.0.2.9:5070"},
	} {
		v, err := parseVia(c.via)
		if err != nil {
			t.Fatalf("%s: %v", c.via, err)
		}
		stamped := v.stamped(from)
		again, err := parseVia(stamped)
		if err != nil || stamped != c.stamped || v.answerPort(from).String() != c.datagram || again.answerAddr().String() != c.later {
			t.Errorf("%s: got %s, now %s, later %s (%v)", c.via, stamped, v.answerPort(from), again.answerAddr(), err)
		}
	}
}

// Bounds of a message. Each of these would otherwise be kept by a peer's choice.
func TestReadBounds(t *testing.T) {
	line := func(n int, name string) string { return strings.Repeat(name+"\r\n", n) }
	base := func(cseq, tag, callID, more string) string {
		return "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKx\r\nFrom: <sip:a@b>;tag=" + tag +
			"\r\nTo: <sip:b@b>\r\nCall-ID: " + callID + "\r\nCSeq: " + cseq + " OPTIONS\r\n" + more + "\r\n"
	}
	for name, c := range map[string]struct {
		text   string
		status int
	}{
		"plain":              {base("1", "t", "c", ""), 0},
		"100 fields":         {base("1", "t", "c", line(95, "X: y")), 0},
		"101 fields":         {base("1", "t", "c", line(96, "X: y")), 513},
		"101 list elements":  {base("1", "t", "c", "Contact: <sip:a@b>"+strings.Repeat(",<sip:a@b>", 96)+"\r\n"), 513},
		"10,000 lines":       {base("1", "t", "c", line(10000, "X:y")), 513},
		"header of 17 kB":    {base("1", "t", "c", "X: "+strings.Repeat("y", 17000)+"\r\n"), 513},
		"largest CSeq":       {base("2147483647", "t", "c", ""), 0},
		"CSeq 2^31":          {base("2147483648", "t", "c", ""), 400},
		"negative CSeq":      {base("-1", "t", "c", ""), 400},
		"tag of 256":         {base("1", strings.Repeat("t", 256), "c", ""), 0},
		"tag of 257":         {base("1", strings.Repeat("t", 257), "c", ""), 400},
		"Call-ID of 257":     {base("1", "t", strings.Repeat("c", 257), ""), 400},
		"empty Call-ID":      {base("1", "t", "", ""), 400},
		"bare LF in a value": {base("1", "t", "c", "Subject: a\nVia: SIP/2.0/UDP evil;branch=z9hG4bKy\r\n"), 400},
		"NUL in a value":     {base("1", "t", "c", "Subject: a\x00b\r\n"), 400},
		"name not a token":   {base("1", "t", "c", "Sub ject: a\r\n"), 400},
		"no colon":           {base("1", "t", "c", "Subject\r\n"), 400},
		"two From":           {base("1", "t", "c", "From: <sip:x@y>;tag=2\r\n"), 400},
		"star and more":      {base("1", "t", "c", "Contact: *, <sip:a@b>\r\n"), 400},
		"two stars":          {base("1", "t", "c", "Contact: *\r\nContact: *\r\n"), 400},
		"body too short":     {base("1", "t", "c", "Content-Length: 5\r\n") + "abc", 400},
		"Content-Length 4G":  {base("1", "t", "c", "Content-Length: 4294967295\r\n") + "abc", 400},
	} {
		_, err := read(newParser(1<<16), []byte(c.text), stranger())
		var f *fault
		if got := outcome(err, &f); got != c.status {
			t.Errorf("%s: got %d (%v), want %d", name, got, err, c.status)
		}
	}
	for _, noise := range []string{"", "\x00\x01\x00\x00!\x12\xa4B", "GET / HTTP/1.1\r\n\r\n", "hello\r\n\r\n", "\x80\xc8\x00\x06 rtcp"} {
		if _, err := read(newParser(1<<16), []byte(noise), stranger()); err != errGarbage {
			t.Errorf("%q: got %v, want errGarbage", noise, err)
		}
	}
}

// Texts that the core got from a configuration must not become header fields.
func TestNoInjection(t *testing.T) {
	evil := "x\r\nEvil: yes\r\n\r\nBYE sip:a@b SIP/2.0"
	r := core.Request{Method: "INVITE", URI: core.URI{Scheme: "sip", Host: "h", User: evil}, Message: core.Message{
		From: core.Address{Display: evil, URI: core.URI{Scheme: "sip", Host: "h"}}, CallID: evil,
		Header:      []core.Field{{Name: "X", Value: evil}, {Name: "Y\r\nEvil", Value: "1"}, {Name: "Content-Length", Value: "9"}, {Name: "Via", Value: "z"}},
		ContentType: evil, Body: []byte("b")}}
	wire := string(appendRequest(nil, &r, ownVia(), evil))
	if strings.Contains(wire, "\nEvil") || strings.Count(wire, "\r\n\r\n") != 1 || strings.Count(wire, "Content-Length") != 1 || strings.Count(wire, "Via:") != 1 {
		t.Errorf("injected:\n%s", wire)
	}
}

// The whole way from bytes to a core event, and back for what was accepted.
func FuzzMessage(f *testing.F) {
	for _, c := range torture() {
		f.Add(tortureFile(f, c.file))
	}
	f.Add([]byte("SIP/2.0 200 OK\r\nv: SIP/2.0/TCP [::1]:1;rport=1;branch=z9hG4bKa\r\nf: <sip:a@b>\r\nt: <sip:a@b>;tag=1\r\ni: 1\r\nCSeq: 1 INVITE\r\nl: 0\r\n\r\n"))
	f.Add([]byte("REGISTER sip:a SIP/2.0\r\nv: SIP/2.0/UDP a\r\nf: a <sip:a>;tag=1\r\nt: \"\\\"\" <sip:a>\r\ni: 1\r\nCSeq: 1 REGISTER\r\nm: *\r\n\r\n"))
	f.Add([]byte("INVITE sip:0 SIP/2.0\r\nT:0:0\r\nF:0:0\r\nCAll-ID:0\r\nCSeq:0 INVITE\r\nV:SIP/2.0/0 0\r\r\n\r\n0")) // a CR too many
	f.Add([]byte("SIP/2.0 100\r\nV:SIP/2.0/0 0\r\nCAll-ID:0\r\nCSeq:0 0\r\nF:0:0\r\nT:0:0\r\n\r\n0"))                 // a space too few
	f.Add(invite())
	p := newParser(1 << 16)
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := framer{limit: 1 << 16}
		n := copy(frames.room(), data)
		frames.grew(n)
		frames.next()
		m, err := read(p, data, stranger())
		var fault *fault
		switch status := outcome(err, &fault); {
		case status > 0:
			fault.answer("dialtone")
			return
		case err != nil:
			return
		}
		if m.request != nil {
			serverID(&m, core.INVITE, stranger().Addr())
		}
		once := rewritten(t, p, written(m))
		if twice := rewritten(t, p, once); once != nil && twice != nil && !bytes.Equal(once, twice) {
			t.Fatalf("changed on the way:\n%q\n%q", once, twice)
		}
	})
}

func written(m parsed) []byte {
	if m.response != nil {
		return appendResponse(nil, m.response, "")
	}
	return appendRequest(nil, m.request, m.request.Via[0], "")
}

// rewritten reads and writes once more what was written; nil when it has grown too large.
func rewritten(t *testing.T, p *sip.Parser, wire []byte) []byte {
	t.Helper()
	if wire == nil {
		return nil
	}
	m, err := read(p, wire, stranger())
	var f *fault
	if outcome(err, &f) == 513 || err != nil && len(wire) > maxHeader {
		return nil
	}
	if err != nil {
		t.Fatalf("written, but not readable: %v\n%q", err, wire)
	}
	return written(m)
}
