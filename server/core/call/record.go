package call

import (
	"encoding/json"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/dialog"
	"github.com/dialtone-cc/dialtone/server/core/leg"
	"github.com/dialtone-cc/dialtone/server/core/registrar"
	"github.com/dialtone-cc/dialtone/server/core/sdp"
	"github.com/dialtone-cc/dialtone/server/core/wire"
)

// Encode returns the call as it is written down. In JSON it would be four times as large,
// and every byte is copied and synced several times on every node of the store.
func (c *Call) Encode() []byte {
	return wire.Encode(make([]byte, 0, 2048), func(w *wire.Coder) { describe(w, c) })
}

// Decode reads what Encode wrote, or the JSON of earlier versions.
func Decode(b []byte) (*Call, error) {
	c := new(Call)
	if len(b) > 0 && b[0] == wire.Mark {
		return c, wire.Decode(b, func(w *wire.Coder) { describe(w, c) })
	}
	return c, json.Unmarshal(b, c)
}

// AnchorOf reads only who anchors the call, "" when the record cannot be read.
func AnchorOf(b []byte) (node core.NodeID, incarnation core.Revision) {
	if len(b) == 0 || b[0] != wire.Mark {
		c, err := Decode(b)
		if err != nil {
			return "", 0
		}
		return c.Node, c.Incarnation
	}
	if wire.Decode(b, func(w *wire.Coder) {
		wire.Text(w, 3, &node)
		wire.Int(w, 27, &incarnation)
	}) != nil {
		return "", 0
	}
	return node, incarnation
}

// The numbers below are what a successor of any later version reads: see package wire
// before one is changed. A test holds them against the members that JSON shows.

func describe(w *wire.Coder, c *Call) {
	wire.Text(w, 1, &c.ID)
	wire.Text(w, 2, &c.Tenant)
	wire.Text(w, 3, &c.Node)
	wire.Text(w, 4, &c.Phase)
	wire.Text(w, 5, &c.From)
	wire.Text(w, 6, &c.To)
	wire.Text(w, 7, &c.Display)
	wire.Text(w, 8, &c.Queue)
	wire.Int(w, 9, &c.Priority)
	wire.Counts(w, 10, &c.Skills)
	wire.Int(w, 11, &c.ArrivedAt)
	wire.Int(w, 12, &c.QueuedAt)
	wire.Int(w, 13, &c.AnsweredAt)
	wire.Int(w, 14, &c.EndedAt)
	wire.Int(w, 15, &c.OverflowAt)
	wire.Group(w, 16, &c.Caller, describeLeg)
	wire.Maybe(w, 17, &c.Agent, describeLeg)
	wire.Maybe(w, 18, &c.Offer, describeOffer)
	wire.List(w, 19, &c.Fading, describeLeg)
	wire.Int(w, 20, &c.Legs)
	wire.Group(w, 21, &c.Audio, func(w *wire.Coder, a *Audio) {
		wire.Text(w, 1, &a.File)
		wire.Bool(w, 2, &a.Loop)
		wire.Int(w, 3, &a.Play)
	})
	wire.List(w, 22, &c.Timeline, describeMoment)
	wire.List(w, 23, &c.Reports, describeReport)
	wire.Maybe(w, 24, &c.Termination, func(w *wire.Coder, t *core.Termination) {
		wire.Text(w, 1, &t.Result)
		wire.Text(w, 2, &t.Reason)
		wire.Text(w, 3, &t.HungUpBy)
		wire.Int(w, 4, &t.SIPStatus)
		wire.Int(w, 5, &t.Q850)
	})
	wire.Text(w, 25, &c.Why)
	wire.Bool(w, 26, &c.Filed)
	wire.Int(w, 27, &c.Incarnation)
	wire.Text(w, 28, &c.Mover)
}

func describeMoment(w *wire.Coder, m *core.Moment) {
	wire.Int(w, 1, &m.At)
	wire.Text(w, 2, &m.What)
	wire.Text(w, 3, &m.Agent)
	wire.Text(w, 4, &m.Queue)
	wire.Text(w, 5, &m.Party)
	wire.Text(w, 6, &m.Detail)
}

