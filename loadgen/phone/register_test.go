package phone

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
	"testing"
	"time"

	"github.com/icholy/digest"
)

// authorized checks credentials by RFC 7616 s.3.4, by itself.
func authorized(t *testing.T, m, name, method, password string) (params map[string]string, ok bool) {
	t.Helper()
	text, found := strings.CutPrefix(header(m, name), "Digest ")
	if !found {
		return nil, false
	}
	params = map[string]string{}
	for _, one := range splitList(nil, text) {
		key, value, _ := strings.Cut(one, "=")
		params[key] = strings.Trim(value, `"`)
	}
	newHash := md5.New
	if params["algorithm"] == "SHA-256" {
		newHash = sha256.New
	}
	a1 := hexOf(newHash(), params["username"]+":"+params["realm"]+":"+password)
	a2 := hexOf(newHash(), method+":"+params["uri"])
	want := hexOf(newHash(), a1+":"+params["nonce"]+":"+a2)
	if params["qop"] != "" {
		want = hexOf(newHash(), strings.Join([]string{a1, params["nonce"], params["nc"], params["cnonce"], params["qop"], a2}, ":"))
	}
	return params, params["response"] == want
}

func hexOf(h hash.Hash, s string) string {
	h.Write([]byte(s))
	return hex.EncodeToString(h.Sum(nil))
}

