package registrar

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dialtone-cc/dialtone/server/core"
)

// twin is the registrar again, as dumb as can be: one record per contact text, no
// positions, no bound, no shared code. It knows only contacts that differ in user or
// instance, so that text stands for identity.
type twin map[string]record

type record struct {
	expires, at core.Time
	callID      string
	cseq        uint32
}

type wish struct {
	name    string // user of the contact; "i0".. have an instance and a new port each time
	seconds int
}

func (w twin) expire(now core.Time) {
	for name, r := range w {
		if r.expires <= now {
			delete(w, name)
		}
	}
}

func (w twin) register(now core.Time, callID string, cseq uint32, wishes []wish) int {
	w.expire(now)
	for _, x := range wishes {
		if x.seconds > 0 && x.seconds < 60 {
			return 423
		}
		if r, ok := w[x.name]; ok && r.callID == callID && cseq <= r.cseq {
			return 500
		}
	}
	for _, x := range wishes {
		delete(w, x.name)
		if x.seconds > 0 {
			w[x.name] = record{now.Add(time.Duration(min(x.seconds, 7200)) * time.Second), now, callID, cseq}
		}
	}
	for len(w) > 10 { // the one that was not refreshed for longest; the machine never makes a tie
		var oldest string
		for name, r := range w {
			if oldest == "" || r.at < w[oldest].at {
				oldest = name
			}
		}
		delete(w, oldest)
	}
	return 200
}

func (w twin) clear(now core.Time, callID string, cseq uint32) int {
	w.expire(now)
	for _, r := range w {
		if r.callID == callID && cseq <= r.cseq {
			return 500
		}
	}
	clear(w)
	return 200
}

func (w twin) text(now core.Time) string {
	var all []string
	for name, r := range w {
		if r.expires > now {
			all = append(all, fmt.Sprintf("%s %v %s %d", name, r.expires, r.callID, r.cseq))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func (s Set) text(now core.Time) string {
	var all []string
	for _, b := range s.Live(now) {
		all = append(all, fmt.Sprintf("%s %v %s %d", b.Contact.URI.User, b.Expires, b.CallID, b.CSeq))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func TestAgainstTwin(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i0", "i1", "i2", "i3", "i4"}
	rapid.Check(t, func(t *rapid.T) {
		var s Set
		w, now, port := twin{}, start, 0
		callID := func(t *rapid.T) string { return rapid.SampledFrom([]string{"c1", "c2"}).Draw(t, "call") }
		cseq := func(t *rapid.T) uint32 { return rapid.Uint32Range(0, 40).Draw(t, "cseq") }
		do := func(t *rapid.T, req *core.Request, status int) {
			next, resp, changed := s.Register(now, req, source, limits, "t")
			if resp.Status != status {
				t.Fatalf("status %d, the twin says %d", resp.Status, status)
			}
			if before, after := s.text(0), next.text(0); changed != (before != after) {
				t.Fatalf("changed %v: from\n%s\nto\n%s", changed, before, after)
			}
			if status == 200 && len(resp.Contact) != len(next) {
				t.Fatalf("%d of %d bindings in the response", len(resp.Contact), len(next))
			}
			s = next
		}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				now++ // no two bindings of two requests are equally old
				req := calling(request(cseq(t)), callID(t))
				var wishes []wish
				for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 1, rapid.ID).Draw(t, "names") {
					x := wish{name, rapid.SampledFrom([]int{0, 59, 60, 120, 3600, 99999}).Draw(t, "expires")}
					wishes = append(wishes, x)
					contact := "<sip:" + name + "@h>"
					if name[0] == 'i' {
						port++
						contact = "<sip:" + name + "@h:" + strconv.Itoa(port%60000+1) + `>;+sip.instance="<` + name + `>";reg-id=1`
					}
					req.Contact = append(req.Contact, address(contact+";expires="+strconv.Itoa(x.seconds)))
				}
				do(t, req, w.register(now, req.CallID, req.CSeq, wishes))
			},
			"several": func(t *rapid.T) {
				now++
				req := calling(request(cseq(t)), callID(t))
				var wishes []wish
				for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names[:4]), 2, 4, rapid.ID).Draw(t, "names") {
					x := wish{name, rapid.SampledFrom([]int{0, 60, 3600}).Draw(t, "expires")}
					wishes = append(wishes, x)
					req.Contact = append(req.Contact, address("<sip:"+name+"@h>;expires="+strconv.Itoa(x.seconds)))
				}
				if len(w)+len(wishes) > 10 { // which of one request's bindings goes first is not defined
					t.Skip("near the bound")
				}
				do(t, req, w.register(now, req.CallID, req.CSeq, wishes))
			},
			"clear": func(t *rapid.T) {
				req := with(calling(request(cseq(t), "*"), callID(t)), "Expires", "0")
				do(t, req, w.clear(now, req.CallID, req.CSeq))
			},
			"query": func(t *rapid.T) { w.expire(now); do(t, request(0), 200) },
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "d")))
			},
			"expire": func(t *rapid.T) {
				next, changed := s.Expire(now)
				if due := s.Deadline() <= now; due != changed {
					t.Fatalf("deadline %v at %v, changed %v", s.Deadline(), now, changed)
				}
				s = next
			},
			"": func(t *rapid.T) {
				if err := s.Valid(); err != nil {
					t.Fatal(err)
				}
				if a, b := s.text(now), w.text(now); a != b {
					t.Fatalf("at %v\n%s\nthe twin has\n%s", now, a, b)
				}
			},
		})
	})
}

