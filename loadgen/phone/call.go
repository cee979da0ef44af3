package phone

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emiago/sipgo"
	"github.com/emiago/sipgo/sip"
)

// Call is one call of a phone, made or taken.
type Call struct {
	phone *Phone
	Media *Media
	id    string

	local, remote sip.FromHeader
	target        sip.Uri
	tx            sip.ServerTransaction // of the INVITE that rings here
	invite        *sip.Request
	confirmed     chan struct{} // closed by the ACK, for a call that was answered here

	// When things happened, by this machine's clock.
	Invited, Ringing, Answered time.Time

	mu    sync.Mutex
	seq   uint32
	sdp   int
	once  sync.Once
	done  chan struct{}
	cause string
}

func (p *Phone) newCall(id string) (*Call, error) {
	m, err := openMedia(p.cfg.Addr, voiceOf(p.cfg.User), p.cfg.Tone)
	if err != nil {
		return nil, err
	}
	return &Call{phone: p, Media: m, id: id, done: make(chan struct{}), confirmed: make(chan struct{})}, nil
}

// voiceOf makes a number of a name, to be told apart in stamps.
func voiceOf(user string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range []byte(user) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// Voice is the number by which others know this phone's voice.
func (p *Phone) Voice() uint64 { return voiceOf(p.cfg.User) }

func (p *Phone) keep(c *Call) {
	p.mu.Lock()
	p.calls[c.id] = c
	p.mu.Unlock()
}

// Call dials a SIP URI and returns when it is answered. A refusal is a *Refused.
func (p *Phone) Call(ctx context.Context, uri string) (*Call, error) {
	var target sip.Uri
	if err := sip.ParseUri(uri, &target); err != nil {
		return nil, fmt.Errorf("URI %q: %w", uri, err)
	}
	c, err := p.newCall(token())
	if err != nil {
		return nil, err
	}
	c.seq = 1
	c.local = p.address("")
	c.remote = sip.FromHeader{Address: target, Params: sip.NewParams()}
	req := p.request(sip.INVITE, target, c.local, c.remote, c.id, c.seq)
	req.AppendHeader(&sip.ContactHeader{Address: p.contactURI()})
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	req.SetBody(c.describe("sendrecv"))
	p.keep(c)
	c.Invited = time.Now()
	if err := c.dial(ctx, req); err != nil {
		c.finish(err.Error())
		return nil, err
	}
	return c, nil
}

// Refused is a call that got a final response other than 2xx.
type Refused struct {
	Status int
	Reason string
}

func (r *Refused) Error() string { return fmt.Sprintf("refused: %d %s", r.Status, r.Reason) }

func (c *Call) dial(ctx context.Context, req *sip.Request) error {
	tx, err := c.phone.client.TransactionRequest(ctx, req)
	if err != nil {
		return fmt.Errorf("send INVITE: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			c.cancel(req)
			return ctx.Err()
		case <-tx.Done():
			return fmt.Errorf("no answer to INVITE: %w", tx.Err())
		case r := <-tx.Responses():
			switch {
			case r.StatusCode < 200:
				if r.StatusCode > 100 && c.Ringing.IsZero() {
					c.Ringing = time.Now()
				}
				continue
			case r.StatusCode >= 300:
				return &Refused{Status: r.StatusCode, Reason: r.Reason}
			}
			c.Answered = time.Now()
			// RFC 3261 s.13.2.2.4: an ACK for each repeated 2xx.
			tx.OnRetransmission(func(again *sip.Response) {
				if again.IsSuccess() {
					c.ack(again.CSeq().SeqNo)
				}
			})
			return c.established(r)
		}
	}
}

func (c *Call) cancel(invite *sip.Request) {
	req := sip.NewRequest(sip.CANCEL, invite.Recipient)
	for _, name := range []string{"Via", "From", "To", "Call-ID", "Max-Forwards"} {
		if h := invite.GetHeader(name); h != nil {
			req.AppendHeader(sip.HeaderClone(h))
		}
	}
	req.AppendHeader(&sip.CSeqHeader{SeqNo: invite.CSeq().SeqNo, MethodName: sip.CANCEL})
	req.SetTransport("UDP")
	req.SetDestination(invite.Destination())
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	_, _ = c.phone.client.Do(ctx, req, func(*sipgo.Client, *sip.Request) error { return nil })
}

// established takes the 2xx of our INVITE: the dialog is there, the audio begins.
func (c *Call) established(r *sip.Response) error {
	c.remote.Params = r.To().Params
	if r.Contact() != nil {
		c.target = r.Contact().Address
	}
	c.ack(r.CSeq().SeqNo)
	remote, err := audioAddr(r.Body())
	if err != nil {
		return err
	}
	c.Media.speakTo(remote)
	return nil
}

func (c *Call) ack(seq uint32) {
	req := c.phone.request(sip.ACK, c.target, c.local, c.remote, c.id, seq)
	req.SetDestination(hostPort(c.target))
	_ = c.phone.client.WriteRequest(req)
}

func hostPort(u sip.Uri) string {
	port := u.Port
	if port == 0 {
		port = 5060
	}
	return netJoin(u.Host, port)
}

func netJoin(host string, port int) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + strconv.Itoa(port)
	}
	return host + ":" + strconv.Itoa(port)
}

// ringing takes an INVITE: the phone rings.
func (p *Phone) ringing(r *sip.Request, tx sip.ServerTransaction) (*Call, error) {
	c, err := p.newCall(r.CallID().Value())
	if err != nil {
		return nil, err
	}
	c.Invited, c.invite, c.tx = time.Now(), r, tx
	to := r.To()
	c.local = sip.FromHeader{Address: to.Address, Params: sip.NewParams()}
	c.local.Params.Add("tag", token())
	c.remote = *r.From()
	if r.Contact() != nil {
		c.target = r.Contact().Address
	}
	if _, err := audioAddr(r.Body()); err != nil {
		c.Media.close()
		return nil, err
	}
	p.keep(c)
	tx.OnCancel(func(*sip.Request) { go c.finish("cancelled") })
	return c, c.respond(180, "Ringing", nil)
}

