package etcdstore

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dialtone-cc/dialtone/server/core"
)

// proxy is a TCP proxy that can swallow either direction, and cut what is open.
type proxy struct {
	listener net.Listener
	to       string
	wait     sync.WaitGroup

	mu            sync.Mutex
	conns         []net.Conn
	swallowAsks   bool
	swallowAnswer bool
	refuse        bool
}

func newProxy(t *testing.T, to string) *proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, to: to}
	p.wait.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wait.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		p.mu.Lock()
		if err != nil || p.refuse {
			in.Close()
			if out != nil {
				out.Close()
			}
		} else {
			p.conns = append(p.conns, in, out)
			p.wait.Go(func() { p.copy(out, in, func() bool { return p.swallowAsks }) })
			p.wait.Go(func() { p.copy(in, out, func() bool { return p.swallowAnswer }) })
		}
		p.mu.Unlock()
	}
}

func (p *proxy) copy(to, from net.Conn, swallow func() bool) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		gone := swallow()
		p.mu.Unlock()
		if n > 0 && !gone {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF {
				from.Close()
			}
			return
		}
	}
}

func (p *proxy) set(asks, answers, refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallowAsks, p.swallowAnswer, p.refuse = asks, answers, refuse
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// The same over a real connection with the real gRPC client: the network swallows requests
// or answers, and breaks.
func TestRealConnectionThatFails(t *testing.T) {
	log := &syncBuffer{}
	e, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), Log: logTo(log), Listen: "127.0.0.1:0", MinFree: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	p := newProxy(t, e.Addr())
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{p.listener.Addr().String()}, DialKeepAliveTime: time.Second, DialKeepAliveTimeout: time.Second,
		BackoffWaitBetween: 10 * time.Millisecond, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	r := &rig{t: t, etcd: e, plain: e.Client(), client: client, faults: &faults{}, log: log}
	s, h := r.open("n1", quick())
	for i, c := range []struct {
		name                  string
		asks, answers, refuse bool
		applied               string
	}{
		{"requests swallowed", true, false, false, ""},
		{"answers swallowed", false, true, false, "2"},
		{"nobody listens", false, false, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := core.Token(10 * (i + 1))
			key := fmt.Sprint("k", i)
			s.Do(put(first, "demo", key, "1"))
			h.awaitFinal(t, first, "stored")
			p.set(c.asks, c.answers, c.refuse)
			if c.refuse {
				p.cut()
			}
			s.Do(put(first+1, "demo", key, "2"))
			h.awaitUnknown(t, first+1)
			if want := c.applied; want != "" {
				until(t, "the write", func() bool { return r.value("demo", key) == want })
			} else if r.value("demo", key) != "1" {
				t.Error("applied")
			}
			p.set(false, false, false)
			p.cut()
			h.awaitFinal(t, first+1, "stored")
			s.Do(put(first+2, "demo", key, "3"))
			h.awaitFinal(t, first+2, "stored")
			if r.value("demo", key) != "3" {
				t.Error("the last write is not there")
			}
		})
	}
	h.final(t)
	if g := s.Gauges(); g.Fenced {
		t.Errorf("%+v", g)
	}
}
