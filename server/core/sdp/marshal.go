package sdp

import (
	"net/netip"
	"strconv"
)

// Marshal writes the description, lines in the order of RFC 8866 s.5.
func (s Session) Marshal() []byte {
	b := make([]byte, 0, 512)
	b = append(b, "v=0\r\no="...)
	user, place := s.origins()
	b = append(b, user...)
	b = append(b, ' ')
	b = strconv.AppendUint(b, s.ID, 10)
	b = append(b, ' ')
	b = strconv.AppendUint(b, s.Version, 10)
	b = append(b, ' ')
	b = append(b, place...)
	b = append(b, "\r\ns=-\r\nc="...) // s.5.3: a dash where there is no name
	b = append(b, family(s.Addr.Addr())...)
	b = append(b, "\r\nt=0 0\r\n"...)
	for i, other := range s.Others {
		if i == s.Index {
			b = s.appendAudio(b)
		}
		b = append(b, "m="+other.Media+" 0 "+other.Proto+" "+other.Format+"\r\n"...)
	}
	if s.Index >= len(s.Others) {
		b = s.appendAudio(b)
	}
	return b
}

// origins returns the two parts of o= around id and version.
func (s Session) origins() (user, place string) {
	for i := range len(s.Origin) {
		if s.Origin[i] == ' ' {
			return s.Origin[:i], s.Origin[i+1:]
		}
	}
	return "-", family(s.Addr.Addr())
}

// family writes an address the way c= and o= want it.
func family(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "IN IP4 0.0.0.0"
	case a.Is6():
		return "IN IP6 " + a.String()
	}
	return "IN IP4 " + a.String()
}

func (s Session) appendAudio(b []byte) []byte {
	b = append(b, "m=audio "...)
	b = strconv.AppendUint(b, uint64(s.Addr.Port()), 10)
	proto := s.Proto
	if proto == "" {
		proto = avp
	}
	b = append(b, " "+proto...)
	for _, f := range s.Formats {
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(f.Payload), 10)
	}
	if len(s.Formats) == 0 { // only of a refused stream, where one format must be named and none counts
		b = append(b, " 0"...)
	}
	b = append(b, "\r\n"...)
	for _, f := range s.Formats {
		b = f.append(b)
	}
	if s.Ptime > 0 {
		b = append(b, "a=ptime:"...)
		b = strconv.AppendInt(b, int64(s.Ptime), 10)
		b = append(b, "\r\n"...)
	}
	if s.RTCP.IsValid() {
		b = append(b, "a=rtcp:"...)
		b = strconv.AppendUint(b, uint64(s.RTCP.Port()), 10)
		b = append(b, " "+family(s.RTCP.Addr())+"\r\n"...)
	}
	if s.Direction != "" {
		b = append(b, "a="+string(s.Direction)+"\r\n"...)
	}
	return b
}

func (f Format) append(b []byte) []byte {
	number := strconv.Itoa(int(f.Payload))
	if f.Name != "" {
		b = append(b, "a=rtpmap:"+number+" "+wire(f.Name)+"/"...)
		b = strconv.AppendUint(b, uint64(f.Clock), 10)
		if f.Channels > 1 {
			b = append(b, '/')
			b = strconv.AppendUint(b, uint64(f.Channels), 10)
		}
		b = append(b, "\r\n"...)
	}
	if f.Params != "" {
		b = append(b, "a=fmtp:"+number+" "+f.Params+"\r\n"...)
	}
	return b
}

// wire returns a name as its registration spells it. Names compare without case
// (RFC 8866 s.6.6), yet some phones compare these two byte by byte.
func wire(name string) string {
	switch name {
	case telephoneEvent:
		return "telephone-event"
	case "OPUS":
		return "opus"
	}
	return name
}
