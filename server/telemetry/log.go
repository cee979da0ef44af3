package telemetry

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/lmittmann/tint"

	"github.com/dialtone-cc/dialtone/server/core"
)

// LogConfig says how log lines are written.
type LogConfig struct {
	Level slog.Leveler
	Text  bool // for people; else one JSON object a line
	Color bool
	Node  core.NodeID
}

// NewLog returns a logger with the node on every line. Secrets are masked by the name of
// their attribute, in case one slips past the types that hide themselves.
func NewLog(w io.Writer, cfg LogConfig) *slog.Logger {
	var handler slog.Handler
	if cfg.Text {
		handler = tint.NewHandler(w, &tint.Options{Level: cfg.Level, TimeFormat: "15:04:05.000", NoColor: !cfg.Color, ReplaceAttr: mask})
	} else {
		handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: cfg.Level, ReplaceAttr: mask})
	}
	return slog.New(handler).With("node", string(cfg.Node))
}

// Terminal reports whether a file is a terminal that wants colour (https://no-color.org).
func Terminal(f *os.File) (terminal, color bool) {
	info, err := f.Stat()
	terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	return terminal, terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// mask hides secrets and gives durations their unit.
func mask(_ []string, a slog.Attr) slog.Attr {
	switch strings.ToLower(a.Key) {
	case "password", "secret", "authorization", "proxy-authorization", "api_key", "operator_key", "agent_password", "digits", "dtmf":
		return slog.String(a.Key, "***")
	}
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String()) // with its unit, not as nanoseconds
	}
	return a
}

// Line writes a line of the core.
func Line(log *slog.Logger, line core.Log) {
	level := slog.Level(line.Level)
	if !log.Enabled(context.Background(), level) {
		return
	}
	attrs := make([]any, 0, len(line.Attrs)+4)
	if line.Tenant != "" {
		attrs = append(attrs, "tenant", string(line.Tenant))
	}
	if line.Interaction != "" {
		attrs = append(attrs, "interaction", string(line.Interaction))
	}
	log.Log(context.Background(), level, line.Text, append(attrs, line.Attrs...)...)
}
