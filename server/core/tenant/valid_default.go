package tenant

import "cmp"

// The Default values are what a request is read onto: a member that is absent keeps its
// default, one that is given as zero is zero where zero is allowed (wrap_up_s, ageing_s,
// max_waiting, short_abandon_s). WithDefaults is for values made in code: it fills what may
// not be zero.

// DefaultTenant returns a tenant with default limits; id and domain are wanting.
func DefaultTenant() Tenant { return Tenant{}.WithDefaults() }

// WithDefaults returns the tenant with limits in place of zeros.
func (t Tenant) WithDefaults() Tenant {
	t.Limits.MaxCalls = cmp.Or(t.Limits.MaxCalls, 5000)
	t.Limits.CallsPerSecond = cmp.Or(t.Limits.CallsPerSecond, 1000)
	return t
}

// DefaultQueue returns a queue with every default; the id is wanting.
func DefaultQueue() Queue {
	return Queue{MaxWaiting: 1000, AgeingS: 60, ShortAbandonS: 5}.WithDefaults()
}

// WithDefaults returns the queue with defaults in place of the zeros that are not allowed.
func (q Queue) WithDefaults() Queue {
	q.Strategy = cmp.Or(q.Strategy, LongestIdle)
	q.RingTimeoutS = cmp.Or(q.RingTimeoutS, 20)
	q.Music = cmp.Or(q.Music, "music")
	q.ServiceLevelS = cmp.Or(q.ServiceLevelS, 20)
	return q
}

// DefaultAgent returns an agent without queues and skills; the id is wanting.
func DefaultAgent() Agent { return Agent{} }

// DefaultNumber returns a number of priority 0; number and queue are wanting.
func DefaultNumber() Number { return Number{} }
