package sipstack

import (
	"bytes"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
)

// rawReply holds the fields that a response copies (RFC 3261 s.8.2.6.2) as text, for
// requests that could not be read.
type rawReply struct {
	method string
	top    via
	via    []string
	from   string
	to     string
	callID string
	cseq   string
}

// refuse makes the fault of a message that could not be read. It looks for the fields of
// an answer line by line, trusting nothing else.
func refuse(data []byte, from netip.AddrPort, status int, err error) *fault {
	f := &fault{why: err.Error()}
	if bytes.HasPrefix(data, []byte("SIP/")) {
		return f
	}
	f.reply = salvage(data)
	if f.reply.method == core.ACK || len(f.reply.via) == 0 || f.reply.cseq == "" {
		return f
	}
	all, err := splitList(f.reply.via[0])
	if err != nil {
		return f
	}
	if f.reply.top, err = parseVia(all[0]); err != nil {
		return f
	}
	all[0] = f.reply.top.stamped(from)
	f.reply.via[0] = strings.Join(all, ", ")
	f.status = status
	return f
}

func salvage(data []byte) (r rawReply) {
	head, _, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	unfolded := strings.NewReplacer("\r\n ", " ", "\r\n\t", " ").Replace(string(head[:min(len(head), maxHeader)]))
	first := true
	for line := range strings.SplitSeq(unfolded, "\r\n") {
		if first {
			r.method, _, _ = strings.Cut(line, " ")
			first = false
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || hasControl(value) || len(r.via) > maxFields {
			continue
		}
		switch kind, _ := fieldName(strings.TrimSpace(name)); {
		case kind == viaField:
			r.via = append(r.via, value)
		case kind == fromField && r.from == "":
			r.from = value
		case kind == toField && r.to == "":
			r.to = value
		case kind == callIDField && r.callID == "":
			r.callID = value
		case kind == cseqField && r.cseq == "":
			r.cseq = value
		}
	}
	return r
}

// statelessTag begins the tags of responses that no transaction remembers. A full stop
// never occurs in a tag of the core, so the ACK to such a response is known by it.
const statelessTag = "e."

// tagOf is the same for each repetition of a request (RFC 3261 s.8.2.7).
func tagOf(callID, branch string) string {
	h := fnv.New64a()
	h.Write([]byte(callID))
	h.Write([]byte{0})
	h.Write([]byte(branch))
	return statelessTag + strconv.FormatUint(h.Sum64(), 36)
}

// answer writes the response to a request that could not be read.
func (f *fault) answer(software string) []byte {
	r := &f.reply
	b := make([]byte, 0, 512)
	b = append(b, "SIP/2.0 "...)
	b = strconv.AppendInt(b, int64(f.status), 10)
	b = append(b, ' ')
	b = append(b, phrase(f.status)...)
	if f.status == 400 {
		b = append(b, " ("...)
		b = appendClean(b, f.why)
		b = append(b, ')')
	}
	b = append(b, "\r\n"...)
	for _, v := range r.via {
		b = appendField(b, "Via", v)
	}
	to := r.to
	if to != "" && !strings.Contains(strings.ToLower(to), ";tag=") {
		to += ";tag=" + tagOf(r.callID, r.top.branch)
	}
	for _, f := range [...]core.Field{{Name: "From", Value: r.from}, {Name: "To", Value: to},
		{Name: "Call-ID", Value: r.callID}, {Name: "CSeq", Value: r.cseq}, {Name: "Server", Value: software}} {
		if f.Value != "" {
			b = appendField(b, f.Name, f.Value)
		}
	}
	return append(b, "Content-Length: 0\r\n\r\n"...)
}

// phrase knows the statuses that only the edge gives.
func phrase(status int) string {
	switch status {
	case 505:
		return "Version Not Supported"
	case 513:
		return "Message Too Large"
	}
	return core.Phrase(status)
}
