package loadgen

import (
	"errors"
	"fmt"

	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
	"github.com/dialtone-cc/dialtone/loadgen/report"
)

// How long the halves of a call, and moves, may be on their way.
const (
	halvesLinger measure.Micros = 10_000_000
	movesLinger  measure.Micros = 2_000_000
)

// account is the one account of a load: halves come in, calls come out, and each is measured
// and written down.
type account struct {
	agents   int
	ledger   *ledger
	joiner   *measure.Joiner
	recorder *measure.Recorder
	calls    *report.Calls // nil: not written
	talked   int64         // calls that an agent answered and in which two talked
	answered int64         // the same, and those whose caller gave up in the same moment
	unlikely []string      // what should not happen
	failed   error         // of writing
}

func newAccount(p *profile.Profile) *account {
	return &account{agents: p.Agents.Count, ledger: newLedger(p.Agents.Count, movesLinger), joiner: measure.NewJoiner(halvesLinger), recorder: measure.NewRecorder()}
}

// take books what a worker tells.
func (a *account) take(up cluster.Up) {
	a.ledger.add(up.Moves)
	for _, half := range up.Halves {
		if a.agents == 0 { // there is no other half
			a.book(half)
			continue
		}
		whole, err := a.joiner.Add(half)
		a.wonder(err)
		for _, call := range whole {
			a.book(call)
		}
	}
}

// close books what is left.
func (a *account) close() {
	a.ledger.settle()
	whole, err := a.joiner.Flush()
	a.wonder(err)
	for _, call := range whole {
		a.book(call)
	}
	if n := a.joiner.Orphans(); n > 0 {
		a.wonder(fmt.Errorf("agents were offered %d calls that are not of this load, or whose caller could not be told", n))
	}
}

func (a *account) book(call measure.Call) {
	call.FreeAgents = a.ledger.take(call.Index)
	if call.AgentAnswer >= 0 {
		a.answered++
		if call.Outcome == measure.Completed || call.Outcome == measure.Cut {
			a.talked++
		}
	}
	a.recorder.Add(&call)
	if a.calls != nil && a.failed == nil {
		a.failed = a.calls.Add(&call)
	}
}

func (a *account) wonder(err error) {
	if err != nil && len(a.unlikely) < 20 {
		a.unlikely = append(a.unlikely, err.Error())
	}
}

// finish closes the calls file.
func (a *account) finish() (*measure.CallsFile, error) {
	if a.calls == nil {
		return nil, nil
	}
	file, err := a.calls.Close()
	return &file, errors.Join(a.failed, err)
}
