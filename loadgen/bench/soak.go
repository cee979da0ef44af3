package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// sampleEvery is how often a soak looks at the server.
const sampleEvery = 10 * time.Second

// reading is one look at a server under a long load.
type reading struct {
	At         float64 `json:"at_s"`
	Memory     float64 `json:"anonymous_bytes"` // RssAnon: without the pages of mapped files
	Heap       float64 `json:"heap_bytes"`
	Goroutines float64 `json:"goroutines"`
	Files      float64 `json:"open_files"` // sockets too
	Ports      float64 `json:"udp_ports"`
	Live       float64 `json:"live_interactions"`
}

// soak runs a server for hours: calls of sipp at a steady rate, and beside them calls with
// audio of dialtone loadgen, in a queue of their own. Nothing may be lost and nothing may
// grow once the first part is over.
func (s *Suite) soak(ctx context.Context) error {
	if s.soakRate < 1 {
		return errors.New("say at what rate: --soak-rate, in calls/s, half of the knee as a rule")
	}
	d, p, err := s.open(ctx, staff)
	if err != nil {
		return err
	}
	defer d.close()
	defer p.stop()
	audio, file, err := s.startAudio(d)
	if err != nil {
		return err
	}
	defer audio.stop()
	s.say("soak: %d calls/s and 2 calls/s with audio, for %v", s.soakRate, s.soakFor)
	watching, stop := context.WithCancel(ctx)
	seen := make(chan []reading)
	go func() { seen <- s.watch(watching, d) }()
	t, err := s.dial(ctx, d.dir, s.soakRate, s.soakRate*int(s.soakFor/time.Second))
	stop()
	readings := <-seen
	if err == nil {
		err = audio.wait(ctx)
	}
	if err != nil {
		return err
	}
	r, err := readResult(file)
	if err != nil {
		return err
	}
	if err := until(ctx, time.Minute, d.atRest); err != nil {
		return fmt.Errorf("calls are left over a minute after the soak: %w", err)
	}
	condition := fmt.Sprintf("%v at %d calls/s", s.soakFor, s.soakRate)
	s.add(Row{Experiment: "calls lost in a soak", Condition: condition, Subject: "dialtone", Unit: "calls", Runs: []float64{float64(t.Offered - t.Completed)}, Samples: t.Offered, Goal: AtMost(0)})
	s.add(Row{Experiment: "calls with audio lost in a soak", Condition: condition, Subject: "dialtone", Unit: "calls", Runs: []float64{float64(r.Counts.Attempted - r.Counts.Completed)}, Samples: int(r.Counts.Attempted), Goal: AtMost(0)})
	s.add(Row{Experiment: "packets lost in a soak", Condition: condition, Subject: "dialtone", Unit: "packets", Runs: []float64{float64(r.Media.Lost)}, Samples: int(r.Media.Expected)})
	if len(readings) < 12 {
		return fmt.Errorf("only %d readings: a soak needs some minutes", len(readings))
	}
	for _, one := range []struct {
		what string
		of   func(reading) float64
	}{
		{"memory", func(r reading) float64 { return r.Memory }},
		{"goroutines", func(r reading) float64 { return r.Goroutines }},
		{"open files", func(r reading) float64 { return r.Files }},
		{"UDP ports", func(r reading) float64 { return r.Ports }},
	} {
		s.add(Row{Experiment: "growth of " + one.what + " in a soak", Condition: condition, Subject: "dialtone", Unit: "ratio, last third to second sixth",
			Runs: []float64{growthOf(readings, one.of)}, Samples: len(readings), Goal: AtMost(1.1)})
	}
	s.Readings = readings
	return nil
}

// startAudio begins the calls with audio. They end a little before those of sipp.
func (s *Suite) startAudio(d *dialtone) (*process, string, error) {
	if err := d.call("PUT", "/v1/queues/audio", map[string]any{}, nil); err != nil {
		return nil, "", err
	}
	if err := d.call("PUT", "/v1/numbers/5001", map[string]any{"queue": "audio"}, nil); err != nil {
		return nil, "", err
	}
	if err := d.employ(30_001, 60, "audio"); err != nil {
		return nil, "", err
	}
	file := filepath.Join(d.dir, "audio.json")
	p, err := start(d.dir, "loadgen", []string{"DIALTONE_AGENT_PASSWORD=" + secret}, s.binary, "loadgen", "--target", "udp:"+sipAddr, "--to", "sip:5001@"+sipAddr,
		"--rate", "2/s", "--duration", (s.soakFor * 95 / 100).String(), "--hold", "10s", "--lines", "60", "--agents", "60", "--agent-uri", "sip:{30001..30060}@demo.localhost",
		"--json", file)
	return p, file, err
}

// watch looks at the server until the context ends.
func (s *Suite) watch(ctx context.Context, d *dialtone) []reading {
	var all []reading
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return all
		case <-time.After(sampleEvery):
		}
		r := reading{At: time.Since(began).Seconds(), Memory: anonymous(d.cmd.Process.Pid), Ports: float64(boundPorts(10000, 25999))}
		var err error
		for name, into := range map[string]*float64{"go_memstats_heap_inuse_bytes": &r.Heap, "go_goroutines": &r.Goroutines, "process_open_fds": &r.Files, "dialtone_live_interactions": &r.Live} {
			if *into, err = d.sum(name); err != nil {
				break
			}
		}
		if err != nil {
			s.say("soak: a reading failed: %v", err)
			continue
		}
		if all = append(all, r); len(all)%6 == 0 {
			s.say("soak: %4.0f s: %.1f MB, %.0f goroutines, %.0f files, %.0f ports, %.0f live", r.At, r.Memory/1e6, r.Goroutines, r.Files, r.Ports, r.Live)
		}
	}
}

// growthOf compares the median of the last third with that of the second sixth: the first
// sixth is for what is made once.
func growthOf(all []reading, of func(reading) float64) float64 {
	n := len(all)
	part := func(from, to int) []float64 {
		var values []float64
		for _, r := range all[from:to] {
			values = append(values, of(r))
		}
		return values
	}
	return median(part(n*2/3, n)) / median(part(n/6, n/3))
}

// anonymous is the memory of a process that is not of files, in bytes.
func anonymous(pid int) float64 {
	text, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	_, rest, _ := bytes.Cut(text, []byte("RssAnon:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseFloat(string(fields[0]), 64)
	return n * 1024
}
