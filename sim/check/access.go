package check

import (
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Access: a phone with a wrong password never gets a 200 to REGISTER, and nobody who is
// not of a tenant gets a call through it. Such phones are named "stranger".
type Access struct{ named }

// NewAccess returns the checker.
func NewAccess(*Setup) *Access { return &Access{"access"} }

// See looks at what strangers are told.
func (c *Access) See(_ core.Time, fact Fact) error {
	f, ok := fact.(Sent)
	if !ok || !strings.HasPrefix(f.Far.Phone, "stranger") {
		return nil
	}
	if r := f.Response; r != nil && r.Status/100 == 2 && r.Method != core.OPTIONS {
		return broken("%s is answered %d to its %s", f.Far, r.Status, r.Method)
	}
	if f.Request != nil && fresh(f.Request) {
		return broken("an INVITE is sent to %s", f.Far)
	}
	return nil
}
