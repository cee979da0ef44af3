package digest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/tenant"
)

const realm = "demo.localhost"

var start = core.Time(1_795_000_000 * int64(time.Second))

// lookup knows 1001 with the password "secret", and counts how often it is asked.
func lookup(asked *int) func(string) []tenant.Credential {
	return func(user string) []tenant.Credential {
		*asked++
		if user != "1001" {
			return nil
		}
		return Credentials("1001", realm, "secret")
	}
}

func register(fields ...string) *core.Request {
	uri, err := core.ParseURI("sip:demo.localhost")
	if err != nil {
		panic(err)
	}
	req := &core.Request{Method: core.REGISTER, URI: uri}
	for _, f := range fields {
		req.Header = append(req.Header, core.Field{Name: "Authorization", Value: f})
	}
	return req
}

func answer(t interface{ Fatal(...any) }, challenge core.Field, user string, password core.Secret, nc uint32) string {
	value, err := Answer(core.REGISTER, "sip:demo.localhost", user, password, challenge.Value, "c0ffee", nc)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func verify(v *Verifier, now core.Time, fields ...string) Outcome {
	_, o := v.Verify(now, register(fields...), realm, lookup(new(int)))
	return o
}

// Fields as real phones sent them to a test server whose nonces are none of ours: with the
// right password the outcome is Stale, so a phone gets through at its next attempt. The
// password was "secret", the method and Request-URI are below.
var captures = []struct {
	name, method, target, field string
}{
	{"baresip 1.0.0", "REGISTER", "sip:demo.localhost;transport=udp",
		`Digest username="1001", realm="demo.localhost", nonce="AAAAAG0n1x2xbGk-_M", uri="sip:demo.localhost;transport=udp", response="8d629113b2605ec1530586b772d5a93f", cnonce="f13eeeb81f4c3ffc", qop=auth, nc=00000001`},
	{"baresip 1.0.0 again", "REGISTER", "sip:demo.localhost;transport=udp",
		`Digest username="1001", realm="demo.localhost", nonce="AAAAAG0n1x2xbGk-_M", uri="sip:demo.localhost;transport=udp", response="3bb4719e9a8872111f58ea759c621f09", cnonce="eac33fecbeaccc69", qop=auth, nc=00000001`},
	{"sipp 3.6.1", "REGISTER", "sip:demo.localhost",
		`Digest username="1001",realm="demo.localhost",cnonce="6b8b4567",nc=00000001,qop=auth,uri="sip:127.0.0.1:25160",nonce="AAAAAG0n1x2xbGk-_M",response="171f0a0b35829c28aa18205bc476ce72",algorithm=MD5`},
	{"linphone 5.1.65 SHA-256", "REGISTER", "sip:demo.localhost",
		` Digest realm="demo.localhost", nonce="AAAAAG0n1x2xbGk-_S", algorithm=SHA-256, username="1001",  uri="sip:demo.localhost", response="96b728c30906a4a0f169e814818eb4845881f354a75987023e9bd13701918799", cnonce="3RWL0JfQUgvkGx01", nc=00000001, qop=auth`},
	{"linphone 5.1.65 SHA-256 unregister", "REGISTER", "sip:demo.localhost",
		` Digest realm="demo.localhost", nonce="AAAAAG0n1x2xbGk-_S", algorithm=SHA-256, username="1001",  uri="sip:demo.localhost", response="73a1b5c5d31ec2ad3b6720ba973a27e6013bccffde8ae55b61947eb7d39fada5", cnonce="whGb57mpIrYGk1CO", nc=00000002, qop=auth`},
	{"linphone 5.1.65 MD5", "REGISTER", "sip:demo.localhost",
		` Digest realm="demo.localhost", nonce="AAAAAG0n1x2xbGk-_M", algorithm=MD5, username="1001",  uri="sip:demo.localhost", response="23ff381943676c755777766861966fa8", cnonce="xJSc~Muq19Z70CNj", nc=00000001, qop=auth`},
	{"linphone 5.1.65 INVITE", "INVITE", "sip:5000@127.0.0.1:25160",
		` Digest realm="demo.localhost", nonce="AAAAAG0n1x2xbGk-_S", algorithm=SHA-256, username="1001",  uri="sip:5000@127.0.0.1:25160", response="24a1426b9edbc26cf324918ff412cf974f4e4135f594d370b88425b39c2e100e", cnonce="VOmRrsv-yigykB5r", nc=00000001, qop=auth`},
}

func TestPhones(t *testing.T) {
	for _, c := range captures {
		req := register(c.field)
		req.Method = c.method
		req.URI, _ = core.ParseURI(c.target)
		user, o := New([32]byte{1}).Verify(start, req, realm, lookup(new(int)))
		if user != "1001" || o != Stale {
			t.Errorf("%s: %q %s, want the password to be right", c.name, user, o)
		}
		req.Method = "OPTIONS"
		if _, o := New([32]byte{1}).Verify(start, req, realm, lookup(new(int))); o != Wrong {
			t.Errorf("%s with another method: %s", c.name, o)
		}
	}
}

// RFC 8760 s.2.4: one field per algorithm, the strongest first; RFC 7616 s.3.3: qop is always there.
func TestChallenge(t *testing.T) {
	v := New([32]byte{1})
	fields := v.Challenge(start, `x"y`, true)
	if len(fields) != 2 || !strings.Contains(fields[0].Value, "algorithm=SHA-256") || !strings.Contains(fields[1].Value, "algorithm=MD5") {
		t.Fatalf("%+v", fields)
	}
	for _, f := range fields {
		p, ok := parse(f.Value)
		if f.Name != "WWW-Authenticate" || !ok || p.get("realm") != `x"y` || p.get("qop") != "auth" || p.get("stale") != "true" || len(p.get("nonce")) != 43 {
			t.Errorf("%+v", f)
		}
	}
	if a, b := v.Challenge(start, realm, false), v.Challenge(start, realm, false); a[0].Value == b[0].Value || strings.Contains(a[0].Value, "stale") {
		t.Errorf("%v %v", a, b) // two phones with one nonce would disturb each other
	}
}

// The clients that do not skip what they don't know, as they were seen to behave.
func TestChallengeFor(t *testing.T) {
	for agent, want := range map[string]string{
		"baresip v1.0.0 (x86_64/linux)": "MD5", "baresip v3.11.0 (x86_64/Linux)": "MD5",
		"baresip v3.12.1 (x86_64/Linux)": "SHA-256 MD5", "baresip v4.0.0": "SHA-256 MD5", "baresip vX.Y": "SHA-256 MD5", "baresip v": "SHA-256 MD5",
		"Linphonec/5.1.65": "SHA-256 MD5", "": "MD5 SHA-256",
	} {
		req := register()
		if agent != "" {
			req.Header = append(req.Header, core.Field{Name: "User-Agent", Value: agent})
		}
		var got []string
		for _, f := range New([32]byte{1}).ChallengeFor(start, req, realm, false) {
			p, _ := parse(f.Value)
			got = append(got, p.get("algorithm"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q is offered %v, want %s", agent, got, want)
		}
	}
}

func TestVerify(t *testing.T) {
	for _, i := range []int{0, 1} { // both algorithms
		v := New([32]byte{1})
		c := v.Challenge(start, realm, false)[i]
		if o := verify(v, start); o != Missing {
			t.Errorf("nothing: %s", o)
		}
		if o := verify(v, start, answer(t, c, "1001", "wrong", 1)); o != Wrong {
			t.Errorf("wrong password: %s", o)
		}
		if o := verify(v, start, answer(t, c, "9999", "secret", 1)); o != Wrong {
			t.Errorf("unknown user: %s", o)
		}
		if o := verify(v, start, answer(t, c, "1001", "secret", 1)); o != OK {
			t.Errorf("right password: %s", o)
		}
		if o := verify(v, start, answer(t, c, "1001", "secret", 1)); o != Stale {
			t.Errorf("replay: %s", o)
		}
		if o := verify(v, start, answer(t, c, "1001", "secret", 5)); o != OK {
			t.Errorf("counted on: %s", o)
		}
		if o := verify(v, start, answer(t, c, "1001", "secret", 4)); o != Stale {
			t.Errorf("overtaken: %s", o)
		}
		if o := verify(v, start.Add(Lifetime), answer(t, c, "1001", "secret", 6)); o != OK {
			t.Errorf("at the end of its life: %s", o)
		}
		if o := verify(v, start.Add(Lifetime+1), answer(t, c, "1001", "secret", 7)); o != Stale {
			t.Errorf("after its life: %s", o)
		}
		if o := verify(v, start.Add(Lifetime+1), answer(t, c, "1001", "wrong", 7)); o != Wrong {
			t.Errorf("RFC 7616 s.3.3: stale is for who knows the password: %s", o)
		}
	}
}

// RFC 7616 s.3.4.3, s.3.4.6: what the fields must hold.
func TestMalformed(t *testing.T) {
	v := New([32]byte{1})
	good := answer(t, v.Challenge(start, realm, false)[1], "1001", "secret", 1)
	for _, change := range [][2]string{
		{", qop=auth", ""}, {"qop=auth", "qop=auth-int"}, {"algorithm=MD5", "algorithm=MD5-sess"}, {"algorithm=MD5", "algorithm=SHA-512-256"},
		{"algorithm=MD5", "algorithm=SHA-256"}, {`username="1001"`, `username=""`}, {`username="1001"`, `username*=UTF-8''1001`},
		{"nc=00000001", "nc=1"}, {"nc=00000001", "nc=00000000"}, {"nc=00000001", "nc=0000000g"}, {"nc=00000001", "nc=+0000001"}, {", nc=00000001", ""},
		{`cnonce="c0ffee"`, `cnonce=""`}, {`response="`, `response="0`}, {`uri="sip:demo.localhost"`, `uri="sip:other.example"`},
		{`uri="sip:demo.localhost"`, `uri="/index.html"`}, {`uri="sip:demo.localhost"`, `uri=""`}, {"Digest ", "Digest userhash=true, "}, {", nc", " nc"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%q is not in %s", change[0], good)
		}
		if o := verify(v, start, bad); o != Malformed {
			t.Errorf("%s for %s: %s", change[1], change[0], o)
		}
	}
	if o := verify(v, start, good); o != OK {
		t.Errorf("unchanged: %s", o)
	}
}

// RFC 3261 s.22.3: a request may carry credentials of several realms, and of other schemes.
func TestSeveralFields(t *testing.T) {
	v := New([32]byte{1})
	foreign := answer(t, v.Challenge(start, "other.example", false)[0], "1001", "secret", 1)
	ours := answer(t, v.Challenge(start, realm, false)[0], "1001", "secret", 1)
	if o := verify(v, start, foreign, "Bearer x"); o != Missing {
		t.Errorf("only others: %s", o)
	}
	if o := verify(v, start, "Digest nonsense"); o != Malformed {
		t.Errorf("nonsense: %s", o)
	}
	if o := verify(v, start, "Bearer x", "Digest nonsense", foreign, ours); o != OK {
		t.Errorf("ours among others: %s", o)
	}
	if o := verify(v, start, append(make([]string, maxFields), ours)...); o != Missing {
		t.Errorf("beyond the bound: %s", o)
	}
}

// The digest's uri and the Request-URI are compared loosely, see fits.
func TestURI(t *testing.T) {
	for _, test := range []struct {
		uri, target string
		want        bool
	}{
		{"sip:demo.localhost", "sip:demo.localhost", true},
		{"sip:DEMO.localhost:5060;transport=tcp", "sip:demo.localhost", true},
		{"sips:demo.localhost", "sip:demo.localhost:5070", true},
		{"sip:127.0.0.1:5060", "sip:demo.localhost", true},
		{"sip:[::1]:5060", "sip:5000@demo.localhost", true},
		{"sip:5000@demo.localhost", "sip:5000@demo.localhost;user=phone", true},
		{"sip:5001@demo.localhost", "sip:5000@demo.localhost", false},
		{"sip:5001@127.0.0.1", "sip:5000@demo.localhost", false},
		{"sip:other.localhost", "sip:demo.localhost", false},
		{"demo.localhost", "sip:demo.localhost", false},
	} {
		target, err := core.ParseURI(test.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := (claim{uri: test.uri}).fits(target); got != test.want {
			t.Errorf("%s for %s: %v", test.uri, test.target, got)
		}
	}
}

// A nonce is good for its realm, its node, and the life of the process that made it.
func TestForeignNonces(t *testing.T) {
	v := New([32]byte{1})
	v.Challenge(start, realm, false)
	later := start.Add(time.Second)
	made := answer(t, v.Challenge(later, realm, false)[0], "1001", "secret", 1)
	if o := verify(New([32]byte{2}), later, made); o != Stale {
		t.Errorf("another key: %s", o)
	}
	restarted := New([32]byte{1})
	if o := verify(restarted, later.Add(1), made); o != Stale {
		t.Errorf("after a restart: %s", o)
	}
	if o := verify(v, later, made); o != OK {
		t.Errorf("at home: %s", o)
	}
	elsewhere := strings.Replace(v.Challenge(later, "other.example", false)[0].Value, "other.example", realm, 1)
	if o := verify(v, later, answer(t, core.Field{Value: elsewhere}, "1001", "secret", 1)); o != Stale {
		t.Errorf("made for another realm: %s", o)
	}
	future := answer(t, v.Challenge(later.Add(time.Minute), realm, false)[0], "1001", "secret", 1)
	if o := verify(v, later, future); o != Stale {
		t.Errorf("from the future: %s", o)
	}
}

// The table has a bound. Past it every nonce is forgotten, and none of them is good again.
func TestBoundedMemory(t *testing.T) {
	v := New([32]byte{1})
	v.limit = 4
	var used []string
	for i := range 40 {
		now := start.Add(time.Duration(i) * time.Second)
		a := answer(t, v.Challenge(now, realm, false)[0], "1001", "secret", 1)
		if o := verify(v, now, a); o != OK {
			t.Fatalf("nonce %d: %s", i, o)
		}
		used = append(used, a)
		for j, old := range used {
			if o := verify(v, now, old); o != Stale {
				t.Fatalf("after nonce %d: replay of %d is %s", i, j, o)
			}
		}
		if n := len(v.counts[0]) + len(v.counts[1]); n > 2*v.limit {
			t.Fatalf("%d nonces are remembered", n)
		}
	}
}

// Requests without the password leave nothing behind.
func TestNothingKeptOfStrangers(t *testing.T) {
	v := New([32]byte{1})
	for i := range 100 {
		now := start.Add(time.Duration(i))
		c := v.Challenge(now, realm, false)[0]
		verify(v, now, answer(t, c, "1001", "wrong", 1))
		verify(v, now, answer(t, c, "nobody", "secret", 1))
	}
	if n := len(v.counts[0]) + len(v.counts[1]); n != 0 {
		t.Errorf("%d nonces are remembered", n)
	}
}

// An unknown user costs what a known one costs: one look-up, the same hashes. Allocations
// stand for the work, since they can be counted exactly and time can't.
func TestNoOracle(t *testing.T) {
	v := New([32]byte{1})
	c := v.Challenge(start, realm, false)[0]
	known, stranger := Credentials("1001", realm, "secret"), register(answer(t, c, "1001", "wrong", 1))
	asked := 0
	work := func(found []tenant.Credential) float64 {
		return testing.AllocsPerRun(100, func() {
			if _, o := v.Verify(start, stranger, realm, func(string) []tenant.Credential { asked++; return found }); o != Wrong {
				t.Error(o)
			}
		})
	}
	if a, b := work(known), work(nil); a != b {
		t.Errorf("%v allocations for a known user, %v for an unknown one", a, b)
	}
	if asked != 2*101 {
		t.Errorf("looked up %d times in %d requests", asked, 2*101)
	}
}

// No sequence of requests makes one (nonce, count) good twice, whatever the clock does.
func TestReplayProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := New([32]byte{1})
		v.limit = rapid.IntRange(1, 5).Draw(t, "limit")
		now := start
		var nonces []core.Field
		taken := map[string]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"challenge": func(t *rapid.T) { nonces = append(nonces, v.Challenge(now, realm, false)[0]) },
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(-int64(Lifetime), 2*int64(Lifetime)).Draw(t, "d")))
			},
			"request": func(t *rapid.T) {
				if len(nonces) == 0 {
					t.Skip("no nonce yet")
				}
				i := rapid.IntRange(0, len(nonces)-1).Draw(t, "nonce")
				nc := rapid.Uint32Range(1, 4).Draw(t, "nc")
				if verify(v, now, answer(t, nonces[i], "1001", "secret", nc)) == OK {
					key := fmt.Sprint(i, "/", nc)
					if taken[key] {
						t.Fatalf("nonce %s is good twice", key)
					}
					taken[key] = true
				}
			},
		})
	})
}

