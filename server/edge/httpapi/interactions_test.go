package httpapi

import (
	"strings"
	"testing"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/command"
)

func (w *world) live(id string) {
	i := command.Interaction{Phase: "queued", CDR: record("acme", id)}
	i.Termination, i.EndedAt = core.Termination{}, 0
	w.core.between(func() { w.core.tenants["acme"].live[id] = i })
}

// Absent times: queued_at and answered_at are left out, ended_at and termination are null.
func TestInteractionShape(t *testing.T) {
	w := newWorld(t, nil)
	w.live("int_1")
	a := w.want(200, "GET", "/v1/interactions/int_1", "")
	for _, want := range []string{`"phase":"queued"`, `"ended_at":null`, `"termination":null`, `"timeline":[]`, `"legs":[]`, `"caller":"+4930123"`} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("%s lacks %s", a.body, want)
		}
	}
	if strings.Contains(string(a.body), "answered_at") {
		t.Errorf("%s", a.body)
	}
	w.records.all = []core.CDR{record("acme", "int_2")}
	a = w.want(200, "GET", "/v1/interactions/int_2", "")
	for _, want := range []string{`"phase":"ended"`, `"ended_at":"2023-11-14T22:14:20Z"`, `"result":"abandoned"`} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("%s lacks %s", a.body, want)
		}
	}
}

// The default of phase is ended. The core's word on a live interaction goes before the history's.
func TestInteractionLists(t *testing.T) {
	w := newWorld(t, nil)
	w.live("int_3")
	agent := record("acme", "int_2")
	agent.Agent, agent.Queue, agent.EndedAt = "1001", "sales", agent.EndedAt+1_000_000_000
	w.records.all = []core.CDR{record("other", "int_0"), record("acme", "int_1"), agent, record("acme", "int_3")}
	for query, want := range map[string]string{
		"": "int_3 int_2 int_1", "?phase=ended": "int_3 int_2 int_1", "?phase=live": "int_3", "?queue=sales": "int_2", "?agent=1001": "int_2",
		"?queue=none": "", "?from=2023-11-14T22:14:21Z": "int_2", "?to=2023-11-14T23:14:21%2B01:00": "int_3 int_1", "?after=int_2": "int_1",
	} {
		sep := map[bool]string{true: "?", false: "&"}[query == ""]
		if got := strings.Join(walk(w, "/v1/interactions"+query, sep+"limit=50"), " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	if a := w.want(200, "GET", "/v1/interactions/int_3", ""); !strings.Contains(string(a.body), `"phase":"queued"`) {
		t.Errorf("%s", a.body)
	}
}

// A hang-up may be repeated: what is over is not an error, what never was is.
func TestHangUp(t *testing.T) {
	w := newWorld(t, nil)
	w.live("int_1")
	if a := w.want(202, "POST", "/v1/interactions/int_1/hangup", ""); string(a.body) != `{"id":"int_1","phase":"ending"}`+"\n" {
		t.Errorf("%s", a.body)
	}
	w.want(404, "POST", "/v1/interactions/int_1/hangup", "")
	w.live("int_2")
	w.core.between(func() { w.core.ending = true }) // told already, and not over yet
	if a := w.want(202, "POST", "/v1/interactions/int_2/hangup", ""); !strings.Contains(string(a.body), `"phase":"ending"`) {
		t.Errorf("%s", a.body)
	}
	w.records.all = []core.CDR{record("acme", "int_1")}
	w.want(200, "POST", "/v1/interactions/int_1/hangup", "{}")
	w.want(400, "POST", "/v1/interactions/int_1/hangup", `{"why":1}`)
	w.want(404, "POST", "/v1/interactions/int_1/hangup", "", asOther)
}
