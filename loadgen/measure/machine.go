package measure

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// ThisMachine is the machine that this process runs on. What the kernel does not tell is
// "unknown" or 0.
func ThisMachine() Machine {
	m := Machine{Host: "unknown", CPU: "unknown", Kernel: "unknown", Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version()}
	if host, err := os.Hostname(); err == nil {
		m.Host = host
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	if model := procValue("/proc/cpuinfo", "model name"); model != "" {
		m.CPU = model
	}
	if kib, err := strconv.ParseUint(strings.TrimSuffix(procValue("/proc/meminfo", "MemTotal"), " kB"), 10, 50); err == nil {
		m.Memory = kib * 1024
	}
	return m
}

// procValue is the value of the first "key: value" line of a file below /proc.
func procValue(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// ThisGenerator is the program that is running.
func ThisGenerator() Generator {
	g := Generator{Version: "devel", Revision: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return g
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		g.Version = v
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			g.Revision = setting.Value
		case "vcs.modified":
			g.Modified = setting.Value == "true"
		}
	}
	return g
}
