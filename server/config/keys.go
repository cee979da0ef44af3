package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// key is one thing that can be configured.
type key struct {
	name    string // path in YAML, with dots
	form    string // what a value looks like, for the help
	usage   string
	secret  bool // its value is in no message
	boolean bool
	only    Command                     // "" for both
	set     func(*Config, string) error // the error says what is allowed
}

// flag is the key's flag, without the dashes.
func (k key) flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(k.name) }

// variable is the key's environment variable.
func (k key) variable() string {
	return "DIALTONE_" + strings.ToUpper(strings.ReplaceAll(k.name, ".", "_"))
}

// explain says what is wrong with a value and what is allowed.
func (k key) explain(text string, allowed error) string {
	if k.secret {
		return fmt.Sprintf("the value is refused: allowed is %s", allowed)
	}
	return fmt.Sprintf("%.80q is refused: allowed is %s", text, allowed)
}

func keysOf(command Command) []key {
	var mine []key
	for _, k := range allKeys() {
		if k.only == "" || k.only == command {
			mine = append(mine, k)
		}
	}
	return mine
}

func allKeys() []key {
	return slices.Concat(placeKeys(), clusterKeys(), behaviourKeys())
}

// placeKeys are where a node is: directory, name, addresses.
func placeKeys() []key {
	return []key{
		{name: "data", form: "DIR", usage: "directory of the store, the records and the keys", set: func(c *Config, s string) error {
			if s == "" {
				return errors.New("a directory")
			}
			c.Data = s
			return nil
		}},
		{name: "node", form: "ID", usage: "name of this node; made and kept in the data directory when not given", set: func(c *Config, s string) error {
			c.Node = core.NodeID(s)
			return identifier(s)
		}},
		{name: "sip", form: "HOST:PORT", usage: "SIP, UDP and TCP", set: func(c *Config, s string) (err error) {
			c.SIP, err = address(s)
			return err
		}},
		{name: "http", form: "HOST:PORT", usage: "API, probes, metrics", set: func(c *Config, s string) (err error) {
			c.HTTP, err = address(s)
			return err
		}},
		{name: "rtp", form: "FROM-TO", usage: "UDP ports of the audio, on the address of --sip", set: func(c *Config, s string) (err error) {
			c.RTP, err = ports(s)
			return err
		}},
		{name: "contact.udp", form: "ADDRESS:PORT", usage: "where peers reach this node by UDP, when it is not --sip", set: func(c *Config, s string) error {
			return contact(c, core.UDP, s)
		}},
		{name: "contact.tcp", form: "ADDRESS:PORT", usage: "the same by TCP", set: func(c *Config, s string) error {
			return contact(c, core.TCP, s)
		}},
		{name: "media_address", form: "ADDRESS", usage: "address that goes into SDP, when it is not that of --sip", set: func(c *Config, s string) error {
			addr, err := netip.ParseAddr(s)
			if err != nil || addr.IsUnspecified() {
				return errors.New("an IP address that peers reach")
			}
			c.MediaAddr = addr
			return nil
		}},
		{name: "media_path", form: "PATH", usage: "who relays the audio: auto, portable (this process), or kernel (needs Linux 6.6, CAP_BPF and CAP_NET_ADMIN)", set: func(c *Config, s string) error {
			c.MediaPath = MediaPath(s)
			if c.MediaPath != MediaAuto && c.MediaPath != MediaPortable && c.MediaPath != MediaKernel {
				return errors.New("auto, portable or kernel")
			}
			return nil
		}},
		{name: "audio", form: "DIR", usage: "directory of your own WAV files for welcome, music and announcements; 8 kHz mono is best", set: func(c *Config, s string) error {
			if info, err := os.Stat(s); err != nil || !info.IsDir() {
				return errors.New("a directory that exists")
			}
			c.Audio = s
			return nil
		}},
	}
}

