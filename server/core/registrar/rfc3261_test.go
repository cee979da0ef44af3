package registrar

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

var (
	start  = core.Time(1_795_000_000 * int64(time.Second))
	limits = Limits{Min: time.Minute, Max: 2 * time.Hour, Default: time.Hour}
	source = core.Peer{Transport: core.UDP, Addr: netip.MustParseAddrPort("192.0.2.10:5060")}
)

// address reads "<uri>;params".
func address(text string) core.Address {
	text, params, _ := strings.Cut(strings.TrimPrefix(text, "<"), ">")
	uri, err := core.ParseURI(text)
	if err != nil {
		panic(err)
	}
	return core.Address{URI: uri, Params: params}
}

// request is a REGISTER; contacts as in the header field, "*" for all. The Call-ID is "c1".
func request(cseq uint32, contacts ...string) *core.Request {
	aor := address("<sip:1001@demo.localhost>")
	req := &core.Request{Method: core.REGISTER, URI: core.URI{Scheme: "sip", Host: "demo.localhost"}}
	req.From, req.To, req.CallID, req.CSeq = aor.WithTag("phone"), aor, "c1", cseq
	req.Via = []string{"SIP/2.0/UDP 192.0.2.10;branch=z9hG4bK1"}
	for _, c := range contacts {
		if c == "*" {
			req.Star = true
			continue
		}
		req.Contact = append(req.Contact, address(c))
	}
	return req
}

func with(req *core.Request, name, value string) *core.Request {
	req.Header = append(req.Header, core.Field{Name: name, Value: value})
	return req
}

func calling(req *core.Request, id string) *core.Request { req.CallID = id; return req }

// must registers and checks the invariants, and that a refusal changes nothing.
func must(t testing.TB, s Set, now core.Time, req *core.Request, status int) (Set, *core.Response) {
	t.Helper()
	before := append(Set(nil), s...)
	next, resp, changed := s.Register(now, req, source, limits, "ours")
	if resp.Status != status {
		t.Fatalf("%s %v: status %d %v, want %d", req.Contact, req.Header, resp.Status, resp.Header, status)
	}
	if !reflect.DeepEqual(append(Set(nil), s...), before) {
		t.Fatal("the set that was given was changed")
	}
	if !changed && len(next) != len(s) || status != 200 && (changed || !reflect.DeepEqual(next, s)) {
		t.Fatalf("status %d, changed %v: %v after %v", resp.Status, changed, next, s)
	}
	if err := next.Valid(); err != nil {
		t.Fatal(err)
	}
	if resp.To.Tag() != "ours" || resp.CallID != req.CallID || resp.CSeq != req.CSeq || !reflect.DeepEqual(resp.Via, req.Via) {
		t.Fatalf("not a reply to the request: %+v", resp)
	}
	return next, resp
}

