package acd

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
)

// level is one skill with a proficiency: had by an agent, or the least that is required.
type level struct {
	skill string
	grade int
}

// levels returns a skill map as a list sorted by skill.
func levels(m map[string]int) []level {
	if len(m) == 0 {
		return nil
	}
	list := make([]level, 0, len(m))
	for _, skill := range slices.Sorted(maps.Keys(m)) {
		list = append(list, level{skill, m[skill]})
	}
	return list
}

// both returns what satisfies two requirements at once: of each skill the greater grade.
func both(a, b []level) []level {
	list := append(slices.Clone(a), b...)
	slices.SortFunc(list, func(x, y level) int {
		return cmp.Or(cmp.Compare(x.skill, y.skill), cmp.Compare(y.grade, x.grade))
	})
	return slices.CompactFunc(list, func(x, y level) bool { return x.skill == y.skill })
}

// covers reports whether an agent's skills reach every grade of a requirement. A skill that
// is not had counts as grade 0.
func covers(have, need []level) bool {
	i := 0
	for _, n := range need {
		for i < len(have) && have[i].skill < n.skill {
			i++
		}
		grade := 0
		if i < len(have) && have[i].skill == n.skill {
			grade = have[i].grade
		}
		if grade < n.grade {
			return false
		}
	}
	return true
}

// score is the sum of an agent's grades in the required skills.
func score(have, need []level) int {
	sum, i := 0, 0
	for _, n := range need {
		for i < len(have) && have[i].skill < n.skill {
			i++
		}
		if i < len(have) && have[i].skill == n.skill {
			sum += have[i].grade
		}
	}
	return sum
}

// signature is a text that is equal exactly for equal lists. Skills carry their length, for
// their names may hold any separator.
func signature(list []level) string {
	var b []byte
	for _, l := range list {
		b = strconv.AppendInt(b, int64(len(l.skill)), 10)
		b = append(b, ':')
		b = append(b, l.skill...)
		b = strconv.AppendInt(append(b, '='), int64(l.grade), 10)
		b = append(b, ' ')
	}
	return string(b)
}
