// Package config turns flags, DIALTONE_ variables and one YAML file into a checked
// Config. One table of keys serves all three, so that none of them can know a key that
// the others do not. A flag goes before a variable, a variable before the file, the file
// before the default.
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dialtone-cc/dialtone/server/core"
)

// Command is the subcommand that a configuration is for.
type Command string

// The commands that start a node.
const (
	Dev    Command = "dev"
	Server Command = "server"
)

// LogFormat is how log lines are written.
type LogFormat string

// The log formats. Auto is text on a terminal and JSON elsewhere.
const (
	Auto LogFormat = "auto"
	Text LogFormat = "text"
	JSON LogFormat = "json"
)

// MediaPath is how the audio of plain bridges is relayed.
type MediaPath string

// The media paths. MediaAuto takes the kernel where it can relay, and the process elsewhere.
const (
	MediaAuto     MediaPath = "auto"
	MediaPortable MediaPath = "portable"
	MediaKernel   MediaPath = "kernel"
)

// Ports is a range of UDP ports, both ends included.
type Ports struct{ From, To uint16 }

// Config is what a node is started with. Every value has been checked.
type Config struct {
	Command   Command
	Data      string // directory; created when missing
	Node      core.NodeID
	SIP, HTTP netip.AddrPort
	RTP       Ports
	Contact   map[core.Transport]netip.AddrPort // where peers reach this node; empty: at SIP
	MediaAddr netip.Addr                        // address in SDP; invalid: the SIP address
	MediaPath MediaPath
	Audio     string // directory of the operator's WAV files; "": none

	OperatorKey   core.Secret // "": made and kept in Data (dev only)
	AgentPassword core.Secret // of the demo agents; "": made and kept in Data (dev only)

	RingTimeout  time.Duration // overrides every queue's; 0: theirs
	DrainTimeout time.Duration
	MaxCalls     int // 0: the core's default, as for the two rates
	SourceRate   int
	RegisterRate int

	Etcd             []string // endpoints; empty: an embedded one in Data
	EtcdCA           string   // files of TLS, PEM
	EtcdCert         string
	EtcdKey          string
	EtcdUser         string
	EtcdPasswordFile string

	Records             core.Secret // URL of a PostgreSQL; "": SQLite in Data
	RecordsPasswordFile string

	ClusterListen  netip.AddrPort // where the other nodes find this one; invalid: none do
	ClusterAddress netip.Addr     // at which they reach it, where that is another; invalid: the same
	ClusterSecret  core.Secret    // that all nodes share

	LogLevel  slog.Level
	LogFormat LogFormat
	JSON      bool // the banner as one JSON object

	Warnings []string // for the log, once it is open
}

// Error is a configuration that cannot be used; its text says what is allowed.
type Error struct{ text string }

// Error returns the text.
func (e *Error) Error() string { return e.text }

func refuse(format string, args ...any) error { return &Error{fmt.Sprintf(format, args...)} }

// given is the text of a value and where it came from, for the error message.
type given struct{ text, from string }

// Parse reads the configuration of a command from its arguments, from environ (as of
// os.Environ) and, for Server, from the file that --config names. The error is a *Error,
// or flag.ErrHelp when help was asked for and has been written to help.
func Parse(command Command, args, environ []string, help io.Writer) (*Config, error) {
	cfg := defaults(command)
	keys := keysOf(command)
	flags, file, err := parseFlags(command, keys, args, help)
	if err != nil {
		return nil, err
	}
	variables, warnings := parseEnviron(keys, environ)
	cfg.Warnings = warnings

	var doc *document
	if file == "" && command == Server {
		file = variableNamed(environ, "DIALTONE_CONFIG")
	}
	if file != "" {
		if doc, err = readDocument(file, keys); err != nil {
			return nil, err
		}
	}
	for _, k := range keys {
		if doc != nil {
			if err := doc.apply(k, cfg); err != nil {
				return nil, err
			}
		}
		for _, source := range []map[string]given{variables, flags} {
			if v, ok := source[k.name]; ok {
				if err := k.set(cfg, v.text); err != nil {
					return nil, refuse("%s: %s", v.from, k.explain(v.text, err))
				}
			}
		}
	}
	return cfg, check(cfg, doc)
}

