package clusterctl

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// etcdState is the store under the cluster.
type etcdState struct {
	Members []memberState `json:"members"`
}

// memberState is one member of etcd. What it has not told is zero.
type memberState struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"` // "": it has been added, and has never run
	Endpoint  string   `json:"endpoint"`
	Version   string   `json:"version,omitempty"`
	Leader    bool     `json:"leader"`
	HasLeader bool     `json:"has_leader"` // it knows of one
	Learner   bool     `json:"learner,omitempty"`
	Term      uint64   `json:"raft_term,omitempty"`
	Applied   uint64   `json:"raft_applied_index,omitempty"`
	Size      int64    `json:"db_size_bytes,omitempty"`
	InUse     int64    `json:"db_in_use_bytes,omitempty"`
	Quota     int64    `json:"db_quota_bytes,omitempty"` // 0: its version does not tell
	Alarms    []string `json:"alarms,omitempty"`
	Failure   string   `json:"failure,omitempty"` // why it has told nothing
}

// memberWithin is how long one member may take to answer for itself.
const memberWithin = 2 * time.Second

// readMembers asks every member for itself. The list and the alarms come from whichever
// member answers.
func readMembers(ctx context.Context, client *clientv3.Client) (etcdState, error) {
	list, err := client.MemberList(ctx)
	if err != nil {
		return etcdState{}, err
	}
	alarms, err := client.AlarmList(ctx)
	if err != nil {
		return etcdState{}, err
	}
	state := etcdState{Members: make([]memberState, len(list.Members))}
	var wait sync.WaitGroup
	for i, m := range list.Members {
		wait.Go(func() { state.Members[i] = askMember(ctx, client, m) })
	}
	wait.Wait()
	for _, alarm := range alarms.Alarms {
		for i := range state.Members {
			if state.Members[i].ID == memberID(alarm.MemberID) {
				state.Members[i].Alarms = append(state.Members[i].Alarms, alarm.Alarm.String())
			}
		}
	}
	slices.SortFunc(state.Members, func(a, b memberState) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	return state, nil
}

func memberID(id uint64) string { return fmt.Sprintf("%016x", id) }

// askMember asks one member at the addresses that it gives to clients, and then at those that
// were given on the command line: behind a translation of addresses only the latter lead there.
func askMember(ctx context.Context, client *clientv3.Client, m *pb.Member) memberState {
	state := memberState{ID: memberID(m.ID), Name: m.Name, Learner: m.IsLearner}
	if len(m.ClientURLs) > 0 {
		state.Endpoint = bare(m.ClientURLs[0])
	} else {
		state.Failure = "it has never run"
	}
	for i, endpoint := range slices.Concat(m.ClientURLs, client.Endpoints()) {
		try, cancel := context.WithTimeout(ctx, memberWithin)
		reply, err := ask(try, client, endpoint)
		cancel()
		switch {
		case err != nil:
			if i == 0 {
				state.Failure = err.Error()
			}
			continue
		case reply.Header.MemberId != m.ID:
			continue
		}
		state.Endpoint, state.Failure = bare(endpoint), ""
		state.Version, state.Learner = reply.Version, reply.IsLearner
		state.Leader, state.HasLeader = reply.Leader == m.ID, reply.Leader != 0
		state.Term, state.Applied = reply.RaftTerm, reply.RaftAppliedIndex
		state.Size, state.InUse, state.Quota = reply.DbSize, reply.DbSizeInUse, reply.DbSizeQuota
		break
	}
	return state
}

// ask asks one member for itself. It connects by hand first: the client tries again until its
// time is up, and then knows no more than that.
func ask(ctx context.Context, client *clientv3.Client, endpoint string) (*clientv3.StatusResponse, error) {
	if err := connects(ctx, endpoint); err != nil {
		return nil, err
	}
	reply, err := client.Status(ctx, endpoint)
	if err != nil {
		return nil, fmt.Errorf("takes connections, but does not answer: %w", err)
	}
	return reply, nil
}

// connects returns nil when a member takes connections.
func connects(ctx context.Context, endpoint string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", bare(endpoint))
	if err != nil {
		return err
	}
	return conn.Close()
}

// Bounds of what is well with etcd.
const (
	fullAt = 0.75 // of the quota
	lagAt  = 5000 // entries of the log: a member that lags so far is slow, or has just come
)

// wrong says what is wrong with etcd, the worst first.
func (s etcdState) wrong() []string {
	var found []string
	voters, answer, newest, led := 0, 0, uint64(0), false
	for _, m := range s.Members {
		if !m.Learner {
			voters++
			if m.Failure == "" {
				answer++
			}
		}
		newest, led = max(newest, m.Applied), led || m.HasLeader
	}
	if !led {
		found = append(found, "etcd has no leader: nothing can be written")
	}
	for _, m := range s.Members {
		for _, alarm := range m.Alarms {
			found = append(found, alarmText(m, alarm))
		}
	}
	for _, m := range s.Members {
		who := fmt.Sprintf("etcd member %s", cmp.Or(m.Name, m.ID))
		switch {
		case m.Failure != "" && m.Learner:
			found = append(found, fmt.Sprintf("%s, a learner, does not answer: %s", who, m.Failure))
		case m.Failure != "":
			text := fmt.Sprintf("%s does not answer: %s", who, m.Failure)
			if answer == voters/2+1 {
				text += "; if one more goes, nothing can be written"
			}
			found = append(found, text)
		case led && !m.HasLeader:
			found = append(found, who+" is cut off from the others: it knows of no leader")
		case m.Applied+lagAt < newest:
			found = append(found, fmt.Sprintf("%s lags %d entries behind: its disk or its network is slow", who, newest-m.Applied))
		}
		if m.Quota > 0 && float64(m.Size) > fullAt*float64(m.Quota) {
			found = append(found, fmt.Sprintf("%s has filled %d %% of its quota (%s of %s, %s in use): defragment it, or raise the quota",
				who, 100*m.Size/m.Quota, bytesOf(m.Size), bytesOf(m.Quota), bytesOf(m.InUse)))
		}
	}
	return found
}

func alarmText(m memberState, alarm string) string {
	who := cmp.Or(m.Name, m.ID)
	switch alarm {
	case pb.AlarmType_NOSPACE.String():
		return fmt.Sprintf("etcd member %s is out of space (NOSPACE): nothing can be written anywhere until it has been compacted, defragmented and the alarm disarmed", who)
	case pb.AlarmType_CORRUPT.String():
		return fmt.Sprintf("etcd member %s holds other data than its peers (CORRUPT): replace it", who)
	}
	return fmt.Sprintf("etcd member %s has the alarm %s", who, alarm)
}

// bytesOf is a size for people.
func bytesOf(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	default:
		return fmt.Sprintf("%d KiB", (n+1023)/1024)
	}
}
