package phone

import (
	"math"
	"net/netip"

	"github.com/dialtone-cc/dialtone/loadgen/stream"
)

// sound is what a call wants of its stream.
type sound struct {
	to     netip.AddrPort // not valid: nobody to talk to yet
	codec  stream.Codec
	silent bool // send nothing
	ended  bool
}

// The stream's thread is asked outside of the endpoint's lock, for it may take a
// millisecond to answer: the call notes what it wants, and a goroutine that lives as long
// as there is a difference sees to it. Wishes that come in between replace each other, so
// there is at most one goroutine and one wish for a call, whatever the other side sends.

// wish makes the stream follow c.want. The lock is held.
func (c *Call) wish() {
	if !c.atWork && (c.want != c.applied || c.Media == nil) {
		c.atWork = true
		c.e.running.Go(c.work)
	}
}

func (c *Call) work() {
	for {
		c.e.mu.Lock()
		want, done := c.want, c.applied
		if c.Media == nil && want.ended || c.Media != nil && want == done {
			c.atWork = false
			c.e.mu.Unlock()
			return
		}
		c.e.mu.Unlock()
		if c.Media == nil { // only this goroutine sets it, before anybody else has the call
			s, err := c.openStream()
			c.e.mu.Lock()
			c.Media = s
			c.opened(err)
			c.e.mu.Unlock()
			continue
		}
		c.carryOut(want, done)
		c.e.mu.Lock()
		c.applied = want
		c.e.mu.Unlock()
	}
}

func (c *Call) carryOut(want, done sound) {
	if want.ended {
		c.Media.Close()
		return
	}
	if want.silent && !done.silent { // before a first word
		c.Media.Mute(true)
	}
	if want.to.IsValid() && (want.to != done.to || want.codec != done.codec) {
		if err := c.Media.Talk(want.to, want.codec); err != nil {
			c.e.log.Warn("audio can't be sent", "to", want.to, "error", err)
		}
	}
	if !want.silent && done.silent {
		c.Media.Mute(false)
	}
}

func (c *Call) openStream() (*stream.Stream, error) {
	cfg := &c.phone.cfg
	return c.e.media.Open(stream.Options{Voice: cfg.Voice, Tone: int(math.Round(cfg.Tone)), Marker: cfg.Marker, Label: cfg.Label,
		Sound: cfg.Sound, AnySource: cfg.AnySource, Events: c.events})
}

// hear listens to early media, without a word.
func (c *Call) hear(d description) {
	if both := d.common(c.phone.cfg.Codecs); len(both) > 0 && !d.addr.Addr().IsUnspecified() {
		c.want.to, c.want.codec, c.want.silent = d.addr, both[0], true
		c.wish()
	}
}

// follow sends and receives audio as the other side has described it.
func (c *Call) follow(d description) {
	both := d.common(c.phone.cfg.Codecs)
	if len(both) == 0 {
		return
	}
	c.want.silent = !d.mayHear()
	if !d.addr.Addr().IsUnspecified() {
		c.want.to, c.want.codec = d.addr, both[0]
	}
	c.wish()
}
