package sipstack

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Gauges is what a Stack counts, for telemetry. Counters only grow.
type Gauges struct {
	Flows              int // open TCP connections
	ServerInvite       int // live transactions of peers
	ServerOther        int
	ClientInvite       int // live transactions of ours
	ClientOther        int
	RequestsReceived   map[string]uint64 // by method; unknown ones under "other"
	RequestsSent       map[string]uint64 // retransmissions included
	ResponsesReceived  map[string]uint64 // by class: "1xx" to "6xx"
	ResponsesSent      map[string]uint64 // retransmissions included
	Retransmissions    uint64            // requests of peers that were absorbed
	StrayResponses     uint64            // that no transaction waited for
	KeepAlives         uint64
	Malformed          uint64            // SIP that could not be read
	Garbage            uint64            // not SIP
	Unsent             uint64            // messages that found no way out
	Unanswered         uint64            // transactions of peers that the core never answered
	Lost               uint64            // events dropped because the core stayed full
	Shed               map[string]uint64 // refused at a limit, by its name
	OutboxLength       int               // messages that wait for their connection
	ReachesUnderWay    int               // requests that wait for DNS or a dial
	RefusalsSuppressed uint64            // refusals not even answered, above maxRefusals per second
	Forgotten          uint64            // refused INVITEs that were answered once and forgotten, above maxRefused
	Dropped            uint64            // answered transactions of peers that made room for new ones before their time
	Panics             uint64            // messages that were lost to a fault of this program
	Passed             uint64            // messages between a phone's connection and another node
	PassRefused        uint64            // requests that named a connection of ours and were not let through
}

// methods that are counted by name; any other text from a peer must not become a label.
func methods() []string {
	return []string{core.INVITE, core.ACK, core.BYE, core.CANCEL, core.OPTIONS, core.REGISTER, core.INFO,
		core.UPDATE, core.REFER, core.NOTIFY, core.PRACK, core.MESSAGE, "SUBSCRIBE", "PUBLISH", "other"}
}

const methodCount = 15

// maxRefusals bounds the answers without transaction, which a flood with forged sources
// would turn on others.
const maxRefusals = 2000

// tally is written by every goroutine of the Stack.
type tally struct {
	requestsIn, requestsOut   [methodCount]atomic.Uint64
	responsesIn, responsesOut [6]atomic.Uint64

	repeated, strays, keepAlives, malformed, garbage atomic.Uint64
	unsent, unanswered, lost, suppressed             atomic.Uint64
	shedInbox, shedTxns, shedClients, shedFlows      atomic.Uint64
	shedSource, shedReaches, forgotten               atomic.Uint64
	dropped, panics, passed, passRefused             atomic.Uint64
	waiting                                          atomic.Int64
	refusalSecond, refusalCount                      atomic.Int64
}

func methodIndex(method string) int {
	switch method { // the ones of every call, without a search
	case core.INVITE:
		return 0
	case core.ACK:
		return 1
	case core.BYE:
		return 2
	}
	if i := slices.Index(methods(), method); i >= 0 {
		return i
	}
	return methodCount - 1
}

func (t *tally) gotRequest(method string)  { t.requestsIn[methodIndex(method)].Add(1) }
func (t *tally) sentRequest(method string) { t.requestsOut[methodIndex(method)].Add(1) }
func (t *tally) gotResponse(status int)    { t.responsesIn[status/100-1].Add(1) }
func (t *tally) sentResponse(status int) {
	if status >= 100 && status < 700 {
		t.responsesOut[status/100-1].Add(1)
	}
}

// mayRefuse counts a refusal against this second.
func (t *tally) mayRefuse() bool {
	now := time.Now().Unix()
	if t.refusalSecond.Swap(now) != now {
		t.refusalCount.Store(0)
	}
	if t.refusalCount.Add(1) <= maxRefusals {
		return true
	}
	t.suppressed.Add(1)
	return false
}

// Gauges returns the present figures.
func (s *Stack) Gauges() Gauges {
	t := &s.tally
	g := Gauges{
		Flows:             s.flows.count(),
		RequestsReceived:  byMethod(&t.requestsIn),
		RequestsSent:      byMethod(&t.requestsOut),
		ResponsesReceived: byClass(&t.responsesIn),
		ResponsesSent:     byClass(&t.responsesOut),
		Retransmissions:   t.repeated.Load(), StrayResponses: t.strays.Load(), KeepAlives: t.keepAlives.Load(),
		Malformed: t.malformed.Load(), Garbage: t.garbage.Load(), Unsent: t.unsent.Load(),
		Unanswered: t.unanswered.Load(), Lost: t.lost.Load(), RefusalsSuppressed: t.suppressed.Load(),
		Shed: map[string]uint64{
			"inbox": t.shedInbox.Load(), "transactions": t.shedTxns.Load(), "own_transactions": t.shedClients.Load(),
			"flows": t.shedFlows.Load(), "flows_of_source": t.shedSource.Load(),
			"reaches": t.shedReaches.Load(),
		},
		ReachesUnderWay: len(s.reaches), OutboxLength: int(max(0, t.waiting.Load())), Forgotten: t.forgotten.Load(),
		Dropped: t.dropped.Load(), Panics: t.panics.Load(), Passed: t.passed.Load(), PassRefused: t.passRefused.Load(),
	}
	for _, u := range s.udp {
		g.Unsent += u.dropped.Load()
	}
	g.ServerInvite, g.ServerOther = s.servers.counts()
	g.ClientInvite, g.ClientOther = s.clients.counts()
	return g
}

func byMethod(counts *[methodCount]atomic.Uint64) map[string]uint64 {
	all := map[string]uint64{}
	for i, name := range methods() {
		all[name] = counts[i].Load()
	}
	return all
}

func byClass(counts *[6]atomic.Uint64) map[string]uint64 {
	all := map[string]uint64{}
	for i, name := range [...]string{"1xx", "2xx", "3xx", "4xx", "5xx", "6xx"} {
		all[name] = counts[i].Load()
	}
	return all
}
