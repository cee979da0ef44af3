package etcdstore

import (
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapLogger returns a logger for etcd that writes to slog, quietly: etcd's information is
// our debugging, its warnings are our information once it is ready (before that they
// lecture on settings that do not matter here). A fatal error, at which etcd would end
// the process and every call in it, ends only the goroutine and is given to fatal.
func zapLogger(log *slog.Logger, ready *atomic.Bool, fatal func(text string)) *zap.Logger {
	end := fatalHook(fatal)
	return zap.New(&zapCore{log: log.With("component", "etcd"), ready: ready}, zap.WithFatalHook(end), zap.WithPanicHook(end))
}

const maxLogged = 200 // bytes of one text

type fatalHook func(text string)

func (f fatalHook) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	text := entry.Message
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && field.Type == zapcore.ErrorType {
			text += ": " + err.Error()
		}
	}
	f(text)
	runtime.Goexit()
}

// zapCore is a zapcore.Core on top of slog.
type zapCore struct {
	log    *slog.Logger
	ready  *atomic.Bool
	fields []zapcore.Field
}

// level maps levels. A start that fails is an error that is returned, so what is logged
// on the way counts one less.
func (c *zapCore) level(level zapcore.Level) slog.Level {
	switch ready := c.ready.Load(); {
	case level >= zapcore.DPanicLevel, level == zapcore.ErrorLevel && ready:
		return slog.LevelError
	case level == zapcore.ErrorLevel, level == zapcore.WarnLevel && ready:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (c *zapCore) Enabled(level zapcore.Level) bool {
	// etcd's own debugging is never wanted, and fatal errors always are: the hook hangs on them.
	return level >= zapcore.DPanicLevel ||
		level >= zapcore.InfoLevel && c.log.Enabled(context.Background(), c.level(level))
}

func (c *zapCore) With(fields []zapcore.Field) zapcore.Core {
	return &zapCore{c.log, c.ready, append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

func (c *zapCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// premature is what etcd complains about when it looks for the version of a new store
// before the first commit has reached the file (storage/schema: UnsafeDetectSchemaVersion).
// It looks again some seconds later; nobody has anything to do.
const premature = "missing term information"

func (c *zapCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok && strings.HasSuffix(err.Error(), premature) {
			return nil
		}
	}
	encoder := zapcore.NewMapObjectEncoder()
	record := slog.NewRecord(time.Now(), c.level(entry.Level), entry.Message, 0)
	for _, group := range [][]zapcore.Field{c.fields, fields} {
		for _, field := range group {
			field.AddTo(encoder)
			value, ok := encoder.Fields[field.Key]
			if text, isText := value.(string); isText && len(text) > maxLogged {
				value = text[:maxLogged] + "..." // a slow request is logged with all of its keys
			}
			if ok {
				record.AddAttrs(slog.Any(field.Key, value))
			}
		}
	}
	return c.log.Handler().Handle(context.Background(), record)
}

func (c *zapCore) Sync() error { return nil }
