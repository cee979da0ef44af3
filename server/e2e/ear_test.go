package e2e

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"
)

// format is one payload format of RTP, as it stands in SDP.
type format struct {
	payload uint8
	name    string
	clock   uint32 // ticks per frame of 20 ms
	expand  func(byte) float64
}

func pcmu() format { return format{0, "PCMU/8000", 160, expandULaw} }
func pcma() format { return format{8, "PCMA/8000", 160, expandALaw} }
func g722() format { return format{9, "G722/8000", 160, nil} } // 16 kHz on a clock of 8000, RFC 3551 s.4.5.2
func opus() format { return format{96, "opus/48000/2", 960, nil} }

// mouth is the RTP end of a phone whose signalling is sipp's, which has no ears: it speaks
// to where sipp was told to, or to whoever speaks to it, and keeps all that it hears.
type mouth struct {
	conn   *net.UDPConn
	format format
	voice  [][]byte // frames that it repeats
	stop   chan struct{}
	wait   sync.WaitGroup

	mu     sync.Mutex
	remote netip.AddrPort
	heard  []frame
	events []event
	press  []byte // digits to send
	mute   bool
}

// frame is a packet that was heard.
type frame struct {
	at      time.Time
	from    netip.AddrPort
	payload uint8
	audio   []byte
}

// event is a packet of RFC 4733.
type event struct {
	digit, flags byte
	duration     uint16
	timestamp    uint32
}

const telephoneEvent = 101

// newMouth opens an RTP port. With G.711 it speaks a tone; with a codec that this suite can't
// decode, hz seeds frames of noise that can be told from any other.
func newMouth(t testing.TB, f format, hz float64) *mouth {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports(t, 4)})
	if err != nil {
		t.Fatal(err)
	}
	m := &mouth{conn: conn, format: f, stop: make(chan struct{})}
	noise := rand.New(rand.NewPCG(uint64(hz), 1))
	for i := range 50 {
		b := make([]byte, 160)
		for j := range b {
			if f.expand != nil {
				b[j] = compress(9000*math.Sin(2*math.Pi*hz*float64(i*160+j)/8000), f.expand)
			} else {
				b[j] = byte(noise.Uint32())
			}
		}
		m.voice = append(m.voice, b)
	}
	m.wait.Go(m.listen)
	m.wait.Go(m.speak)
	t.Cleanup(func() {
		close(m.stop)
		_ = conn.Close()
		m.wait.Wait()
	})
	return m
}

func (m *mouth) port() int { return m.conn.LocalAddr().(*net.UDPAddr).Port }

func (m *mouth) listen() {
	buf := make([]byte, 2048)
	for {
		n, from, err := m.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-m.stop:
				return
			default:
				continue
			}
		}
		var p rtp.Packet
		if p.Unmarshal(buf[:n]) != nil {
			continue
		}
		m.mu.Lock()
		m.remote = from
		if p.PayloadType == telephoneEvent && len(p.Payload) >= 4 {
			m.events = append(m.events, event{p.Payload[0], p.Payload[1], binary.BigEndian.Uint16(p.Payload[2:]), p.Timestamp})
		} else {
			m.heard = append(m.heard, frame{time.Now(), from, p.PayloadType, bytes.Clone(p.Payload)})
		}
		m.mu.Unlock()
	}
}

func (m *mouth) speak() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	ssrc := rand.Uint32()
	for i := uint32(0); ; i++ {
		select {
		case <-m.stop:
			return
		case <-tick.C:
		}
		m.mu.Lock()
		remote, mute := m.remote, m.mute
		var digit byte
		if remote.IsValid() && len(m.press) > 0 {
			digit, m.press = m.press[0], m.press[1:]
		}
		m.mu.Unlock()
		switch {
		case !remote.IsValid() || mute:
			continue
		case digit != 0:
			i = m.dial(digit, i, ssrc, remote)
			continue
		}
		m.send(rtp.Header{Version: 2, PayloadType: m.format.payload, SSRC: ssrc, SequenceNumber: uint16(i), Timestamp: i * m.format.clock, Marker: i == 0},
			m.voice[i%uint32(len(m.voice))], remote)
	}
}

func (m *mouth) send(h rtp.Header, payload []byte, to netip.AddrPort) {
	data, err := (&rtp.Packet{Header: h, Payload: payload}).Marshal()
	if err == nil {
		_, _ = m.conn.WriteToUDPAddrPort(data, to)
	}
}

// dial sends a digit of 100 ms: one timestamp, a growing duration, the end three times
// (RFC 4733 s.2.5.1).
func (m *mouth) dial(digit byte, i, ssrc uint32, to netip.AddrPort) uint32 {
	start := i * m.format.clock
	for n := uint32(1); n <= 7; n++ {
		end := byte(10) // volume
		if n >= 5 {
			end |= 0x80
		}
		payload := []byte{digit - '0', end, 0, 0}
		binary.BigEndian.PutUint16(payload[2:], uint16(min(n, 5)*160))
		m.send(rtp.Header{Version: 2, PayloadType: telephoneEvent, SSRC: ssrc, SequenceNumber: uint16(i), Timestamp: start, Marker: n == 1}, payload, to)
		i++
		time.Sleep(20 * time.Millisecond)
	}
	return i
}

// say presses digits.
func (m *mouth) say(digits string) {
	m.mu.Lock()
	m.press = append(m.press, digits...)
	m.mu.Unlock()
}

// frames returns what was heard.
func (m *mouth) frames() []frame {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]frame(nil), m.heard...)
}

// sound returns what was heard of the mouth's own format, since a moment.
func (m *mouth) sound(since time.Time) samples {
	s := samples{rate: 8000}
	for _, f := range m.frames() {
		if f.at.Before(since) || f.payload != m.format.payload || m.format.expand == nil {
			continue
		}
		for _, c := range f.audio {
			s.at = append(s.at, m.format.expand(c))
		}
	}
	return s
}

// all is the sound since the beginning.
func (m *mouth) all() samples { return m.sound(time.Time{}) }

// hears counts the frames that are bit by bit another mouth's.
func (m *mouth) hears(other *mouth) (n int) {
	known := map[string]bool{}
	for _, b := range other.voice {
		known[string(b)] = true
	}
	for _, f := range m.frames() {
		if known[string(f.audio)] {
			n++
		}
	}
	return n
}

// digits returns the events that were heard, each once by its timestamp, with how many of
// its packets carried the end.
func (m *mouth) digits() (digits string, ends int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var last uint32
	for i, e := range m.events {
		if i == 0 || e.timestamp != last {
			digits += string('0' + e.digit)
		}
		last = e.timestamp
		if e.flags&0x80 != 0 {
			ends++
		}
	}
	return digits, ends
}

// follow speaks to where the last description that its sipp got says, as phones do.
func (m *mouth) follow(p *sipp) {
	audio, ended := regexp.MustCompile(`m=audio (\d+) `), false
	for !ended {
		select {
		case <-p.ended:
			ended = true
		case <-time.After(50 * time.Millisecond):
		}
		for _, found := range audio.FindAllStringSubmatch(p.read("messages"), -1) {
			if port, err := strconv.Atoi(found[1]); err == nil && port != m.port() {
				m.mu.Lock()
				m.remote = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
				m.mu.Unlock()
			}
		}
	}
}