// Whoever is challenged and knows the password gets in at the next attempt, also when the
// clock jumps before the challenge.
func TestProgressProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := New([32]byte{1})
		v.limit = 2
		now := start
		for range rapid.IntRange(1, 20).Draw(t, "phones") {
			now = now.Add(time.Duration(rapid.Int64Range(-3*int64(Lifetime), 3*int64(Lifetime)).Draw(t, "d")))
			fields := v.Challenge(now, realm, true)
			now = now.Add(time.Second)
			if o := verify(v, now, answer(t, fields[rapid.IntRange(0, 1).Draw(t, "algorithm")], "1001", "secret", 1)); o != OK {
				t.Fatalf("%s", o)
			}
		}
	})
}

func FuzzVerify(f *testing.F) {
	for _, c := range captures {
		f.Add(c.field, c.target)
	}
	f.Fuzz(func(t *testing.T, field, target string) {
		req := register(field)
		req.URI, _ = core.ParseURI(target)
		if _, o := New([32]byte{1}).Verify(start, req, realm, lookup(new(int))); o == OK {
			t.Fatalf("%q was let in", field)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	v := New([32]byte{1})
	req := register(answer(b, v.Challenge(start, realm, false)[0], "1001", "secret", 1))
	known := Credentials("1001", realm, "secret")
	for b.Loop() {
		v.Verify(start, req, realm, func(string) []tenant.Credential { return known })
	}
}
