package clusterctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
	"github.com/dialtone-cc/dialtone/server/core/cluster"
)

const drainHelp = `dialtone cluster drain empties a node: it takes no new calls, hands its shards to others, lets its
calls finish, and moves what is left after its drain_timeout. The order stands in etcd until
undrain, whatever becomes of the process: a node that is started again drains on.

  dialtone cluster drain n1                         say so, and return
  dialtone cluster drain n1 --wait                  and wait until it has neither calls nor shards
  dialtone cluster drain n1 --wait --timeout 15m --config /etc/dialtone.yaml

  one node after the other, as in an upgrade:
  dialtone cluster drain n1 --wait && ssh n1 systemctl stop dialtone   # replace the program, then
  ssh n1 systemctl start dialtone && dialtone cluster undrain n1

Exit codes: 0 done, 1 it was not empty in time (it drains on), 2 bad usage, 3 etcd cannot be read.
`

const undrainHelp = `dialtone cluster undrain takes the order of dialtone cluster drain back: the node takes calls again.

  dialtone cluster undrain n1
  dialtone cluster undrain n1 --etcd 10.0.0.1:2379,10.0.0.2:2379

It works too for a node that is not there at the moment: it will take calls when it comes back.
Exit codes: 0 done, 2 bad usage, 3 etcd cannot be written.
`

const (
	drainTimeout = 30 * time.Minute
	drainEvery   = 500 * time.Millisecond
)

func drain(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	line := newCommandLine("cluster drain", drainHelp, stdout, stderr)
	var at access
	at.bind(line)
	wait := line.Bool("wait", false, "wait until the node has neither calls nor shards")
	limit := line.Duration("timeout", drainTimeout, "`DURATION` of --wait at most")
	words, code, ok := line.read(args, 1)
	if !ok {
		return code
	}
	if len(words) == 0 {
		return line.refuse("the node is missing: dialtone cluster drain NODE")
	}
	if *limit <= 0 {
		return line.refuse("--timeout %s: allowed is a duration above 0, such as 15m", *limit)
	}
	client, err := at.open(environ)
	if err != nil {
		return line.refuse("%s", err)
	}
	defer client.Close()
	name := core.NodeID(words[0])
	found, code := order(ctx, line, client, name)
	if !found {
		return code
	}
	fmt.Fprintf(stdout, "node %s drains\n", name)
	if !*wait {
		return exitWell
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	return awaitEmpty(ctx, line, client, name)
}

// order writes that a node is to be empty, if the node is there.
func order(ctx context.Context, line *commandLine, client *clientv3.Client, name core.NodeID) (done bool, code int) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	if err := reached(ctx, client); err != nil {
		return false, line.fail(exitUnknown, "%s", unreadable(client, err))
	}
	record := cluster.DrainRecord{By: whoami(), At: core.Time(time.Now().UnixNano())}
	reply, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(cluster.NodeKey(name)), ">", 0)).
		Then(clientv3.OpPut(cluster.DrainKey(name), string(record.Encode()))).Else(namesOf()...).Commit()
	switch {
	case err != nil:
		return false, line.fail(exitUnknown, "%s", unreadable(client, err))
	case !reply.Succeeded:
		return false, unknownNode(line, name, reply)
	}
	return true, exitWell
}

func undrain(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	line := newCommandLine("cluster undrain", undrainHelp, stdout, stderr)
	var at access
	at.bind(line)
	words, code, ok := line.read(args, 1)
	if !ok {
		return code
	}
	if len(words) == 0 {
		return line.refuse("the node is missing: dialtone cluster undrain NODE")
	}
	name, key := core.NodeID(words[0]), cluster.DrainKey(core.NodeID(words[0]))
	client, err := at.open(environ)
	if err != nil {
		return line.refuse("%s", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	if err := reached(ctx, client); err != nil {
		return line.fail(exitUnknown, "%s", unreadable(client, err))
	}
	reply, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), ">", 0)).
		Then(clientv3.OpDelete(key)).Else(append(namesOf(), clientv3.OpGet(cluster.NodeKey(name), clientv3.WithCountOnly()))...).Commit()
	switch {
	case err != nil:
		return line.fail(exitUnknown, "%s", unreadable(client, err))
	case reply.Succeeded:
		fmt.Fprintf(stdout, "node %s takes calls\n", name)
	case reply.Responses[2].GetResponseRange().Count == 0:
		return unknownNode(line, name, reply)
	default:
		fmt.Fprintf(stdout, "node %s was not to drain; it takes calls\n", name)
	}
	return exitWell
}

// whoami is who gives the order, for people who find it.
func whoami() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// namesOf reads what nodes there are, and which are to drain.
func namesOf() []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(nodePrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()),
		clientv3.OpGet(drainPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly()),
	}
}

// unknownNode says which nodes there are instead.
func unknownNode(line *commandLine, name core.NodeID, reply *clientv3.TxnResponse) int {
	var names []string
	for i, prefix := range []string{nodePrefix, drainPrefix} {
		for _, kv := range reply.Responses[i].GetResponseRange().Kvs {
			if id := strings.TrimPrefix(string(kv.Key), prefix); !strings.Contains(id, "/") && !slices.Contains(names, id) {
				names = append(names, id)
			}
		}
	}
	slices.SortFunc(names, natural)
	if len(names) == 0 {
		return line.refuse("there is no node %q, nor any other: is this the right etcd?", name)
	}
	text := ""
	if near := config.Nearest(string(name), names); near != "" {
		text = "; did you mean " + near + "?"
	}
	return line.refuse("there is no node %q%s There are %s.", name, cmp.Or(text, "."), strings.Join(names, ", "))
}

// awaitEmpty shows what is left until nothing is, or the time is over.
func awaitEmpty(ctx context.Context, line *commandLine, client *clientv3.Client, name core.NodeID) int {
	show := newProgress(line.stderr)
	defer show.clear()
	began := time.Now()
	left, silent := "", time.Now()
	for {
		seen, err := readOnce(ctx, client)
		if err == nil {
			silent = time.Now()
			s := seen.state(name)
			if s.Calls == 0 && (s.Shards == 0 || !seen.others(name)) {
				show.clear()
				fmt.Fprintf(line.stdout, "node %s is empty after %s: it may be ended\n", name, time.Since(began).Round(100*time.Millisecond))
				if s.Shards > 0 {
					fmt.Fprintf(line.stdout, "It keeps %s, for no other node takes calls.\n", counted(s.Shards, "shard"))
				}
				return exitWell
			}
			if !seen.drains[name] {
				show.clear()
				return line.fail(exitWrong, "node %s is not to drain any more: somebody has taken the order back", name)
			}
			left = fmt.Sprintf("%s and %s left", counted(s.Calls, "call"), counted(s.Shards, "shard"))
			show.line(fmt.Sprintf("node %s: %s, %s", name, left, time.Since(began).Round(time.Second)))
		} else if time.Since(silent) > readWithin {
			show.clear()
			return line.fail(exitUnknown, "%s", unreadable(client, err))
		}
		select {
		case <-ctx.Done():
			show.clear()
			if errors.Is(ctx.Err(), context.Canceled) {
				return line.fail(exitWrong, "not waited for: node %s drains on, %s", name, left)
			}
			return line.fail(exitWrong, "node %s was not empty in time: %s; it drains on", name, left)
		case <-time.After(drainEvery):
		}
	}
}

// readOnce reads with a time of its own, so that one lost answer is not the end of a wait.
func readOnce(ctx context.Context, client *clientv3.Client) (*reading, error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin/2)
	defer cancel()
	return read(ctx, client)
}