// clusterKeys are how a node finds the others, etcd, and the records that all share.
func clusterKeys() []key {
	return []key{
		{name: "cluster.listen", form: "HOST:PORT", usage: "where the other nodes find this one, TCP and UDP, to notice its death at once", only: Server, set: func(c *Config, s string) (err error) {
			c.ClusterListen, err = address(s)
			return err
		}},
		{name: "cluster.address", form: "ADDRESS", usage: "address at which the other nodes reach this one, API included, when it is not the one that it listens on", only: Server, set: func(c *Config, s string) (err error) {
			if c.ClusterAddress, err = netip.ParseAddr(s); err != nil || c.ClusterAddress.IsUnspecified() {
				return errors.New("an IP address that the other nodes reach")
			}
			return nil
		}},
		{name: "cluster.secret", form: "SECRET", usage: "what all nodes share, at least 16 characters (a flag is seen by `ps`: rather set the variable)", secret: true, only: Server, set: func(c *Config, s string) error {
			c.ClusterSecret = core.Secret(s)
			return clusterSecret(s)
		}},
		{name: "cluster.secret_file", form: "FILE", usage: "file that holds the cluster's secret", only: Server, set: func(c *Config, s string) (err error) {
			if c.ClusterSecret, err = readSecretFile(s); err == nil {
				err = clusterSecret(c.ClusterSecret.Reveal())
			}
			return err
		}},
		{name: "etcd.endpoints", form: "HOST:PORT,…", usage: "the etcd to use; without it one is embedded", only: Server, set: func(c *Config, s string) error {
			c.Etcd = nil
			for endpoint := range strings.SplitSeq(s, ",") {
				endpoint = strings.TrimSpace(endpoint)
				bare := strings.TrimPrefix(strings.TrimPrefix(endpoint, "http://"), "https://")
				if _, port, err := net.SplitHostPort(bare); err != nil || port == "" {
					return errors.New("a list of HOST:PORT, separated by commas")
				}
				c.Etcd = append(c.Etcd, endpoint)
			}
			return nil
		}},
		fileKey("etcd.ca", "authorities that sign the etcd members' certificates (PEM)", func(c *Config) *string { return &c.EtcdCA }),
		fileKey("etcd.cert", "this node's certificate for etcd (PEM)", func(c *Config) *string { return &c.EtcdCert }),
		fileKey("etcd.key", "and its key", func(c *Config) *string { return &c.EtcdKey }),
		{name: "etcd.username", form: "NAME", usage: "user of etcd; with TLS only", only: Server, set: func(c *Config, s string) error {
			c.EtcdUser = s
			return printable(s)
		}},
		fileKey("etcd.password_file", "file that holds that user's password", func(c *Config) *string { return &c.EtcdPasswordFile }),
		{name: "records.url", form: "URL", usage: "PostgreSQL of finished interactions, which all nodes of a cluster share: postgres://USER@HOST/DATABASE; without it they are in the data directory", secret: true, only: Server, set: func(c *Config, s string) error {
			c.Records = core.Secret(s)
			if !strings.HasPrefix(s, "postgres://") && !strings.HasPrefix(s, "postgresql://") {
				return errors.New("postgres://USER@HOST[:PORT]/DATABASE")
			}
			return nil
		}},
		fileKey("records.password_file", "file that holds the password of that URL's user", func(c *Config) *string { return &c.RecordsPasswordFile }),
	}
}

// behaviourKeys are what a node does: keys, times, limits, output.
func behaviourKeys() []key {
	return []key{
		{name: "operator_key", form: "KEY", usage: "key of the operator's API (a flag is seen by `ps`: rather set the variable)", secret: true, set: func(c *Config, s string) error {
			c.OperatorKey = core.Secret(s)
			return printable(s)
		}},
		{name: "operator_key_file", form: "FILE", usage: "file that holds the operator key", set: func(c *Config, s string) (err error) {
			if c.OperatorKey, err = readSecretFile(s); err == nil {
				err = printable(c.OperatorKey.Reveal())
			}
			return err
		}},
		{name: "agent_password", form: "PW", usage: "SIP password of the demo agents (a flag is seen by `ps`: rather set the variable)", secret: true, only: Dev, set: func(c *Config, s string) error {
			c.AgentPassword = core.Secret(s)
			return printable(s)
		}},
		{name: "ring_timeout", form: "DURATION", usage: "overrides the ring timeout of every queue", set: func(c *Config, s string) (err error) {
			c.RingTimeout, err = duration(s, 100*time.Millisecond, 5*time.Minute)
			return err
		}},
		{name: "drain_timeout", form: "DURATION", usage: "how long live calls may go on after SIGTERM", set: func(c *Config, s string) (err error) {
			c.DrainTimeout, err = duration(s, 0, 24*time.Hour)
			return err
		}},
		{name: "max_calls", form: "N", usage: "live interactions of this node; then 503", set: func(c *Config, s string) (err error) {
			c.MaxCalls, err = count(s, 1_000_000)
			return err
		}},
		{name: "source_rate", form: "N", usage: "INVITEs per second from one address", set: func(c *Config, s string) (err error) {
			c.SourceRate, err = count(s, 1_000_000)
			return err
		}},
		{name: "register_rate", form: "N", usage: "REGISTERs per second from one address", set: func(c *Config, s string) (err error) {
			c.RegisterRate, err = count(s, 1_000_000)
			return err
		}},
		{name: "log_level", form: "LEVEL", usage: "debug, info, warn or error", set: func(c *Config, s string) error {
			if c.LogLevel.UnmarshalText([]byte(s)) != nil {
				return errors.New("debug, info, warn or error")
			}
			return nil
		}},
		{name: "log_format", form: "FORMAT", usage: "text, json, or auto: text on a terminal", set: func(c *Config, s string) error {
			c.LogFormat = LogFormat(s)
			if c.LogFormat != Auto && c.LogFormat != Text && c.LogFormat != JSON {
				return errors.New("text, json or auto")
			}
			return nil
		}},
		{name: "json", usage: "what is printed at start as one JSON object", boolean: true, set: func(c *Config, s string) (err error) {
			if c.JSON, err = strconv.ParseBool(s); err != nil {
				return errors.New("true or false")
			}
			return nil
		}},
	}
}

