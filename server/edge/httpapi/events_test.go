package httpapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// message is a server-sent event as a client understands it (WHATWG HTML s.9.2.6).
type message struct{ id, event, data string }

// client reads a stream. Its id is what it would send as Last-Event-ID.
type client struct {
	lines *bufio.Scanner
	id    string
	beats int // comments
}

func (c *client) next() (message, bool) {
	var m message
	for c.lines.Scan() {
		name, value, _ := strings.Cut(c.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			m.id, c.id = value, value
		case "event":
			m.event = value
		case "data":
			m.data = value
		case "":
			if c.lines.Text() == "" && m.data != "" {
				return m, true
			} else if c.lines.Text() != "" {
				c.beats++
			}
		}
	}
	return m, false
}

// tap is a ResponseWriter whose far end a test reads as it pleases. It keeps write deadlines.
type tap struct {
	*io.PipeWriter
	header http.Header
	status chan int
	until  time.Time
}

func (t *tap) Header() http.Header                 { return t.header }
func (t *tap) WriteHeader(s int)                   { t.status <- s }
func (t *tap) FlushError() error                   { return nil }
func (t *tap) SetWriteDeadline(at time.Time) error { t.until = at; return nil }
func (t *tap) Write(p []byte) (int, error) {
	late := time.AfterFunc(time.Until(t.until), func() { t.CloseWithError(os.ErrDeadlineExceeded) })
	defer late.Stop()
	return t.PipeWriter.Write(p)
}

// follow opens a stream in a bubble of synctest; stop is the client leaving.
func (w *world) follow(options ...func(*http.Request)) (c *client, status int, stop func()) {
	r := newRequest("GET", "/v1/events", "", options...)
	ctx, cancel := context.WithCancel(r.Context())
	far, near := io.Pipe()
	t := &tap{PipeWriter: near, header: http.Header{}, status: make(chan int, 1)}
	go func() {
		w.api.ServeHTTP(t, r.WithContext(ctx))
		near.Close()
	}()
	stop = func() { cancel(); far.Close() }
	return &client{lines: bufio.NewScanner(far)}, <-t.status, stop
}

func (w *world) publish(tenant core.TenantID, from, to int) {
	for i := from; i <= to; i++ {
		w.api.Do(core.Publish{Tenant: tenant, Kind: "interaction.queued", Data: map[string]any{"tenant": tenant, "n": i, "s": "a\nb"}})
	}
	synctest.Wait()
}

// expect reads messages n.. of a tenant in order.
func (w *world) expect(c *client, tenant string, from, to int) {
	w.t.Helper()
	last, _ := strconv.ParseUint(c.id, 10, 64)
	for i := from; i <= to; i++ {
		m, ok := c.next()
		if want := fmt.Sprintf(`{"n":%d,"s":"a\nb","tenant":"%s"}`, i, tenant); !ok || m.data != want || m.event != "interaction.queued" {
			w.t.Fatalf("%+v, want %s", m, want)
		}
		id, err := strconv.ParseUint(m.id, 10, 64)
		if err != nil || id <= last {
			w.t.Fatalf("id %s after %d", m.id, last)
		}
		last = id
	}
}

func lastID(id string) func(*http.Request) { return with("Last-Event-ID", id) }

// A client that connects again with Last-Event-ID misses nothing and sees nothing twice,
// also when it left before the first event.
func TestLastEventID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.publish("acme", 1, 3)
		c, status, stop := w.follow()
		if status != 200 {
			t.Fatal(status)
		}
		w.publish("acme", 4, 6)
		w.expect(c, "acme", 4, 6)
		stop()
		w.publish("acme", 7, 300)
		again, _, stop := w.follow(lastID(c.id))
		w.expect(again, "acme", 7, 300)
		stop()
		early, _, stop := w.follow()
		go early.next()
		synctest.Wait()
		stop()
		synctest.Wait()
		w.publish("acme", 301, 301)
		late, _, stop := w.follow(lastID(early.id))
		w.expect(late, "acme", 301, 301)
		stop()
	})
}

// Too old, never given, of another process: an event says that events were missed, and its
// id is a place to go on from.
func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Events = 10 })
		c, _, stop := w.follow()
		w.publish("acme", 1, 1)
		w.expect(c, "acme", 1, 1)
		stop()
		for i := range 3 {
			w.publish("acme", 2+10*i, 11+10*i)
		}
		time.Sleep(time.Second)
		restarted := newWorld(t, nil)
		restarted.publish("acme", 1, 1)
		for _, id := range []string{c.id, "0", "1", "18446744073709551615", "99999999999999999999", "-1", "x"} {
			for _, w := range []*world{w, restarted} {
				again, _, stop := w.follow(lastID(id))
				m, _ := again.next()
				if m.event != "reset" || !strings.Contains(m.data, "missed") {
					t.Errorf("%s: %+v", id, m)
				}
				stop()
				synctest.Wait()
				w.publish("acme", 50, 50)
				goesOn, _, stop := w.follow(lastID(m.id))
				w.expect(goesOn, "acme", 50, 50)
				stop()
				was, _ := strconv.ParseUint(c.id, 10, 64)
				if now, _ := strconv.ParseUint(m.id, 10, 64); now <= was {
					t.Errorf("ids fall from %d to %d", was, now)
				}
			}
		}
	})
}

