package etcdstore

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"

	"github.com/dialtone-cc/dialtone/server/core"
)

// authority signs certificates into a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", nil)
	return a
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name+".pem") }

// sign makes a certificate and its key, as name.pem and name-key.pem.
func (a *authority) sign(name string, parent *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	form := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signer := a.key
	if parent == nil {
		form.IsCA, form.BasicConstraintsValid, form.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = form, key
	}
	der, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	a.write(name+"-key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name string, text []byte) {
	if err := os.WriteFile(a.file(name), text, 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// secureEtcd is an etcd that only takes TLS, with certificates of the clients.
func secureEtcd(t *testing.T, a *authority) string {
	t.Helper()
	cfg := baseSettings(filepath.Join(t.TempDir(), "etcd"), memberName, defaultQuota)
	cfg.InitialCluster = cfg.InitialClusterFromName(memberName)
	cfg.ListenPeerUrls = nil
	cfg.ListenClientUrls = []url.URL{{Scheme: "https", Host: "127.0.0.1:0"}}
	cfg.ClientTLSInfo = transport.TLSInfo{CertFile: a.file("server"), KeyFile: a.file("server-key"), TrustedCAFile: a.file("ca"), ClientCertAuth: true}
	log := &syncBuffer{}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(logTo(log), new(atomic.Bool), func(text string) { t.Error(text) }))
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(20 * time.Second):
		t.Fatal("etcd is not ready")
	}
	return etcd.Clients[0].Addr().String()
}

func TestSecureConnection(t *testing.T) {
	a := newAuthority(t)
	a.sign("server", a.cert)
	a.sign("node", a.cert)
	stranger := newAuthority(t)
	stranger.sign("node", stranger.cert)
	at := "https://" + secureEtcd(t, a)
	good := ClientConfig{Endpoints: []string{at}, CA: a.file("ca"), Cert: a.file("node"), Key: a.file("node-key")}
	opens := func(cfg ClientConfig) error {
		client, err := Connect(cfg)
		if err != nil {
			return err
		}
		defer client.Close()
		h := newHeard()
		p := quick()
		p.attempt = 500 * time.Millisecond
		s, _, err := Open(t.Context(), Config{Client: client, Node: "n1", Emit: h.emit, pace: p})
		if err != nil {
			return err
		}
		s.Do(put(1, "demo", "a", "1"))
		h.awaitFinal(t, 1, "stored")
		h.awaitMark(t, "a")
		return s.Close(t.Context())
	}
	if err := opens(good); err != nil {
		t.Fatal(err)
	}
	without, wrong, foreign := good, good, good
	without.Cert, without.Key = "", ""
	wrong.CA = stranger.file("ca")
	foreign.Cert, foreign.Key = stranger.file("node"), stranger.file("node-key")
	for want, cfg := range map[string]ClientConfig{"wants a certificate of this node": without, "is not trusted: check the CA file": wrong, "does not accept the certificate of this node": foreign} {
		if err := opens(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		} else {
			t.Log(err)
		}
	}

	admin, err := Connect(good)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	secret := "do not tell"
	for _, err := range []error{
		second(admin.RoleAdd(t.Context(), "root")), second(admin.UserAdd(t.Context(), "root", secret)),
		second(admin.UserGrantRole(t.Context(), "root", "root")), second(admin.AuthEnable(t.Context())),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	a.write("password", []byte(secret+"\n"))
	a.write("other", []byte("guessed"))
	named := good
	named.Username, named.PasswordFile = "root", a.file("password")
	if err := opens(named); err != nil {
		t.Errorf("with a password: %v", err)
	}
	named.PasswordFile = a.file("other")
	if err := opens(named); err == nil || !strings.Contains(err.Error(), "does not let user root in") || strings.Contains(err.Error(), "guessed") {
		t.Errorf("with a wrong password: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestClientConfigIsChecked(t *testing.T) {
	a := newAuthority(t)
	a.sign("node", a.cert)
	a.write("empty", []byte("\n"))
	https := []string{"https://127.0.0.1:1"}
	for want, cfg := range map[string]ClientConfig{
		"no endpoint":                   {},
		"give host:port":                {Endpoints: []string{"unix://x"}},
		"make all of them alike":        {Endpoints: []string{"https://a:1", "a:1"}},
		"make them https":               {Endpoints: []string{"http://a:1"}, CA: a.file("ca")},
		"belong together: give both":    {Endpoints: https, Cert: a.file("node")},
		"no such file":                  {Endpoints: https, CA: a.file("none")},
		"give a PEM file":               {Endpoints: https, CA: a.file("empty")},
		"certificate " + a.file("node"): {Endpoints: https, Cert: a.file("node"), Key: a.file("ca-key")},
		"file of its password":          {Endpoints: https, Username: "u"},
		"not sent without TLS":          {Endpoints: []string{"127.0.0.1:1"}, Username: "u", PasswordFile: a.file("empty")},
		"is empty":                      {Endpoints: https, Username: "u", PasswordFile: a.file("empty")},
	} {
		if client, err := Connect(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			if err == nil {
				client.Close()
			}
		}
	}
	for _, endpoints := range [][]string{{"127.0.0.1:1"}, {"http://127.0.0.1:1"}, https, {"[::1]:1", "127.0.0.1:2"}} {
		client, err := Connect(ClientConfig{Endpoints: endpoints})
		if err != nil {
			t.Errorf("%v: %v", endpoints, err)
			continue
		}
		client.Close()
	}
}

// agingServer is of whatever version it is told to be.
type agingServer struct {
	lineMaintenance
	version atomic.Value
	asked   atomic.Int64
}

func (a *agingServer) Status(context.Context, *pb.StatusRequest, ...grpc.CallOption) (*pb.StatusResponse, error) {
	a.asked.Add(1)
	return &pb.StatusResponse{Version: a.version.Load().(string)}, nil
}

// A member that is too old and comes into the cluster later is told of.
func TestVersionIsLookedAtAgain(t *testing.T) {
	log := &syncBuffer{}
	e, err := Embed(t.Context(), EmbedConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", MinFree: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	client := quietClient(t, e.Addr())
	server := &agingServer{}
	server.version.Store("3.7.3")
	client.Maintenance = clientv3.NewMaintenanceFromMaintenanceClient(server, client)
	p := quick()
	p.versions = 5 * time.Millisecond
	s, _, err := Open(t.Context(), Config{Client: client, Node: "n1", Emit: func(core.Event) bool { return true }, Log: logTo(log), pace: p})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	server.version.Store("3.5.9")
	until(t, "the error", func() bool { return strings.Contains(log.String(), "3.5.9") })
	asked := server.asked.Load()
	until(t, "some more looks", func() bool { return server.asked.Load() > asked+3 })
	if n := strings.Count(log.String(), "too old"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
}
