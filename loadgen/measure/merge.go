package measure

import (
	"errors"
	"fmt"
	"slices"
)

// Merge makes one Result of those of several workers that ran at the same time: histograms
// and counts are added, percentiles computed from the sum, and the whole is valid only if
// each part is. The first part gives the profile, target, generator and stated budget.
// Objectives are not carried over: judge the merged result. Calls files are not joined
// either: a file of the whole is the caller's.
func Merge(parts ...*Result) (*Result, error) {
	if len(parts) == 0 {
		return nil, errors.New("no results to merge")
	}
	sum := NewRecorder()
	for i, part := range parts {
		if err := sum.take(part); err != nil {
			return nil, fmt.Errorf("result %d of %d: %w", i+1, len(parts), err)
		}
	}
	res, err := sum.document()
	if err != nil {
		return nil, err
	}
	first := parts[0]
	res.Started, res.Finished = first.Started, first.Finished
	res.Target, res.Profile, res.Generator, res.Stated = first.Target, first.Profile, first.Generator, first.Stated
	res.Pacing.Clock = SharedClock
	for i, part := range parts {
		res.combine(part, fmt.Sprintf("worker %d: ", i+1))
	}
	res.Duration = Micros(res.Finished.Sub(res.Started).Microseconds())
	res.Budget = budget(res.Stated, res.Metrics)
	for i, part := range parts {
		if part.Generator != first.Generator {
			res.Invalidate(fmt.Sprintf("worker %d ran another generator than worker 1 (%s, %s)", i+1, part.Generator.Revision, first.Generator.Revision))
		}
		if part.Stated != first.Stated {
			res.Invalidate(fmt.Sprintf("worker %d had another network or jitter buffer than worker 1", i+1))
		}
	}
	res.Validate(first.Limits)
	return res, nil
}

// take adds a part's figures.
func (r *Recorder) take(part *Result) error {
	if part.Schema != SchemaID {
		return fmt.Errorf("schema is %q, must be %q", part.Schema, SchemaID)
	}
	r.counts.add(part.Counts)
	r.media.add(part.Media)
	for _, status := range sortedKeys(part.Statuses) {
		r.statuses[status] += part.Statuses[status]
	}
	for _, reason := range sortedKeys(part.Reasons) {
		countReason(r.reasons, reason, part.Reasons[reason])
	}
	for _, name := range sortedKeys(part.Metrics) {
		d, s := part.Metrics[name], r.samples[name]
		if s == nil {
			return fmt.Errorf("metric %q is not known to this version", name)
		}
		if err := s.merge(&d); err != nil {
			return fmt.Errorf("metric %s: %w", name, err)
		}
	}
	return r.course.merge(part.Series)
}

// combine adds what is true of a part as a whole.
func (r *Result) combine(part *Result, who string) {
	if part.Started.Before(r.Started) {
		r.Started = part.Started
	}
	if part.Finished.After(r.Finished) {
		r.Finished = part.Finished
	}
	r.Workers += part.Workers
	for _, m := range part.Machines {
		if !slices.Contains(r.Machines, m) {
			r.Machines = append(r.Machines, m)
		}
	}
	p, q := &r.Pacing, part.Pacing
	p.Packets += q.Packets
	p.MissedTicks += q.MissedTicks
	p.CPUSeconds += q.CPUSeconds
	p.CPUCores += q.CPUCores
	p.Cores += q.Cores
	if q.Clock != SharedClock {
		p.Clock = SeparateClocks
	}
	if !part.Valid && len(part.Invalid) == 0 {
		r.Invalidate(who + "invalid, without a reason")
	}
	for _, reason := range part.Invalid {
		r.Invalidate(who + reason)
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