// Isolation (fusionpbx/fusionpbx#313): a stream holds its tenant's events only, an id of
// one tenant is none of another, and ids do not tell how much others do.
func TestEventsOfOneTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		mine, _, stop := w.follow()
		theirs, _, stopOther := w.follow(asOther)
		operator, _, stopOperator := w.follow(asOperator, with(tenantHeader, "other"))
		w.publish("acme", 1, 1)
		w.publish("other", 1, 500)
		w.publish("acme", 2, 2)
		w.expect(mine, "acme", 1, 1)
		first := mine.id
		w.expect(mine, "acme", 2, 2)
		a, _ := strconv.ParseUint(first, 10, 64)
		if b, _ := strconv.ParseUint(mine.id, 10, 64); b != a+1 {
			t.Errorf("ids %d and %d tell of others' events", a, b)
		}
		w.expect(theirs, "other", 1, 500)
		w.expect(operator, "other", 1, 500)
		for _, f := range []func(){stop, stopOther, stopOperator} {
			f()
		}
		cross, _, stop := w.follow(lastID(theirs.id))
		w.publish("acme", 3, 3)
		if m, _ := cross.next(); m.event != "reset" && !strings.Contains(m.data, `"acme"`) {
			t.Errorf("%+v", m)
		}
		stop()
	})
}

// livekit/livekit#2440: one reader that does not read stops nobody, and is dropped: when
// the ring has overtaken it, or when a write takes too long.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Events = 10 })
		overtaken, _, _ := w.follow()
		stuck, _, _ := w.follow()
		w.publish("acme", 1, 5)
		quick, _, stop := w.follow(lastID("1"))
		quick.next()
		for i := range 20 {
			w.publish("acme", 10*i, 10*i+9)
			w.expect(quick, "acme", 10*i, 10*i+9)
		}
		stop()
		seen := 0
		for _, ok := overtaken.next(); ok; _, ok = overtaken.next() {
			seen++
		}
		if seen >= 100 {
			t.Errorf("the slow reader was served %d events", seen)
		}
		time.Sleep(writeWithin + time.Second)
		w.noReaders()
		if _, ok := stuck.next(); ok {
			t.Error("a write that hangs must end the stream")
		}
	})
}

func (w *world) noReaders() {
	w.t.Helper()
	synctest.Wait()
	w.api.feed.mu.Lock()
	defer w.api.feed.mu.Unlock()
	if w.api.feed.streams != 0 {
		w.t.Errorf("%d streams are still counted", w.api.feed.streams)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *Config) { c.Streams = 3; c.InFlight = 2 })
		var stops []func()
		for range 3 {
			_, status, stop := w.follow()
			if status != 200 {
				t.Fatal(status)
			}
			stops = append(stops, stop)
		}
		if a := w.want(429, "GET", "/v1/events", ""); a.header.Get("Retry-After") == "" {
			t.Error("Retry-After")
		}
		_, status, stop := w.follow(asOther)
		if status != 200 {
			t.Errorf("another tenant: %d", status)
		}
		w.want(200, "GET", "/v1/queues", "") // a stream takes no slot
		for _, stop := range append(stops, stop) {
			stop()
		}
		w.noReaders()
	})
}

// A comment every 15 s keeps proxies from closing the stream; the key is looked at again
// each time, and a deleted tenant's streams end at once.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		c, _, _ := w.follow()
		ended := make(chan bool)
		go func() { c.next(); ended <- true }()
		time.Sleep(time.Minute + time.Second)
		w.core.between(func() { delete(w.core.keys, core.HashKey(key("acme"))) })
		time.Sleep(14 * time.Second)
		<-ended
		if c.beats != 4 {
			t.Errorf("%d heartbeats in a minute", c.beats)
		}
		d, _, _ := w.follow(asOther)
		go func() { d.next(); ended <- true }()
		w.want(204, "DELETE", "/v1/tenants/other", "", asOperator)
		deleted := time.Now()
		if <-ended; time.Now() != deleted {
			t.Errorf("the stream of a deleted tenant went on for %s", time.Since(deleted))
		}
		w.noReaders()
	})
}

