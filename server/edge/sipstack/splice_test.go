package sipstack

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// others returns the header lines of a message that a proxy has no business with, as they
// are, and its body. Folded lines belong to the line before them.
func others(text string) (lines []string, body string) {
	head, body, _ := strings.Cut(text, "\r\n\r\n")
	_, head, _ = strings.Cut(head, "\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if line[0] == ' ' || line[0] == '\t' {
			lines[len(lines)-1] += "\r\n" + line
			continue
		}
		lines = append(lines, line)
	}
	kept := lines[:0]
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ":")
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "via", "v", "route", "record-route", "max-forwards":
		default:
			kept = append(kept, line)
		}
	}
	return kept, body
}

// drawn makes a request as any phone may write it: order, case, compact forms, folding,
// lists in one line or in several, fields that nobody knows, any body.
func drawn(t *rapid.T, p *phone, token core.URI, n int) string {
	method := rapid.SampledFrom([]string{"INVITE", "OPTIONS", "MESSAGE", "INFO", "SUBSCRIBE", "REFER", "NOTIFY", "UPDATE", "XYZ"}).Draw(t, "method")
	colon := rapid.SampledFrom([]string{":", ": ", " : ", ":\t", ":\r\n "})
	name := func(names ...string) string {
		return rapid.SampledFrom(names).Draw(t, "name") + colon.Draw(t, "colon")
	}
	more := rapid.SampledFrom([]string{"", ", <sip:next.example.com;lr>", ",\r\n <sip:a,b@next.example.com;lr>", "\r\nRoute: \"a, b\" <sip:next.example.com;lr>"}).Draw(t, "more routes")
	shown := rapid.SampledFrom([]string{"", `"a <b>, \"c" `, "Bob "}).Draw(t, "display")
	under := rapid.SampledFrom([]string{"", ", SIP/2.0/UDP h;branch=z9hG4bKh", ",\r\n\tSIP/2.0/UDP h;branch=z9hG4bKh", "\r\nv: SIP/2.0/UDP h"}).Draw(t, "more vias")
	fields := []string{
		name("Via", "v", "VIA") + p.via(fmt.Sprint("w", n)) + rapid.SampledFrom([]string{"", ";rport", " ;x=\"a, b\""}).Draw(t, "via") + under,
		name("Route", "ROUTE") + shown + "<" + token.String() + rapid.SampledFrom([]string{"", ";x=1,2"}).Draw(t, "parameter") + ">" + rapid.SampledFrom([]string{"", ";x=1"}).Draw(t, "param") + more,
		name("From", "f") + "sip:a@example.com;tag=ours", name("To", "t") + "<sip:b@example.com>",
		name("Call-ID", "i") + fmt.Sprint("w", n), name("CSeq", "cseq") + "9 " + method,
	}
	if rapid.Bool().Draw(t, "forwards") {
		fields = append(fields, name("Max-Forwards", "max-forwards")+fmt.Sprint(rapid.IntRange(1, 255).Draw(t, "hops")))
	}
	if rapid.Bool().Draw(t, "recorded") {
		fields = append(fields, name("Record-Route")+"<sip:earlier.example.com;lr>, <sip:first.example.com;lr>")
	}
	for range rapid.IntRange(0, 4).Draw(t, "unknown") {
		fields = append(fields, name("X-Via", "Vian", "Routed", "Subject", "s", "Require", "Max", "m", "Reason")+
			rapid.SampledFrom([]string{"<sip:q@h>", "<sip:q@h>;a=\"1,2\"", "<sip:q@h>,\r\n  <sip:r@h>"}).Draw(t, "value"))
	}
	body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
	fields = append(fields, name("Content-Length", "l")+fmt.Sprint(len(body)))
	fields = rapid.Permutation(fields).Draw(t, "order")
	return method + " sip:1001@192.0.2.7 SIP/2.0\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + string(body)
}

// What leaves towards the phone is what came, but for the fields that route it: to the byte.
// And what it means as a whole is what came with one Via more, one Route less.
func TestPassedUnchanged(t *testing.T) {
	b := newNode(t, 2, nil)
	p, token := registered(b)
	member := dialFrom(b, nodeAddr(1))
	parser, n := newParser(1<<16), 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		text := drawn(rt, member, token, n)
		before, err := read(parser, []byte(text), member.local())
		if err != nil {
			rt.Fatalf("%v of\n%s", err, text)
		}
		member.send(text)
		out := p.recv(patience)
		if out == "" {
			rt.Fatalf("nothing came of\n%s", text)
		}
		firstIn, _, _ := strings.Cut(text, "\r\n")
		firstOut, _, _ := strings.Cut(out, "\r\n")
		linesIn, bodyIn := others(text)
		linesOut, bodyOut := others(out)
		if firstIn != firstOut || bodyIn != bodyOut || !reflect.DeepEqual(linesIn, linesOut) {
			rt.Fatalf("from\n%q\nbecame\n%q", text, out)
		}
		after, err := read(parser, []byte(out), stranger())
		if err != nil {
			rt.Fatalf("%v of\n%s", err, out)
		}
		in, got := before.request, after.request
		if len(got.Via) != len(in.Via)+1 || !reflect.DeepEqual(got.Via[1:], in.Via) || !reflect.DeepEqual(got.Route, tail(in.Route)) {
			rt.Fatalf("Via %q and Route %v of\n%s", got.Via, got.Route, text)
		}
		record := in.RecordRoute
		switch in.Method {
		case "INVITE", "SUBSCRIBE", "REFER", "NOTIFY":
			record = append([]core.Address{{URI: token}}, record...)
		}
		if !reflect.DeepEqual(got.RecordRoute, record) {
			rt.Fatalf("Record-Route %v, want %v", got.RecordRoute, record)
		}
		want := 70
		if v := in.Get("Max-Forwards"); v != "" {
			fmt.Sscan(v, &want)
			want--
		}
		if got.Get("Max-Forwards") != fmt.Sprint(want) || len(got.Values("Max-Forwards")) != 1 {
			rt.Fatalf("Max-Forwards %q, want %d", got.Values("Max-Forwards"), want)
		}
	})
}