func (c *Call) respond(status int, reason string, body []byte) error {
	resp := sip.NewResponseFromRequest(c.invite, status, reason, body)
	resp.To().Params = c.local.Params
	resp.AppendHeader(&sip.ContactHeader{Address: c.phone.contactURI()})
	if body != nil {
		resp.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	}
	return c.tx.Respond(resp)
}

// Answer picks up and returns when the ACK has come.
func (c *Call) Answer(ctx context.Context) error {
	remote, err := audioAddr(c.invite.Body())
	if err != nil {
		return err
	}
	body := c.describe("sendrecv")
	wait := 500 * time.Millisecond
	c.Answered = time.Now()
	for {
		if err := c.respond(200, "OK", body); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		select {
		case <-c.confirmed:
			c.Media.speakTo(remote)
			return nil
		case <-c.done:
			return fmt.Errorf("call ended before it was answered: %s", c.cause)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait): // RFC 3261 s.13.3.1.4
			wait = min(2*wait, 4*time.Second)
		}
	}
}

// Reject refuses with a status.
func (c *Call) Reject(status int) error {
	err := c.respond(status, "Refused", nil)
	c.finish("rejected")
	return err
}

func (c *Call) acked(*sip.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.confirmed:
	default:
		close(c.confirmed)
	}
}

// reinvited takes a re-INVITE of the server: its address may have changed.
func (c *Call) reinvited(r *sip.Request, tx sip.ServerTransaction) {
	if r.Contact() != nil {
		c.target = r.Contact().Address
	}
	if remote, err := audioAddr(r.Body()); err == nil {
		c.Media.speakTo(remote)
	}
	resp := sip.NewResponseFromRequest(r, 200, "OK", c.describe("sendrecv"))
	resp.AppendHeader(&sip.ContactHeader{Address: c.phone.contactURI()})
	resp.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	_ = tx.Respond(resp)
}

// Hold puts the other side on hold with a re-INVITE (RFC 3264 s.8.4); Resume takes it back.
func (c *Call) Hold(ctx context.Context) error   { return c.renegotiate(ctx, "sendonly") }
func (c *Call) Resume(ctx context.Context) error { return c.renegotiate(ctx, "sendrecv") }

func (c *Call) renegotiate(ctx context.Context, direction string) error {
	req := c.inDialog(sip.INVITE)
	req.AppendHeader(sip.NewHeader("Content-Type", "application/sdp"))
	req.SetBody(c.describe(direction))
	resp, err := c.phone.client.Do(ctx, req)
	if err != nil {
		return fmt.Errorf("re-INVITE: %w", err)
	}
	if !resp.IsSuccess() {
		return &Refused{Status: resp.StatusCode, Reason: resp.Reason}
	}
	c.ack(resp.CSeq().SeqNo)
	return nil
}

func (c *Call) inDialog(method sip.RequestMethod) *sip.Request {
	c.mu.Lock()
	c.seq = max(c.seq, 1) + 1
	seq := c.seq
	c.mu.Unlock()
	req := c.phone.request(method, c.target, c.local, c.remote, c.id, seq)
	req.AppendHeader(&sip.ContactHeader{Address: c.phone.contactURI()})
	req.SetDestination(hostPort(c.target))
	return req
}

// HangUp ends the call with BYE.
func (c *Call) HangUp(ctx context.Context) error {
	resp, err := c.phone.client.Do(ctx, c.inDialog(sip.BYE))
	c.finish("local")
	if err != nil {
		return fmt.Errorf("BYE: %w", err)
	}
	if !resp.IsSuccess() {
		return &Refused{Status: resp.StatusCode, Reason: resp.Reason}
	}
	return nil
}

// Done is closed when the call is over; Cause says why.
func (c *Call) Done() <-chan struct{} { return c.done }

// Cause is "remote", "local", "cancelled", "rejected", "closed", or an error's text.
func (c *Call) Cause() string { <-c.done; return c.cause }

func (c *Call) finish(cause string) {
	c.once.Do(func() {
		c.cause = cause
		c.phone.mu.Lock()
		delete(c.phone.calls, c.id)
		c.phone.mu.Unlock()
		c.Media.close()
		close(c.done)
	})
}

// describe writes the phone's SDP: G.711 u-law and telephone-event.
func (c *Call) describe(direction string) []byte {
	c.mu.Lock()
	c.sdp++
	version := c.sdp
	c.mu.Unlock()
	a := c.Media.Addr()
	return fmt.Appendf(nil, "v=0\r\no=- 1 %d IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio %d RTP/AVP 0 101\r\n"+
		"a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=%s\r\n",
		version, a.Addr(), a.Addr(), a.Port(), direction)
}

// audioAddr finds where the other side takes audio.
func audioAddr(body []byte) (netip.AddrPort, error) {
	var host, port string
	for line := range bytes.Lines(body) {
		text := strings.TrimSpace(string(line))
		if rest, ok := strings.CutPrefix(text, "c=IN IP4 "); ok {
			host = rest // of the session, or after m= of the stream, which wins
		}
		if rest, ok := strings.CutPrefix(text, "m=audio "); ok {
			port, _, _ = strings.Cut(rest, " ")
		}
	}
	if host != "" && port != "" {
		return netip.ParseAddrPort(host + ":" + port)
	}
	return netip.AddrPort{}, fmt.Errorf("no audio in SDP of %d bytes", len(body))
}
