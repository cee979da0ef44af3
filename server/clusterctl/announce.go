package clusterctl

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// text is the machine for people: whom to call, with what, and what to break.
func (m *machine) text(restart bool) string {
	first := m.Nodes[0]
	rows := []string{
		fmt.Sprintf("dialtone cluster - %s and %s on this machine - not for production", counted(len(m.Nodes), "node"), counted(len(m.Members), "etcd member")),
		"",
		"call     " + m.Dial + "   (queue " + demoQueue + "); every node takes calls",
		"agents   " + m.FirstAgent + " to " + m.LastAgent + ", password " + m.AgentPassword,
		"         register as sip:" + m.FirstAgent + "@" + m.Domain + " at any node, UDP or TCP;",
		"         an agent is Ready as soon as the phone is registered",
		"try      dialtone call --server " + first.SIP.String() + " --domain " + m.Domain + " --data " + m.Dir,
		"API      curl -H 'Authorization: Bearer " + m.OperatorKey + "' \\",
		"              -H 'Dialtone-Tenant: " + m.Tenant + "' " + first.HTTP + "/v1/agents",
		"",
	}
	for _, n := range m.Nodes {
		rows = append(rows, fmt.Sprintf("%-8s SIP %-15s  API %-21s  pid %d", n.Name, n.SIP, n.HTTP, n.Pid))
	}
	for _, e := range m.Members {
		rows = append(rows, fmt.Sprintf("%-8s etcd %-20s  %-21s  pid %d", e.Name, e.Client, "", e.Pid))
	}
	again := "start it again: dialtone server --config " + first.Config
	if restart {
		again = "it is started again at once"
	}
	rows = append(rows, "",
		"status   dialtone cluster status --etcd "+m.Etcd,
		"drain    dialtone cluster drain "+first.Name+" --wait --etcd "+m.Members[0].Client.String(),
		fmt.Sprintf("kill     kill -9 %d   its calls go on at the other nodes", first.Pid),
		"         "+again,
		"logs     "+m.Dir+"/*.log   pids: "+m.Dir+"/"+machineFile,
		"",
		"Ctrl-C ends all of them; calls that are up have "+drainLimit.String()+" to finish.",
	)
	return boxed(rows)
}

func boxed(rows []string) string {
	width := 0
	for _, row := range rows {
		width = max(width, utf8.RuneCountInString(row))
	}
	line := "+" + strings.Repeat("-", width+2) + "+\n"
	text := line
	for _, row := range rows {
		text += "| " + row + strings.Repeat(" ", width-utf8.RuneCountInString(row)) + " |\n"
	}
	return text + line
}

// counted is a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