func describeReport(w *wire.Coder, r *core.LegReport) {
	wire.Text(w, 1, &r.ID)
	wire.Text(w, 2, &r.Party)
	wire.Text(w, 3, &r.Agent)
	wire.Text(w, 4, &r.SIPCallID)
	wire.Text(w, 5, &r.Peer)
	wire.Text(w, 6, &r.Codec)
	wire.Int(w, 7, &r.SIPStatus)
	wire.Group(w, 8, &r.Audio, func(w *wire.Coder, a *core.AudioStats) {
		wire.Int(w, 1, &a.PacketsReceived)
		wire.Int(w, 2, &a.PacketsSent)
		wire.Int(w, 3, &a.PacketsLost)
		wire.Float(w, 4, &a.JitterMs)
		wire.Float(w, 5, &a.LongestGapMs)
		wire.Int(w, 6, &a.Refused)
	})
}

func describeOffer(w *wire.Coder, o *Offer) {
	wire.Text(w, 1, &o.Agent)
	wire.Text(w, 2, &o.Leg)
	wire.List(w, 3, &o.Contacts, func(w *wire.Coder, b *registrar.Binding) {
		wire.Group(w, 1, &b.Contact, describeAddress)
		wire.Group(w, 2, &b.Peer, describePeer)
		wire.Int(w, 3, &b.Expires)
		wire.Text(w, 4, &b.CallID)
		wire.Int(w, 5, &b.CSeq)
		wire.Float(w, 6, &b.Q)
		wire.Text(w, 7, &b.Instance)
		wire.Int(w, 8, &b.RegID)
		wire.Int(w, 9, &b.At)
		wire.List(w, 10, &b.Path, describeAddress)
		wire.Text(w, 11, &b.Holder)
		wire.Int(w, 12, &b.Incarnation)
		wire.Bool(w, 13, &b.Unbound)
	})
	wire.Int(w, 4, &o.RingUntil)
}

func describeLeg(w *wire.Coder, l *leg.Leg) {
	wire.Text(w, 1, &l.ID)
	wire.Text(w, 2, &l.Party)
	wire.Text(w, 3, &l.Agent)
	wire.Text(w, 4, &l.State)
	wire.Group(w, 5, &l.Dialog, describeDialog)
	wire.Int(w, 6, &l.Status)
	wire.Text(w, 7, &l.Txn)
	wire.Maybe(w, 8, &l.Invite, describeRequest)
	wire.Group(w, 9, &l.To, func(w *wire.Coder, t *core.Target) {
		wire.Text(w, 1, &t.Transport)
		wire.Text(w, 2, &t.Host)
		wire.Int(w, 3, &t.Port)
		wire.Text(w, 4, &t.Flow)
	})
	wire.Maybe(w, 10, &l.Repeat, func(w *wire.Coder, r *leg.Repeat) {
		wire.Text(w, 1, &r.Txn)
		wire.Maybe(w, 2, &r.Response, describeResponse)
		wire.Int(w, 3, &r.At)
		wire.Int(w, 4, &r.Every)
		wire.Int(w, 5, &r.GiveUpAt)
	})
	wire.Int(w, 11, &l.GiveUpAt)
	wire.Text(w, 12, &l.Exchange)
	wire.Text(w, 13, &l.ExchangeTxn)
	wire.Int(w, 14, &l.AgainAt)
	wire.Int(w, 15, &l.Tries)
	wire.Bool(w, 16, &l.Reoffer)
	wire.Bool(w, 17, &l.HoldNoted)
	wire.Bool(w, 18, &l.AnswerDue)
	wire.Addr(w, 19, &l.Address)
	wire.Int(w, 20, &l.SDPID)
	wire.Int(w, 21, &l.Version)
	wire.Group(w, 22, &l.Local, describeSDP)
	wire.Group(w, 23, &l.Remote, describeSDP)
	wire.Group(w, 24, &l.Codec, func(w *wire.Coder, c *core.Codec) {
		wire.Text(w, 1, &c.Name)
		wire.Int(w, 2, &c.Payload)
		wire.Int(w, 3, &c.Clock)
	})
	wire.Int(w, 25, &l.Telephone)
}

