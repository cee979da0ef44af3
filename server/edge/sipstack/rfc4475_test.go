package sipstack

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What becomes of a torture message. The files in testdata/rfc4475 are the messages of
// RFC 4475 appendix A, byte for byte.
type tortured struct {
	file    string
	section string
	status  int // 0: handed to the core; above 0: answered; dropped: neither
	why     string
}

const dropped = -1

func torture() []tortured {
	return []tortured{
		// 3.1.1 valid messages.
		{"wsinv", "3.1.1.1", 0, ""}, {"intmeth", "3.1.1.2", 0, ""}, {"esc01", "3.1.1.3", 0, ""},
		{"escnull", "3.1.1.4", 0, ""}, {"esc02", "3.1.1.5", 0, ""}, {"lwsdisp", "3.1.1.6", 0, ""},
		{"longreq", "3.1.1.7", 0, ""}, {"dblreq", "3.1.1.8", 0, ""}, {"semiuri", "3.1.1.9", 0, ""},
		{"transports", "3.1.1.10", 0, ""}, {"mpart01", "3.1.1.11", 0, ""},
		{"unreason", "3.1.1.12", 0, ""}, {"noreason", "3.1.1.13", 0, ""},
		// 3.1.2 invalid messages.
		{"badinv01", "3.1.2.1", 400, ""}, {"clerr", "3.1.2.2", 400, ""}, {"ncl", "3.1.2.3", 400, ""},
		{"scalar02", "3.1.2.4", 400, ""}, {"scalarlg", "3.1.2.5", dropped, "a response"},
		{"quotbal", "3.1.2.6", 400, ""}, {"ltgtruri", "3.1.2.7", 400, ""}, {"lwsruri", "3.1.2.8", 400, ""},
		{"lwsstart", "3.1.2.9", 400, ""}, {"trws", "3.1.2.10", 400, ""}, {"escruri", "3.1.2.11", 400, ""},
		{"baddate", "3.1.2.12", 0, "Date is of no interest here, and elements may ignore it"},
		{"regbadct", "3.1.2.13", 400, ""}, {"badaspec", "3.1.2.14", 400, ""}, {"baddn", "3.1.2.15", 400, ""},
		{"badvers", "3.1.2.16", 505, ""}, {"mismatch01", "3.1.2.17", 400, ""}, {"mismatch02", "3.1.2.18", 400, ""},
		{"bigcode", "3.1.2.19", dropped, "a response"},
		// 3.2 transaction layer.
		{"badbranch", "3.2.1", 400, ""},
		// 3.3 application layer.
		{"insuf", "3.3.1", 400, ""}, {"unkscm", "3.3.2", 416, ""}, {"novelsc", "3.3.3", 416, ""},
		{"unksm2", "3.3.4", 0, "the registrar refuses it"}, {"bext01", "3.3.5", 0, "420 is the core's"},
		{"invut", "3.3.6", 0, "415 is the core's"}, {"regaut01", "3.3.7", 0, "the registrar refuses it"},
		{"multi01", "3.3.8", 400, ""}, {"mcl01", "3.3.9", 400, ""},
		{"bcast", "3.3.10", 0, "read, then dropped as a stray: its Via is not ours, see TestStrayResponses"},
		{"zeromf", "3.3.11", 0, "the last hop may answer"}, {"cparam01", "3.3.12", 0, ""},
		{"cparam02", "3.3.13", 0, ""}, {"regescrt", "3.3.14", 0, ""}, {"sdp01", "3.3.15", 0, "the SDP is the core's"},
		// 3.4 backward compatibility.
		{"inv2543", "3.4.1", 0, ""},
	}
}

func tortureFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "rfc4475", name+".dat"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func stranger() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.33:5099") }

