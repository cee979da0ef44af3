package report

import (
	"cmp"
	"slices"
)

// named is a count with its name.
type named struct {
	Name string
	N    int64
}

// mostFrequent are the largest counts, largest first.
func mostFrequent(counts map[string]int64, most int) []named {
	var all []named
	for name, n := range counts {
		all = append(all, named{name, n})
	}
	slices.SortFunc(all, func(a, b named) int { return cmp.Or(cmp.Compare(b.N, a.N), cmp.Compare(a.Name, b.Name)) })
	return all[:min(most, len(all))]
}