func describeDialog(w *wire.Coder, d *dialog.Dialog) {
	wire.Text(w, 1, &d.CallID)
	wire.Group(w, 2, &d.Local, describeAddress)
	wire.Group(w, 3, &d.Remote, describeAddress)
	wire.Int(w, 4, &d.LocalSeq)
	wire.Int(w, 5, &d.RemoteSeq)
	wire.List(w, 6, &d.RouteSet, describeAddress)
	wire.Group(w, 7, &d.RemoteTarget, describeURI)
	wire.Group(w, 8, &d.Peer, describePeer)
}

func describePeer(w *wire.Coder, p *core.Peer) {
	wire.Text(w, 1, &p.Transport)
	wire.Addr(w, 2, &p.Addr)
	wire.Text(w, 3, &p.Flow)
	wire.Text(w, 4, &p.Token)
}

func describeURI(w *wire.Coder, u *core.URI) {
	wire.Text(w, 1, &u.Scheme)
	wire.Text(w, 2, &u.User)
	wire.Text(w, 3, &u.Host)
	wire.Int(w, 4, &u.Port)
	wire.Text(w, 5, &u.Params)
}

func describeAddress(w *wire.Coder, a *core.Address) {
	wire.Text(w, 1, &a.Display)
	wire.Group(w, 2, &a.URI, describeURI)
	wire.Text(w, 3, &a.Params)
}

func describeRequest(w *wire.Coder, r *core.Request) {
	wire.Text(w, 1, &r.Method)
	wire.Group(w, 2, &r.URI, describeURI)
	wire.Group(w, 3, &r.Message, describeMessage)
}

func describeResponse(w *wire.Coder, r *core.Response) {
	wire.Int(w, 1, &r.Status)
	wire.Text(w, 2, &r.Phrase)
	wire.Text(w, 3, &r.Method)
	wire.Group(w, 4, &r.Message, describeMessage)
}

func describeMessage(w *wire.Coder, m *core.Message) {
	wire.List(w, 1, &m.Via, func(w *wire.Coder, s *string) { wire.Text(w, 1, s) })
	wire.Group(w, 2, &m.From, describeAddress)
	wire.Group(w, 3, &m.To, describeAddress)
	wire.Text(w, 4, &m.CallID)
	wire.Int(w, 5, &m.CSeq)
	wire.List(w, 6, &m.Contact, describeAddress)
	wire.Bool(w, 7, &m.Star)
	wire.List(w, 8, &m.RecordRoute, describeAddress)
	wire.List(w, 9, &m.Route, describeAddress)
	wire.List(w, 10, &m.Header, func(w *wire.Coder, f *core.Field) {
		wire.Text(w, 1, &f.Name)
		wire.Text(w, 2, &f.Value)
	})
	wire.Text(w, 11, &m.ContentType)
	wire.Bytes(w, 12, &m.Body)
}

func describeSDP(w *wire.Coder, s *sdp.Session) {
	wire.Int(w, 1, &s.ID)
	wire.Int(w, 2, &s.Version)
	wire.Text(w, 3, &s.Origin)
	wire.Addr(w, 4, &s.Addr)
	wire.Addr(w, 5, &s.RTCP)
	wire.Text(w, 6, &s.Proto)
	wire.Text(w, 7, &s.Direction)
	wire.List(w, 8, &s.Formats, func(w *wire.Coder, f *sdp.Format) {
		wire.Int(w, 1, &f.Payload)
		wire.Text(w, 2, &f.Name)
		wire.Int(w, 3, &f.Clock)
		wire.Int(w, 4, &f.Channels)
		wire.Text(w, 5, &f.Params)
	})
	wire.Int(w, 9, &s.Ptime)
	wire.Int(w, 10, &s.Index)
	wire.List(w, 11, &s.Others, func(w *wire.Coder, o *sdp.Stream) {
		wire.Text(w, 1, &o.Media)
		wire.Text(w, 2, &o.Proto)
		wire.Text(w, 3, &o.Format)
	})
}
