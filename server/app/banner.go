package app

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
)

// banner is what is printed at start: what to dial, and with what. The secrets in it are
// those of dev mode only.
type banner struct {
	Version       string `json:"version"`
	Mode          string `json:"mode"`
	Node          string `json:"node"`
	SIP           string `json:"sip"`
	SIPTCP        string `json:"sip_tcp"`
	HTTP          string `json:"http"`
	RTP           string `json:"rtp"`
	Data          string `json:"data"`
	Tenant        string `json:"tenant,omitempty"`
	Domain        string `json:"domain,omitempty"`
	Dial          string `json:"dial,omitempty"`
	FirstAgent    string `json:"first_agent,omitempty"`
	LastAgent     string `json:"last_agent,omitempty"`
	AgentPassword string `json:"agent_password,omitempty"`
	OperatorKey   string `json:"operator_key,omitempty"`
}

func (m *Main) banner() banner {
	b := banner{
		Version: m.build.Version, Mode: string(m.cfg.Command), Node: string(m.identity.Node),
		SIP: m.SIP(core.UDP).String(), SIPTCP: m.SIP(core.TCP).String(), HTTP: "http://" + m.HTTP().String(),
		RTP: fmt.Sprintf("%d-%d", m.cfg.RTP.From, m.cfg.RTP.To), Data: m.cfg.Data,
	}
	if m.cfg.Command == config.Dev {
		b.Tenant, b.Domain, b.Dial = string(demoTenant), demoDomain, fmt.Sprintf("sip:%s@%s", demoNumber, b.SIP)
		b.FirstAgent, b.LastAgent = fmt.Sprint(firstAgent), fmt.Sprint(lastAgent)
		b.AgentPassword, b.OperatorKey = m.AgentPassword().Reveal(), m.OperatorKey().Reveal()
	}
	return b
}

// Announce prints what to dial and with what: as one JSON object, or as text for people.
func (m *Main) Announce(w io.Writer) error {
	b := m.banner()
	if m.cfg.JSON {
		line, err := json.Marshal(b)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n", line)
		}
		return err
	}
	_, err := io.WriteString(w, b.text(m.cfg))
	return err
}

func (b banner) text(cfg *config.Config) string {
	if cfg.Command != config.Dev {
		return fmt.Sprintf("dialtone %s, node %s: SIP %s (UDP, TCP), API %s, data %s\n", b.Version, b.Node, b.SIP, b.HTTP, b.Data)
	}
	where := "loopback only"
	if !cfg.SIP.Addr().IsLoopback() || !cfg.HTTP.Addr().IsLoopback() {
		where = "WARNING: reachable from other machines, with demo accounts"
	}
	rows := []string{
		fmt.Sprintf("dialtone %s - dev mode, not for production - %s", b.Version, where),
		"",
		"call     " + b.Dial + "   (queue " + string(demoQueue) + ")",
		"agents   " + b.FirstAgent + " to " + b.LastAgent + ", password " + b.AgentPassword,
		"         register as sip:" + b.FirstAgent + "@" + b.Domain + " at " + b.SIP + ", UDP or TCP;",
		"         an agent is Ready as soon as the phone is registered",
		"API      curl -H 'Authorization: Bearer " + b.OperatorKey + "' \\",
		"              -H 'Dialtone-Tenant: " + b.Tenant + "' " + b.HTTP + "/v1/agents",
		"metrics  " + b.HTTP + "/metrics   ready: " + b.HTTP + "/readyz",
		"audio    UDP " + b.RTP + " on " + addressOf(b.SIP),
		"data     " + b.Data,
		"",
		"Ctrl-C drains: calls finish first. Again: now.",
	}
	width := 0
	for _, row := range rows {
		width = max(width, len(row))
	}
	line := "+" + strings.Repeat("-", width+2) + "+\n"
	text := line
	for _, row := range rows {
		text += fmt.Sprintf("| %-*s |\n", width, row)
	}
	return text + line
}

func addressOf(at string) string {
	parsed, err := netip.ParseAddrPort(at)
	if err != nil {
		return at
	}
	return parsed.Addr().String()
}
