package clusterctl

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/server/v3/embed"
)

const deploy = "../../deploy"

type alertRule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alerts(t *testing.T) (all []alertRule) {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string      `yaml:"name"`
			Rules []alertRule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(fileText(t, deploy, "alerts.yaml")), &file, yaml.Strict()); err != nil {
		t.Fatal(yaml.FormatError(err, false, true))
	}
	for _, g := range file.Groups {
		if g.Name == "" {
			t.Error("a group without a name")
		}
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("%d rules were read", len(all))
	}
	return all
}

// literals are the texts in quotes in the files that make the metrics.
func literals(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, pattern := range []string{"../telemetry/*.go", "../app/*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatal(pattern, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`"([a-z0-9_]+)"`).FindAllStringSubmatch(string(text), -1) {
				found[m[1]] = true
			}
		}
	}
	return found
}

// etcdMetrics are the names that an etcd member exports; those of peers come with the first one.
func etcdMetrics(t *testing.T) map[string]bool {
	t.Helper()
	newStore(t) // a member runs in this process
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{"etcd_network_peer_round_trip_time_seconds": true, "etcd_network_peer_sent_failures_total": true}
	for _, f := range families {
		found[f.GetName()] = true
	}
	return found
}

var metricName = regexp.MustCompile(`\b(dialtone|etcd|process|up)[a-z0-9]*(_[a-z0-9]+)+\b`)

// An alert on a metric that no one exports never fires, and nobody notices.
func TestAlertsAreOnMetricsThatExist(t *testing.T) {
	ours, theirs := literals(t), etcdMetrics(t)
	exists := func(name string) bool {
		for _, suffix := range []string{"", "_bucket", "_count", "_sum"} {
			bare, ok := strings.CutSuffix(name, suffix)
			if own, of := strings.CutPrefix(bare, "dialtone_"); ok && (of && ours[own] || theirs[bare]) {
				return true
			}
		}
		return strings.HasPrefix(name, "process_") && theirs[name]
	}
	for _, planted := range []string{"dialtone_no_such_thing", "etcd_server_has_leaders"} {
		if exists(planted) {
			t.Fatalf("%s exists", planted)
		}
	}
	checked := 0
	for _, rule := range alerts(t) {
		for _, name := range metricName.FindAllString(rule.Expr, -1) {
			checked++
			if !exists(name) {
				t.Errorf("%s: there is no metric %s", rule.Alert, name)
			}
		}
	}
	for _, name := range regexp.MustCompile("`((dialtone|etcd)_[a-z0-9_]+)`").FindAllStringSubmatch(fileText(t, deploy, "RUNBOOK.md"), -1) {
		checked++
		if !exists(name[1]) {
			t.Errorf("RUNBOOK.md: there is no metric %s", name[1])
		}
	}
	if checked < 40 {
		t.Errorf("only %d names were checked", checked)
	}
}

func TestAlertsAreWhole(t *testing.T) {
	runbook := fileText(t, deploy, "RUNBOOK.md")
	headings := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^### (.+)$`).FindAllStringSubmatch(runbook, -1) {
		for name := range strings.SplitSeq(line[1], ", ") {
			headings[name] = true
		}
	}
	var names []string
	for _, rule := range alerts(t) {
		if slices.Contains(names, rule.Alert) {
			t.Errorf("%s is there twice", rule.Alert)
		}
		names = append(names, rule.Alert)
		if !headings[rule.Alert] {
			t.Errorf("RUNBOOK.md does not say what to do at %s", rule.Alert)
		}
		if rule.Expr == "" || rule.Annotations["summary"] == "" || rule.Annotations["runbook"] == "" ||
			!slices.Contains([]string{"critical", "warning", "info"}, rule.Labels["severity"]) {
			t.Errorf("%s lacks something: %+v", rule.Alert, rule)
		}
		if rule.For != "" && !regexp.MustCompile(`^[0-9]+[smh]$`).MatchString(rule.For) {
			t.Errorf("%s: for %s", rule.Alert, rule.For)
		}
		for _, pair := range []string{"()", "{}", "[]"} {
			if strings.Count(rule.Expr, pair[:1]) != strings.Count(rule.Expr, pair[1:]) {
				t.Errorf("%s: %s is not closed in %s", rule.Alert, pair, rule.Expr)
			}
		}
		for _, see := range regexp.MustCompile(`See (\w+)\.`).FindAllStringSubmatch(rule.Annotations["runbook"], -1) {
			if !headings[see[1]] {
				t.Errorf("%s refers to %s, which RUNBOOK.md does not have", rule.Alert, see[1])
			}
		}
	}
	for heading := range headings {
		if (strings.HasPrefix(heading, "Dialtone") || strings.HasPrefix(heading, "Etcd")) && !slices.Contains(names, heading) {
			t.Errorf("RUNBOOK.md speaks of %s, which is no alert", heading)
		}
	}
}

// The links within the runbook lead somewhere.
func TestRunbookLinks(t *testing.T) {
	text := fileText(t, deploy, "RUNBOOK.md")
	anchors := map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		anchor := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(line[1]), "")
		anchors[strings.ReplaceAll(anchor, " ", "-")] = true
	}
	links := regexp.MustCompile(`\]\(#([^)]+)\)`).FindAllStringSubmatch(text, -1)
	for _, link := range links {
		if !anchors[link[1]] {
			t.Errorf("#%s leads nowhere", link[1])
		}
	}
	if len(links) < 10 {
		t.Errorf("%d links", len(links))
	}
}

// What the unit and the runbook tell etcd is what it takes.
func TestEtcdUnit(t *testing.T) {
	flags := flag.NewFlagSet("etcd", flag.ContinueOnError)
	embed.NewConfig().AddFlags(flags)
	found := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  --([a-z-]+)=([^ \\]+)`).FindAllStringSubmatch(fileText(t, deploy, "etcd.service"), -1) {
		found[m[1]] = m[2]
		if flags.Lookup(m[1]) == nil && m[1] != "initial-cluster-state" { // that one its main program adds
			t.Errorf("etcd has no flag --%s", m[1])
		}
	}
	for name, want := range map[string]string{"heartbeat-interval": "50", "election-timeout": "500", "auto-compaction-mode": "periodic", "strict-reconfig-check": "true"} {
		if found[name] != want {
			t.Errorf("--%s is %q, want %q", name, found[name], want)
		}
	}
	if len(found) < 20 {
		t.Errorf("%d flags", len(found))
	}
}
