package check

import "github.com/dialtone-cc/dialtone/server/core"

// OneActor: for one call one process acts. While a committed record says that a process
// anchors a call, and that process is there (its node record stands), no other process
// sends a request in one of its dialogs, accepts one of its INVITEs, or rings an agent for
// it. Who has lost its node record and has not been told may go on for a while: it is the
// one that cannot know (CLUSTER.md, fact Stale). Refusals of strays are anybody's.
type OneActor struct{ named }

// NewOneActor returns the checker.
func NewOneActor(*Setup) *OneActor { return &OneActor{"one-actor"} }

// See looks at each message that acts for a call.
func (c *OneActor) See(_ core.Time, fact Fact) error {
	f, ok := fact.(Sent)
	if !ok || f.Anchor == "" {
		return nil
	}
	if r := f.Request; r != nil {
		return broken("%s sends %s (CSeq %d, Call-ID %s) to %s for a call that %s anchors", f.Node, r.Method, r.CSeq, r.CallID, f.Far, f.Anchor)
	}
	if r := f.Response; r.Status/100 == 2 {
		return broken("%s answers %d to %s (CSeq %d, Call-ID %s) of %s for a call that %s anchors", f.Node, r.Status, r.Method, r.CSeq, r.CallID, f.Far, f.Anchor)
	}
	return nil
}