// Whatever contacts a phone sends, the set stays valid and bounded, and what a request
// bound is there afterwards.
func TestAnyContacts(t *testing.T) {
	part := func(t *rapid.T, name string, of ...string) string { return rapid.SampledFrom(of).Draw(t, name) }
	rapid.Check(t, func(t *rapid.T) {
		var s Set
		for cseq := range uint32(rapid.IntRange(1, 12).Draw(t, "requests")) {
			req := request(cseq + 1)
			for range rapid.IntRange(0, 4).Draw(t, "contacts") {
				req.Contact = append(req.Contact, address("<"+part(t, "scheme", "sip:", "sips:")+part(t, "user", "", "a@", "%61@", "A@")+
					part(t, "host", "h", "H", "192.0.2.1")+part(t, "port", "", ":5060")+
					part(t, "uri params", "", ";transport=tcp", ";x=1", ";x=2", ";x=1;x=2")+">"+
					part(t, "instance", "", `;+sip.instance="<1>"`, `;+sip.instance="<2>"`)+part(t, "reg", "", ";reg-id=1", ";reg-id=2")+
					part(t, "expires", "", ";expires=0", ";expires=600")+part(t, "q", "", ";q=0.5", ";q=NaN", ";q=-1", ";q=1e9")))
			}
			next, resp, _ := s.Register(start.Add(time.Duration(cseq)), req, source, limits, "t")
			if err := next.Valid(); err != nil {
				t.Fatal(err)
			}
			if resp.Status != 200 {
				t.Fatalf("status %d %v", resp.Status, resp.Header)
			}
			if n := len(req.Contact); n > 0 {
				last := req.Contact[n-1]
				expires, _ := last.Param("expires")
				there := slices.ContainsFunc(next, func(b Binding) bool { return equal(b.Contact.URI, last.URI) && b.CSeq == req.CSeq })
				if expires != "0" && !there {
					t.Fatalf("%v was bound and is not in %v", last, next)
				}
			}
			s = next
		}
	})
}

func FuzzRegister(f *testing.F) {
	f.Add("<sip:a@h>", ";expires=60;q=0.1", "3600", `"p" <sip:p;lr>, <sip:q>`, "outbound")
	f.Add("<sip:%@h:1;x=%4>", `;+sip.instance="<a;b>";reg-id=1`, "", "<<>>,", `"`)
	f.Fuzz(func(t *testing.T, uri, params, expires, path, supported string) {
		u, err := core.ParseURI(strings.Trim(uri, "<>"))
		if err != nil {
			return
		}
		req := with(with(request(1), "Path", path), "Supported", supported)
		if expires != "" {
			with(req, "Expires", expires)
		}
		req.Contact = []core.Address{{URI: u, Params: params}}
		s, resp, changed := Set(nil).Register(start, req, source, limits, "t")
		if err := s.Valid(); err != nil || changed != (len(s) > 0) || changed && resp.Status != 200 {
			t.Fatalf("%v, changed %v, status %d", err, changed, resp.Status)
		}
		if again, resp, _ := s.Register(start, request(2, "*"), source, limits, "t"); resp.Status == 200 {
			t.Fatalf("a star without Expires: %v", again)
		}
		for _, b := range s {
			b.Target()
			if _, given := parameter(b.Contact, "expires"); given {
				t.Fatalf("expires is kept in %q", b.Contact.Params)
			}
		}
	})
}
