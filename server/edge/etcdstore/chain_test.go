package etcdstore

import "testing"

func TestJudge(t *testing.T) {
	at := position{incarnation: 50, link: 100}
	for _, c := range []struct {
		name string
		s    sight
		open []string
		want finding
	}{
		{"as we left it", sight{node: 50, chain: 100, last: "7"}, []string{"8"}, untouched},
		{"our batch, reply lost", sight{node: 50, chain: 101, last: "8"}, []string{"8", "", "c"}, advanced},
		{"our claim, reply lost", sight{node: 101, chain: 101, last: "c"}, []string{"8", "c", ""}, advanced},
		{"our batch, then the lease expired", sight{chain: 101, last: "8"}, []string{"8"}, advanced},
		{"lease expired", sight{chain: 100, last: "7"}, []string{"8"}, lapsed},
		{"claimed, lease alive", sight{node: 50, chain: 101, last: "claim by b"}, []string{"8"}, taken},
		{"claimed, lease expired", sight{chain: 101, last: "claim by b"}, nil, taken},
		{"claimed by a restart of this node", sight{node: 103, chain: 103, last: "x.1"}, []string{"8"}, taken},
		{"chain deleted", sight{node: 50}, []string{"8"}, taken},
		{"chain deleted, nothing open", sight{node: 50}, []string{""}, taken},
		{"node key made by hand", sight{node: 101, chain: 100, last: "7"}, []string{"8"}, taken},
	} {
		if got := at.judge(c.s, c.open...); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := (position{}).judge(sight{}); got != untouched {
		t.Errorf("before the first claim: %s", got)
	}
}

func TestJudgeAClaim(t *testing.T) {
	at := position{incarnation: 50, link: 100}
	for _, c := range []struct {
		name string
		s    sight
		want finding
	}{
		{"claimed by another", sight{chain: 100, last: "7", claimed: true}, taken},
		{"our batch, then claimed by another", sight{chain: 101, last: "8", claimed: true}, advanced},
		{"expired", sight{chain: 100, last: "7"}, lapsed},
	} {
		if got := at.judge(c.s, "8"); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
