package sim

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/dialtone-cc/dialtone/server/core"
)

// hear writes an event that is handed to the node.
func (t *trace) hear(now core.Time, ev core.Event, far string) {
	t.begin(now, "->")
	switch e := ev.(type) {
	case core.RequestReceived:
		t.request(e.Request)
		t.pair(" from ", far)
		t.pair(" txn ", string(e.Txn))
		t.pair(" cancels ", string(e.Cancels))
	case core.ResponseReceived:
		t.response(e.Response)
		t.pair(" from ", far)
		t.pair(" txn ", string(e.Txn))
	case core.TransactionFailed:
		t.pair("transaction failed: ", string(e.Cause))
		t.pair(" txn ", string(e.Txn))
	case core.FlowClosed:
		t.pair("flow closed: ", string(e.Flow))
	case core.MediaOpened:
		t.pair("media opened: ", string(e.Leg))
		t.pair(" at ", e.Local.String())
	case core.MediaRefused:
		t.pair("media refused: ", string(e.Leg))
	case core.MediaIdle:
		t.pair("media idle: ", string(e.Leg))
	case core.MediaResumed:
		t.pair("media resumed: ", string(e.Leg))
	case core.PlaybackDone:
		t.pair("playback done: ", string(e.Leg))
	case core.MediaClosed:
		t.pair("media closed: ", string(e.Leg))
	case core.Stored:
		t.pair("stored ", strconv.FormatUint(uint64(e.Token), 10))
	case core.Conflict:
		t.pair("store conflict ", strconv.FormatUint(uint64(e.Token), 10))
	case core.Fenced:
		t.pair("fenced ", strconv.FormatUint(uint64(e.Token), 10))
	case core.Unknown:
		t.pair("store outcome unknown ", strconv.FormatUint(uint64(e.Token), 10))
	case core.Restored:
		t.pair("restored, entries: ", strconv.Itoa(len(e.Entries)))
	case core.Delivered:
		t.pair("delivered: ", string(e.ID))
	case core.DeliveryFailed:
		t.pair("delivery failed: ", string(e.ID))
	case core.Commanded:
		t.line = fmt.Appendf(t.line, "command %T for %s ", e.Do, e.Tenant)
		if text, err := json.Marshal(e.Do); err == nil { // not %v: a pointer is not the same twice
			t.line = append(t.line, text...)
		}
	case core.DrainRequested:
		t.pair("drain within ", e.Within.String())
	case core.Woken:
		t.pair("woken", " ")
	default:
		t.hearCluster(ev)
	}
	t.end()
}

// hearCluster is hear for what only a node among others is told.
func (t *trace) hearCluster(ev core.Event) {
	switch e := ev.(type) {
	case core.Watched:
		t.pair("watched", ":")
		for _, c := range e.Changes {
			what := " put "
			if c.Value == nil {
				what = " del "
			}
			t.pair(what, joined(c.Tenant, c.Key))
		}
	case core.PeerUp:
		t.pair("peer up: ", string(e.Peer.ID))
	case core.PeerDead:
		t.pair("peer dead: ", string(e.Peer.ID))
	case core.PeerSilent:
		t.pair("peer silent: ", string(e.Peer.ID))
	case core.PeerAsked:
		t.pair("asked by ", string(e.From.ID))
		t.pair(" about ", string(e.About.ID))
	case core.PeerTold:
		t.pair("told by ", string(e.From.ID))
		t.line = fmt.Appendf(t.line, " about %s: %t", e.About.ID, e.Hears)
	}
}

// act writes an effect that the node asked for.
func (t *trace) act(now core.Time, ef core.Effect, far string) {
	t.begin(now, "<-")
	switch e := ef.(type) {
	case core.SendRequest:
		t.request(e.Request)
		t.pair(" to ", far)
		t.pair(" txn ", string(e.Txn))
	case core.Respond:
		t.response(e.Response)
		t.pair(" to ", far)
		t.pair(" txn ", string(e.Txn))
	case core.OpenMedia:
		t.pair("open media: ", string(e.Leg))
	case core.SetMedia:
		t.pair("set media: ", string(e.Leg))
		t.line = fmt.Appendf(t.line, " remote %s codec %s/%d send %t receive %t hear %d %s%s idle %d",
			e.Spec.Remote, e.Spec.Codec.Name, e.Spec.Codec.Payload, e.Spec.Send, e.Spec.Receive, e.Spec.Hear.Kind,
			e.Spec.Hear.File, e.Spec.Hear.Peer, e.Spec.IdleAfter)
	case core.CloseMedia:
		t.pair("close media: ", string(e.Leg))
	case core.Store:
		t.pair("store ", strconv.FormatUint(uint64(e.Token), 10))
		t.pair(" of ", string(e.Tenant))
		for _, op := range e.Ops {
			if op.Value == nil {
				t.pair(" del ", op.Key)
			} else {
				t.pair(" put ", op.Key)
			}
		}
		for _, op := range e.Ops {
			t.also(op.Value)
		}
	case core.Deliver:
		t.line = fmt.Appendf(t.line, "deliver CDR %s %+v", e.CDR.ID, e.CDR.Termination)
		for _, m := range e.CDR.Timeline {
			t.line = appendInstant(append(t.line, "; "...), m.At)
			t.line = fmt.Appendf(t.line, " %s %s%s%s", m.What, m.Queue, m.Agent, m.Detail)
		}
	case core.Reply:
		t.pair("reply ", strconv.FormatUint(uint64(e.Token), 10))
		if e.Problem != nil {
			t.pair(" problem ", e.Problem.Error())
		}
	case core.Publish:
		t.pair("publish ", e.Kind)
		t.pair(" to ", string(e.Tenant))
	case core.Log:
		t.pair("log: ", e.Text)
		t.pair(" ", string(e.Interaction))
		if len(e.Attrs) > 0 {
			t.line = fmt.Appendf(t.line, " %v", e.Attrs)
		}
	case core.Drained:
		t.pair("drained", " ")
	case core.SetPeers:
		t.line = fmt.Appendf(t.line, "peers: %d", len(e.Members))
	case core.AskPeer:
		t.pair("ask ", string(e.Whom.ID))
		t.pair(" about ", string(e.About.ID))
	case core.TellPeer:
		t.pair("tell ", string(e.Whom.ID))
		t.line = fmt.Appendf(t.line, " about %s: %t", e.About.ID, e.Hears)
	}
	t.end()
}

// pair adds a label and a text; nothing when the text is empty.
func (t *trace) pair(label, text string) {
	if text != "" {
		t.line = append(t.line, label...)
		t.line = append(t.line, text...)
	}
}

func (t *trace) request(r *core.Request) {
	t.line = append(t.line, r.Method...)
	t.message(&r.Message)
}

func (t *trace) response(r *core.Response) {
	t.line = strconv.AppendInt(t.line, int64(r.Status), 10)
	t.line = append(t.line, " to "...)
	t.line = append(t.line, r.Method...)
	t.message(&r.Message)
}

func (t *trace) message(m *core.Message) {
	t.pair(" call ", m.CallID)
	t.line = append(t.line, " cseq "...)
	t.line = strconv.AppendUint(t.line, uint64(m.CSeq), 10)
	t.pair(" from-tag ", m.From.Tag())
	t.pair(" to-tag ", m.To.Tag())
	if len(m.Body) > 0 {
		t.line = append(t.line, " with SDP"...)
		t.also(m.Body)
	}
}