func defaults(command Command) *Config {
	cfg := &Config{
		Command:      command,
		Data:         "./.dialtone",
		SIP:          netip.MustParseAddrPort("127.0.0.1:5060"),
		HTTP:         netip.MustParseAddrPort("127.0.0.1:8080"),
		RTP:          Ports{16384, 32767},
		MediaPath:    MediaAuto,
		Contact:      map[core.Transport]netip.AddrPort{},
		DrainTimeout: 30 * time.Second,
		LogFormat:    Auto,
	}
	if command == Server {
		cfg.Data = "/var/lib/dialtone"
	}
	return cfg
}

// check holds what concerns more than one key.
func check(cfg *Config, doc *document) error {
	if cfg.SIP.Addr().IsUnspecified() {
		for _, transport := range []core.Transport{core.UDP, core.TCP} {
			if !cfg.Contact[transport].IsValid() {
				return refuse("sip is %s, which no peer can answer to: give contact.%s as ADDRESS:PORT too", cfg.SIP, transport)
			}
		}
		if !cfg.MediaAddr.IsValid() {
			return refuse("sip is %s, and RTP is received on the same address: give media_address, the address that goes into SDP, too", cfg.SIP)
		}
	}
	if cfg.Command == Server {
		if cfg.OperatorKey == "" {
			where := "DIALTONE_OPERATOR_KEY, DIALTONE_OPERATOR_KEY_FILE, or operator_key in the file of --config"
			if doc != nil {
				where = "DIALTONE_OPERATOR_KEY, DIALTONE_OPERATOR_KEY_FILE, or operator_key in " + doc.path
			}
			return refuse("operator_key is missing: set %s", where)
		}
		if len(cfg.OperatorKey.Reveal()) < 16 {
			return refuse("operator_key is too short: 16 characters at least, e.g. from `openssl rand -hex 24`")
		}
	}
	return nil
}

func parseFlags(command Command, keys []key, args []string, help io.Writer) (map[string]given, string, error) {
	found := map[string]given{}
	var file string
	set := flag.NewFlagSet("dialtone "+string(command), flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, k := range keys {
		record := func(text string) error {
			found[k.name] = given{text, "--" + k.flag()}
			return nil
		}
		if k.boolean {
			set.BoolFunc(k.flag(), k.usage, record)
		} else {
			set.Func(k.flag(), k.usage, record)
		}
	}
	if command == Server {
		set.StringVar(&file, "config", "", "")
	}
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		writeHelp(help, command, keys)
		return nil, "", flag.ErrHelp
	case err != nil:
		return nil, "", refuse("%s", flagError(err, keys))
	case set.NArg() > 0:
		return nil, "", refuse("%q is not expected: dialtone %s takes flags only", set.Arg(0), command)
	}
	return found, file, nil
}

// flagError adds the nearest known flag to the standard library's text.
func flagError(err error, keys []key) string {
	text := err.Error()
	if wrong, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		names := []string{"config", "help"}
		for _, k := range keys {
			names = append(names, k.flag())
		}
		text = fmt.Sprintf("--%s is not a flag of this command", strings.TrimLeft(wrong, "-"))
		if near := Nearest(strings.TrimLeft(wrong, "-"), names); near != "" {
			text += "; did you mean --" + near + "?"
		}
	}
	return text
}

// parseEnviron picks the variables of the keys. An unknown DIALTONE_ variable is no error,
// for orchestrators set such names of their own (DIALTONE_PORT for a service of that name),
// but one that looks like a slip of the pen is worth a warning.
func parseEnviron(keys []key, environ []string) (found map[string]given, warnings []string) {
	found = map[string]given{}
	byVariable := map[string]key{}
	var names []string
	for _, k := range allKeys() {
		names = append(names, k.variable())
	}
	for _, k := range keys {
		byVariable[k.variable()] = k
	}
	for _, pair := range environ {
		name, text, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "DIALTONE_") || name == "DIALTONE_CONFIG" {
			continue
		}
		if k, ok := byVariable[name]; ok {
			if text != "" { // an empty variable is the usual way of not setting one
				found[k.name] = given{text, name}
			}
			continue
		}
		if near := Nearest(name, names); near != "" && near != name {
			warnings = append(warnings, fmt.Sprintf("the variable %s is unknown; did you mean %s?", name, near))
		}
	}
	return found, warnings
}

func variableNamed(environ []string, name string) string {
	for _, pair := range environ {
		if text, ok := strings.CutPrefix(pair, name+"="); ok {
			return text
		}
	}
	return ""
}

func readSecretFile(path string) (core.Secret, error) {
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return "", fmt.Errorf("a file that can be read (%w)", err)
	}
	return core.Secret(strings.TrimSpace(string(content))), nil
}
