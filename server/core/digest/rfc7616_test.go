package digest

import (
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
)

// RFC 7616 s.3.9.1, for both algorithms; RFC 2617 s.3.5; RFC 2069 s.2.4 (with its erratum), without qop.
func TestAnswerVectors(t *testing.T) {
	const seven = `Digest realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`
	const old = `Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`
	const cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
	for _, test := range []struct {
		name, challenge, cnonce string
		password                core.Secret
		want                    []string
	}{
		{"RFC 7616 MD5", seven + ", algorithm=MD5", cnonce, "Circle of Life",
			[]string{`response="8ca523f5e9506fed4657c9700eebdbec"`, "algorithm=MD5", "qop=auth", "nc=00000001", `opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`}},
		{"RFC 7616 SHA-256", seven + ", algorithm=SHA-256", cnonce, "Circle of Life",
			[]string{`response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"`, "algorithm=SHA-256", `cnonce="` + cnonce + `"`}},
		{"RFC 2617", old + `, qop="auth,auth-int"`, "0a4f113b", "Circle Of Life", []string{`response="6629fae49393a05397450978507c4ef1"`}},
		{"RFC 2069", old, "", "CircleOfLife", []string{`response="1949323746fe6a43ef61f9606e7febea"`}},
	} {
		got, err := Answer("GET", "/dir/index.html", "Mufasa", test.password, test.challenge, test.cnonce, 1)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: want %s in\n%s", test.name, want, got)
			}
		}
		if test.name == "RFC 2069" && strings.Contains(got, "nc=") {
			t.Errorf("nc without qop: %s", got)
		}
	}
}

// RFC 7616 s.3.4.2: A1 = unq(username) ":" unq(realm) ":" passwd.
func TestCredentials(t *testing.T) {
	got := Credentials("Mufasa", "http-auth@example.org", "Circle of Life")
	want := map[string]string{
		"MD5":     "3d78807defe7de2157e2b0b6573a855f",
		"SHA-256": "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232",
	}
	if len(got) != len(want) {
		t.Fatalf("%d credentials", len(got))
	}
	for _, c := range got {
		if c.Hash != want[c.Algorithm] {
			t.Errorf("%s: %s, want %s", c.Algorithm, c.Hash, want[c.Algorithm])
		}
	}
}

// What we can't answer is an error that says so, and holds nothing secret.
func TestAnswerRefuses(t *testing.T) {
	for _, test := range []struct{ challenge, user string }{
		{`Basic realm="x"`, "u"}, {"", "u"}, {"Digest", "u"}, {`Digest realm="x"`, "u"}, {`Digest realm="x", nonce=""`, "u"},
		{`Digest realm="x", nonce="y", algorithm=SHA-512-256`, "u"}, {`Digest realm="x", nonce="y", algorithm=MD5-sess`, "u"},
		{`Digest realm="x", nonce="y", qop="auth-int"`, "u"}, {`Digest realm="x", nonce="y"`, "u\r\nX: y"},
		{`Digest realm="x", nonce="y`, "u"}, {`Digest realm="x", realm="z", nonce="y"`, "u"},
	} {
		got, err := Answer("REGISTER", "sip:x", test.user, "geheim", test.challenge, "c", 1)
		if err == nil {
			t.Errorf("%q is answered with %s", test.challenge, got)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

// RFC 7616 s.3.3, s.3.4: the grammar of parameters.
func TestParse(t *testing.T) {
	p, ok := parse("dIgEsT  Realm = \"a \\\"b\\\" \\\\c\" ,,\tqop=auth,\tnonce=\"\", x=a/b==,")
	if !ok || p.get("realm") != `a "b" \c` || p.get("qop") != "auth" || !p.has("nonce") || p.get("nonce") != "" || p.get("x") != "a/b==" {
		t.Errorf("%v %q", ok, p)
	}
	for _, bad := range []string{
		"", "Digest", "Digest ", "Digest ,", "Digest a", "Digest =b", "Digest a=", "Digest a=,b=c", `Digest a="b`, `Digest a="b\`,
		`Digest a="b"c=d`, `Digest a=b c=d`, "Digest a=\"b\r\nc\"", "Digest a=b\x00", `Digest a b=c`, "Digest a=1, A=2",
		"Digest " + strings.Repeat("a", maxField) + "=b", "Digestive a=b",
	} {
		if p, ok := parse(bad); ok {
			t.Errorf("%.60q was read as %q", bad, p)
		}
	}
	many := "Digest a=b"
	for i := range maxParams {
		many += ", a" + strings.Repeat("x", i+1) + "=b"
	}
	if _, ok := parse(many); ok {
		t.Error("more parameters than the bound were taken")
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range captures {
		f.Add(c.field)
	}
	f.Add(`Digest realm="a \"b\\", qop="auth, auth-int",,nonce=x`)
	f.Fuzz(func(t *testing.T, field string) {
		p, ok := parse(field)
		if !ok {
			return
		}
		again := "Digest "
		for i, q := range p {
			if i > 0 {
				again += ", "
			}
			again += q.name + "=" + quote(q.value)
		}
		if len(again) > maxField {
			return
		}
		back, ok := parse(again)
		if !ok || len(back) != len(p) {
			t.Fatalf("%q was written as %q", field, again)
		}
		for i := range p {
			if back[i] != p[i] {
				t.Fatalf("%q: %q became %q", field, p[i], back[i])
			}
		}
		if _, ok := read(p); ok {
			if _, err := Answer("REGISTER", p.get("uri"), p.get("username"), "x", field, "c", 1); err != nil && strings.Contains(err.Error(), "not a Digest") {
				t.Fatalf("%q: %v", field, err)
			}
		}
	})
}
