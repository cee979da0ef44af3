package sdp

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is read. Real descriptions stay far below: Chromium's with audio and
// video has 6 kB, 180 lines, 30 formats.
const (
	maxSize    = 16 << 10
	maxLines   = 512
	maxFormats = 64
	maxStreams = 16
	maxParams  = 256 // of one fmtp, since it is stored in call records
	maxToken   = 64
)

// Parse reads a description. It is lenient where real phones are lax and nothing hangs on
// it: missing s= and t= lines, bare LF, unknown lines and attributes, ids that are not
// numbers. It refuses what it could only guess at: a host name or a multicast address in
// the c= line of the audio stream, formats that are no payload types, input over a bound.
//
// A connection address of 0.0.0.0 (or ::) is the hold of RFC 2543: the writer receives
// nothing, so its direction is read without "recv" (RFC 3264 s.8.4).
func Parse(body []byte) (Session, error) {
	sections, err := split(body)
	if err != nil {
		return Session{}, fmt.Errorf("SDP: %w", err)
	}
	s, err := read(sections)
	if err != nil {
		return Session{}, fmt.Errorf("SDP: %w", err)
	}
	return s, nil
}

// line is one line: its type and what follows the equals sign.
type line struct {
	kind  byte
	value string
}

// split cuts a description into its session section and one section per m= line, which is
// the first line of its section.
func split(body []byte) ([][]line, error) {
	if len(body) > maxSize {
		return nil, fmt.Errorf("%d bytes, more than %d", len(body), maxSize)
	}
	sections := [][]line{nil}
	count := 0
	for text := range strings.SplitSeq(string(body), "\n") {
		text = strings.TrimSuffix(text, "\r")
		if text == "" { // some stacks end with an empty line, a few separate sections by one
			continue
		}
		if count++; count > maxLines {
			return nil, fmt.Errorf("more than %d lines", maxLines)
		}
		if len(text) < 2 || text[1] != '=' || strings.ContainsAny(text, "\r\x00") {
			return nil, fmt.Errorf("line %d: want type=value (RFC 8866 s.5)", count)
		}
		l := line{text[0], text[2:]}
		if count == 1 && (l.kind != 'v' || strings.TrimSpace(l.value) != "0") {
			return nil, errors.New("the first line must be v=0")
		}
		if l.kind == 'm' {
			if len(sections) > maxStreams {
				return nil, fmt.Errorf("more than %d m= lines", maxStreams)
			}
			sections = append(sections, nil)
		}
		last := &sections[len(sections)-1]
		*last = append(*last, l)
	}
	if count == 0 {
		return nil, errors.New("empty")
	}
	return sections, nil
}

// stream is an m= line taken apart.
type stream struct {
	media, proto string
	port         uint16
	formats      []string
}

func (m stream) plain() bool { return m.proto == avp || m.proto == avpf }

// The profiles that we carry. Both are the same RTP; AVPF allows early RTCP feedback.
const (
	avp  = "RTP/AVP"
	avpf = "RTP/AVPF"
)

func read(sections [][]line) (Session, error) {
	s := Session{Index: -1, Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 0), Direction: SendRecv}
	if err := s.origin(sections[0]); err != nil {
		return Session{}, err
	}
	streams := make([]stream, 0, len(sections)-1)
	for i, section := range sections[1:] {
		m, err := readMedia(section[0].value)
		if err != nil {
			return Session{}, fmt.Errorf("m= line %d: %w", i+1, err)
		}
		streams = append(streams, m)
	}
	s.Index = choose(streams)
	for i, m := range streams {
		if i != s.Index {
			s.Others = append(s.Others, Stream{Media: m.media, Proto: m.proto, Format: m.formats[0]})
		}
	}
	if s.Index < 0 {
		return s, nil
	}
	if err := s.audio(streams[s.Index], sections[0], sections[s.Index+1]); err != nil {
		return Session{}, fmt.Errorf("audio stream: %w", err)
	}
	return s, nil
}

// choose returns the place of the audio stream that we would talk in. A phone that likes
// encryption but can do without offers the stream twice, SAVP first: the plain one is ours.
func choose(streams []stream) int {
	best, rank := -1, 0
	for i, m := range streams {
		if m.media != "audio" {
			continue
		}
		r := 1
		if m.plain() {
			r += 2
		}
		if m.port != 0 {
			r++
		}
		if r > rank {
			best, rank = i, r
		}
	}
	return best
}