// The examples of RFC 7616 s.3.9.1, for the library on which credentials stand.
func TestDigestVectors(t *testing.T) {
	for algorithm, want := range map[string]string{
		"MD5":     "8ca523f5e9506fed4657c9700eebdbec",
		"SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
	} {
		c, err := digest.ParseChallenge(`Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=` + algorithm +
			`, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`)
		if err != nil {
			t.Fatal(err)
		}
		got, err := digest.Digest(c, digest.Options{Method: "GET", URI: "/dir/index.html", Count: 1, Username: "Mufasa", Password: "Circle of Life",
			Cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"})
		if err != nil || got.Response != want {
			t.Errorf("%s: %v %v, want %s", algorithm, got, err, want)
		}
	}
}

// A registrar by hand: challenges with each algorithm, the best one first (RFC 8760 s.2.4);
// the second REGISTER uses the nonce again with a higher count, a stale one is replaced
// (RFC 7616 s.3.3), 423 is obeyed (RFC 3261 s.10.2.8), the Contact's expiry counts (s.10.2.4).
func TestRegister(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{"", "MD5", "SHA-256"} {
		t.Run("digest "+algorithm, func(t *testing.T) {
			t.Parallel()
			registrar(t, algorithm)
		})
	}
}

func registrar(t *testing.T, algorithm string) {
	challenge := func(nonce string) string {
		text := `WWW-Authenticate: Digest realm="r", nonce="` + nonce + `", qop="auth"`
		if algorithm != "" {
			text += ", algorithm=" + algorithm
		}
		return text
	}
	p := newPeer(t)
	e := listen(t, p.at, func(c *EndpointConfig) { c.T1 = time.Second })
	phone := add(t, e, Config{User: "1001", AuthUser: "auth1001", Password: "secret", Domain: "example.com"})
	result := make(chan error, 1)
	register := func() { result <- phone.Register(within(t), 60*time.Second) }
	go register()
	m := p.expect("REGISTER sip:example.com SIP/2.0", "REGISTER")
	callID := header(m, "Call-ID")
	p.reply(m, "401 Unauthorized", "", `WWW-Authenticate: Digest realm="r", nonce="x", algorithm=FUTURE-9`, challenge("n1"))
	m = p.next()
	got, ok := authorized(t, m, "Authorization", "REGISTER", "secret")
	if !ok || got["username"] != "auth1001" || got["uri"] != "sip:example.com" || got["nc"] != "00000001" || header(m, "CSeq") != "2 REGISTER" {
		t.Fatalf("credentials %v in\n%s", got, m)
	}
	p.reply(m, "423 Interval Too Brief", "", "Min-Expires: 90")
	m = p.next()
	if got, ok := authorized(t, m, "Authorization", "REGISTER", "secret"); !ok || got["nc"] != "00000002" || header(m, "Expires") != "90" {
		t.Fatalf("after 423: %v in\n%s", got, m)
	}
	contact := header(m, "Contact")
	p.reply(m, "200 OK", "", "Expires: 1000", "Contact: <sip:other@192.0.2.1>;expires=7, "+contact+";expires=80")
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if err := phone.Registered(); err != nil {
		t.Error(err)
	}
	if left := time.Until(phone.binding.until); left < 60*time.Second || left > 80*time.Second {
		t.Errorf("granted 80 s, kept %s", left)
	}
	go register()
	m = p.next() // unasked, with the known nonce
	if got, _ := authorized(t, m, "Authorization", "REGISTER", "secret"); got["nc"] != "00000003" || header(m, "Call-ID") != callID {
		t.Errorf("again: %v in\n%s", got, m)
	}
	p.reply(m, "401 Unauthorized", "", challenge("n2")+`, stale=true`)
	m = p.next()
	if got, ok := authorized(t, m, "Authorization", "REGISTER", "secret"); !ok || got["nonce"] != "n2" || got["nc"] != "00000001" {
		t.Errorf("after a stale nonce: %v in\n%s", got, m)
	}
	p.reply(m, "401 Unauthorized", "", challenge("n2b")+`, stale=TRUE`)
	m = p.next()
	if got, ok := authorized(t, m, "Authorization", "REGISTER", "secret"); !ok || got["nonce"] != "n2b" {
		t.Errorf("stale again: %v in\n%s", got, m)
	}
	p.reply(m, "401 Unauthorized", "", challenge("n3")) // not stale: the password is wrong
	err := <-result
	var r *Refused
	if !errors.As(err, &r) || r.Status != 401 || strings.Contains(err.Error(), "secret") {
		t.Errorf("the wrong password: %v", err)
	}
	go func() { result <- phone.Unregister(within(t)) }()
	m = p.next()
	p.reply(m, "200 OK", "")
	if err := <-result; err != nil || header(m, "Expires") != "0" || phone.Registered() == nil {
		t.Errorf("unregistered: %v, %v in\n%s", err, phone.Registered(), m)
	}
}

// The phone registers again after a part of what was granted, also when that failed once;
// and no more when it is unregistered.
func TestRefresh(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := listen(t, p.at, func(c *EndpointConfig) { c.T1 = time.Second })
	phone := add(t, e, Config{User: "1001", Refresh: 0.2})
	result := make(chan error, 1)
	go func() { result <- phone.Register(within(t), 2*time.Second) }()
	for seq := 1; seq <= 3; seq++ {
		m := p.expect("REGISTER", fmt.Sprintf("REGISTER sip:x %d", seq-1))
		if header(m, "CSeq") != fmt.Sprintf("%d REGISTER", seq) {
			t.Fatalf("the %d. REGISTER:\n%s", seq, m)
		}
		p.reply(m, "200 OK", "", "Expires: 2")
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	go func() { result <- phone.Unregister(within(t)) }()
	for {
		m := p.next()
		p.reply(m, "200 OK", "", "Expires: "+header(m, "Expires"))
		if header(m, "Expires") == "0" {
			break
		}
	}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	if phone.binding.refresh.place != 0 {
		t.Error("still refreshing")
	}
	e.mu.Unlock()
}

// A trunk challenges the INVITE, first the proxy and then the server (s.22.3); the ACK to
// its 200 repeats the credentials (s.22.1), BYE proves itself with the known nonces.
func TestChallengedInvite(t *testing.T) {
	t.Parallel()
	p := newPeer(t)
	e := listen(t, p.at, func(c *EndpointConfig) { c.T1 = time.Second })
	phone := add(t, e, Config{User: "trunk", Password: "secret"})
	out := dial(t, phone, "sip:5000@"+p.at.String())
	m := p.expect("INVITE")
	first := m
	p.reply(m, "407 Proxy Authentication Required", "", `Proxy-Authenticate: Digest realm="p", nonce="a", qop="auth"`)
	if ack := p.expect("ACK"); header(ack, "Via") != header(m, "Via") {
		t.Errorf("ACK to 407:\n%s", ack)
	}
	m = p.expect("INVITE")
	if _, ok := authorized(t, m, "Proxy-Authorization", "INVITE", "secret"); !ok || header(m, "CSeq") != "2 INVITE" || header(m, "Call-ID") != header(first, "Call-ID") {
		t.Fatalf("after 407:\n%s", m)
	}
	p.reply(m, "401 Unauthorized", "", `WWW-Authenticate: Digest realm="s", nonce="b", algorithm=SHA-256`)
	p.expect("ACK")
	m = p.expect("INVITE")
	_, ok1 := authorized(t, m, "Proxy-Authorization", "INVITE", "secret")
	got, ok2 := authorized(t, m, "Authorization", "INVITE", "secret")
	if !ok1 || !ok2 || got["realm"] != "s" {
		t.Fatalf("after 401:\n%s", m)
	}
	p.reply(m, "183 Session Progress", audioSDP, p.contact())
	p.reply(m, "200 OK", audioSDP, p.contact())
	ack := p.expect("ACK")
	if header(ack, "Authorization") != header(m, "Authorization") || header(ack, "CSeq") != "3 ACK" {
		t.Errorf("ACK:\n%s", ack)
	}
	closed(t, "answered", out.WhenAnswered())
	if at := out.Times(); at.Early.IsZero() || !at.Ringing.IsZero() {
		t.Errorf("early media at %s, ringing at %s", at.Early, at.Ringing)
	}
	ended := make(chan error, 1)
	go func() { ended <- out.HangUp(within(t)) }()
	m = p.expect("BYE")
	if got, ok := authorized(t, m, "Authorization", "BYE", "secret"); !ok || header(m, "CSeq") != "4 BYE" || got["nonce"] != "b" {
		t.Errorf("BYE:\n%s", m)
	}
	p.reply(m, "200 OK", "")
	if err := <-ended; err != nil {
		t.Error(err)
	}

	poor := add(t, e, Config{User: "poor"}) // without a password there is nothing to say
	out = dial(t, poor, "sip:5000@"+p.at.String())
	m = p.expect("INVITE")
	p.reply(m, "401 Unauthorized", "", `WWW-Authenticate: Digest realm="s", nonce="b"`)
	p.expect("ACK")
	ends(t, out, Declined)
	if out.Status() != 401 {
		t.Errorf("status %d", out.Status())
	}
}
