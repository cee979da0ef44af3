package etcd

import (
	"testing"
	"time"
)

// TestPlantsAreFound plants each bug and wants it found: by programs compared with a real
// etcd where it shows without faults, and by worlds with troubles.
func TestPlantsAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("without -short: some hundred worlds")
	}
	const programs, worlds = 400, 60
	found := map[Plant][]string{
		PlantLastGuard:      {"etcd", "trouble"},
		PlantHalfTxn:        {"etcd"},
		PlantRevisionReused: {"etcd", "trouble"},
		PlantStillBound:     {"etcd", "trouble"},
		PlantSilentGap:      {"etcd", "trouble"},
		PlantLostEvent:      {"trouble"},
		PlantRepeatedEvent:  {"trouble"},
		PlantSplitRevision:  {"trouble"},
		PlantStaleRead:      {"trouble"},
		PlantAppliedTwice:   {"trouble"},
		PlantEarlyAnswer:    {"trouble"},
		PlantEarlyExpiry:    {"trouble"},
		PlantNotPromoted:    {"trouble"},
		PlantDeafWatch:      {"scene"},
	}
	r := &real{client: startReal(t)}
	for _, plant := range Plants() {
		by := found[plant]
		if len(by) == 0 {
			t.Errorf("%s: no test is to find it", plant)
		}
		for _, where := range by {
			switch where {
			case "etcd":
				n := 0
				var err error
				for err == nil && n < programs {
					var sum tally
					err = differ(r, genProgram().Example(n), plant, &sum)
					n++
				}
				report(t, plant, "program", n, err)
			case "trouble":
				n := 0
				var err error
				for err == nil && n < worlds {
					n++
					w := newChaos(uint64(n), plant)
					err = w.run(40*time.Second, 25*time.Second)
				}
				report(t, plant, "world", n, err)
			case "scene":
				if s, id := aloneForAWhile(t, ""); len(s.got[id]) != 2 {
					t.Errorf("without a plant: %+v", s.got[id])
				}
				if s, id := aloneForAWhile(t, plant); len(s.got[id]) == 2 {
					t.Errorf("%s is not found", plant)
				}
			}
		}
	}
}

func report(t *testing.T, plant Plant, what string, n int, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s is not found in %d %ss", plant, n, what)
		return
	}
	text := err.Error()
	t.Logf("%s: %s %d: %.160s", plant, what, n, text)
}

// aloneForAWhile is a watch that requires a leader, at a member that has none for 10 s.
func aloneForAWhile(t *testing.T, plant Plant) (*scene, RequestID) {
	s := newScene(t, 1, func(cfg *Config) { cfg.Plant = plant })
	id := s.ask(3, 0, true, Watch{Key: "k"})
	s.pass(time.Second)
	s.c.Inject(s.now, Fault{Kind: Isolate, Member: 3, For: 10 * time.Second})
	s.pass(10 * time.Second)
	return s, id
}
