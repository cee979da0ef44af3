package sim

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// faults plans what goes wrong while the chaos lasts.
func (w *World) faults() {
	within := func() time.Duration { return w.between(6*time.Second, w.opt.Chaos-time.Second) }
	if w.commits != nil {
		w.clusterFaults(within)
		w.after(5*time.Second, w.wear)
		return
	}
	for range w.opt.Crashes {
		w.after(within(), func() {
			// At the boundary of some step soon, so that its effects are cut short.
			w.nodes[0].crashIn = 1 + w.rng.IntN(40)
			w.nodes[0].downFor = w.between(20*time.Millisecond, w.opt.Down)
		})
	}
	for range w.opt.Pauses {
		w.after(within(), func() { w.nodes[0].pause(w.between(50*time.Millisecond, 3*time.Second)) })
	}
	for i := range w.opt.Floods {
		w.after(within(), func() { w.flood(i) })
	}
	if w.opt.Away > 0 {
		w.after(within(), func() { w.plain.away(w.opt.Away) })
	}
	if w.opt.Fence {
		w.after(within(), func() { w.plain.fenceNext = true })
	}
	w.after(5*time.Second, w.wear)
}

// wear is what happens to phones and connections now and then.
func (w *World) wear() {
	if w.phase != "chaos" {
		return
	}
	const every = 5 * time.Second
	rate := every.Minutes()
	for _, p := range w.phones {
		if p.conn != nil && p.conn.open && w.chance(w.opt.Resets*rate) {
			w.marks.hit("TCP reset")
			w.net.close(p.conn)
		}
		if p.device == nil || p.device.stranger || !p.alive || !w.chance(w.opt.Reboots*rate) {
			continue
		}
		switch w.rng.IntN(4) {
		case 0:
			p.device.vanish()
		case 1:
			p.device.unregister()
			p.device.plan(w.between(time.Second, 20*time.Second))
		case 2:
			w.marks.hit("phone unreachable")
			p.closed, p.closedAt = true, w.now
			w.after(w.between(time.Second, 30*time.Second), func() { p.closed = false })
		default: // a reboot: quick, without unregistering
			p.off()
			w.after(w.between(time.Second, 4*time.Second), p.on)
		}
	}
	w.after(every, w.wear)
}

// flood is one source that sends far more than anybody should.
func (w *World) flood(i int) {
	w.marks.hit("flood")
	c := w.tenants[w.rng.IntN(len(w.tenants))]
	p := newPhone(w, c, "flooder-"+strconv.Itoa(i), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 4, 0, byte(i + 1)}), 5060), core.UDP)
	p.far.Tenant, p.user = "", "flooder"
	for range 300 {
		w.after(w.between(0, time.Second), func() {
			r := &core.Request{Method: core.INVITE, URI: core.URI{Scheme: "sip", User: "404404", Host: c.domain}, Message: core.Message{
				From: core.Address{URI: core.URI{Scheme: "sip", User: "flooder", Host: "10.4.0.1"}}.WithTag(w.text("f")),
				To:   core.Address{URI: core.URI{Scheme: "sip", User: "404404", Host: c.domain}}, CallID: w.text("flood"), CSeq: 1,
				Contact: []core.Address{p.contact()}}}
			if w.rng.IntN(3) == 0 {
				r.Method, r.URI.User = core.REGISTER, ""
			}
			p.ask(r, p.node(), func(res *core.Response) {
				if res != nil && res.Status >= 200 {
					w.marks.hit("flood told " + strconv.Itoa(res.Status))
				}
			})
		})
	}
}

// restarted is called when the node is there again: some people press hold just then.
func (w *World) restarted() {
	for _, p := range w.phones {
		for _, d := range p.live {
			if d.state == up && (d.temper == "glares" || w.rng.IntN(8) == 0) {
				w.after(w.between(0, 400*time.Millisecond), d.hold)
			}
		}
	}
}

// rang is called when an agent's phone gets an INVITE of a caller.
func (w *World) rang(caller string) {
	for _, p := range w.phones {
		if p.calls != nil && p.user == caller {
			p.calls.rung()
		}
	}
}

func sources() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }

// dialogs counts the dialogs that phones have, or had in the last three minutes.
func (w *World) dialogs() int {
	n := 0
	for _, p := range w.phones {
		n += len(p.live)
		for _, d := range p.past {
			if w.now.Sub(d.overAt) < 3*time.Minute {
				n++
			}
		}
		if !p.alive {
			n += 2 // what it had is forgotten by it, not yet by the node
		}
	}
	return n
}