// fileKey is a key of a node in a cluster that names a file, which is read later.
func fileKey(name, usage string, into func(*Config) *string) key {
	return key{name: name, form: "FILE", usage: usage, only: Server, set: func(c *Config, s string) error {
		*into(c) = s
		file, err := os.Open(s)
		if err != nil {
			return errors.New("a file that can be read")
		}
		return file.Close()
	}}
}

func clusterSecret(s string) error {
	if len(s) < 16 {
		return errors.New("at least 16 characters, the same for all nodes")
	}
	return printable(s)
}

// The parsers' errors complete the sentence "allowed is …".

func address(s string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(s)
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, addrErr := netip.ParseAddr(host)
	number, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || addrErr != nil || portErr != nil {
		return netip.AddrPort{}, errors.New("HOST:PORT with an IP address (IPv6 in brackets) or localhost and a port of 0 to 65535, where 0 takes a free one, e.g. 127.0.0.1:5060")
	}
	return netip.AddrPortFrom(addr, uint16(number)), nil
}

func contact(c *Config, transport core.Transport, s string) error {
	at, err := address(s)
	if err != nil || at.Port() == 0 || at.Addr().IsUnspecified() {
		return errors.New("ADDRESS:PORT that peers reach, e.g. 203.0.113.7:5060")
	}
	c.Contact[transport] = at
	return nil
}

// ports wants room for one leg at least: an even port for RTP and the next for RTCP (RFC 3550 s.11).
func ports(s string) (Ports, error) {
	from, to, ok := strings.Cut(s, "-")
	low, lowErr := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	high, highErr := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if !ok || lowErr != nil || highErr != nil || low < 1024 || low%2 != 0 || high < low+3 {
		return Ports{}, errors.New("FROM-TO with an even FROM of at least 1024, TO of at most 65535 and two pairs of ports between, e.g. 16384-32767")
	}
	return Ports{uint16(low), uint16(high)}, nil
}

func duration(s string, least, most time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < least || d > most {
		return 0, fmt.Errorf("a duration with its unit from %s to %s, e.g. 20s", least, most)
	}
	return d, nil
}

func count(s string, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("a number from 1 to %d", most)
	}
	return n, nil
}

func identifier(s string) error {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return errors.New("1 to 63 of a-z, 0-9, - and _")
		}
	}
	if s == "" || len(s) > 63 {
		return errors.New("1 to 63 of a-z, 0-9, - and _")
	}
	return nil
}

func printable(s string) error {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return errors.New("1 to 128 printable ASCII characters without blanks")
		}
	}
	if s == "" || len(s) > 128 {
		return errors.New("1 to 128 printable ASCII characters without blanks")
	}
	return nil
}

func writeHelp(w io.Writer, command Command, keys []key) {
	if command == Dev {
		fmt.Fprint(w, "dialtone dev runs one node with an embedded store and a demo tenant.\n\n")
	} else {
		fmt.Fprint(w, "dialtone server runs one node.\n\n  --config FILE\n        YAML file with the keys below (variable DIALTONE_CONFIG)\n\n")
	}
	fmt.Fprint(w, "A flag goes before its variable, a variable before the file.\n\n")
	table := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	shown := defaultTexts(defaults(command))
	for _, k := range keys {
		usage := k.usage
		if text, ok := shown[k.name]; ok {
			usage += " (default " + text + ")"
		}
		fmt.Fprintf(table, "  --%s %s\t%s\t%s\n", k.flag(), k.form, k.variable(), usage)
	}
	_ = table.Flush()
}

// defaultTexts are the defaults as they would be written.
func defaultTexts(c *Config) map[string]string {
	return map[string]string{
		"data": c.Data, "sip": c.SIP.String(), "http": c.HTTP.String(),
		"rtp":           fmt.Sprintf("%d-%d", c.RTP.From, c.RTP.To),
		"media_path":    string(c.MediaPath),
		"drain_timeout": c.DrainTimeout.String(),
		"log_level":     strings.ToLower(slog.Level(c.LogLevel).String()),
		"log_format":    string(c.LogFormat),
	}
}
