package report

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

// Moment is how a run stands.
type Moment struct {
	Elapsed                                   time.Duration
	Live, Started, Completed, Failed, Dropped int64
	SetupP99, OneWayP99                       measure.Micros // Never where there are none
}

// Progress is one line on a terminal while the run lasts. In a pipe it is nothing.
type Progress struct {
	bars  *mpb.Progress
	bar   *mpb.Bar
	total int64 // milliseconds
	now   atomic.Pointer[string]
}

// NewProgress starts the line, if out is a terminal. total is how long the run is planned.
func NewProgress(out *os.File, total time.Duration) *Progress {
	p := &Progress{}
	if !term.IsTerminal(int(out.Fd())) || os.Getenv("TERM") == "dumb" {
		return p
	}
	p.bars = mpb.New(mpb.WithOutput(out), mpb.WithRefreshRate(250*time.Millisecond))
	p.total = max(total.Milliseconds(), 1)
	p.bar = p.bars.New(p.total, mpb.BarStyle().Lbound("").Filler("█").Tip("█").Padding("░").Rbound(""),
		mpb.BarWidth(16), mpb.BarRemoveOnComplete(),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
			if text := p.now.Load(); text != nil {
				return " " + *text
			}
			return ""
		})))
	return p
}

// Update shows a moment; once per second is often enough.
func (p *Progress) Update(m Moment) {
	if p.bar == nil {
		return
	}
	text := m.String()
	p.now.Store(&text)
	// A full bar would be taken away, while the last calls may still be up.
	p.bar.SetCurrent(min(m.Elapsed.Milliseconds(), p.total-1))
}

// Close takes the line away.
func (p *Progress) Close() {
	if p.bar == nil {
		return
	}
	p.bar.Abort(true)
	p.bars.Wait()
}

// String is the moment in one line of at most 80 columns, as a rule.
func (m Moment) String() string {
	text := fmt.Sprintf("%4.0fs  %s live  %s done", m.Elapsed.Seconds(), grouped(m.Live), grouped(m.Completed))
	if m.Failed > 0 {
		text += fmt.Sprintf("  %s failed", grouped(m.Failed))
	}
	if m.Dropped > 0 {
		text += fmt.Sprintf("  %s dropped", grouped(m.Dropped))
	}
	if m.SetupP99 >= 0 {
		text += fmt.Sprintf("  setup p99 %s ms", millis(float64(m.SetupP99)))
	}
	if m.OneWayP99 >= 0 {
		text += fmt.Sprintf("  one way p99 %s ms", millis(float64(m.OneWayP99)))
	}
	return text
}
