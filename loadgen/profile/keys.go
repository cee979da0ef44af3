package profile

import (
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// key is one thing that a profile says: a key of the file and, for the common ones, a flag.
// One table serves both, so that they cannot differ.
type key struct {
	name  string // path in the file
	flag  string // "": none
	hint  string // kind of value, for --help
	help  string
	set   func(text string) error
	items func() []key // of a list of mappings: the keys of a new entry
}

// put makes a setter of a parser.
func put[T any](into *T, parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		v, err := parse(text)
		if err == nil {
			*into = v
		}
		return err
	}
}

func putDuration(into *time.Duration, least, most time.Duration) func(string) error {
	return put(into, func(text string) (time.Duration, error) { return parseDuration(text, least, most) })
}

func putCount(into *int, least, most int) func(string) error {
	return put(into, func(text string) (int, error) { return parseCount(text, least, most) })
}

func putWord[T ~string](into *T, allowed ...T) func(string) error {
	return put(into, func(text string) (T, error) {
		names := make([]string, len(allowed))
		for i, one := range allowed {
			if names[i] = string(one); string(one) == text {
				return one, nil
			}
		}
		return "", fmt.Errorf("%.40q: must be %s%s", text, strings.Join(names, ", "), meant(text, names))
	})
}

func putName(into *string) func(string) error {
	return put(into, func(text string) (string, error) {
		if text == "" || len(text) > 1000 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
			return "", fmt.Errorf("%.40q: must be one line, not empty", text)
		}
		return text, nil
	})
}

func (p *Profile) keys() []key {
	return append([]key{
		{name: "target", flag: "target", hint: "udp:HOST:PORT", help: "the server's SIP address, over udp or tcp", set: put(&p.Target, ParseTarget)},
		{name: "to", flag: "to", hint: "URI", help: "what is dialled; {n} is the number of the arrival, {5000..5009} goes round", set: put(&p.To, ParsePattern)},
		{name: "caller", flag: "caller", hint: "PATTERN", help: "the caller's number (ANI); default 9{n:7}", set: put(&p.Caller, ParsePattern)},
		{name: "domain", flag: "domain", hint: "HOST", help: "of the callers' addresses; default: the host of --to", set: putName(&p.Domain)},
		{name: "local", flag: "local", hint: "ADDR", help: "address of this machine to bind", set: putName(&p.Local)},
		{name: "arrivals", items: p.arrivalKeys},
		{name: "lines", flag: "lines", hint: "N", help: "calls at the same time; an arrival beyond them is dropped, never postponed; default 1000", set: putCount(&p.Lines, 1, MaxLines)},
		{name: "hold", flag: "hold", hint: "D", help: "how long the two talk: 20s, exp:20s, uniform:10s..30s, lognormal:20s,8s, list:5s,60s; default 20s", set: put(&p.Hold, ParseSpan)},
		{name: "patience", flag: "patience", hint: "D", help: "a caller without an agent gives up after it; default: never", set: put(&p.Patience, ParseSpan)},
		{name: "agent_hangs_up", flag: "agent-hangs-up", hint: "SHARE", help: "of the calls that the agent ends; the caller ends the others; default 0%", set: put(&p.HangUp, ParseShare)},
		{name: "drain", flag: "drain", hint: "D", help: "after the last arrival callers wait so long for an agent; calls that talk are let finish; default 30s", set: putDuration(&p.Drain, 0, maxSpan)},
		{name: "seed", flag: "seed", hint: "N", help: "decides all that is left to chance; default 1", set: put(&p.Seed, parseSeed)},
		{name: "slo", flag: "slo", hint: "EXPR", help: "what must hold, such as 'setup_p99<200ms,dropped==0'; may be repeated", set: p.addSLO},
		{name: "api.url", flag: "api", hint: "URL", help: "a dialtone server's API: /readyz before the load, its count of calls after it", set: put(&p.API.URL, parseURL)},
		{name: "api.key_file", flag: "api-key-file", hint: "FILE", help: "its key; or set DIALTONE_API_KEY", set: p.readKey},
		{name: "api.tenant", flag: "api-tenant", hint: "NAME", help: "the tenant, where the key is an operator's", set: putName(&p.API.Tenant)},
	}, append(p.agentKeys(), p.mediaKeys()...)...)
}

