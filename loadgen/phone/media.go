package phone

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/pion/rtp"
)

// Media is a phone's RTP of one call: it speaks a stamped tone and keeps account of whom
// it hears.
type Media struct {
	conn  *net.UDPConn
	voice uint64
	hz    float64
	stop  chan struct{}
	done  sync.WaitGroup

	mu     sync.Mutex
	remote netip.AddrPort
	send   bool
	closed bool
	heard  Heard
	last   map[uint64]uint64 // voice -> index last heard
}

// Heard is what a phone has heard.
type Heard struct {
	Packets  uint64                  // all RTP
	Voice    uint64                  // packets that carry the stamp of another phone
	Voices   map[uint64]uint64       // the same by voice
	Lost     uint64                  // stamped frames that never came, by their index
	First    time.Time               // the first packet of another phone's voice
	Gap      time.Duration           // longest time between two packets of a voice
	Latency  *hdrhistogram.Histogram // one way, in microseconds, of stamped packets
	Audio    []byte                  // the last second, G.711 u-law
	lastTime time.Time
}

// openMedia binds an even port on addr.
func openMedia(addr netip.Addr, voice uint64, hz float64) (*Media, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return nil, fmt.Errorf("open an RTP port: %w", err)
	}
	m := &Media{conn: conn, voice: voice, hz: hz, stop: make(chan struct{}), last: map[uint64]uint64{}, send: true,
		heard: Heard{Latency: hdrhistogram.New(1, 60_000_000, 3), Voices: map[uint64]uint64{}}}
	m.done.Go(m.listen)
	return m, nil
}

// Addr is where the phone receives RTP.
func (m *Media) Addr() netip.AddrPort { return m.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// speakTo begins to speak, or changes to whom.
func (m *Media) speakTo(remote netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := !m.remote.IsValid()
	m.remote = remote
	if first && !m.closed { // the call may have ended just now
		m.done.Go(m.speak)
	}
}

// Mute stops speaking, or begins again: a muted phone sends no RTP at all.
func (m *Media) Mute(on bool) {
	m.mu.Lock()
	m.send = !on
	m.mu.Unlock()
}

// speak sends one frame each 20 ms by an absolute schedule, so that lateness does not add up.
func (m *Media) speak() {
	p := rtp.Packet{Header: rtp.Header{Version: 2, SSRC: uint32(m.voice), Marker: true}, Payload: make([]byte, Frame)}
	buf := make([]byte, 12+Frame)
	start := time.Now()
	for i := uint64(0); ; i++ {
		wait := time.NewTimer(time.Until(start.Add(time.Duration(i) * 20 * time.Millisecond)))
		select {
		case <-m.stop:
			wait.Stop()
			return
		case <-wait.C:
		}
		m.mu.Lock()
		remote, send := m.remote, m.send
		m.mu.Unlock()
		if !send {
			continue
		}
		tone(p.Payload[stampSize:], m.hz, i*Frame)
		stamp{voice: m.voice, index: i, sent: time.Now().UnixNano()}.put(p.Payload)
		p.SequenceNumber, p.Timestamp = uint16(i), uint32(i*Frame)
		n, err := p.MarshalTo(buf)
		if err != nil {
			return
		}
		p.Marker = false
		_, _ = m.conn.WriteToUDPAddrPort(buf[:n], remote) // a refused packet is a lost one
	}
}

func (m *Media) listen() {
	buf := make([]byte, 2048)
	var p rtp.Packet
	for {
		n, _, err := m.conn.ReadFromUDPAddrPort(buf)
		now := time.Now()
		if err != nil {
			select {
			case <-m.stop:
				return
			default:
				continue // ICMP errors of a connected peer come here
			}
		}
		if p.Unmarshal(buf[:n]) == nil {
			m.hear(now, p.Payload)
		}
	}
}

func (m *Media) hear(now time.Time, payload []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.heard
	h.Packets++
	h.Audio = append(h.Audio, payload...)
	if over := len(h.Audio) - 8000; over > 0 {
		h.Audio = h.Audio[over:]
	}
	s, ok := readStamp(payload)
	if !ok || s.voice == m.voice {
		return
	}
	if h.Voice == 0 {
		h.First = now
	} else if gap := now.Sub(h.lastTime); gap > h.Gap {
		h.Gap = gap
	}
	h.lastTime = now
	h.Voice++
	h.Voices[s.voice]++
	if last, known := m.last[s.voice]; known && s.index > last+1 {
		h.Lost += s.index - last - 1
	}
	m.last[s.voice] = s.index
	_ = h.Latency.RecordValue(max(1, (now.UnixNano()-s.sent)/1000))
}

// Heard returns what was heard so far.
func (m *Media) Heard() Heard {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.heard
	h.Latency = hdrhistogram.Import(h.Latency.Export())
	h.Voices = map[uint64]uint64{}
	for v, n := range m.heard.Voices {
		h.Voices[v] = n
	}
	h.Audio = append([]byte(nil), m.heard.Audio...)
	return h
}

// Forget begins the account anew.
func (m *Media) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = Heard{Latency: hdrhistogram.New(1, 60_000_000, 3), Voices: map[uint64]uint64{}}
	m.last = map[uint64]uint64{}
}

func (m *Media) close() {
	m.mu.Lock()
	before := m.closed
	m.closed = true
	m.mu.Unlock()
	if before {
		return
	}
	close(m.stop)
	_ = m.conn.Close()
	m.done.Wait()
}