func tail(all []core.Address) []core.Address {
	if len(all) == 1 {
		return nil
	}
	return all[1:]
}

// A response comes back as the phone wrote it, less one Via.
func TestPassedBackUnchanged(t *testing.T) {
	b := newNode(t, 2, nil)
	p, token := registered(b)
	member := dialFrom(b, nodeAddr(1))
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		member.send(member.incoming("INVITE", token, fmt.Sprint("c", n), ""))
		request := p.expect("INVITE")
		vias := all(request, "Via")
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "body")
		vary := rapid.SampledFrom([][2]string{
			{"Via: %[1]s\r\nVia: %[2]s\r\n", "Via: %[2]s\r\n"},
			{"v: %[1]s, %[2]s\r\n", "Via: %[2]s\r\n"},
			{"VIA : %[1]s ,\r\n %[2]s\r\n", "Via: %[2]s\r\n"},
			{"Via:\r\n %[1]s\r\nX: y\r\nv:%[2]s\r\n", "X: y\r\nv:%[2]s\r\n"},
		}).Draw(rt, "vias")
		const line = "SIP/2.0 200 Ok then\r\n"
		rest := fmt.Sprintf("Server: x\r\nf: %s\r\nTo: %s;tag=x\r\nCall-ID: %s\r\nCSeq: 1 INVITE\r\nX-A: b,\r\n c\r\nContent-Length: %d\r\n\r\n%s",
			field1(request, "From"), field1(request, "To"), callIDOf(request), len(body), body)
		in := func(format string) string {
			return line + strings.ReplaceAll(strings.ReplaceAll(format, "%[1]s", vias[0]), "%[2]s", vias[1]) + rest
		}
		p.send(in(vary[0]))
		got, want := member.recv(patience), in(vary[1])
		if got != want {
			rt.Fatalf("got\n%q\nwant\n%q", got, want)
		}
	})
}

// Whatever could be read and is clean: splicing it changes what it says as it should and
// nothing else, so nobody can make this node say another thing than it checked.
func FuzzSplice(f *testing.F) {
	const tokenURI = "sip:AAAAAAAAAAAAAAAAAAAAAAAA@127.0.0.2:5060;transport=tcp;lr"
	base := "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.3;branch=z9hG4bKa\r\nRoute: <" + tokenURI + ">\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContent-Length: 4\r\n\r\nbody"
	f.Add([]byte(base))
	f.Add([]byte(strings.Replace(base, "\r\nFrom", ", <sip:x@y>\r\nFrom", 1)))
	f.Add([]byte(strings.Replace(base, "Via: ", "v:\r\n ", 1)))
	f.Add([]byte(strings.Replace(base, "Route", " \r\nRoute", 1)))
	f.Add([]byte(strings.Replace(base, "Via", "\nVia", 1)))
	f.Add([]byte(strings.Replace(base, "a\r\nRoute", "a, SIP/2.0/TCP \"x, y\";branch=b\r\nRoute", 1)))
	f.Add(invite())
	p := newParser(1 << 16)
	f.Fuzz(func(t *testing.T, data []byte) {
		before, err := read(p, data, stranger())
		if err != nil || before.request == nil || len(before.request.Route) == 0 || !clean(data) {
			return
		}
		const above = "Via: SIP/2.0/TCP 127.0.0.2;branch=z9hG4bK~new\r\nRecord-Route: <" + tokenURI + ">\r\n"
		edit := splice{above: []byte(above), via: before.request.Via[0], unroute: true, forwards: "7"}
		out := edit.append(nil, data)
		after, err := read(p, out, stranger())
		if err != nil {
			t.Fatalf("%v of\n%q\nfrom\n%q", err, out, data)
		}
		want := *before.request
		want.Via = append([]string{"SIP/2.0/TCP 127.0.0.2;branch=z9hG4bK~new;received=192.0.2.33"}, want.Via...)
		want.Route = tail(want.Route)
		uri, _ := core.ParseURI(tokenURI)
		want.RecordRoute = append([]core.Address{{URI: uri}}, want.RecordRoute...)
		want.Header = nil
		for _, h := range before.request.Header {
			if kind, _ := fieldName(h.Name); kind == forwardsField {
				h.Value = "7"
			}
			want.Header = append(want.Header, h)
		}
		if !reflect.DeepEqual(after.request, &want) || !bytes.Equal(after.request.Body, before.request.Body) {
			t.Fatalf("from\n%q\nto\n%q\n%+v\nwant\n%+v", data, out, after.request, want)
		}
	})
}
