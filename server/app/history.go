package app

import (
	"context"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/httpapi"
	"github.com/dialtone-cc/dialtone/server/edge/records"
)

// history shows the records store to the API: the two edges do not know each other.
type history struct{ records.Store }

// List passes a filter on.
func (h history) List(ctx context.Context, tenant core.TenantID, f httpapi.HistoryFilter) ([]core.CDR, bool, error) {
	return h.Store.List(ctx, tenant, records.Filter(f))
}
