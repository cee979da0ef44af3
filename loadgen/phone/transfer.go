package phone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/emiago/sipgo/sip"
)

// Transfer refers the other side to a URI (blind transfer, RFC 3515, RFC 5589 s.6) and
// returns the final status that its NOTIFY told. The call stays up until somebody hangs up;
// when the other side does before it has told how it went, that is an error.
func (c *Call) Transfer(ctx context.Context, target string) (int, error) {
	var uri sip.Uri
	if err := sip.ParseUri(target, &uri); err != nil || !plain(target) {
		return 0, fmt.Errorf("transfer to %q: %w", target, errNoURI)
	}
	answer := make(chan error, 1)
	news := make(chan int, 1)
	c.e.mu.Lock()
	if c.phase != up || c.referral != nil {
		c.e.mu.Unlock()
		return 0, fmt.Errorf("transfer: %w, or is being transferred", errNotUp)
	}
	c.referral = news
	referredBy, _ := splitAddress(c.local)
	a := c.inDialog("REFER")
	a.r.contact = c.phone.contact
	a.r.extra = []field{{"Refer-To", "<" + target + ">"}, {"Referred-By", "<" + referredBy + ">"}}
	a.done = func(m *message, err error) {
		switch {
		case err != nil:
			answer <- fmt.Errorf("REFER: %w", err)
		case m.status >= 300:
			answer <- fmt.Errorf("REFER: %w", &Refused{m.status, m.reason})
		}
	}
	c.phone.ask(a)
	c.e.mu.Unlock()
	defer func() {
		c.e.mu.Lock()
		c.referral = nil
		c.e.mu.Unlock()
	}()
	select {
	case status := <-news: // may come before the 202
		return status, nil
	case err := <-answer:
		return 0, err
	case <-c.done:
		select {
		case status := <-news:
			return status, nil
		default:
			return 0, errors.New("transfer: the other side hung up before it told how it went")
		}
	case <-ctx.Done():
		return 0, fmt.Errorf("transfer: %w", ctx.Err())
	}
}

// notified takes a NOTIFY about a transfer: a status line as message/sipfrag.
func (c *Call) notified(m *message) {
	event, _, _ := strings.Cut(m.get("Event")+m.get("o"), ";")
	if !strings.EqualFold(strings.TrimSpace(event), "refer") {
		c.e.answer(m, response{status: 489, reason: "Bad Event"})
		return
	}
	c.e.answer(m, response{status: 200, reason: "OK"})
	if status := fragmentStatus(m.body); status >= 200 && c.referral != nil {
		select {
		case c.referral <- status:
		default:
		}
	}
}

// fragmentStatus reads a status line (RFC 3420); 0 when there is none.
func fragmentStatus(body []byte) int {
	line, _, _ := strings.Cut(string(body), "\n")
	fields := strings.Fields(line)
	if len(fields) < 2 || !strings.HasPrefix(strings.ToUpper(fields[0]), "SIP/2.0") {
		return 0
	}
	status, err := strconv.Atoi(fields[1])
	if err != nil || status < 100 || status > 699 {
		return 0
	}
	return status
}
