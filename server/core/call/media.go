package call

import (
	"slices"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/acd"
	"github.com/dialtone-cc/dialtone/server/core/leg"
)

const defaultMusic = "music"

func (c *Call) openMedia(env *Env, id core.LegID) {
	c.open = append(c.open, id)
	c.opening = append(c.opening, id)
	env.Free = append(env.Free, core.OpenMedia{Leg: id})
}

func (c *Call) closeMedia(env *Env, id core.LegID) {
	if slices.Contains(c.open, id) {
		env.Free = append(env.Free, core.CloseMedia{Leg: id})
	}
}

// MediaOpened gives a leg the port that it waits for.
func (c *Call) MediaOpened(env *Env, ev core.MediaOpened) {
	c.opening = without(c.opening, ev.Leg)
	defer c.settle(env)
	switch {
	case c.Phase == Ending || c.Phase == Ended:
	case c.Offer != nil && c.Offer.Leg == ev.Leg && c.Agent == nil:
		c.invite(env, ev.Local)
	case c.Phase == Arriving && ev.Leg == c.Caller.ID:
		c.welcome(env, ev.Local)
	default:
		if l := c.leg(ev.Leg); l != nil {
			l.Reopen(&env.Env, ev.Local)
		}
	}
}

// MediaRefused says that the node has no port left. A caller's call ends; one that waits
// for an agent's leg keeps its place and goes on waiting, for others will end.
func (c *Call) MediaRefused(env *Env, ev core.MediaRefused) {
	defer c.settle(env)
	c.forget(ev.Leg)
	if c.Offer != nil && c.Offer.Leg == ev.Leg {
		c.withdraw(env, acd.Withdrawn, "no_media_port")
		env.NoPort = true
		return
	}
	if c.Phase != Ending && c.Phase != Ended {
		c.end(env, c.result(core.Failed), core.NoMedia, core.System, 503)
	}
}

// MediaClosed brings what was measured of a leg.
func (c *Call) MediaClosed(env *Env, ev core.MediaClosed) {
	defer c.settle(env)
	c.forget(ev.Leg)
	for i := range c.Reports {
		if c.Reports[i].ID == ev.Leg {
			c.Reports[i].Audio = ev.Stats
		}
	}
}

func (c *Call) forget(id core.LegID) {
	c.open, c.opening = without(c.open, id), without(c.opening, id)
}

func without(ids []core.LegID, id core.LegID) []core.LegID {
	return slices.DeleteFunc(ids, func(o core.LegID) bool { return o == id })
}

// Opening reports whether a port has been asked for and not been given yet.
func (c *Call) Opening() bool { return len(c.opening) > 0 }

// MediaIdle says that a leg sends nothing.
func (c *Call) MediaIdle(env *Env, id core.LegID) {
	if l := c.leg(id); l != nil {
		c.react(env, l, l.Quiet(&env.Env))
		c.settle(env)
	}
}

// MediaResumed says that it sends again.
func (c *Call) MediaResumed(id core.LegID) {
	if l := c.leg(id); l != nil {
		l.Heard()
	}
}

// PlaybackDone says that the caller has heard the audio to its end.
func (c *Call) PlaybackDone(env *Env, ev core.PlaybackDone) {
	if ev.Leg != c.Caller.ID || ev.Play != c.Audio.Play || c.Audio.Loop {
		return
	}
	defer c.settle(env)
	switch c.Phase {
	case Greeting:
		c.play(c.music(env), true)
		c.enqueue(env)
	case Announcing:
		c.close(env)
	case Queued, Offering:
		c.play(c.music(env), true)
	}
}

func (c *Call) play(file string, loop bool) {
	c.Audio = Audio{File: file, Loop: loop, Play: c.Audio.Play + 1}
}

func (c *Call) music(env *Env) string {
	if m := c.queue(env).Music; m != "" {
		return m
	}
	return defaultMusic
}

// arrange states the media of every leg from the phase and the legs' own descriptions.
// It is the only place that does, so no path can forget to stop or start something.
func (c *Call) arrange(env *Env) {
	if c.Caller.MediaOn() {
		c.apply(env, &c.Caller, c.callerHears(env))
	}
	if c.Agent != nil && c.Agent.MediaOn() {
		c.apply(env, c.Agent, c.agentHears(env))
	}
}

func (c *Call) callerHears(env *Env) core.Source {
	switch c.Phase {
	case Greeting, Queued, Offering, Announcing:
		if c.Audio.File == "" || env.Plant == "music-lost" {
			return core.Source{}
		}
		return core.Source{Kind: core.Playback, File: c.Audio.File, Loop: c.Audio.Loop, Play: c.Audio.Play}
	case Bridged:
		return c.hears(env, c.Agent)
	}
	return core.Source{}
}

func (c *Call) agentHears(env *Env) core.Source {
	if c.Phase != Bridged {
		return core.Source{}
	}
	return c.hears(env, &c.Caller)
}

// hears returns the voice of other, or music while other holds (RFC 3264 s.8.4).
func (c *Call) hears(env *Env, other *leg.Leg) core.Source {
	if other.Holds() && env.Plant != "hold-forward-audio" {
		return core.Source{Kind: core.Playback, File: c.music(env), Loop: true, Play: 1 << 30}
	}
	return core.Source{Kind: core.Bridge, Peer: other.ID}
}

func (c *Call) apply(env *Env, l *leg.Leg, hear core.Source) {
	if !slices.Contains(c.open, l.ID) || slices.Contains(c.opening, l.ID) {
		return // its port is not there yet, or not any more
	}
	spec := core.MediaSpec{
		Remote: l.Remote.Addr, Codec: l.Codec, Telephone: l.Telephone,
		Send: l.Local.Direction.Sends() && l.Remote.Direction.Receives(), Receive: l.Remote.Direction.Sends(),
		Hear: hear, IdleAfter: env.IdleAfter,
	}
	if spec != l.Applied {
		l.Applied = spec
		env.Free = append(env.Free, core.SetMedia{Leg: l.ID, Spec: spec})
	}
}