// list writes a set or the contacts of a response: user, port and expiry of each.
func list(contacts []core.Address) string {
	var parts []string
	for _, a := range contacts {
		text := a.URI.User
		if a.URI.Port != 0 {
			text += fmt.Sprintf(":%d", a.URI.Port)
		}
		if e, ok := parameter(a, "expires"); ok {
			text += "=" + e
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, " ")
}

func two(t testing.TB) Set {
	s, resp := must(t, nil, start, request(1, "<sip:a@192.0.2.10>;q=0.5", "<sip:b@192.0.2.11>;expires=120"), 200)
	if list(resp.Contact) != "a=3600 b=120" {
		t.Fatalf("bound %s", list(resp.Contact))
	}
	return s
}

// Step 2: "the registrar MUST process the Require header field values" (s.8.2.2.3).
func TestRequire(t *testing.T) {
	_, resp := must(t, nil, start, with(request(1, "<sip:a@h>"), "Require", "path, gruu ,x"), 420)
	if resp.Get("Unsupported") != "gruu, x" {
		t.Errorf("Unsupported: %s", resp.Get("Unsupported"))
	}
	must(t, nil, start, with(request(1, "<sip:a@h>"), "Require", "path,outbound"), 200)
}

// Step 6: "If there is no Contact, the registrar skips to the last step."
func TestQuery(t *testing.T) {
	s := two(t)
	next, resp := must(t, s, start.Add(30*time.Second), request(1), 200) // even the CSeq is not looked at
	if list(resp.Contact) != "a=3570 b=90" || !reflect.DeepEqual(next, s) {
		t.Errorf("listed %s", list(resp.Contact))
	}
	_, resp = must(t, nil, start, request(1), 200)
	if len(resp.Contact) != 0 {
		t.Errorf("listed %s of nothing", list(resp.Contact))
	}
}

// Step 6: "If the request has additional Contact fields or an expiration time other than
// zero, the request is invalid, and the server MUST return a 400."
func TestStarAlone(t *testing.T) {
	s := two(t)
	must(t, s, start, with(request(2, "*", "<sip:a@192.0.2.10>"), "Expires", "0"), 400)
	must(t, s, start, with(request(2, "*"), "Expires", "60"), 400)
	must(t, s, start, with(request(2, "*"), "Expires", "nonsense"), 400)
	must(t, s, start, request(2, "*"), 400)
}

// Step 6: "checks whether the Call-ID agrees with the value stored for each binding. If
// not, it MUST remove the binding. If it does agree, it MUST remove the binding only if the
// CSeq in the request is higher than the value stored for that binding. Otherwise, the
// update MUST be aborted and the request fails."
func TestStar(t *testing.T) {
	s := two(t)
	next, resp := must(t, s, start, with(request(2, "*"), "Expires", "0"), 200)
	if len(next) != 0 || len(resp.Contact) != 0 {
		t.Errorf("left: %v", next)
	}
	next, _ = must(t, s, start, with(calling(request(1, "*"), "c2"), "Expires", "0"), 200)
	if len(next) != 0 {
		t.Errorf("left: %v", next)
	}
	must(t, s, start, with(request(1, "*"), "Expires", "0"), 500)
	mixed, _ := must(t, s, start, calling(request(1, "<sip:c@192.0.2.12>"), "c2"), 200)
	must(t, mixed, start, with(request(1, "*"), "Expires", "0"), 500) // none is removed, also not that of c2
}

// Step 7: "If the field value has an "expires" parameter, that value MUST be taken as the
// requested expiration. If there is no such parameter, but the request has an Expires
// header field, that value MUST be taken. If there is neither, a locally-configured default."
func TestExpiration(t *testing.T) {
	for _, test := range []struct {
		contact, header, want string
	}{
		{"<sip:a@h>;expires=100", "200", "a=100"}, {"<sip:a@h>;Expires = 100", "200", "a=100"}, {"<sip:a@h>", "200", "a=200"},
		{"<sip:a@h>", "", "a=3600"}, {"<sip:a@h>;expires=0", "200", ""}, {"<sip:a@h>", "0", ""},
		// "The registrar MAY choose an expiration less than the requested."
		{"<sip:a@h>;expires=86400", "", "a=7200"}, {"<sip:a@h>;expires=99999999999999999999", "", "a=7200"},
		// s.10.2.1.1: "Malformed values SHOULD be treated as equivalent to 3600."
		{"<sip:a@h>;expires=soon", "200", "a=3600"}, {"<sip:a@h>;expires", "200", "a=3600"}, {"<sip:a@h>;expires=-5", "", "a=3600"},
		{`<sip:a@h>;x=";expires=70"`, "80", "a=80"},
		{"<sip:a@h>", "Thu, 01 Dec 1994 16:00:00 GMT", "a=3600"}, {`<sip:a@h>;expires="90"`, "", "a=90"},
	} {
		req := request(1, test.contact)
		if test.header != "" {
			with(req, "Expires", test.header)
		}
		if _, resp := must(t, nil, start, req, 200); list(resp.Contact) != test.want {
			t.Errorf("%s with Expires %q: %s, want %s", test.contact, test.header, list(resp.Contact), test.want)
		}
	}
}

// Step 7: "If and only if the requested expiration interval is greater than zero AND smaller
// than one hour AND less than a registrar-configured minimum, the registrar MAY reject with
// a response of 423. This response MUST contain a Min-Expires header field."
func TestTooBrief(t *testing.T) {
	s := two(t)
	_, resp := must(t, s, start, request(2, "<sip:c@h>;expires=600", "<sip:a@192.0.2.10>;expires=59"), 423)
	if resp.Get("Min-Expires") != "60" {
		t.Errorf("Min-Expires: %s", resp.Get("Min-Expires"))
	}
	must(t, nil, start, request(1, "<sip:a@h>;expires=60"), 200)
	must(t, nil, start, request(1, "<sip:a@h>;expires=0"), 200)
	long := Limits{Min: 3 * time.Hour, Max: 4 * time.Hour, Default: 3 * time.Hour}
	if _, resp, _ := (Set)(nil).Register(start, request(1, "<sip:a@h>;expires=3600"), source, long, "t"); resp.Status != 200 {
		t.Errorf("an hour was refused: %d", resp.Status)
	}
	odd := Limits{Min: 1500 * time.Millisecond, Max: time.Hour, Default: time.Hour}
	if _, resp, _ := (Set)(nil).Register(start, request(1, "<sip:a@h>;expires=1"), source, odd, "t"); resp.Get("Min-Expires") != "2" {
		t.Errorf("Min-Expires %s", resp.Get("Min-Expires"))
	}
}

// Step 7: "If the binding does not exist, it is tentatively added."
func TestAdd(t *testing.T) {
	next, resp := must(t, two(t), start, request(2, "<sip:c@192.0.2.12:5070>;expires=300"), 200)
	if list(resp.Contact) != "a=3600 b=120 c:5070=300" || len(next) != 3 {
		t.Errorf("bound %s", list(resp.Contact))
	}
}

// Step 7: "If the binding does exist, the registrar checks the Call-ID value. If the Call-ID
// value in the existing binding differs from the Call-ID value in the request, the binding
// MUST be removed if the expiration time is zero and updated otherwise."
func TestOtherCallID(t *testing.T) {
	s := two(t)
	next, resp := must(t, s, start.Add(time.Second), calling(request(1, "<sip:b@192.0.2.11>;expires=300"), "c2"), 200)
	if list(resp.Contact) != "a=3599 b=300" || next[1].CallID != "c2" || next[1].At != start.Add(time.Second) {
		t.Errorf("bound %s", list(resp.Contact))
	}
	next, _ = must(t, s, start, calling(request(1, "<sip:b@192.0.2.11>;expires=0"), "c2"), 200)
	if len(next) != 1 {
		t.Errorf("left %v", next)
	}
}

// Step 7: "If they are the same, the registrar compares the CSeq value. If the value is
// higher than that of the existing binding, it MUST update or remove the binding as above.
// If not, the update MUST be aborted and the request fails."
func TestSameCallID(t *testing.T) {
	s := two(t)
	for cseq, status := range map[uint32]int{0: 500, 1: 500, 2: 200, 4294967295: 200} {
		must(t, s, start, request(cseq, "<sip:b@192.0.2.11>;expires=300"), status)
		must(t, s, start, request(cseq, "<sip:b@192.0.2.11>;expires=0"), status)
	}
}

// Step 7: "The binding updates MUST be committed (that is, made visible) if and only if all
// binding updates and additions succeed."
func TestAllOrNothing(t *testing.T) {
	s, _ := must(t, two(t), start, calling(request(9, "<sip:c@192.0.2.12>"), "c2"), 200)
	// a would be removed, d added; c has the higher CSeq.
	must(t, s, start, calling(request(5, "<sip:a@192.0.2.10>;expires=0", "<sip:d@h>", "<sip:c@192.0.2.12>"), "c2"), 500)
	must(t, s, start, calling(request(10, "<sip:a@192.0.2.10>;expires=0", "<sip:d@h>;expires=1"), "c2"), 423)
}

// Two contacts of one request that are the same binding are no request out of order; the last counts.
func TestTwiceInOneRequest(t *testing.T) {
	s := two(t)
	next, resp := must(t, s, start, request(2, "<sip:b@192.0.2.11>;expires=0", "<sip:b@192.0.2.11>;expires=300"), 200)
	if list(resp.Contact) != "a=3600 b=300" {
		t.Errorf("bound %s", list(resp.Contact))
	}
	next, resp = must(t, next, start, request(3, "<sip:b@192.0.2.11>;expires=200", "<sip:b@192.0.2.11>;expires=100"), 200)
	if list(resp.Contact) != "a=3600 b=100" || len(next) != 2 {
		t.Errorf("bound %s", list(resp.Contact))
	}
	_, resp = must(t, next, start, request(4, "<sip:b@192.0.2.11>", "<sip:b@192.0.2.11>;expires=0"), 200)
	if list(resp.Contact) != "a=3600" {
		t.Errorf("bound %s", list(resp.Contact))
	}
}

// Step 8: "The registrar returns a 200 (OK) response. The response MUST contain Contact
// header field values enumerating all current bindings. Each Contact value MUST feature an
// "expires" parameter indicating its expiration interval. The response SHOULD include a Date."
func TestResponse(t *testing.T) {
	req := request(1, `<sip:a@h;transport=tcp>;+sip.instance="<urn:uuid:1>";reg-id=1;expires=60;q=0.7;methods="INVITE;BYE"`)
	s, resp := must(t, nil, start, with(req, "Supported", "path, outbound"), 200)
	want := `<sip:a@h;transport=tcp>;+sip.instance="<urn:uuid:1>";reg-id=1;q=0.7;methods="INVITE;BYE";expires=60`
	if len(resp.Contact) != 1 || resp.Contact[0].String() != want {
		t.Errorf("Contact: %v, want %s", resp.Contact, want)
	}
	if resp.Get("Date") != "Wed, 18 Nov 2026 11:06:40 GMT" || resp.Get("Require") != "outbound" { // RFC 5626 s.6
		t.Errorf("%+v", resp.Header)
	}
	if _, resp := must(t, s, start.Add(59*time.Second+1), request(1), 200); list(resp.Contact) != "a=1" {
		t.Errorf("a living binding is listed as %s", list(resp.Contact))
	}
	if _, resp := must(t, s, start.Add(time.Minute), request(1), 200); len(resp.Contact) != 0 {
		t.Errorf("an expired binding is listed: %v", resp.Contact)
	}
	if _, resp := must(t, nil, start, request(1, `<sip:a@h>;+sip.instance="<urn:uuid:1>";reg-id=1`), 200); resp.Get("Require") != "" {
		t.Error("outbound is required of a phone that does not know it")
	}
}

// What expired is gone for step 7 too: its CSeq counts no more.
func TestLapsed(t *testing.T) {
	s := two(t)
	next, resp, changed := s.Register(start.Add(2*time.Minute), request(1, "<sip:b@192.0.2.11>;expires=60"), source, limits, "t")
	if resp.Status != 200 || !changed || len(next) != 2 {
		t.Errorf("status %d, %v", resp.Status, next)
	}
	next, _, changed = s.Register(start.Add(2*time.Minute), request(1), source, limits, "t")
	if !changed || len(next) != 1 {
		t.Errorf("a query does not tell that a binding has expired: %v", next)
	}
}

// RFC 5626 s.6: a binding with instance and reg-id is known by these, not by its address.
func TestInstances(t *testing.T) {
	flow := func(uri string, id int) string {
		return fmt.Sprintf(`<%s>;+sip.instance="<urn:uuid:1>";reg-id=%d`, uri, id)
	}
	s, _ := must(t, nil, start, request(1, flow("sip:a@192.0.2.10:1111", 1), flow("sip:a@192.0.2.10:1111", 2)), 200)
	if len(s) != 2 || s[0].Instance != "<urn:uuid:1>" || s[0].RegID != 1 {
		t.Fatalf("two flows of a phone are %+v", s)
	}
	s, resp := must(t, s, start, calling(request(1, flow("sip:a@192.0.2.10:2222", 1)), "restarted"), 200)
	if list(resp.Contact) != "a:2222=3600 a:1111=3600" {
		t.Errorf("after a restart: %s", list(resp.Contact))
	}
	must(t, s, start, calling(request(1, flow("sip:a@192.0.2.10:3333", 1)), "restarted"), 500)
	// Without reg-id the rules of RFC 3261 hold.
	s, _ = must(t, nil, start, request(1, `<sip:a@h:1>;+sip.instance="<urn:uuid:1>"`, `<sip:a@h:2>;+sip.instance="<urn:uuid:1>"`), 200)
	if len(s) != 2 {
		t.Errorf("%v", s)
	}
	// One address without, two with: it takes the place of both.
	s, _ = must(t, nil, start, request(1, flow("sip:a@h", 1), "<sip:b@h>", flow("sip:a@h", 2)), 200)
	s, resp = must(t, s, start, request(2, "<sip:a@h>;expires=99"), 200)
	if list(resp.Contact) != "b=3600 a=99" {
		t.Errorf("bound %s", list(resp.Contact))
	}
	s, _ = must(t, nil, start, request(1, flow("sip:a@h", 1), "<sip:b@h>", flow("sip:a@h", 2), "<sip:c@h>"), 200)
	_, resp = must(t, s, start, request(2, "<sip:a@h>;expires=0"), 200)
	if list(resp.Contact) != "b=3600 c=3600" {
		t.Errorf("left %s", list(resp.Contact))
	}
	for _, id := range []string{"0", "-1", "x", "99999999999", ""} {
		if s, _ := must(t, nil, start, request(1, `<sip:a@h>;+sip.instance="<u>";reg-id=`+id), 200); s[0].RegID != 0 {
			t.Errorf("reg-id %s is %d", id, s[0].RegID)
		}
	}
}

// RFC 3327 s.5.3: the path is kept with the binding and repeated in the response.
func TestPath(t *testing.T) {
	req := with(with(request(1, "<sip:a@h>"), "Path", `"p, 1" <sip:p1.example;lr>;x="a,b", <sip:192.0.2.1:5080;lr>`), "Path", "<sip:p3.example;lr>")
	s, resp := must(t, nil, start, req, 200)
	if len(s[0].Path) != 3 || s[0].Path[1].URI.Port != 5080 || s[0].Path[0].Params != `;x="a,b"` || len(resp.Values("Path")) != 2 {
		t.Fatalf("path %+v", s[0].Path)
	}
	if got := s[0].Target(); got.Host != "p1.example" || got.Port != 5060 {
		t.Errorf("target %+v", got)
	}
	for _, bad := range []string{"sip:p1.example", "<tel:1>", "<sip:a", strings.Repeat("<sip:a>,", maxPath+1), "<sip:" + strings.Repeat("a", maxContact) + ">"} {
		must(t, nil, start, with(request(1, "<sip:a@h>"), "Path", bad), 400)
	}
}

// What is stored is bounded.
func TestBounds(t *testing.T) {
	must(t, nil, start, request(1, "<sip:a@h>;x="+strings.Repeat("x", maxContact)), 400)
	must(t, nil, start, calling(request(1, "<sip:a@h>"), strings.Repeat("x", maxCallID+1)), 400)
	must(t, nil, start, calling(request(1, "<sip:a@h>"), ""), 400)
	req := request(1)
	req.Contact = []core.Address{{URI: core.URI{Scheme: "tel", Host: "1"}}}
	must(t, nil, start, req, 400)
	var many []string
	for i := range MaxBindings + 1 {
		many = append(many, fmt.Sprintf("<sip:a%d@h>", i))
	}
	must(t, nil, start, request(1, many...), 400)
	s, _ := must(t, nil, start, request(1, many[:MaxBindings]...), 200)
	s, _ = must(t, s, start.Add(1), request(2, "<sip:a0@h>"), 200)
	s, resp := must(t, s, start.Add(2), request(3, "<sip:new@h>"), 200) // a1 was not refreshed for longest
	if len(s) != MaxBindings || !strings.HasPrefix(list(resp.Contact), "a0=3600 a2=3600") || !strings.HasSuffix(list(resp.Contact), "new=3600") {
		t.Errorf("kept %s", list(resp.Contact))
	}
}

// RFC 3261 s.19.1.4, with the examples that stand there.
func TestURIComparison(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp", true},
		{"sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5", true},
		{"sip:carol@chicago.com", "sip:carol@chicago.com;security=on", true},
		{"sip:biloxi.com;transport=tcp;method=REGISTER", "sip:biloxi.com;method=REGISTER;transport=tcp", true},
		{"SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP", false},
		{"sip:bob@biloxi.com", "sip:bob@biloxi.com:5060", false},
		{"sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp", false},
		{"sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp", false},
		{"sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off", false},
		{"sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4", false},
		{"sip:a@h", "sips:a@h", false},
		{"sip:a@[2001:db8::1]", "sip:a@[2001:DB8:0:0::1]", true},
		{"sip:a%2Fb@h", "sip:a%2fb@h", true},
		{"sip:a%2Fb@h", "sip:a/b@h", false},
		{"sip:a%zz@h", "sip:a%zz@h", true},
		{"sip:a@h;maddr=192.0.2.1", "sip:a@h", false},
		{"sip:a@h;x=1;x=2", "sip:a@h;x=1;x=2", true},
		{"sip:a@h;lr", "sip:a@h", true},
		{"sip:a@h;user=phone", "sip:a@h;user=ip", false},
	} {
		a, b := address("<"+test.a+">").URI, address("<"+test.b+">").URI
		if equal(a, b) != test.want || equal(b, a) != test.want {
			t.Errorf("%s and %s: want equal %v", test.a, test.b, test.want)
		}
	}
}

// A binding is stored as JSON and must come back the same.
func TestJSON(t *testing.T) {
	s, _ := must(t, two(t), start, with(request(2, `<sip:c@h>;+sip.instance="<urn:uuid:1>";reg-id=1`), "Path", "<sip:p;lr>"), 200)
	b, err := json.Marshal(s)
	var back Set
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || !reflect.DeepEqual(s, back) {
		t.Errorf("%v\n%+v\n%+v", err, s, back)
	}
}