func (s *Session) origin(session []line) error {
	i := slices.IndexFunc(session, func(l line) bool { return l.kind == 'o' })
	if i < 0 {
		return errors.New("no o= line")
	}
	f := strings.Fields(session[i].value)
	if len(f) != 6 {
		return errors.New("o= line: want user, id, version, net type, address type, address (RFC 8866 s.5.2)")
	}
	for j := range f {
		if !token(f[j], 255) {
			f[j] = "-"
		}
	}
	s.ID, s.Version = number(f[1]), number(f[2])
	s.Origin = f[0] + " " + f[3] + " " + f[4] + " " + f[5]
	return nil
}

// number reads an id or version. RFC 3264 s.5 wants them to fit into 63 bits; what does
// not fit becomes a hash, since all that is asked of them later is whether they changed.
func number(text string) uint64 {
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n
	}
	h := fnv.New64a()
	h.Write([]byte(text))
	return h.Sum64() >> 1
}

func readMedia(value string) (stream, error) {
	f := strings.Fields(value)
	if len(f) < 4 {
		return stream{}, errors.New("want media, port, protocol and at least one format (RFC 8866 s.5.14)")
	}
	if len(f)-3 > maxFormats {
		return stream{}, fmt.Errorf("more than %d formats", maxFormats)
	}
	port, _, _ := strings.Cut(f[1], "/") // a number of ports is for layered codings: the first is taken
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return stream{}, fmt.Errorf("port %.20q: want 0 to 65535", port)
	}
	for _, t := range []string{f[0], f[2], f[3]} {
		if !token(t, maxToken) {
			return stream{}, fmt.Errorf("%.80q is not a token of up to %d characters", t, maxToken)
		}
	}
	return stream{media: strings.ToLower(f[0]), port: uint16(n), proto: strings.ToUpper(f[2]), formats: f[3:]}, nil
}

// audio reads the chosen stream: its own lines, and those of the session that it inherits.
func (s *Session) audio(m stream, session, section []line) error {
	s.Proto = m.proto
	formats, err := payloads(m)
	if err != nil {
		return err
	}
	s.Formats = formats
	for _, l := range session {
		if d := Direction(strings.TrimSpace(l.value)); l.kind == 'a' && d.known() {
			s.Direction = d
		}
	}
	var rtcp string
	for _, l := range section {
		if l.kind == 'a' {
			if err := s.attribute(l.value, &rtcp); err != nil {
				return err
			}
		}
	}
	for i, f := range s.Formats {
		if f.Name == "" {
			s.Formats[i] = static(f)
		}
	}
	addr, err := connection(session, section)
	if err != nil && m.port != 0 {
		return err
	}
	if err != nil { // a refused stream needs no address
		addr = netip.IPv4Unspecified()
	}
	s.Addr = netip.AddrPortFrom(addr, m.port)
	if m.port != 0 {
		s.RTCP = rtcpAddr(rtcp, addr)
		if addr.IsUnspecified() {
			s.Direction = s.Direction.And(SendOnly)
		}
	}
	return nil
}

func (d Direction) known() bool {
	return d == SendRecv || d == SendOnly || d == RecvOnly || d == Inactive
}

// attribute takes one a= line of the audio stream. Where it makes no sense it is ignored
// like an unknown one: a format that nobody can name is a format that nobody will choose.
func (s *Session) attribute(value string, rtcp *string) error {
	name, rest, _ := strings.Cut(value, ":")
	if d := Direction(strings.TrimSpace(value)); d.known() {
		s.Direction = d
		return nil
	}
	switch name {
	case "rtpmap":
		payload, encoding, _ := strings.Cut(strings.TrimSpace(rest), " ")
		f := s.format(payload)
		if f == nil || f.Name != "" {
			return nil
		}
		f.Name, f.Clock, f.Channels = rtpmap(strings.TrimSpace(encoding))
	case "fmtp":
		payload, params, _ := strings.Cut(strings.TrimSpace(rest), " ")
		f := s.format(payload)
		if f == nil || f.Params != "" {
			return nil
		}
		params = strings.TrimSpace(params)
		if len(params) > maxParams {
			return fmt.Errorf("fmtp of format %s: more than %d bytes", payload, maxParams)
		}
		if printable(params) {
			f.Params = params
		}
	case "ptime":
		if n, err := strconv.Atoi(strings.TrimSpace(rest)); err == nil && n > 0 && n <= 200 {
			s.Ptime = n
		}
	case "rtcp":
		*rtcp = rest
	}
	return nil
}

func (s *Session) format(payload string) *Format {
	n, err := strconv.ParseUint(payload, 10, 7)
	if err != nil {
		return nil
	}
	for i := range s.Formats {
		if s.Formats[i].Payload == uint8(n) {
			return &s.Formats[i]
		}
	}
	return nil
}

