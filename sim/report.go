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
	fmt.Fprintf(&b, "FAILED: seed %d breaks %q after %s (%s phase)\n\n  %s\n\n", f.Seed, f.Property, f.Virtual, f.Phase,
		strings.ReplaceAll(f.Text, "\n", "\n  "))
	fmt.Fprintf(&b, "The last %d events (seconds; -> to the node, <- from it, ** the world):\n", len(f.Last))
	for _, line := range f.Last {
		b.WriteString("  " + line + "\n")
	}
	fmt.Fprintf(&b, "\nReproduce with:\n  %s\n", f.Command)
	// A report that can't be written has no reader who could be told.
	_, _ = io.WriteString(out, b.String())
}
