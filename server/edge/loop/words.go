package loop

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// words puts an event or an effect into one line. What may carry a secret or a person's
// digits (header fields, bodies, stored values, commands, answers) is named, never shown.
func words(what any) string {
	if line, ok := eventWords(what); ok {
		return "> " + line
	}
	if line, ok := effectWords(what); ok {
		return "< " + line
	}
	return fmt.Sprintf("? %T", what)
}

func eventWords(what any) (string, bool) {
	switch ev := what.(type) {
	case core.RequestReceived:
		line := fmt.Sprintf("received %s from %s %s txn %s", request(ev.Request), ev.From.Transport, ev.From.Addr, ev.Txn)
		if ev.Cancels != "" {
			line += " cancels " + string(ev.Cancels)
		}
		return line, true
	case core.ResponseReceived:
		return fmt.Sprintf("received %s from %s %s txn %s", response(ev.Response), ev.From.Transport, ev.From.Addr, ev.Txn), true
	case core.TransactionFailed:
		return fmt.Sprintf("transaction %s failed: %s", ev.Txn, ev.Cause), true
	case core.FlowClosed:
		return fmt.Sprintf("flow %s closed", ev.Flow), true
	case restored:
		return fmt.Sprintf("restored %d entries", int(ev)), true
	case core.Delivered:
		return fmt.Sprintf("record of %s delivered", ev.ID), true
	case core.DeliveryFailed:
		return fmt.Sprintf("record of %s not delivered: %s", ev.ID, short(ev.Cause)), true
	case core.Purged:
		return fmt.Sprintf("records of %q purged %q", ev.Tenant, short(ev.Cause)), true
	case core.Commanded:
		return fmt.Sprintf("command %s %d tenant %q", kind(ev.Do), ev.Token, ev.Tenant), true
	case core.DrainRequested:
		return fmt.Sprintf("drain requested within %s", ev.Within), true
	case core.Woken:
		return "woken", true
	}
	if line, ok := mediaWords(what); ok {
		return line, true
	}
	return storeWords(what)
}

func mediaWords(what any) (string, bool) {
	switch ev := what.(type) {
	case core.MediaOpened:
		return fmt.Sprintf("media of %s opened at %s", ev.Leg, ev.Local), true
	case core.MediaRefused:
		return fmt.Sprintf("media of %s refused: %s", ev.Leg, short(ev.Cause)), true
	case core.MediaIdle:
		return fmt.Sprintf("media of %s idle", ev.Leg), true
	case core.MediaResumed:
		return fmt.Sprintf("media of %s resumed", ev.Leg), true
	case core.PlaybackDone:
		return fmt.Sprintf("playback %d of %s done", ev.Play, ev.Leg), true
	case core.MediaClosed:
		return fmt.Sprintf("media of %s closed: received %d sent %d lost %d", ev.Leg,
			ev.Stats.PacketsReceived, ev.Stats.PacketsSent, ev.Stats.PacketsLost), true
	}
	return "", false
}

func storeWords(what any) (string, bool) {
	switch ev := what.(type) {
	case core.Stored:
		return fmt.Sprintf("store %d committed", ev.Token), true
	case core.Conflict:
		return fmt.Sprintf("store %d conflicts", ev.Token), true
	case core.Fenced:
		return fmt.Sprintf("store %d fenced", ev.Token), true
	case core.Unknown:
		return fmt.Sprintf("store %d of unknown outcome", ev.Token), true
	}
	return "", false
}

func effectWords(what any) (string, bool) {
	switch eff := what.(type) {
	case core.SendRequest:
		return fmt.Sprintf("send %s to %s %s:%d txn %s", request(eff.Request), eff.To.Transport, eff.To.Host, eff.To.Port, eff.Txn), true
	case core.Respond:
		return fmt.Sprintf("respond %s to %s %s txn %s", response(eff.Response), eff.To.Transport, eff.To.Addr, eff.Txn), true
	case core.OpenMedia:
		return fmt.Sprintf("open media of %s", eff.Leg), true
	case core.SetMedia:
		s := eff.Spec
		return fmt.Sprintf("set media of %s: remote %s codec %s/%d send %t receive %t hear %d %s%s", eff.Leg,
			s.Remote, s.Codec.Name, s.Codec.Payload, s.Send, s.Receive, s.Hear.Kind, s.Hear.File, s.Hear.Peer), true
	case core.CloseMedia:
		return fmt.Sprintf("close media of %s", eff.Leg), true
	case core.Store:
		var keys []string
		for _, op := range eff.Ops {
			if op.Value == nil {
				keys = append(keys, "-"+op.Key)
			} else {
				keys = append(keys, fmt.Sprintf("%s(%d bytes)", op.Key, len(op.Value)))
			}
		}
		return fmt.Sprintf("store %d tenant %q: %s", eff.Token, eff.Tenant, strings.Join(keys, " ")), true
	case core.Deliver:
		return fmt.Sprintf("deliver record of %s", eff.CDR.ID), true
	case core.Purge:
		return fmt.Sprintf("purge records of %q", eff.Tenant), true
	case core.Reply:
		if eff.Problem != nil {
			return fmt.Sprintf("reply %d: %s", eff.Token, eff.Problem.Kind), true
		}
		return fmt.Sprintf("reply %d: %s", eff.Token, kind(eff.Value)), true
	case core.Publish:
		return fmt.Sprintf("publish %s to %q", eff.Kind, eff.Tenant), true
	case core.Log:
		return fmt.Sprintf("log %d %q tenant %q interaction %q", eff.Level, short(eff.Text), eff.Tenant, eff.Interaction), true
	case core.Drained:
		return "drained", true
	}
	return "", false
}

func request(r *core.Request) string {
	return fmt.Sprintf("%s %q call-id %q cseq %d", r.Method, short(r.URI.String()), short(r.CallID), r.CSeq)
}

func response(r *core.Response) string {
	return fmt.Sprintf("%d %s call-id %q cseq %d", r.Status, r.Method, short(r.CallID), r.CSeq)
}

// kind names the type of a command or an answer; the value may hold a password or a key.
func kind(v any) string {
	if v == nil {
		return "nothing"
	}
	if t, ok := v.(reflect.Type); ok {
		return t.String()
	}
	return reflect.TypeOf(v).String()
}

// short keeps one line one line: a peer chooses the length of its Call-ID.
func short(s string) string {
	if len(s) > 120 {
		return s[:120] + "…"
	}
	return s
}
