package check

import (
	"reflect"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Isolation: nothing that is made for one tenant names another, and the answer for a
// foreign id equals the answer for one that does not exist (fusionpbx/fusionpbx#313).
type Isolation struct {
	named
	absent map[string]string // kind of command -> the answer for an id that nobody has
}

// NewIsolation returns the checker.
func NewIsolation(*Setup) *Isolation {
	return &Isolation{named: "isolation", absent: map[string]string{}}
}

// See compares answers and looks at texts.
func (c *Isolation) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Written:
		return broken("%s for tenant %s names tenant %s", f.Where, f.Tenant, f.Names)
	case Answered:
		if f.Foreign == "" {
			return nil
		}
		if f.Problem == nil {
			return broken("tenant %s asked %T with the foreign id %q and got a value", f.Tenant, f.Do, f.Foreign)
		}
		if f.Problem.Kind == core.Unavailable {
			return nil // nothing was looked up
		}
		kind := reflect.TypeOf(f.Do).String()
		text := strings.ReplaceAll(f.Problem.Error(), f.Foreign, "ID")
		if f.Absent {
			c.absent[kind] = text
			return nil
		}
		if want, known := c.absent[kind]; known && want != text {
			return broken("tenant %s asked %s: a foreign id answers %q, an absent one %q", f.Tenant, kind, text, want)
		}
	}
	return nil
}
