package clusterctl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"charm.land/lipgloss/v2"
)

const statusHelp = `dialtone cluster status reads from etcd how a cluster stands, and says in words what is wrong. It
asks no node, so it works when none answers.

  dialtone cluster status                                    of the cluster of dialtone cluster up
  dialtone cluster status --config /etc/dialtone.yaml        of the cluster that a node belongs to
  dialtone cluster status --etcd 10.0.0.1:2379,10.0.0.2:2379 --etcd-ca ca.pem --etcd-cert op.pem --etcd-key op.key
  dialtone cluster status --json | jq -r '.wrong[]'
  until dialtone cluster status >/dev/null; do sleep 1; done   # wait until all is well

Standings: alive; draining (it is to be empty, and is not yet); drained (it may be ended); gone (no
process of the name is there). The epoch of a shard is the revision at which it got its owner.
Exit codes: 0 all is well, 1 something is wrong, 2 bad usage, 3 etcd cannot be read.
`

// status says how the cluster stands.
func status(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	line := newCommandLine("cluster status", statusHelp, stdout, stderr)
	var at access
	at.bind(line)
	asJSON := line.Bool("json", false, "print one JSON object")
	if _, code, ok := line.read(args, 0); !ok {
		return code
	}
	client, err := at.open(environ)
	if err != nil {
		return line.refuse("%s", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	seen, err := read(ctx, client)
	if err != nil {
		return line.fail(exitUnknown, "%s", unreadable(client, err))
	}
	members, err := readMembers(ctx, client)
	if err != nil {
		return line.fail(exitUnknown, "%s", unreadable(client, err))
	}
	r := judge(seen, members, time.Now())
	if *asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(r)
	} else {
		err = show(stdout, r)
	}
	switch {
	case err != nil:
		return line.fail(exitWrong, "%s", err)
	case !r.Well:
		return exitWrong
	}
	return exitWell
}

func show(w io.Writer, r *report) error {
	text := paintFor(w).text(r)
	if _, err := lipgloss.Fprint(w, text); err != nil {
		return fmt.Errorf("nobody reads what is printed: %w", err)
	}
	return nil
}
