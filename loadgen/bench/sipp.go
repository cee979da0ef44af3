package bench

import (
	"bufio"
	"context"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

//go:embed sipp/*.xml peers/*.cfg
var files embed.FS

// unpack writes an embedded file to where a program can read it.
func unpack(dir, name string, replace ...string) (string, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return "", err
	}
	at := filepath.Join(dir, filepath.Base(name))
	return at, os.WriteFile(at, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600)
}

// register registers agents from..from+n-1 with the Contact of the port that answers.
func (s *Suite) register(ctx context.Context, dir string, from, n int) error {
	scenario, err := unpack(dir, "sipp/register.xml")
	if err != nil {
		return err
	}
	list := filepath.Join(dir, "agents.csv")
	f, err := os.OpenFile(list, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, "SEQUENTIAL")
	for i := from; i < from+n; i++ {
		fmt.Fprintf(w, "%d;[authentication username=%d password=%s];%d\n", i, i, secret, phonePort)
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		return err
	}
	p, err := start(dir, "sipp-register", nil, "sipp", "-sf", scenario, "-inf", list, sipAddr, "-i", "127.0.0.1", "-p", strconv.Itoa(setupPort),
		"-m", strconv.Itoa(n), "-r", "200", "-l", "200", "-nostdin", "-timeout", "120")
	if err != nil {
		return err
	}
	defer p.stop()
	return p.wait(ctx)
}

// startPhones answers for all agents, behind one port.
func (s *Suite) startPhones(dir string) (*process, error) {
	scenario, err := unpack(dir, "sipp/agent.xml")
	if err != nil {
		return nil, err
	}
	return start(dir, "sipp-agents", nil, "sipp", "-sf", scenario, "-i", "127.0.0.1", "-p", strconv.Itoa(phonePort), "-mi", "127.0.0.1", "-mp", "26400", "-nostdin")
}

// tally is what sipp's callers saw.
type tally struct {
	Offered, Completed, Refused, Failed int
	Pace                                float64 // calls/s that were really begun
	Goodput                             float64 // calls/s that were completed while calls were begun
}

// dial runs callers at a rate (1/s) for so many calls.
func (s *Suite) dial(ctx context.Context, dir string, rate, calls int) (tally, error) {
	scenario, err := unpack(dir, "sipp/caller.xml")
	if err != nil {
		return tally{}, err
	}
	stat := filepath.Join(dir, "caller.csv")
	_ = os.Remove(stat)
	p, err := start(dir, "sipp-callers", nil, "sipp", "-sf", scenario, sipAddr, "-i", "127.0.0.1", "-p", strconv.Itoa(callerPort), "-mi", "127.0.0.1", "-mp", "26300",
		"-r", strconv.Itoa(rate), "-m", strconv.Itoa(calls), "-l", strconv.Itoa(40*rate), "-nostdin", "-trace_stat", "-stf", stat, "-fd", "1",
		"-timeout", strconv.Itoa(calls/rate+60), "-recv_timeout", "20000")
	if err != nil {
		return tally{}, err
	}
	defer p.stop()
	// Exit code 1 says that some calls failed: that is a result, and the file has it.
	if err := p.wait(ctx); err != nil && p.cmd.ProcessState.ExitCode() != 1 {
		return tally{}, err
	}
	return readTally(stat)
}

// readTally reads the last line of a statistics file of sipp.
func readTally(name string) (tally, error) {
	f, err := os.Open(name)
	if err != nil {
		return tally{}, err
	}
	defer f.Close()
	r := csv.NewReader(f)
	r.Comma, r.FieldsPerRecord, r.LazyQuotes = ';', -1, true
	rows, err := r.ReadAll()
	if err != nil || len(rows) < 2 {
		return tally{}, fmt.Errorf("%s: not a statistics file of sipp: %w", name, err)
	}
	in := func(row []string, column string) string {
		for i, title := range rows[0] {
			if title == column && i < len(row) {
				return row[i]
			}
		}
		return ""
	}
	number := func(row []string, column string) int {
		n, _ := strconv.Atoi(in(row, column))
		return n
	}
	completed := func(row []string) int { return number(row, "SuccessfulCall(C)") - number(row, "GenericCounter1(C)") }
	last := rows[len(rows)-1]
	t := tally{Offered: number(last, "OutgoingCall(C)"), Completed: completed(last), Refused: number(last, "GenericCounter1(C)"), Failed: number(last, "FailedCall(C)")}
	for _, row := range rows[1:] { // one a second: the first in which all calls had been begun ends the load
		if number(row, "OutgoingCall(C)") < t.Offered {
			continue
		}
		if seconds := clockMs(in(row, "ElapsedTime(C)")) / 1000; seconds > 0 {
			t.Pace, t.Goodput = float64(t.Offered)/seconds, float64(completed(row))/seconds
		}
		break
	}
	return t, nil
}

// clockMs reads sipp's 00:00:00:001234, hours to microseconds, as milliseconds.
func clockMs(text string) float64 {
	total := 0.0
	for i, part := range strings.Split(text, ":") {
		n, _ := strconv.ParseFloat(part, 64)
		total += n * [...]float64{3.6e6, 6e4, 1e3, 1e-3}[min(i, 3)]
	}
	return total
}
