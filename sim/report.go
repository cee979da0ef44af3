package sim

import (
	"fmt"
	"io"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Failure is what a failed world hands over: enough to make it again.
type Failure struct {
	Property string    `json:"property"`
	Text     string    `json:"text"`
	Seed     uint64    `json:"seed"`
	Plant    string    `json:"plant,omitempty"`
	At       core.Time `json:"at"`
	Virtual  string    `json:"virtual"` // since the world began
	Phase    string    `json:"phase"`
	Options  Options   `json:"options"`
	Last     []string  `json:"last_events"`
	Command  string    `json:"reproduce"`
}

// Write writes the report for people.
func (f *Failure) Write(out io.Writer) {
	var b strings.Builder
	b.WriteString(f.head())
	fmt.Fprintf(&b, "The last %d events (seconds; -> to the node, <- from it, ** the world):\n", len(f.Last))
	for _, line := range f.Last {
		b.WriteString("  " + line + "\n")
	}
	fmt.Fprintf(&b, "\nReproduce with:\n  %s\n", f.Command)
	// A report that can't be written has no reader who could be told.
	_, _ = io.WriteString(out, b.String())
}

// inFull is how many failures are told with their last events; of the others only what
// broke and the command are.
const inFull = 3

// tell writes every failure.
func (s *Summary) tell(out io.Writer) {
	for i, r := range s.Failed {
		if i < inFull {
			r.Failure.Write(out)
		} else {
			r.Failure.brief(out)
		}
		_, _ = io.WriteString(out, "\n")
	}
}

// head says what broke.
func (f *Failure) head() string {
	return fmt.Sprintf("FAILED: seed %d breaks %q after %s (%s phase)\n\n  %s\n\n", f.Seed, f.Property, f.Virtual, f.Phase,
		strings.ReplaceAll(f.Text, "\n", "\n  "))
}

// brief writes what broke and how to see it again, without the last events.
func (f *Failure) brief(out io.Writer) {
	_, _ = io.WriteString(out, f.head()+"Reproduce with:\n  "+f.Command+"\n")
}
