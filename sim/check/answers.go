package check

import (
	"slices"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Answers: an SDP answer of the node obeys the offer (RFC 3264 s.6): as many media lines,
// formats out of those offered, a direction that the offer allows (livekit/sip#779:
// sendrecv in answer to sendonly ends calls). The o= line keeps its id, and its version
// never goes back (s.8).
type Answers struct {
	named
	offers   map[core.TxnID]body
	versions map[string]origin
}

type origin struct{ id, version string }

// NewAnswers returns the checker.
func NewAnswers(*Setup) *Answers {
	return &Answers{named: "answers", offers: map[core.TxnID]body{}, versions: map[string]origin{}}
}

// See pairs offers of phones with answers of the node.
func (c *Answers) See(_ core.Time, fact Fact) error {
	switch f := fact.(type) {
	case Received:
		if r := f.Request; r != nil && (r.Method == core.INVITE || r.Method == core.UPDATE) && len(r.Body) > 0 {
			c.offers[f.Txn] = readBody(r.Body)
		}
	case Sent:
		var m *core.Message
		switch {
		case f.Response != nil:
			m = &f.Response.Message
		case f.Request != nil:
			m = &f.Request.Message
		}
		if m == nil || len(m.Body) == 0 || m.ContentType != "application/sdp" {
			return nil
		}
		if err := c.origin(m); err != nil {
			return err
		}
		if f.Response != nil && f.Response.Status/100 == 2 {
			if offer, ok := c.offers[f.Txn]; ok {
				return obeys(m.CallID, offer, readBody(m.Body))
			}
		}
	}
	return nil
}

func (c *Answers) origin(m *core.Message) error {
	now := readBody(m.Body).origin
	before, known := c.versions[m.CallID]
	if known && before.id != now.id {
		return broken("the o= line of Call-ID %s changed its id from %s to %s", m.CallID, before.id, now.id)
	}
	if known && (len(now.version) < len(before.version) || len(now.version) == len(before.version) && now.version < before.version) {
		return broken("the o= version of Call-ID %s went back from %s to %s", m.CallID, before.version, now.version)
	}
	c.versions[m.CallID] = now
	return nil
}

// allowed lists the directions that may answer an offered one (RFC 3264 s.6.1).
func allowed(offered string) []string {
	switch offered {
	case "sendonly":
		return []string{"recvonly", "inactive"}
	case "recvonly":
		return []string{"sendonly", "inactive"}
	case "inactive":
		return []string{"inactive"}
	}
	return []string{"sendrecv", "sendonly", "recvonly", "inactive"}
}

func obeys(callID string, offer, answer body) error {
	if len(offer.media) != len(answer.media) {
		return broken("Call-ID %s: the offer has %d media lines, the answer %d", callID, len(offer.media), len(answer.media))
	}
	for i, a := range answer.media {
		if a.port == "0" {
			continue
		}
		o := offer.media[i]
		if o.kind != a.kind {
			return broken("Call-ID %s: media line %d was offered as %s and answered as %s", callID, i+1, o.kind, a.kind)
		}
		for _, format := range a.formats {
			if !slices.Contains(o.formats, format) {
				return broken("Call-ID %s: the answer names format %s, which was not offered", callID, format)
			}
		}
		if !slices.Contains(allowed(o.direction), a.direction) {
			return broken("Call-ID %s: %s was offered and %s answered", callID, o.direction, a.direction)
		}
	}
	return nil
}

// body is what this property needs of an SDP, read without the server's own parser.
type body struct {
	origin origin
	media  []mediaLine
}

type mediaLine struct {
	kind, port, direction string
	formats               []string
}

func readBody(text []byte) body {
	var b body
	direction := "sendrecv"
	for line := range strings.SplitSeq(string(text), "\n") {
		line = strings.TrimRight(line, "\r")
		switch {
		case strings.HasPrefix(line, "o="):
			if f := strings.Fields(line[2:]); len(f) >= 3 {
				b.origin = origin{f[1], f[2]}
			}
		case strings.HasPrefix(line, "m="):
			if f := strings.Fields(line[2:]); len(f) >= 3 {
				b.media = append(b.media, mediaLine{kind: f[0], port: f[1], formats: f[3:], direction: direction})
			}
		case line == "a=sendrecv", line == "a=sendonly", line == "a=recvonly", line == "a=inactive":
			if len(b.media) == 0 {
				direction = line[2:]
			} else {
				b.media[len(b.media)-1].direction = line[2:]
			}
		}
	}
	return b
}
