package clusterctl

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/edge/etcdstore"
	"github.com/dialtone-cc/dialtone/server/telemetry"
)

const etcdHelp = `dialtone etcd runs one member of etcd in this process until SIGTERM. It is for a cluster on
one machine, for tests and for small installations: it speaks without TLS. In production run
the etcd of your distribution (deploy/etcd.service, deploy/RUNBOOK.md).

  dialtone etcd --name e1 --dir /var/lib/e1 --client 127.0.0.1:2379 --peer 127.0.0.1:2380

  three of them, in three terminals:
  C=e1=http://127.0.0.1:2380,e2=http://127.0.0.2:2380,e3=http://127.0.0.3:2380
  dialtone etcd --name e1 --dir e1 --client 127.0.0.1:2379 --peer 127.0.0.1:2380 --cluster $C
  dialtone etcd --name e2 --dir e2 --client 127.0.0.2:2379 --peer 127.0.0.2:2380 --cluster $C
  dialtone etcd --name e3 --dir e3 --client 127.0.0.3:2379 --peer 127.0.0.3:2380 --cluster $C

It logs to standard error, and says on standard output when it takes requests: most of the
members must run for that. Exit codes: 0 it was told to end, 1 it ended by itself, 2 it cannot
start.
`

// Etcd runs `dialtone etcd`, one member of etcd in this process, until ctx ends, and returns
// the exit code: 0 it was told to end, 1 it ended by itself, 2 it cannot start.
func Etcd(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	line := newCommandLine("etcd", etcdHelp, stdout, stderr)
	name := line.String("name", "", "`NAME` of the member, one of --cluster")
	dir := line.String("dir", "", "`DIR` of its data, which only one process may use")
	client := line.String("client", "", "`HOST:PORT` where nodes reach it")
	peer := line.String("peer", "", "`HOST:PORT` where the other members reach it")
	all := line.String("cluster", "", "`NAME=URL,…` where the members reach each other, this one included; without it this is the only one")
	if _, code, ok := line.read(args, 0); !ok {
		return code
	}
	cfg, err := memberOf(*name, *dir, *client, *peer, *all)
	if err != nil {
		return line.refuse("%s", err)
	}
	log := telemetry.LogConfig{Node: core.NodeID(cfg.Name)}
	if file, ok := stderr.(*os.File); ok {
		log.Text, log.Color = telemetry.Terminal(file)
	}
	cfg.Log = telemetry.NewLog(stderr, log)
	cfg.Log.Info("etcd member starts", "client", cfg.Client, "peer", cfg.Cluster[cfg.Name], "members", len(cfg.Cluster), "dir", cfg.Dir)
	member, err := etcdstore.StartMember(ctx, cfg)
	switch {
	case err != nil && ctx.Err() != nil:
		return exitWell // it was told to end while it waited for the others
	case err != nil:
		return line.fail(exitUsage, "%s", err)
	}
	defer member.Close()
	fmt.Fprintf(stdout, "etcd member %s: clients at %s, members at %s, data in %s\n", cfg.Name, cfg.Client, cfg.Cluster[cfg.Name], cfg.Dir)
	if err := member.Wait(ctx); err != nil {
		return line.fail(exitWrong, "%s", err)
	}
	return exitWell
}

// memberOf checks the flags of `dialtone etcd`.
func memberOf(name, dir, client, peer, all string) (etcdstore.MemberConfig, error) {
	cfg := etcdstore.MemberConfig{Name: name, Dir: dir, Cluster: map[string]netip.AddrPort{}}
	for _, wanted := range [][2]string{{"name", name}, {"dir", dir}, {"client", client}, {"peer", peer}} {
		if wanted[1] == "" {
			return cfg, fmt.Errorf("--%s is missing", wanted[0])
		}
	}
	var err error
	if cfg.Client, err = plainAddress(client); err != nil {
		return cfg, fmt.Errorf("--client %q: allowed is %w", client, err)
	}
	own, err := plainAddress(peer)
	if err != nil {
		return cfg, fmt.Errorf("--peer %q: allowed is %w", peer, err)
	}
	if all == "" {
		cfg.Cluster[name] = own
		return cfg, nil
	}
	names := []string{}
	for pair := range strings.SplitSeq(all, ",") {
		member, at, ok := strings.Cut(strings.TrimSpace(pair), "=")
		if !ok || member == "" {
			return cfg, fmt.Errorf("--cluster: %q is not NAME=URL, such as e1=http://127.0.0.1:2380", pair)
		}
		if slices.Contains(names, member) {
			return cfg, fmt.Errorf("--cluster: %s is given twice", member)
		}
		names = append(names, member)
		if cfg.Cluster[member], err = plainAddress(at); err != nil {
			return cfg, fmt.Errorf("--cluster: %s=%s: allowed is %w", member, at, err)
		}
	}
	switch listed, ok := cfg.Cluster[name]; {
	case !ok:
		return cfg, fmt.Errorf("--name %s is not among the members of --cluster: %s", name, strings.Join(names, ", "))
	case listed != own:
		return cfg, fmt.Errorf("--peer is %s, but --cluster has %s for %s: both must be the same", own, listed, name)
	}
	return cfg, nil
}

// plainAddress reads HOST:PORT or http://HOST:PORT. Its error completes "allowed is …".
func plainAddress(text string) (netip.AddrPort, error) {
	wanted := fmt.Errorf("HOST:PORT with an IP address and a port of 1 to 65535, with http:// before it or nothing")
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" || u.Path != "" && u.Path != "/" {
			return netip.AddrPort{}, wanted
		}
		text = u.Host
	}
	at, err := netip.ParseAddrPort(text)
	if err != nil || at.Port() == 0 || at.Addr().IsUnspecified() {
		return netip.AddrPort{}, wanted
	}
	return at, nil
}
