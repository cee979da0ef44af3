package clusterctl

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A cluster on one machine: each node has an address of its own on loopback, with the ports
// that a machine of its own would have, and each etcd member likewise.
const (
	sipPort        = 5060
	httpPort       = 8080
	etcdClientPort = 2379
	etcdPeerPort   = 2380
	peerPort       = 7946
	rtpPorts       = "16384-32767"

	// How long live calls may go on when the cluster is told to end.
	drainLimit = 5 * time.Second
)

// machine is what runs where, and how to use it: what is printed, and what is kept in
// machine.json for scripts while the cluster runs.
type machine struct {
	Dir           string   `json:"dir"`
	Tenant        string   `json:"tenant"`
	Domain        string   `json:"domain"`
	Dial          string   `json:"dial"`
	FirstAgent    string   `json:"first_agent"`
	LastAgent     string   `json:"last_agent"`
	AgentPassword string   `json:"agent_password"`
	OperatorKey   string   `json:"operator_key"`
	Etcd          string   `json:"etcd_endpoints"`
	Nodes         []seat   `json:"nodes"`
	Members       []member `json:"etcd_members"`
}

// seat is one node.
type seat struct {
	Name   string         `json:"name"`
	SIP    netip.AddrPort `json:"sip"`
	HTTP   string         `json:"http"`
	Peers  netip.AddrPort `json:"cluster"` // where the other nodes find it
	RTP    string         `json:"rtp"`
	Config string         `json:"config"`
	Log    string         `json:"log"`
	Pid    int            `json:"pid"` // 0: it does not run
}

// member is one etcd member.
type member struct {
	Name   string         `json:"name"`
	Client netip.AddrPort `json:"client"`
	Peer   netip.AddrPort `json:"peer"`
	Log    string         `json:"log"`
	Pid    int            `json:"pid"`
}

// layout is the machine that was asked for. base is the first three numbers of its addresses.
func layout(dir string, base netip.Addr, nodes, etcds int) *machine {
	m := &machine{Dir: dir, Tenant: demoTenant, Domain: demoDomain,
		FirstAgent: strconv.Itoa(firstAgent), LastAgent: strconv.Itoa(lastAgent)}
	at := func(i int) netip.Addr {
		number := base.As4()
		number[3] = byte(i + 1)
		return netip.AddrFrom4(number)
	}
	var endpoints []string
	for i := range etcds {
		name := "e" + strconv.Itoa(i+1)
		m.Members = append(m.Members, member{Name: name, Client: netip.AddrPortFrom(at(i), etcdClientPort),
			Peer: netip.AddrPortFrom(at(i), etcdPeerPort), Log: filepath.Join(dir, name+".log")})
		endpoints = append(endpoints, m.Members[i].Client.String())
	}
	m.Etcd = strings.Join(endpoints, ",")
	for i := range nodes {
		name := "n" + strconv.Itoa(i+1)
		m.Nodes = append(m.Nodes, seat{Name: name, SIP: netip.AddrPortFrom(at(i), sipPort),
			HTTP: "http://" + netip.AddrPortFrom(at(i), httpPort).String(), Peers: netip.AddrPortFrom(at(i), peerPort), RTP: rtpPorts,
			Config: filepath.Join(dir, name, "server.yaml"), Log: filepath.Join(dir, name+".log")})
	}
	m.Dial = fmt.Sprintf("sip:%s@%s", demoNumber, m.Nodes[0].SIP)
	return m
}

// baseAddress reads the first three numbers of the addresses, as in 127.0.0.
func baseAddress(text string) (netip.Addr, error) {
	base, err := netip.ParseAddr(strings.TrimSuffix(text, ".") + ".0")
	if err != nil || !base.Is4() || !base.IsLoopback() {
		return netip.Addr{}, errors.New("the first three numbers of loopback addresses, such as 127.0.0. or 127.1.0.: the processes speak without TLS, and have demo accounts")
	}
	return base, nil
}

// taken returns the ports of the machine that something else uses.
func (m *machine) taken() []string {
	var found []string
	try := func(network string, at netip.AddrPort, whose string) {
		if err := bindable(network, at); err != nil {
			found = append(found, fmt.Sprintf("%-21s %s  %s: %s", at, strings.ToUpper(network), whose, reason(err)))
		}
	}
	for _, e := range m.Members {
		try("tcp", e.Client, "clients of etcd member "+e.Name)
		try("tcp", e.Peer, "peers of etcd member "+e.Name)
	}
	for _, n := range m.Nodes {
		try("udp", n.SIP, "SIP of node "+n.Name)
		try("tcp", n.SIP, "SIP of node "+n.Name)
		try("tcp", netip.AddrPortFrom(n.SIP.Addr(), httpPort), "API of node "+n.Name)
		try("tcp", n.Peers, "peers of node "+n.Name)
		try("udp", n.Peers, "peers of node "+n.Name)
	}
	return found
}