// rtpmap reads "name/clock[/channels]"; the name is "" when that is not what it is.
func rtpmap(encoding string) (name string, clock uint32, channels uint8) {
	name, rest, _ := strings.Cut(encoding, "/")
	hertz, count, several := strings.Cut(rest, "/")
	n, err := strconv.ParseUint(hertz, 10, 32)
	if err != nil || n == 0 || !token(name, maxToken) {
		return "", 0, 0
	}
	c := uint64(1)
	if several {
		if c, err = strconv.ParseUint(count, 10, 8); err != nil || c == 0 {
			return "", 0, 0
		}
	}
	return strings.ToUpper(name), uint32(n), uint8(c)
}

// payloads reads the formats of an RTP stream. Those of another protocol are no numbers;
// such a stream will be refused, and needs none.
func payloads(m stream) ([]Format, error) {
	if !strings.HasPrefix(m.proto, "RTP/") && !strings.Contains(m.proto, "/RTP/") {
		return nil, nil
	}
	var formats []Format
	for _, text := range m.formats {
		n, err := strconv.ParseUint(text, 10, 8)
		if err != nil || n > 127 {
			return nil, fmt.Errorf("format %.20q: want a payload type, 0 to 127", text)
		}
		if !slices.ContainsFunc(formats, func(f Format) bool { return f.Payload == uint8(n) }) {
			formats = append(formats, Format{Payload: uint8(n)})
		}
	}
	return formats, nil
}

// static fills in what RFC 3551 s.6 says of an audio payload type that has no rtpmap.
func static(f Format) Format {
	clock, channels := uint32(8000), uint8(1)
	switch f.Payload {
	case 0:
		f.Name = pcmu
	case 3:
		f.Name = "GSM"
	case 4:
		f.Name = "G723"
	case 5:
		f.Name = "DVI4"
	case 6:
		f.Name, clock = "DVI4", 16000
	case 7:
		f.Name = "LPC"
	case 8:
		f.Name = pcma
	case 9:
		f.Name = "G722"
	case 10:
		f.Name, clock, channels = "L16", 44100, 2
	case 11:
		f.Name, clock = "L16", 44100
	case 12:
		f.Name = "QCELP"
	case 13:
		f.Name = comfortNoise
	case 14:
		f.Name, clock = "MPA", 90000
	case 15:
		f.Name = "G728"
	case 16:
		f.Name, clock = "DVI4", 11025
	case 17:
		f.Name, clock = "DVI4", 22050
	case 18:
		f.Name = "G729"
	default:
		return f
	}
	f.Clock, f.Channels = clock, channels
	return f
}

// connection finds the address that holds for a stream: its own c= line, else the session's.
func connection(session, section []line) (netip.Addr, error) {
	is := func(l line) bool { return l.kind == 'c' }
	i := slices.IndexFunc(section, is)
	lines := section
	if i < 0 {
		i, lines = slices.IndexFunc(session, is), session
	}
	if i < 0 {
		return netip.Addr{}, errors.New("no c= line")
	}
	f := strings.Fields(lines[i].value)
	if len(f) != 3 || !strings.EqualFold(f[0], "IN") {
		return netip.Addr{}, errors.New(`c= line: want "IN IP4 address" or "IN IP6 address"`)
	}
	return address(f[2])
}

// address reads an IP address. A host name would have to be resolved, which takes time and
// hands the choice of address to a stranger; phones send addresses.
func address(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("address %.60q: want a plain IP address, no host name", text)
	}
	if a = a.Unmap(); a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return netip.Addr{}, fmt.Errorf("address %s: want a unicast address", a)
	}
	return a, nil
}

// rtcpAddr reads "port [IN IP4 address]" (RFC 3605 s.2.1); zero when it is not that.
func rtcpAddr(value string, media netip.Addr) netip.AddrPort {
	f := strings.Fields(value)
	if len(f) != 1 && len(f) != 4 {
		return netip.AddrPort{}
	}
	port, err := strconv.ParseUint(f[0], 10, 16)
	if err != nil || port == 0 {
		return netip.AddrPort{}
	}
	if len(f) == 4 {
		if media, err = address(f[3]); err != nil {
			return netip.AddrPort{}
		}
	}
	return netip.AddrPortFrom(media, uint16(port))
}

// token reports whether text is 1 to most printable ASCII characters without a space.
func token(text string, most int) bool {
	return text != "" && len(text) <= most && printable(text) && !strings.Contains(text, " ")
}

// printable keeps what is stored and sent on free of control characters and of bytes that
// JSON could not carry unchanged.
func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}
