// Package phone is a SIP phone in a few hundred lines: it registers, calls, answers,
// holds, and speaks a tone that says who it is. It knows nothing of the server that it
// talks to, so that it can judge any.
package phone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// Config is who a phone is and whom it talks to.
type Config struct {
	User, Password string
	Domain         string         // of its address; the server's host when empty
	Server         netip.AddrPort // registrar and outbound proxy, over UDP
	Addr           netip.Addr     // where it listens; loopback when not valid
	Tone           float64        // Hz of its voice, default 440
	Log            *slog.Logger
}

// Phone is one phone. Its calls arrive in Incoming.
type Phone struct {
	cfg      Config
	ua       *sipgo.UserAgent
	conn     *net.UDPConn // the library does not close what it is given
	client   *sipgo.Client
	contact  netip.AddrPort
	incoming chan *Call
	regID    string
	regSeq   uint32

	mu    sync.Mutex
	calls map[string]*Call // by Call-ID
}

// New starts a phone on a port of its own.
func New(cfg Config) (*Phone, error) {
	if !cfg.Addr.IsValid() {
		cfg.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if cfg.Domain == "" {
		cfg.Domain = cfg.Server.Addr().String()
	}
	if cfg.Tone == 0 {
		cfg.Tone = 440
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(cfg.Addr, 0)))
	if err != nil {
		return nil, fmt.Errorf("open a SIP port: %w", err)
	}
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	ua, err := sipgo.NewUA(sipgo.WithUserAgent("dialtone-phone"),
		sipgo.WithUserAgentTransportLayerOptions(sip.WithTransportLayerLogger(cfg.Log)),
		sipgo.WithUserAgentTransactionLayerOptions(sip.WithTransactionLayerLogger(cfg.Log)))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	p := &Phone{cfg: cfg, ua: ua, conn: conn, contact: at, incoming: make(chan *Call, 64), calls: map[string]*Call{}, regID: token()}
	p.client, err = sipgo.NewClient(ua, sipgo.WithClientHostname(at.Addr().String()), sipgo.WithClientPort(int(at.Port())),
		sipgo.WithClientConnectionAddr(at.String()), sipgo.WithClientLogger(cfg.Log))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	srv, err := sipgo.NewServer(ua, sipgo.WithServerLogger(cfg.Log))
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	p.listen(srv)
	go func() { _ = srv.ServeUDP(conn) }()
	// The library knows the socket only once the goroutine runs; before, a request would
	// try to bind it anew.
	for range 1000 {
		if _, err := ua.TransportLayer().GetConnection("udp", at.String()); err == nil {
			return p, nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil, errors.Join(errors.New("the SIP port was not taken up within a second"), conn.Close())
}

// Incoming gives the calls that ring here, each with 180 sent.
func (p *Phone) Incoming() <-chan *Call { return p.incoming }

// Addr is where the phone takes SIP.
func (p *Phone) Addr() netip.AddrPort { return p.contact }

// Close ends the phone, as a power cut does: nobody is told.
func (p *Phone) Close() {
	p.mu.Lock()
	calls := make([]*Call, 0, len(p.calls))
	for _, c := range p.calls {
		calls = append(calls, c)
	}
	p.mu.Unlock()
	for _, c := range calls {
		c.finish("closed")
	}
	_ = p.ua.Close()
	_ = p.conn.Close()
}

func (p *Phone) listen(srv *sipgo.Server) {
	srv.OnInvite(func(r *sip.Request, tx sip.ServerTransaction) {
		if _, ok := r.To().Params.Get("tag"); ok {
			p.inCall(r, tx, func(c *Call) { c.reinvited(r, tx) })
			return
		}
		c, err := p.ringing(r, tx)
		if err != nil {
			p.cfg.Log.Warn("incoming call refused", "error", err)
			_ = tx.Respond(sip.NewResponseFromRequest(r, 488, "Not Acceptable Here", nil))
			return
		}
		select {
		case p.incoming <- c:
		default:
			_ = c.Reject(486)
		}
		select { // the library ends the transaction when this returns
		case <-tx.Done():
		case <-c.done:
		}
	})
	srv.OnAck(func(r *sip.Request, tx sip.ServerTransaction) {
		p.inCall(r, nil, func(c *Call) { c.acked(r) })
	})
	srv.OnBye(func(r *sip.Request, tx sip.ServerTransaction) {
		p.inCall(r, tx, func(c *Call) {
			_ = tx.Respond(sip.NewResponseFromRequest(r, 200, "OK", nil))
			c.finish("remote")
		})
	})
	srv.OnOptions(func(r *sip.Request, tx sip.ServerTransaction) {
		answer := func(*Call) { _ = tx.Respond(sip.NewResponseFromRequest(r, 200, "OK", nil)) }
		if _, ok := r.To().Params.Get("tag"); ok { // whether the call is still there (RFC 3261 s.12.2.2)
			p.inCall(r, tx, answer)
			return
		}
		answer(nil)
	})
	srv.OnCancel(func(r *sip.Request, tx sip.ServerTransaction) {
		_ = tx.Respond(sip.NewResponseFromRequest(r, 481, "Call/Transaction Does Not Exist", nil))
	})
}

func (p *Phone) inCall(r *sip.Request, tx sip.ServerTransaction, f func(*Call)) {
	p.mu.Lock()
	c := p.calls[r.CallID().Value()]
	p.mu.Unlock()
	switch {
	case c != nil:
		f(c)
	case tx != nil:
		_ = tx.Respond(sip.NewResponseFromRequest(r, 481, "Call/Transaction Does Not Exist", nil))
	}
}

// Register registers the phone for so long; zero removes it.
func (p *Phone) Register(ctx context.Context, expires time.Duration) error {
	p.regSeq++
	req := p.request(sip.REGISTER, sip.Uri{Scheme: "sip", Host: p.cfg.Domain}, p.address(""), p.address(""), p.regID, p.regSeq)
	req.AppendHeader(&sip.ContactHeader{Address: p.contactURI()})
	req.AppendHeader(sip.NewHeader("Expires", strconv.Itoa(int(expires.Seconds()))))
	resp, err := p.client.Do(ctx, req)
	if err != nil {
		return fmt.Errorf("register %s at %s: %w", p.cfg.User, p.cfg.Server, err)
	}
	if resp.StatusCode == 401 {
		p.regSeq++ // the next CSeq is the library's
		resp, err = p.client.DoDigestAuth(ctx, req, resp, sipgo.DigestAuth{Username: p.cfg.User, Password: p.cfg.Password})
		if err != nil {
			return fmt.Errorf("register %s at %s: %w", p.cfg.User, p.cfg.Server, err)
		}
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("register %s at %s: %d %s", p.cfg.User, p.cfg.Server, resp.StatusCode, resp.Reason)
	}
	return nil
}

func (p *Phone) address(tag string) sip.FromHeader {
	f := sip.FromHeader{Address: sip.Uri{Scheme: "sip", User: p.cfg.User, Host: p.cfg.Domain}, Params: sip.NewParams()}
	if tag == "" {
		tag = token()
	}
	f.Params.Add("tag", tag)
	return f
}

func (p *Phone) contactURI() sip.Uri {
	return sip.Uri{Scheme: "sip", User: p.cfg.User, Host: p.contact.Addr().String(), Port: int(p.contact.Port())}
}

// request builds a request that leaves by the phone's port and goes to its server.
func (p *Phone) request(method sip.RequestMethod, target sip.Uri, from, to sip.FromHeader, callID string, seq uint32) *sip.Request {
	req := sip.NewRequest(method, target)
	req.AppendHeader(&from)
	toHeader := sip.ToHeader{DisplayName: to.DisplayName, Address: to.Address, Params: to.Params}
	if method == sip.REGISTER || method == sip.INVITE && seq == 1 {
		toHeader.Params = sip.NewParams()
	}
	req.AppendHeader(&toHeader)
	id := sip.CallIDHeader(callID)
	req.AppendHeader(&id)
	req.AppendHeader(&sip.CSeqHeader{SeqNo: seq, MethodName: method})
	hops := sip.MaxForwardsHeader(70)
	req.AppendHeader(&hops)
	req.SetTransport("UDP")
	req.SetDestination(p.cfg.Server.String())
	return req
}

func token() string {
	return strconv.FormatUint(rand.Uint64(), 36) + strconv.FormatUint(rand.Uint64(), 36)
}
