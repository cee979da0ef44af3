package etcdstore

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// ClientConfig says how an etcd outside of this process is reached. The files are PEM.
type ClientConfig struct {
	Endpoints []string // host:port, https://host:port or http://host:port, all alike

	// With CA or Cert, or https, the connections are TLS. Cert and Key are read again for each
	// connection, so that they can be renewed; CA is read once.
	CA        string // file of the authorities that sign the members' certificates; "": the system's
	Cert, Key string // files of this node's own certificate; "": none

	Username     string // with TLS only
	PasswordFile string
}

// The client's patience. etcd's own default waits up to two minutes before it tries a
// connection again: so long would an etcd be back, and no call be taken.
const (
	dialTime       = 5 * time.Second
	pingAfter      = 3 * time.Second
	pingTime       = 2 * time.Second
	connectTime    = 2 * time.Second
	firstReconnect = 100 * time.Millisecond
	lastReconnect  = time.Second
	verdictTime    = 300 * time.Millisecond
)

// Connect returns a client. It need not reach etcd for that, unless there is a Username; but
// certificates that a member does not take, or that it shows in vain, are refused.
func Connect(cfg ClientConfig) (*clientv3.Client, error) {
	secure, err := cfg.secure()
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	password, err := cfg.password(secure != nil)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if secure != nil {
		if err := cfg.shakeHands(secure); err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: secure, Username: cfg.Username, Password: password,
		DialTimeout: dialTime, DialKeepAliveTime: pingAfter, DialKeepAliveTimeout: pingTime,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTime,
			Backoff: backoff.Config{BaseDelay: firstReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastReconnect}})},
		Logger: zap.NewNop(), // what fails is told by the calls that fail
	})
	switch {
	case err != nil && cfg.Username != "":
		return nil, fmt.Errorf("etcd at %s does not let user %s in: check that it runs, the user, and %s: %w",
			strings.Join(cfg.Endpoints, ", "), cfg.Username, cfg.PasswordFile, err)
	case err != nil:
		return nil, fmt.Errorf("etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return client, nil
}

// secure returns the settings of TLS, nil for none.
func (cfg ClientConfig) secure() (*tls.Config, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no endpoint is given: give at least one, as 10.0.0.1:2379")
	}
	wanted, plain, https := cfg.CA != "" || cfg.Cert != "" || cfg.Key != "", 0, 0
	for _, endpoint := range cfg.Endpoints {
		switch scheme, _, ok := strings.Cut(endpoint, "://"); {
		case ok && scheme == "https":
			https++
		case ok && scheme == "http":
			plain++
		case ok:
			return nil, fmt.Errorf("endpoint %q: give host:port, https://host:port or http://host:port", endpoint)
		}
	}
	switch {
	case https > 0 && https < len(cfg.Endpoints):
		return nil, errors.New("some endpoints are https and others are not: make all of them alike")
	case plain > 0 && wanted:
		return nil, errors.New("certificates are given for endpoints that are http: make them https")
	case (cfg.Cert == "") != (cfg.Key == ""):
		return nil, errors.New("a certificate and its key belong together: give both or none")
	case !wanted && https == 0:
		return nil, nil
	}
	secure := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CA != "" {
		text, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("certificates of the authorities: %w", err)
		}
		secure.RootCAs = x509.NewCertPool()
		if !secure.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate that can be read: give a PEM file", cfg.CA)
		}
	}
	if cfg.Cert != "" {
		own := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
			if err != nil {
				return nil, fmt.Errorf("certificate %s with key %s: %w", cfg.Cert, cfg.Key, err)
			}
			return &pair, nil
		}
		if _, err := own(nil); err != nil {
			return nil, err
		}
		secure.GetClientCertificate = own
	}
	return secure, nil
}

// shakeHands tries the certificates with the first member that can be reached: what the
// client itself would say of them later is that a deadline has passed. Members that are away
// say nothing of certificates.
func (cfg ClientConfig) shakeHands(secure *tls.Config) error {
	for _, endpoint := range cfg.Endpoints {
		_, address, ok := strings.Cut(endpoint, "://")
		if !ok {
			address = endpoint
		}
		plain, err := net.DialTimeout("tcp", address, connectTime)
		if err != nil {
			continue
		}
		defer plain.Close()
		own := secure.Clone()
		own.ServerName, _, _ = net.SplitHostPort(address)
		own.NextProtos = []string{"h2"}
		conn := tls.Client(plain, own)
		_ = plain.SetDeadline(time.Now().Add(connectTime))
		if err = conn.Handshake(); err == nil {
			_ = plain.SetDeadline(time.Now().Add(verdictTime)) // a server's verdict on our certificate comes after it (RFC 8446 s.4.4.2.4)
			_, err = conn.Read(make([]byte, 1))
		}
		return cfg.verdict(endpoint, err)
	}
	return nil
}

// verdict says what to do about certificates that do not fit; other errors are no verdict.
func (cfg ClientConfig) verdict(endpoint string, err error) error {
	var untrusted *tls.CertificateVerificationError
	var alert *net.OpError // "remote error"
	switch {
	case errors.As(err, &untrusted) && cfg.CA == "":
		return fmt.Errorf("the certificate of %s is not trusted: give the CA file that signed it: %w", endpoint, err)
	case errors.As(err, &untrusted):
		return fmt.Errorf("the certificate of %s is not trusted: check the CA file %s: %w", endpoint, cfg.CA, err)
	case errors.As(err, &alert) && alert.Op == "remote error" && cfg.Cert == "":
		return fmt.Errorf("%s wants a certificate of this node: give one with its key: %w", endpoint, err)
	case errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("%s does not accept the certificate of this node, %s: have it signed by the authority that this etcd trusts: %w", endpoint, cfg.Cert, err)
	}
	return nil
}

func (cfg ClientConfig) password(secure bool) (string, error) {
	switch {
	case cfg.Username == "" && cfg.PasswordFile == "":
		return "", nil
	case cfg.Username == "" || cfg.PasswordFile == "":
		return "", errors.New("a user and the file of its password belong together: give both or none")
	case !secure:
		return "", errors.New("a password is not sent without TLS: make the endpoints https")
	}
	text, err := os.ReadFile(cfg.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password of user %s: %w", cfg.Username, err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", fmt.Errorf("password of user %s: %s is empty", cfg.Username, cfg.PasswordFile)
	}
	return password, nil
}
