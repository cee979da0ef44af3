package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/dialtone-cc/dialtone/loadgen/phone"
)

// A second tenant, made by the API: its domain leads to its agent, and its key to nothing
// of the first (fusionpbx/fusionpbx#313: one tenant's page showed all tenants' calls).
func TestTwoTenantsKnowNothingOfEachOther(t *testing.T) {
	t.Parallel()
	s := commonServer(t)
	d := newDesk(t, s, 1, "")
	id, domain := "acme-"+d.queue, d.queue+".acme.example"
	status, body := s.ask("POST", "/v1/tenants", fmt.Sprintf(`{"id":%q,"domain":%q,"name":"Acme","sources":["127.0.0.0/8"]}`, id, domain), operatorKey, "")
	var acme struct {
		Key string `json:"api_key"`
	}
	if err := json.Unmarshal(body, &acme); status != 201 || err != nil || acme.Key == "" {
		t.Fatalf("POST tenant: %d %s", status, body)
	}
	put := func(path, body string) {
		t.Helper()
		if status, answer := s.ask("PUT", path, body, acme.Key, ""); status/100 != 2 {
			t.Fatalf("PUT %s: %d %s", path, status, answer)
		}
	}
	put("/v1/queues/help", `{}`)
	put("/v1/numbers/"+d.number, `{"queue":"help"}`) // the number that the other tenant has
	put("/v1/agents/"+d.agents[0], fmt.Sprintf(`{"password":%q,"queues":["help"],"ready_on_register":true}`, password))

	theirs := newPhone(t, s, d.agents[0], domain, agentTone) // the name that the other's agent has
	if err := theirs.Register(soonish(t), 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	ours := phoneAgent(t, d, 0, agentTone)
	c, err := newPhone(t, s, "caller", domain, callerTone).Call(soonish(t), "sip:"+d.number+"@"+domain)
	if err != nil {
		t.Fatal(err)
	}
	call := answers(t, theirs)
	soon(t, "the caller", hearing(c), agentTone, 0.8)
	select {
	case <-ours.Incoming():
		t.Error("the other tenant's agent was rung")
	default:
	}
	var live struct {
		Data []interaction `json:"data"`
	}
	if _, body := s.ask("GET", "/v1/interactions?phase=live", "", acme.Key, ""); json.Unmarshal(body, &live) != nil || len(live.Data) != 1 {
		t.Fatalf("live calls of acme: %s", body)
	}
	if found := s.interactions(t, "live", "help"); len(found) != 0 {
		t.Errorf("the first tenant sees %v", found)
	}
	demoCall := dials(t, d, "caller", callerTone)
	demoLive := s.interactions(t, "live", d.queue)
	if len(demoLive) != 1 {
		t.Fatalf("live: %v", demoLive)
	}
	foreign(t, s, acme.Key, "/v1/interactions/"+demoLive[0].ID, "/v1/interactions/"+demoLive[0].ID[:len(demoLive[0].ID)-1]+"0")
	foreign(t, s, acme.Key, "/v1/queues/"+d.queue, "/v1/queues/nothing")
	foreign(t, s, acme.Key, "/v1/queues/"+d.queue+"/realtime", "/v1/queues/nothing/realtime")
	foreign(t, s, acme.Key, "/v1/agents/1001", "/v1/agents/9001")
	foreign(t, s, acme.Key, "/v1/numbers/5000", "/v1/numbers/9000")
	if status, body := s.ask("POST", "/v1/interactions/"+demoLive[0].ID+"/hangup", "", acme.Key, ""); status != 404 {
		t.Errorf("acme hangs up a call of demo: %d %s", status, body)
	}
	for _, key := range []string{"", "wrong", acme.Key} {
		want := map[bool]int{true: 401, false: 403}[key != acme.Key]
		if status, body := s.ask("GET", "/v1/tenants/demo", "", key, ""); status != want && status != 404 {
			t.Errorf("GET tenant with another key: %d %s", status, body)
		}
	}
	hangsUp(t, demoCall)
	hangsUp(t, c)
	over(t, call)
	d.record(t)
	eventually(t, "acme's call is on acme's record", func() bool {
		var ended struct {
			Data []interaction `json:"data"`
		}
		_, body := s.ask("GET", "/v1/interactions?phase=ended", "", acme.Key, "")
		return json.Unmarshal(body, &ended) == nil && len(ended.Data) == 1 && ended.Data[0].Queue == "help"
	})

	// Who is not on the tenant's list is told what anybody would be told.
	if status, body := s.ask("PATCH", "/v1/tenants/"+id, `{"sources":["192.0.2.0/24"]}`, operatorKey, ""); status != 200 {
		t.Fatalf("PATCH tenant: %d %s", status, body)
	}
	var refused *phone.Refused
	if _, err := newPhone(t, s, "stranger", domain, callerTone).Call(soonish(t), "sip:"+d.number+"@"+domain); !asRefused(err, &refused) || refused.Status != 404 {
		t.Errorf("a stranger's call: %v", err)
	}
}

// foreign fails the test unless what is another's looks like what is nobody's.
func foreign(t testing.TB, s *server, key, another, nobodys string) {
	t.Helper()
	own := regexp.MustCompile(`"(request_id|instance)":"[^"]*"`)
	a, theirs := s.ask("GET", another, "", key, "")
	b, none := s.ask("GET", nobodys, "", key, "")
	plain := func(body []byte, path string) string {
		last := path[len("/v1/"):]
		return regexp.MustCompile(regexp.QuoteMeta(last[indexOfID(last):])).ReplaceAllString(own.ReplaceAllString(string(body), ""), "ID")
	}
	if a != 404 || b != 404 || plain(theirs, another) != plain(none, nobodys) {
		t.Errorf("GET %s: %d %s\nGET %s: %d %s", another, a, theirs, nobodys, b, none)
	}
}

func indexOfID(path string) int {
	for i, c := range path {
		if c == '/' {
			return i + 1
		}
	}
	return 0
}