// A tenant that is made anew does not read what the one before it did.
func TestEventsOfAnEarlierTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.publish("other", 1, 1)
		c, _, stop := w.follow(asOther)
		w.publish("other", 2, 2)
		w.expect(c, "other", 2, 2)
		stop()
		w.publish("other", 3, 3)
		w.want(204, "DELETE", "/v1/tenants/other", "", asOperator)
		w.publish("other", 4, 4) // what was still on its way
		w.api.feed.mu.Lock()
		earlier := w.api.feed.ring("other").first
		w.api.feed.mu.Unlock()
		a := w.want(201, "POST", "/v1/tenants", `{"id":"other","domain":"other.example"}`, asOperator)
		var made struct {
			Key string `json:"api_key"`
		}
		a.json(&made)
		again, _, stop := w.follow(with("Authorization", "Bearer "+made.Key), lastID(c.id))
		if m, _ := again.next(); m.event != "reset" {
			t.Errorf("%+v", m)
		}
		stop()
		again, _, stop = w.follow(with("Authorization", "Bearer "+made.Key), lastID(fmt.Sprint(earlier)))
		if m, _ := again.next(); m.event != "reset" {
			t.Errorf("%+v", m)
		}
		stop()
	})
}

// The feed is bounded: a burst that outruns it is a reset, and many tenants make room.
func TestFeedIsBounded(t *testing.T) {
	f := newFeed(Config{Log: slog.New(slog.DiscardHandler), Events: 4, EventsMax: 100, Streams: 1})
	f.close()
	for i := range 3 * mostRings {
		f.publish(core.Publish{Tenant: core.TenantID(fmt.Sprint(i)), Data: i})
	}
	if len(f.rings) != mostRings || f.order.Len() != mostRings {
		t.Errorf("%d rings", len(f.rings))
	}
	r := f.ring("x")
	for i := range 10 {
		f.publish(core.Publish{Tenant: "x", Kind: "k", Data: i})
	}
	f.writeRing(r)
	if len(r.kept) != 4 || r.kept[3].kind != resetKind || r.last-r.first != 4 {
		t.Errorf("%+v", r.kept)
	}
	for range 3 {
		f.publish(core.Publish{Tenant: "x", Kind: "k", Data: strings.Repeat("x", 60)})
	}
	f.publish(core.Publish{Tenant: "x", Kind: "k", Data: func() {}}) // not JSON
	f.writeRing(r)
	if len(r.kept) != 1 || r.kept[0].kind != resetKind || r.last-r.first != 1 {
		t.Errorf("%+v", r.kept)
	}
}

// Over real sockets: the server's read and write timeouts do not end a stream, Close does,
// a stream is refused after it, and no goroutine is left (TestMain).
func TestStreamOverTCP(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Heartbeat = 50 * time.Millisecond })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Server("", w.api)
	s.ReadTimeout, s.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	go s.Serve(l)
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	open := func() (*http.Response, *client) {
		r, _ := http.NewRequestWithContext(ctx, "GET", "http://"+l.Addr().String()+"/v1/events", nil)
		r.Header.Set("Authorization", "Bearer "+key("acme"))
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return res, &client{lines: bufio.NewScanner(res.Body)}
	}
	res, c := open()
	defer res.Body.Close()
	if res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", res.Header)
	}
	for c.beats < 12 && c.lines.Scan() { // 600 ms, three times the timeouts
		if strings.HasPrefix(c.lines.Text(), ":") {
			c.beats++
		}
	}
	w.api.Do(core.Publish{Tenant: "acme", Kind: "k", Data: 1})
	if m, ok := c.next(); !ok || m.data != "1" {
		t.Fatalf("%+v after %d heartbeats", m, c.beats)
	}
	w.api.Close()
	if m, ok := c.next(); ok {
		t.Errorf("%+v", m)
	}
	res, _ = open()
	res.Body.Close()
	if res.StatusCode != 503 {
		t.Errorf("after Close: %d", res.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()
	if err := s.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// FuzzLastEventID: whatever a client says it has seen, it gets a stream.
func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"", "0", "1", "-1", "1e3", "\x00", "18446744073709551616"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		feed := newFeed(Config{Events: 4, EventsMax: 100, Streams: 1})
		defer feed.close()
		behind, _ := strconv.ParseUint(id, 10, 64)
		r, p := feed.read("t", behind, id != "")
		if p != nil {
			t.Fatal(p)
		}
		defer r.close()
		if batch, _, end := r.next(); len(batch) != 0 || end || r.reset != (id != "" && behind != r.ring.last) {
			t.Fatalf("%v %v %v", batch, end, r.reset)
		}
	})
}