// reason is the last cause of an error: the address is in the line already.
func reason(err error) string {
	var cause syscall.Errno
	if errors.As(err, &cause) {
		return cause.Error()
	}
	return err.Error()
}

func bindable(network string, at netip.AddrPort) error {
	if network == "udp" {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", at.String())
	if err == nil {
		err = listener.Close()
	}
	return err
}

// furniture is what the data directory remembers: keys, and what etcd's own data depend on.
// The file has the name and the members of a single node's, so that `dialtone call --data DIR`
// finds the agents' password.
type furniture struct {
	Base          string `json:"base_ip"`
	Etcds         int    `json:"etcds"`
	OperatorKey   string `json:"operator_key"`
	AgentPassword string `json:"agent_password"`
	ClusterSecret string `json:"cluster_secret"` // that the nodes share
}

const furnitureFile = "node.json"

// remember reads what the directory knows, or writes what is new. It refuses another number
// of etcd members or other addresses than its data were made with.
func remember(dir, base string, etcds int) (furniture, error) {
	name := filepath.Join(dir, furnitureFile)
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		f := furniture{Base: base, Etcds: etcds, OperatorKey: "dt_operator_" + rand.Text(), AgentPassword: rand.Text()[:12], ClusterSecret: rand.Text()}
		return f, writeJSON(name, f)
	}
	var f furniture
	if err == nil {
		err = json.Unmarshal(content, &f)
	}
	switch {
	case err != nil:
		return f, fmt.Errorf("%s cannot be read: %w; remove the directory to begin anew", name, err)
	case f.Etcds == 0:
		return f, fmt.Errorf("%s is of another kind of dialtone: give a directory of its own with --data", name)
	case f.Base != base || f.Etcds != etcds:
		return f, fmt.Errorf("%s holds a cluster with %d etcd members on %s: give --etcds %d --base-ip %s, another directory with --data, or remove this one",
			dir, f.Etcds, f.Base, f.Etcds, f.Base)
	}
	return f, nil
}

// writeJSON replaces a file as a whole; it holds secrets.
func writeJSON(name string, v any) error {
	content, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return replace(name, append(content, '\n'))
}

func replace(name string, content []byte) error {
	if err := os.WriteFile(name+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// Files beside those of the nodes that hold one secret each.
const (
	keyFile    = "operator.key"
	secretFile = "cluster.secret"
)

// writeConfigs writes the file of each node, and the secrets beside them.
func (m *machine) writeConfigs(f furniture) error {
	for name, secret := range map[string]string{keyFile: f.OperatorKey, secretFile: f.ClusterSecret} {
		if err := replace(filepath.Join(m.Dir, name), []byte(secret+"\n")); err != nil {
			return err
		}
	}
	for _, n := range m.Nodes {
		if err := os.MkdirAll(filepath.Dir(n.Config), 0o700); err != nil {
			return err
		}
		if err := replace(n.Config, []byte(m.config(n))); err != nil {
			return err
		}
	}
	return nil
}

// config is the file of one node. Texts are quoted as in JSON, which YAML reads alike.
func (m *machine) config(n seat) string {
	lines := []string{
		"# Written by `dialtone cluster up` at every start: changes here are lost.",
		"node: " + n.Name,
		"data: " + strconv.Quote(filepath.Join(m.Dir, n.Name)),
		"sip: " + n.SIP.String(),
		"http: " + strings.TrimPrefix(n.HTTP, "http://"),
		"rtp: " + n.RTP,
		"operator_key_file: " + strconv.Quote(filepath.Join(m.Dir, keyFile)),
		"drain_timeout: " + drainLimit.String(),
		"log_format: text",
		"etcd:",
		"  endpoints: [" + m.Etcd + "]",
		"cluster:",
		"  listen: " + n.Peers.String(),
		"  secret_file: " + strconv.Quote(filepath.Join(m.Dir, secretFile)),
	}
	return strings.Join(lines, "\n") + "\n"
}

// occupy takes the data directory for this process.
func occupy(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("data directory %s is in use by another cluster: end that one, or choose another directory with --data", dir)
	}
	return lock, nil
}
