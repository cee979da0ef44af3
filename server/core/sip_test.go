package core

import (
	"strings"
	"testing"
)

// RFC 3261 s.19.1 and the oddities of RFC 4475.
func TestParseURI(t *testing.T) {
	for text, want := range map[string]URI{
		"sip:1001@127.0.0.1:5062;transport=tcp":       {Scheme: "sip", User: "1001", Host: "127.0.0.1", Port: 5062, Params: ";transport=tcp"},
		"SIP:Alice@Example.NET":                       {Scheme: "sip", User: "Alice", Host: "example.net"},
		"sips:[2001:db8::1]:5061":                     {Scheme: "sips", Host: "2001:db8::1", Port: 5061},
		"sip:user;par=u%40example.net@example.com":    {Scheme: "sip", User: "user;par=u%40example.net", Host: "example.com"},
		"sip:1_unusual.URI~(to-be!sure)&?x@h.example": {Scheme: "sip", User: "1_unusual.URI~(to-be!sure)&?x", Host: "h.example"},
		"sip:a@h.example;lr?Subject=hello":            {Scheme: "sip", User: "a", Host: "h.example", Params: ";lr"},
	} {
		got, err := ParseURI(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "tel:+15551234", "sip:", "sip:a@", "sip:a@h:0", "sip:a@h:70000", "sip:[::1", "sip:::1", "sip:a@h h"} {
		if got, err := ParseURI(text); err == nil {
			t.Errorf("%q is taken as %+v", text, got)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("sip:1001@127.0.0.1:5062;transport=tcp")
	f.Add("sips:[2001:db8::1]:5061?x=y")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURI(text)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || again != u {
			t.Fatalf("%q is %+v, written %q, read %+v, %v", text, u, u.String(), again, err)
		}
	})
}

// A semicolon inside a quoted value separates nothing: nobody can smuggle a tag in.
func TestParams(t *testing.T) {
	a := Address{URI: URI{Scheme: "sip", Host: "h"}, Params: `;x="a;tag=evil\";tag=worse";tag=good;y`}
	if tag := a.Tag(); tag != "good" {
		t.Errorf("tag %q", tag)
	}
	b := a.WithTag("new")
	if b.Tag() != "new" || !strings.Contains(b.Params, `x="a;tag=evil\";tag=worse"`) || strings.Contains(b.Params, "good") {
		t.Errorf("params %q", b.Params)
	}
	if s := (Address{Display: `A "B" \C`, URI: URI{Scheme: "sip", Host: "h"}}).String(); s != `"A \"B\" \\C" <sip:h>` {
		t.Errorf("written %s", s)
	}
}

// RFC 3261 s.8.2.6.2: what a response copies, and the tag that it adds.
func TestReply(t *testing.T) {
	r := &Request{Method: INVITE, Message: Message{Via: []string{"v1", "v2"}, CallID: "c", CSeq: 7,
		From: Address{Params: ";tag=a"}, RecordRoute: []Address{{URI: URI{Host: "p"}}}}}
	resp := r.Reply(180, "b")
	if resp.To.Tag() != "b" || resp.From.Tag() != "a" || len(resp.Via) != 2 || resp.CSeq != 7 || len(resp.RecordRoute) != 1 {
		t.Errorf("%+v", resp)
	}
	if r.Reply(100, "b").To.Tag() != "" {
		t.Error("100 Trying got a tag")
	}
}
