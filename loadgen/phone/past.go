package phone

import "time"

// past is what stays of finished transactions for 64*T1: what to say to a peer who did not
// hear us and repeats itself. The oldest is forgotten first when there is too much.
type past struct {
	limit int
	byKey map[string]said
	order []aged // by until
	first int    // of order that is still there
	alarm alarm
}

type said struct {
	wire []byte // empty: nothing, the peer only has to stop
	to   way
}

type aged struct {
	key   string
	until time.Time
}

func (p *past) init(limit int) {
	p.limit, p.byKey = limit, map[string]said{}
}

// remember keeps what was said in a finished transaction. The lock is held.
func (e *Endpoint) remember(key string, wire []byte, to way) {
	p := &e.past
	if _, known := p.byKey[key]; known {
		return
	}
	for len(p.byKey) >= p.limit {
		p.drop()
	}
	until := time.Now().Add(64 * e.t1)
	p.byKey[key] = said{wire, to}
	p.order = append(p.order, aged{key, until})
	if p.alarm.place == 0 {
		e.set(&p.alarm, until)
	}
}

func (p *past) drop() {
	delete(p.byKey, p.order[p.first].key)
	p.order[p.first] = aged{}
	p.first++
	if p.first > 64 && p.first > len(p.order)/2 {
		p.order = append([]aged(nil), p.order[p.first:]...)
		p.first = 0
	}
}

// forget drops what is too old.
func (e *Endpoint) forget(now time.Time) {
	p := &e.past
	for p.first < len(p.order) && !p.order[p.first].until.After(now) {
		p.drop()
	}
	if p.first == len(p.order) {
		p.order, p.first, p.byKey = nil, 0, map[string]said{} // a map gives nothing back
		return
	}
	// In batches: a second more does no harm.
	e.set(&p.alarm, p.order[p.first].until.Add(2*e.t1))
}

// repeat says again what was said under a key, and reports whether there was anything.
func (e *Endpoint) repeat(key string) bool {
	s, known := e.past.byKey[key]
	if known && len(s.wire) > 0 {
		e.tally.Resent++
		_ = e.write(s.to, s.wire)
	}
	return known
}