func (p *Profile) agentKeys() []key {
	a := &p.Agents
	return []key{
		{name: "agents.count", flag: "agents", hint: "N", help: "agents to register; default 0: the server has its own", set: putCount(&a.Count, 0, MaxAgents)},
		{name: "agents.uri", flag: "agent-uri", hint: "PATTERN", help: "their addresses, such as sip:{1001..1020}@example.com", set: put(&a.URI, ParsePattern)},
		{name: "agents.password_file", flag: "agent-password-file", hint: "FILE", help: "holds their password; or set DIALTONE_AGENT_PASSWORD", set: p.readPassword},
		{name: "agents.answer_after", flag: "answer-after", hint: "D", help: "how long an agent's phone rings; default 1s", set: put(&a.AnswerAfter, ParseSpan)},
		{name: "agents.wrap_up", flag: "wrap-up", hint: "D", help: "an agent is not free so long after a call, by the generator's own count", set: put(&a.WrapUp, ParseSpan)},
		{name: "agents.behaviours", items: p.behaviourKeys},
	}
}

func (p *Profile) mediaKeys() []key {
	m := &p.Media
	return []key{
		{name: "media.codec", flag: "codec", hint: "NAME", help: "pcmu or pcma (ITU-T G.711); default pcmu", set: putWord(&m.Codec, "pcmu", "pcma")},
		{name: "media.latency", flag: "latency", hint: "WAY", help: "stamp: in the payload; marker: in the audio, for paths that mix or transcode; default stamp", set: putWord(&m.Latency, Stamp, Marker)},
		{name: "media.priority", flag: "priority", hint: "CLASS", help: "ordinary, or realtime: the generator goes before all else on its machine, for exact pacing beside busy neighbours; needs CAP_SYS_NICE; default ordinary", set: putWord(&m.Priority, Ordinary, RealTime)},
		{name: "media.network", flag: "network", hint: "NET", help: "emulated one-way network, in each direction: delay=20ms,jitter=5ms,loss=0.1%", set: put(&m.Network, ParseNetwork)},
		{name: "media.jitter_buffer", flag: "jitter-buffer", hint: "D", help: "of the emulated listener; default 20ms", set: putDuration(&m.JitterBuffer, 5*time.Millisecond, time.Second)},
	}
}

// arrivalKeys begins a new phase.
func (p *Profile) arrivalKeys() []key {
	p.Arrivals = append(p.Arrivals, Phase{})
	ph := &p.Arrivals[len(p.Arrivals)-1]
	return []key{
		{name: "rate", set: put(&ph.Rate, ParsePace)},
		{name: "step", set: put(&ph.Step, ParseRate)},
		{name: "for", set: putDuration(&ph.Length, time.Millisecond, 30*24*time.Hour)},
		{name: "trace", set: putName(&ph.Trace)},
		{name: "column", set: putName(&ph.Column)},
	}
}

// behaviourKeys begins a new behaviour.
func (p *Profile) behaviourKeys() []key {
	p.Agents.Behaviours = append(p.Agents.Behaviours, Behaviour{})
	b := &p.Agents.Behaviours[len(p.Agents.Behaviours)-1]
	return []key{
		{name: "do", set: putWord(&b.Do, Answer, Reject, Ignore, Hold, Transfer)},
		{name: "share", set: put(&b.Share, ParseShare)},
		{name: "status", set: putCount(&b.Status, 400, 699)},
		{name: "after", set: putDuration(&b.After, 0, maxSpan)},
		{name: "for", set: putDuration(&b.For, 0, maxSpan)},
		{name: "to", set: put(&b.To, ParsePattern)},
	}
}

func (p *Profile) addSLO(text string) error {
	if strings.TrimSpace(text) == "" || len(p.SLO) == 100 {
		return fmt.Errorf("%.40q: must be an expression, at most 100 of them", text)
	}
	p.SLO = append(p.SLO, text)
	return nil
}

func (p *Profile) readPassword(path string) (err error) {
	p.Agents.Password, err = readSecret(below(p.dir, path))
	return err
}

func (p *Profile) readKey(path string) (err error) {
	p.API.Key, err = readSecret(below(p.dir, path))
	return err
}

func parseSeed(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%.40q: must be a whole number, 0 to %d", text, uint64(math.MaxUint64))
	}
	return n, nil
}

func parseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return "", fmt.Errorf("must be http://HOST:PORT or https://HOST, without a password in it")
	}
	return strings.TrimSuffix(text, "/"), nil
}
