package loadgen

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
	"github.com/dialtone-cc/dialtone/loadgen/profile"
)

// serverAPI is what the load asks of a dialtone server besides calls, where the profile names
// its API: whether it is ready, and afterwards what it has written down.
type serverAPI struct {
	profile *profile.Profile
	client  *http.Client
}

const (
	apiWait  = 10 * time.Second
	apiAgain = 250 * time.Millisecond
	mostPage = 8 << 20
)

func newServerAPI(p *profile.Profile) *serverAPI {
	return &serverAPI{profile: p, client: &http.Client{Timeout: 5 * time.Second}}
}

func (s *serverAPI) get(ctx context.Context, path string, query url.Values, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.profile.API.URL+path+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	if key := s.profile.API.Key; key != "" {
		req.Header.Set("Authorization", "Bearer "+string(key))
	}
	if tenant := s.profile.API.Tenant; tenant != "" {
		req.Header.Set("Dialtone-Tenant", tenant)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostPage))
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s says %s", path, resp.Status)
	case into == nil:
		return nil
	}
	return json.Unmarshal(text, into)
}

// ready waits until the server can take calls.
func (s *serverAPI) ready(ctx context.Context) error {
	if s.profile.API.URL == "" {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, apiWait)
	defer stop()
	for {
		err := s.get(ctx, "/readyz", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(apiAgain):
		case <-ctx.Done():
			return fmt.Errorf("the server at %s is not ready: %w", s.profile.API.URL, err)
		}
	}
}

// compare holds the server's records against what the phones saw: each call in which two
// talked is written down as answered, once. Where a caller gave up in the moment in which the
// agent answered, the server may say either.
func (s *serverAPI) compare(ctx context.Context, r *run) (measure.Verdict, bool) {
	v := measure.Verdict{SLO: "server_records", Metric: "server_records"}
	if s.profile.API.URL == "" || s.profile.Agents.Count == 0 || ctx.Err() != nil {
		return v, false
	}
	talked, most := r.account.talked, r.account.answered
	ctx, stop := context.WithTimeout(ctx, apiWait)
	defer stop()
	for {
		answered, twice, err := s.records(ctx, r)
		v.Measured, v.Samples = float64(answered), most
		v.Passed = err == nil && answered >= talked && answered <= most && twice == 0
		saw := strconv.FormatInt(talked, 10)
		if most > talked {
			saw += " to " + strconv.FormatInt(most, 10)
		}
		v.Reason = fmt.Sprintf("%s answered calls, %d recorded", saw, answered)
		if twice > 0 {
			v.Reason += fmt.Sprintf(", %d of them more than once", twice)
		}
		if err != nil {
			v.Reason = "the server's records cannot be read: " + firstLine(err)
		}
		if v.Passed || ctx.Err() != nil {
			return v, true
		}
		select { // the last records are on their way
		case <-time.After(apiAgain):
		case <-ctx.Done():
			return v, true
		}
	}
}

// records counts the server's records of our calls that an agent answered.
func (s *serverAPI) records(ctx context.Context, r *run) (answered, twice int64, err error) {
	seen := map[int64]bool{}
	query := url.Values{"phase": {"ended"}, "limit": {"100"}, "from": {r.start.UTC().Format(time.RFC3339Nano)}}
	for {
		var page struct {
			Data []struct {
				Caller     string     `json:"caller"`
				AnsweredAt *time.Time `json:"answered_at"`
			} `json:"data"`
			HasMore bool   `json:"has_more"`
			Next    string `json:"next"`
		}
		if err := s.get(ctx, "/v1/interactions", query, &page); err != nil {
			return 0, 0, err
		}
		for _, one := range page.Data {
			index, ours := s.profile.Caller.Index(one.Caller)
			if !ours || index >= r.plan.Count() || one.AnsweredAt == nil {
				continue
			}
			if seen[index] {
				twice++
			}
			seen[index] = true
		}
		if !page.HasMore || page.Next == "" {
			return int64(len(seen)), twice, nil
		}
		query.Set("after", page.Next)
	}
}
