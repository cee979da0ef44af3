package sim

import (
	"slices"
	"strings"
	"testing"
)

// only makes every fault of a cluster one of these kinds.
func (o Options) only(faults int, kinds ...string) Options {
	o.Faults, o.FaultKinds = faults, make(weights, len(faultKinds))
	for i, kind := range faultKinds {
		if slices.Contains(kinds, kind) {
			o.FaultKinds[i] = 1
		}
	}
	return o
}

// clusters runs worlds of three nodes.
func clusters(t *testing.T, last uint64, change func(Options) Options) Marks {
	t.Helper()
	marks := Marks{}
	for seed := uint64(1); seed <= last; seed++ {
		o := change(Draw(seed).Cluster(3))
		r := NewWorld(o, real).Run()
		marks.Add(r.Marks)
		if f := r.Failure; f != nil {
			var b strings.Builder
			f.Command = "go test ./sim -run " + t.Name()
			f.Write(&b)
			t.Fatal(b.String())
		}
	}
	return marks
}

func worlds(long uint64) uint64 {
	if testing.Short() {
		return 5
	}
	return long
}

// TestNodesShareTheWork: three nodes, phones that register and call at any of them, and no
// other trouble than a bad network, people and a slow etcd.
func TestNodesShareTheWork(t *testing.T) {
	marks := clusters(t, worlds(40), func(o Options) Options { return o.only(0) })
	for _, what := range []string{"API passed on to another node", "caller hears an agent", "phone moves to another node", "store conflict"} {
		if marks[what] == 0 && !testing.Short() {
			t.Errorf("never met: %s", what)
		}
	}
}

// TestNodesDie: processes are killed, hosts lose their power, and come back or not for long.
func TestNodesDie(t *testing.T) {
	marks := clusters(t, worlds(30), func(o Options) Options { return o.only(3, "crash", "power-off") })
	for _, what := range []string{"crash", "cluster: a request strays", "caller tries another node"} {
		if marks[what] == 0 && !testing.Short() {
			t.Errorf("never met: %s", what)
		}
	}
}

// TestNodesDoNotHearEachOther: heartbeats and connections between nodes are lost, in one
// direction or both, while etcd goes on.
func TestNodesDoNotHearEachOther(t *testing.T) {
	clusters(t, worlds(20), func(o Options) Options { return o.only(3, "peers-cut", "peers-deaf") })
}

// TestEqualSeedsMakeEqualClusters: every event of every node, by their hash.
func TestEqualSeedsMakeEqualClusters(t *testing.T) {
	for seed := uint64(1); seed <= 6; seed++ {
		o := Draw(seed).Cluster(0)
		a, b := NewWorld(o, real).Run(), NewWorld(o, real).Run()
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Errorf("seed %d: two runs differ: %s after %d events, %s after %d", seed, a.Hash, a.Events, b.Hash, b.Events)
		}
	}
}

// steady are the faults under which three nodes hold what they promise, in every world of
// these tests: so what a plant breaks is the plant's doing.
func steady(o Options) Options { return o.only(3, "crash", "power-off", "peers-cut", "peers-deaf") }

// TestClusterPlants plants each known bug of a cluster and counts the worlds until it is
// found. Not finding one is a bug of this package. A world that fails by itself shows nothing.
func TestClusterPlants(t *testing.T) {
	if testing.Short() {
		t.Skip("some minutes")
	}
	const most = 200
	for _, plant := range ClusterPlants() {
		for seed := uint64(1); ; seed++ {
			sound := steady(Draw(seed).Cluster(3))
			o := sound
			o.Plant = plant.Name
			if r := NewWorld(o, real).Run(); r.Failure != nil && NewWorld(sound, real).Run().Failure == nil {
				t.Logf("%-28s after %3d worlds, by %s", plant.Name, seed, r.Failure.Property)
				break
			}
			if seed == most {
				t.Errorf("%s (%s) is not found in %d worlds", plant.Name, plant.Breaks, most)
				break
			}
		}
	}
}

// TestNothingIsPlanted: the worlds in which the plants are looked for are sound.
func TestNothingIsPlanted(t *testing.T) { clusters(t, worlds(60), steady) }
