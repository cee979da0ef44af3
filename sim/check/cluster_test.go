package check

import (
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

func TestOneActor(t *testing.T) {
	bye := &core.Request{Method: core.BYE, Message: core.Message{CallID: "x", CSeq: 2}}
	for name, c := range map[string]struct {
		fact  Fact
		sound bool
	}{
		"its anchor":               {Sent{Node: "n1", Request: bye}, true},
		"another while it lives":   {Sent{Node: "n2", Request: bye, Anchor: "n1"}, false},
		"one who cannot know":      {Stale{Sent{Node: "n2", Request: bye, Anchor: "n1"}}, true},
		"a refusal of a stray":     {Sent{Node: "n2", Response: bye.Reply(481, "t"), Anchor: "n1"}, true},
		"an answer to its request": {Sent{Node: "n2", Response: bye.Reply(200, "t"), Anchor: "n1"}, false},
	} {
		if err := Over(NewOneActor(&Setup{}), []Seen{{1, c.fact}}); (err == nil) != c.sound {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestReservation(t *testing.T) {
	of := func(at time.Duration, id core.InteractionID, agent core.AgentID) Seen {
		return Seen{core.Time(at), Reserved{Tenant: "t", Interaction: id, Agent: agent}}
	}
	moment := []Seen{of(0, "a", "1001"), of(time.Second, "b", "1001"), of(2*time.Second, "a", ""), of(time.Minute, "c", "1002")}
	if err := Over(NewReservation(&Setup{}), moment); err != nil {
		t.Errorf("for a moment: %v", err)
	}
	if err := Over(NewReservation(&Setup{}), append(moment[:2:2], of(time.Minute, "c", "1002"))); err == nil {
		t.Error("reserved for two, for a minute")
	}
}
