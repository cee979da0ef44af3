package profile

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"
)

// Flags makes a profile of the command line: the file that --profile names, and over it what
// the flags say.
type Flags struct {
	file     string
	set      []assignment
	rate     string
	duration time.Duration
	password Secret
}

type assignment struct{ name, text string }

// Bind adds the flags of a profile to a flag set.
func Bind(fs *flag.FlagSet) *Flags {
	f := &Flags{}
	scratch := Default()
	for _, k := range scratch.keys() {
		if k.flag == "" {
			continue
		}
		fs.Func(k.flag, "`"+k.hint+"` "+k.help, func(text string) error {
			f.set = append(f.set, assignment{k.name, text})
			return k.set(text)
		})
	}
	fs.StringVar(&f.file, "profile", "", "`FILE` a profile in YAML; flags go before what it says")
	fs.Func("rate", "`PACE` of the arrivals: 20/s, 90/m, 1/s..50/s (ramp), poisson:20/s", func(text string) error {
		f.rate = text
		_, err := ParsePace(text)
		return err
	})
	fs.Func("duration", "`D` how long calls arrive", put(&f.duration, func(text string) (time.Duration, error) {
		return parseDuration(text, time.Millisecond, 30*24*time.Hour)
	}))
	fs.Func("agent-password", "`PW` of the agents; others can see it in the list of processes, so better the file or the variable", func(text string) error {
		f.password = Secret(text)
		return nil
	})
	return f
}

// Profile reads the file and lays the flags over it. The error says what is allowed.
func (f *Flags) Profile(environ []string) (Profile, error) {
	p := Default()
	if f.file != "" {
		if err := p.Read(f.file); err != nil {
			return p, err
		}
	}
	keys := p.keys()
	replaced := false
	for _, a := range f.set {
		if a.name == "slo" && !replaced { // those of the flags replace those of the file
			p.SLO, replaced = nil, true
		}
		for _, k := range keys {
			if k.name != a.name {
				continue
			}
			if err := k.set(a.text); err != nil {
				return p, fmt.Errorf("--%s: %w", k.flag, err)
			}
		}
	}
	if err := f.arrivals(&p); err != nil {
		return p, err
	}
	p.secrets(f.password, environ)
	if p.Domain == "" {
		p.Domain = p.To.host()
	}
	return p, p.Check()
}

// Own is what a worker has of itself when the rest comes from its coordinator: the address to
// bind, and the secrets.
func (f *Flags) Own(environ []string) (Profile, error) {
	p := Default()
	for _, a := range f.set {
		if a.name != "local" && a.name != "agents.password_file" {
			return p, fmt.Errorf("%s: comes from the coordinator", a.name)
		}
		for _, k := range p.keys() {
			if k.name == a.name {
				if err := k.set(a.text); err != nil {
					return p, fmt.Errorf("--%s: %w", k.flag, err)
				}
			}
		}
	}
	if f.file != "" || f.rate != "" || f.duration != 0 {
		return p, errors.New("the profile comes from the coordinator")
	}
	p.secrets(f.password, environ)
	return p, nil
}

// arrivals takes --rate and --duration, which make one phase.
func (f *Flags) arrivals(p *Profile) error {
	switch {
	case f.rate == "" && f.duration == 0:
		return nil
	case f.rate != "":
		pace, err := ParsePace(f.rate)
		if err != nil {
			return fmt.Errorf("--rate: %w", err)
		}
		if f.duration == 0 {
			return errors.New("--rate needs --duration: how long calls arrive, such as 60s")
		}
		p.Arrivals = []Phase{{Rate: pace, Length: f.duration}}
	case len(p.Arrivals) == 1:
		p.Arrivals[0].Length = f.duration
	case len(p.Arrivals) == 0:
		return errors.New("--duration needs --rate: how often calls arrive, such as 20/s")
	default:
		return fmt.Errorf("--duration: the profile has %d phases of its own lengths; give --rate too to replace them", len(p.Arrivals))
	}
	return nil
}

// secrets: a flag goes before a variable, a variable before a file that the profile names.
func (p *Profile) secrets(password Secret, environ []string) {
	variable := func(name string) Secret {
		for _, line := range environ {
			if value, ok := strings.CutPrefix(line, name+"="); ok {
				return Secret(value)
			}
		}
		return ""
	}
	if v := variable("DIALTONE_AGENT_PASSWORD"); v != "" {
		p.Agents.Password = v
	}
	if password != "" {
		p.Agents.Password = password
	}
	if v := variable("DIALTONE_API_KEY"); v != "" {
		p.API.Key = v
	}
}
