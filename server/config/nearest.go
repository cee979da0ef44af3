package config

import "strings"

// Nearest returns the candidate that word most likely meant: the only one that begins with
// it, or the one at most two changed, missing or added letters away, at most one for a
// word of up to five letters. "" when nothing is near.
func Nearest(word string, candidates []string) string {
	if len(word) < 2 {
		return ""
	}
	var longer []string
	for _, candidate := range candidates {
		if strings.HasPrefix(candidate, word) {
			longer = append(longer, candidate)
		}
	}
	if len(longer) == 1 {
		return longer[0]
	}
	best, least := "", 3
	if len(word) <= 5 {
		least = 2
	}
	for _, candidate := range candidates {
		if d := distance(word, candidate); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of letters to change, add, remove or swap with a neighbour
// (optimal string alignment).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
