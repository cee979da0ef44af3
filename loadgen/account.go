package loadgen

import (
	"errors"
	"fmt"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/cluster"
	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
	"github.com/dialtone-cc/dialtone/loadgen/report"
)

// How long the halves of a call, and moves, may be on their way.
const (
	// An agent whom nobody tells that the caller has gone waits for grace and then byeWait for the
	// answer to its own BYE; before that, its answer may have waited for the ACK as long. A
	// caller's half that does not wait for this one would hide that the call failed.
	halvesLinger                = measure.Micros((grace + 3*byeWait) / time.Microsecond)
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
	invalid  []string      // what must not
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
	strange, late := 0, 0
	for _, half := range a.joiner.Orphans() {
		if half.Index < 0 {
			strange++
		} else {
			late++
		}
	}
	if late > 0 {
		a.invalid = append(a.invalid, fmt.Sprintf("%d agents had calls of this load that were accounted for without them, or whose callers are missing: how these ended is not in the counts", late))
	}
	if strange > 0 {
		a.wonder(fmt.Errorf("agents were offered %d calls that are not of this load, or whose caller could not be told", strange))
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