// RFC 4475, all 49 messages.
func TestTortureMessages(t *testing.T) {
	files, _ := filepath.Glob("testdata/rfc4475/*.dat")
	if all := torture(); len(files) != 49 || len(all) != 49 {
		t.Fatalf("%d files, %d expectations: RFC 4475 has 49 messages", len(files), len(all))
	}
	for _, c := range torture() {
		t.Run(c.file, func(t *testing.T) {
			_, err := read(newParser(1<<16), tortureFile(t, c.file), stranger())
			var f *fault
			switch got := outcome(err, &f); {
			case got != c.status:
				t.Fatalf("RFC 4475 s.%s: got %d (%v), want %d", c.section, got, err, c.status)
			case got > 0:
				checkAnswer(t, f)
			}
		})
	}
}

func outcome(err error, f **fault) int {
	switch {
	case err == nil:
		return 0
	case !errors.As(err, f) || (*f).status == 0:
		return dropped
	}
	return (*f).status
}

// An answer to a message that can't be read must itself be readable, and go with the
// request's Via.
func checkAnswer(t *testing.T, f *fault) {
	t.Helper()
	wire := f.answer("dialtone")
	text := string(wire)
	for _, want := range []string{"\r\nVia: SIP/", ";received=192.0.2.33", "\r\nCSeq: ", "Content-Length: 0\r\n\r\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("answer without %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\r\nTo:") && !strings.Contains(text, "tag="+statelessTag) && !strings.Contains(f.reply.to, "tag=") {
		t.Errorf("To without tag:\n%s", text)
	}
}

// RFC 4475 s.3.1.1: valid messages reach the core as the RFC describes them.
func TestTortureMeaning(t *testing.T) {
	req := func(name string) parsed {
		m, err := read(newParser(1<<16), tortureFile(t, name), stranger())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return m
	}
	equal := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %#v, want %#v", what, got, want)
		}
	}
	m := req("wsinv").request
	equal("wsinv URI", m.URI.String(), "sip:vivekg@chair-dnrc.example.com;unknownparam")
	equal("wsinv To", m.To.String(), "<sip:vivekg@chair-dnrc.example.com>;tag=1918181833n")
	equal("wsinv display", m.From.Display, `J Rosenberg \"`)
	equal("wsinv tag", m.From.Tag(), "98asjd8")
	equal("wsinv CSeq", m.CSeq, uint32(9))
	equal("wsinv vias", len(m.Via), 3)
	equal("wsinv top", m.Via[0], "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw;received=192.0.2.33")
	equal("wsinv contact", m.Contact[0].String(), `"Quoted string \"\"" <sip:jdrosen@example.com>;newparam=newvalue;secondparam;q=0.33`)
	equal("wsinv route", m.Route[0].String(), "<sip:services.example.com;lr;unknownwith=value;unknown-no-value>")
	equal("wsinv folded", m.Get("NewFangledHeader"), "newfangled value continued newfangled value")
	equal("wsinv unknown", m.Get("UnknownHeaderWithUnusualValue"), ";;,,;;,;")
	equal("wsinv body", len(m.Body), 150)

	m = req("intmeth").request
	equal("intmeth method", m.Method, "!interesting-Method0123456789_*+`.%indeed'~")
	equal("intmeth user", m.URI.User, "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)")
	equal("intmeth tag", m.From.Tag(), "_token~1'+`*%!-.")

	equal("esc01 user", req("esc01").request.URI.User, "sips%3Auser%40example.com")
	equal("escnull to", req("escnull").request.To.URI.User, "null-%00-null")
	equal("lwsdisp", req("lwsdisp").request.From.Display, "caller")
	equal("semiuri", req("semiuri").request.URI.User, "user;par=u%40example.net")
	equal("transports", len(req("transports").request.Via), 5)
	equal("dblreq body", len(req("dblreq").request.Body), 0)
	equal("noreason", req("noreason").response.Phrase, "")
	equal("unksm2 To", req("unksm2").request.To.String(), "<isbn:2983792873>")
	equal("unksm2 From", req("unksm2").request.From.URI.String(), "http://www.example.com")
	equal("cparam01", req("cparam01").request.Contact[0].Params, ";unknownparam")
	equal("cparam02", req("cparam02").request.Contact[0].URI.Params, ";unknownparam")
	equal("inv2543 tag", req("inv2543").request.From.Tag(), "")
}
