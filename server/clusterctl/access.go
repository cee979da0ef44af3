package clusterctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
)

// access is how etcd is reached, as flags, variables and the file of a node say it: the same
// keys, in the same order of precedence.
type access struct {
	line      *commandLine
	config    string
	endpoints string
	ca        string // file of the authorities that etcd's certificate is checked with
	cert, key string // files of the client's certificate
	user      string
	password  string // file of it
}

// readWithin is how long etcd may take to answer all that a command asks. A new leader is
// found in less, so that who asks while one is lost is not told that etcd is away.
const readWithin = 10 * time.Second

const accessHelp = `etcd is found by --etcd, else DIALTONE_ETCD_ENDPOINTS, else etcd.endpoints in the file of
--config or DIALTONE_CONFIG, else at 127.0.0.1:2379. What it needs for TLS, and a user, likewise.
`

func (a *access) bind(line *commandLine) {
	a.line, line.after = line, accessHelp
	line.StringVar(&a.endpoints, "etcd", "", "`HOST:PORT,…` of etcd's members")
	line.StringVar(&a.config, "config", "", "`FILE` of a node, to take the keys etcd.* from")
	line.StringVar(&a.ca, "etcd-ca", "", "`FILE` with the authorities that etcd's certificate is checked with (PEM)")
	line.StringVar(&a.cert, "etcd-cert", "", "`FILE` with this client's certificate (PEM)")
	line.StringVar(&a.key, "etcd-key", "", "`FILE` with its key (PEM)")
	line.StringVar(&a.user, "etcd-username", "", "`NAME` of a user of etcd; with TLS only")
	line.StringVar(&a.password, "etcd-password-file", "", "`FILE` that holds that user's password")
}

// complete fills what no flag gave from the variables, and then from the file.
func (a *access) complete(environ []string) error {
	values := map[string]string{}
	for _, pair := range environ {
		if name, text, ok := strings.Cut(pair, "="); ok {
			values[name] = text
		}
	}
	if a.config == "" {
		a.config = values["DIALTONE_CONFIG"]
	}
	file := map[string]string{}
	if a.config != "" {
		var err error
		if file, err = etcdKeys(a.config); err != nil {
			return err
		}
	}
	for _, each := range []struct {
		into *string
		key  string
	}{{&a.endpoints, "endpoints"}, {&a.ca, "ca"}, {&a.cert, "cert"}, {&a.key, "key"}, {&a.user, "username"}, {&a.password, "password_file"}} {
		if *each.into == "" {
			*each.into = values["DIALTONE_ETCD_"+strings.ToUpper(each.key)]
		}
		if *each.into == "" {
			*each.into = file[each.key]
		}
	}
	if a.endpoints == "" && a.config != "" {
		return fmt.Errorf("%s has no etcd.endpoints: that node has its etcd inside, and no cluster", a.config)
	}
	if a.endpoints == "" {
		a.endpoints = "127.0.0.1:2379"
	}
	return nil
}

// etcdKeys returns the keys below etcd in a node's file. It reads no other: the file may name
// secrets that this user cannot read, and does not need. Its errors show nothing of the file,
// not even the parser's own words: those name an alias, and a key that begins with * is one.
func etcdKeys(path string) (map[string]string, error) {
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return parseKeys(path, content)
}

func parseKeys(path string, content []byte) (map[string]string, error) {
	var all map[string]any
	if err := yaml.Unmarshal(content, &all); err != nil {
		var wrong yaml.Error
		if errors.As(err, &wrong) && wrong.GetToken() != nil {
			return nil, fmt.Errorf("--config: %s:%d: not YAML", path, wrong.GetToken().Position.Line)
		}
		return nil, fmt.Errorf("--config: %s is not YAML", path)
	}
	found := map[string]string{}
	below, _ := all["etcd"].(map[string]any)
	for _, key := range []string{"endpoints", "ca", "cert", "key", "username", "password_file"} {
		value, ok := below[key]
		if !ok {
			value, ok = all["etcd."+key]
		}
		switch value := value.(type) {
		case string:
			found[key] = value
		case []any:
			texts := make([]string, len(value))
			for i, each := range value {
				texts[i] = fmt.Sprint(each)
			}
			found[key] = strings.Join(texts, ",")
		default:
			if ok {
				return nil, fmt.Errorf("--config: %s: etcd.%s is not a text", path, key)
			}
		}
	}
	return found, nil
}

// list returns the endpoints one by one.
func (a *access) list() ([]string, error) {
	var all []string
	for endpoint := range strings.SplitSeq(a.endpoints, ",") {
		endpoint = strings.TrimSpace(endpoint)
		if _, port, err := net.SplitHostPort(bare(endpoint)); err != nil || port == "" {
			return nil, fmt.Errorf("--etcd: %q is not HOST:PORT", endpoint)
		}
		all = append(all, endpoint)
	}
	return all, nil
}

// bare is an endpoint without its scheme.
func bare(endpoint string) string {
	return strings.TrimPrefix(strings.TrimPrefix(endpoint, "http://"), "https://")
}

// open returns a client of etcd, which has not connected yet.
func (a *access) open(environ []string) (*clientv3.Client, error) {
	if err := a.complete(environ); err != nil {
		return nil, err
	}
	endpoints, err := a.list()
	if err != nil {
		return nil, err
	}
	return etcdstore.Connect(etcdstore.ClientConfig{Endpoints: endpoints, CA: a.ca, Cert: a.cert, Key: a.key, Username: a.user, PasswordFile: a.password})
}

// reached returns nil when a member takes connections: else it need not be waited for, as it
// is for a new leader.
func reached(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, memberWithin)
	defer cancel()
	endpoints := client.Endpoints()
	answers := make(chan error, len(endpoints))
	for _, endpoint := range endpoints {
		go func() { answers <- connects(ctx, endpoint) }()
	}
	for range endpoints {
		if <-answers == nil {
			return nil
		}
	}
	return errors.New("no member takes connections")
}

// unreadable says why etcd cannot be read, endpoint by endpoint: the client's own error is
// of whichever it tried last, and often no more than that its time was up.
func unreadable(client *clientv3.Client, cause error) string {
	text := "etcd cannot be read: " + cause.Error()
	for _, endpoint := range client.Endpoints() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		text += "\n  " + bare(endpoint) + ": "
		switch reply, err := ask(ctx, client, endpoint); {
		case err != nil:
			text += err.Error()
		case reply.Leader == 0:
			text += "answers, but has no leader: too few members are there"
		default:
			text += "answers, and has a leader"
		}
		cancel()
	}
	return text + "\nStart most of its members, or correct the endpoints: --etcd, or --config of a node."
}
