// Package bench measures dialtone side by side with its peers, in one run on one machine,
// and writes down what came out.
package bench

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Suite is one run of the benchmark.
type Suite struct {
	binary   string // dialtone under measurement
	work     string // folder for data and logs, thrown away
	runs     int    // repetitions of each figure; the median counts
	quick    bool
	kills    int // of a failover run
	soakRate int // calls/s
	soakFor  time.Duration
	out      io.Writer

	Rows     []Row
	Readings []reading // of a soak
	Silences []float64 // of failovers, in ms
	Left     []string  // what could not be measured here, and why
}

// Row is one figure.
type Row struct {
	Experiment string    `json:"experiment"`
	Condition  string    `json:"condition"`
	Subject    string    `json:"subject"` // whose figure it is
	Unit       string    `json:"unit"`
	Value      float64   `json:"value"` // median of Runs
	Runs       []float64 `json:"runs"`
	Samples    int       `json:"samples"`          // calls or packets behind it, over all runs
	Doubts     []string  `json:"doubts,omitempty"` // why the generator itself calls a run invalid: the figure shows no goal met
	Goal       Goal      `json:"goal,omitzero"`
}

// Goal is a bound on a figure.
type Goal struct {
	Relation string  `json:"relation"` // "<=" or ">="
	Bound    float64 `json:"bound"`
}

// AtMost is met by a figure up to bound.
func AtMost(bound float64) Goal { return Goal{"<=", bound} }

// AtLeast is met by a figure from bound on.
func AtLeast(bound float64) Goal { return Goal{">=", bound} }

// Met says whether a value meets the goal. No goal is met by every value.
func (g Goal) Met(value float64) bool {
	switch g.Relation {
	case "<=":
		return value <= g.Bound
	case ">=":
		return value >= g.Bound
	}
	return true
}

// doubt notes that the generator was too slow in a run behind the figure.
func (r *Row) doubt(result measure.Result) { r.Doubts = append(r.Doubts, result.Invalid...) }

func (r Row) of(result measure.Result) Row {
	r.doubt(result)
	return r
}

// met says whether the figure shows that its goal is met.
func (r *Row) met() bool { return r.Goal.Met(r.Value) && (r.Goal.Relation == "" || len(r.Doubts) == 0) }

func (s *Suite) add(r Row) {
	r.Value = median(r.Runs)
	s.Rows = append(s.Rows, r)
	s.say("  %s (%s), %s: %.4g %s", r.Experiment, r.Condition, r.Subject, r.Value, r.Unit)
}

func (s *Suite) leave(what string, programs []string) {
	s.Left = append(s.Left, fmt.Sprintf("%s: needs %s (`make tools-bench` installs it)", what, strings.Join(programs, ", ")))
	s.say("left out %s", s.Left[len(s.Left)-1])
}

func (s *Suite) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
