// Package records keeps finished interactions: one CDR per id, whatever is repeated.
//
// The core hands a CDR over with core.Deliver and keeps it in its outbox until Delivered
// comes back; so Delivered is said only of what is on the disk, and a repeated delivery
// changes nothing.
package records

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Store keeps CDRs. All methods may be called by many goroutines at once. Of a tenant
// nothing is seen, counted or changed by a call for another: a foreign id is an absent one.
type Store interface {
	// Put writes all CDRs or none, and returns when they survive a power cut. A CDR whose
	// tenant and id are already there stays as it was.
	Put(ctx context.Context, cdrs []core.CDR) error

	// Get returns one CDR; false when the tenant has none of that id.
	Get(ctx context.Context, tenant core.TenantID, id core.InteractionID) (core.CDR, bool, error)

	// List returns the CDRs that pass the filter, the highest id first (ids that were made
	// later sort later), and whether there are more below them.
	List(ctx context.Context, tenant core.TenantID, filter Filter) (cdrs []core.CDR, more bool, err error)

	// DeleteTenant removes all that a tenant has.
	DeleteTenant(ctx context.Context, tenant core.TenantID) error

	Close() error
}

// Filter says which CDRs a list shows; a zero member does not restrict.
type Filter struct {
	Queue core.QueueID
	Agent core.AgentID
	From  core.Time          // ended then or later
	To    core.Time          // ended before
	After core.InteractionID // ids below this one: the cursor
	Limit int                // at most so many, 1..MaxLimit; 0: DefaultLimit
}

// Bounds of one list.
const (
	DefaultLimit = 50
	MaxLimit     = 1000
)

func (f Filter) limit() int {
	if f.Limit <= 0 {
		return DefaultLimit
	}
	return min(f.Limit, MaxLimit)
}

// Errors that Store implementations share.
var (
	// ErrNewer says that the database was made by a later version of this program.
	ErrNewer = errors.New("the records database is of a newer version of dialtone")
	// ErrDamaged says that the database can't be read.
	ErrDamaged = errors.New("the records database is damaged")
	// ErrInvalid says that Put was refused for one CDR in it, whatever the others are.
	ErrInvalid = errors.New("not a CDR that can be kept")
)

// encode returns a CDR in the form in which it is kept. One that has no tenant or id, or
// that is not JSON, is refused here, before it could spoil the batch it is in.
func encode(cdr *core.CDR) ([]byte, error) {
	if cdr.Tenant == "" || cdr.ID == "" {
		return nil, fmt.Errorf("%w: CDR %.60q of tenant %.60q needs both", ErrInvalid, cdr.ID, cdr.Tenant)
	}
	text, err := json.Marshal(finite(cdr))
	if err != nil {
		return nil, fmt.Errorf("%w: CDR %.60q: %w", ErrInvalid, cdr.ID, err)
	}
	return text, nil
}

// finite returns the CDR without measurements that JSON can't hold: a division by zero in
// the statistics of one leg must not keep a call's only record in the outbox for ever.
func finite(cdr *core.CDR) *core.CDR {
	bad := func(f float64) bool { return math.IsNaN(f) || math.IsInf(f, 0) }
	copied := false
	for i := range cdr.Legs {
		audio := &cdr.Legs[i].Audio
		if !bad(audio.JitterMs) && !bad(audio.LongestGapMs) {
			continue
		}
		if !copied { // the core's value is never changed
			c := *cdr
			c.Legs = append([]core.LegReport(nil), cdr.Legs...)
			cdr, copied = &c, true
			audio = &cdr.Legs[i].Audio
		}
		if bad(audio.JitterMs) {
			audio.JitterMs = 0
		}
		if bad(audio.LongestGapMs) {
			audio.LongestGapMs = 0
		}
	}
	return cdr
}

func decode(id string, text []byte) (core.CDR, error) {
	var cdr core.CDR
	if err := json.Unmarshal(text, &cdr); err != nil {
		return core.CDR{}, fmt.Errorf("%w: CDR %.60q: %w", ErrDamaged, id, err)
	}
	return cdr, nil
}
