package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// curve is a line of a chart. NaN in ys is a gap.
type curve struct {
	Name   string
	Colour int // 1 to 5, of the page's palette
	xs, ys []float64
}

// chart is a drawing with its words. It is drawn twice, for wide and for narrow screens,
// since text in a scaled drawing would become too small to read.
type chart struct {
	Title, Unit, Note string
	Curves            []curve
	X                 string // what the x axis is
	x                 axis
	logY              bool
	Drawings          []template.HTML
}

// axis is the ends and the ticks of an x axis.
type axis struct {
	min, max float64
	ticks    []plot.Tick
}

// The page's palette is given to the drawing as colours that occur nowhere else and are
// replaced by style variables, so that one drawing fits both light and dark.
const mostColours = 5

func paletteColour(i int) color.Color { return color.RGBA{R: 1, G: 2, B: uint8(i), A: 255} }

const (
	inkText = 10
	inkGrid = 11
)

func paletteNames() *strings.Replacer {
	var pairs []string
	for i := 1; i <= mostColours; i++ {
		pairs = append(pairs, fmt.Sprintf("#0102%02X", i), fmt.Sprintf("var(--c%d)", i))
	}
	return strings.NewReplacer(append(pairs, fmt.Sprintf("#0102%02X", inkText), "var(--dim)", fmt.Sprintf("#0102%02X", inkGrid), "var(--grid)")...)
}

// draw makes the chart's drawings.
func (c *chart) draw() error {
	for _, size := range []struct {
		class         string
		width, height vg.Length
	}{{"wide", 490, 200}, {"narrow", 340, 210}} {
		svg, err := c.drawing(size.class, size.width, size.height)
		if err != nil {
			return fmt.Errorf("chart %q: %w", c.Title, err)
		}
		c.Drawings = append(c.Drawings, svg)
	}
	return nil
}

func (c *chart) drawing(class string, width, height vg.Length) (template.HTML, error) {
	p := plot.New()
	p.BackgroundColor = color.Transparent
	c.scale(p, class == "narrow")
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Tick.Label.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: 11}
		a.Tick.Label.Color = paletteColour(inkText)
		a.Tick.LineStyle.Width, a.LineStyle.Width, a.Tick.Length = 0, 0, 3
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = paletteColour(inkGrid), paletteColour(inkGrid)
	grid.Vertical.Width, grid.Horizontal.Width = 0.6, 0.6
	p.Add(grid)
	for _, curve := range slices.Backward(c.Curves) { // the first is the most important: on top
		if err := curve.add(p, c.x.max-c.x.min); err != nil {
			return "", err
		}
	}
	canvas := vgsvg.New(width, height)
	area := draw.New(canvas)
	if n := len(c.x.ticks); n > 0 && c.x.ticks[n-1].Value > c.x.max*0.96 {
		area = draw.Crop(area, 0, -14, 0, 0) // room for the half of a label that stands past the end
	}
	p.Draw(area)
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", err
	}
	return inline(b.String(), class, width, height, c.Title), nil
}

// inline turns a drawing that is a file into one that is a part of a page.
func inline(file, class string, width, height vg.Length, title string) template.HTML {
	begin := strings.Index(file, "<svg")
	begin += strings.IndexByte(file[begin:], '>') + 1
	head := fmt.Sprintf(`<svg class="%s" viewBox="0 0 %g %g" role="img" aria-label="%s">`, class, width, height, template.HTMLEscapeString(title))
	return template.HTML(head + paletteNames().Replace(file[begin:])) // made here, from numbers and our own words
}

// scale sets the axes.
func (c *chart) scale(p *plot.Plot, narrow bool) {
	low, high := math.Inf(1), 0.0
	for _, curve := range c.Curves {
		for _, y := range curve.ys {
			if !math.IsNaN(y) {
				low, high = min(low, y), max(high, y)
			}
		}
	}
	if high == 0 {
		low, high = 0, 1
	}
	p.X.Min, p.X.Max = c.x.min, max(c.x.max, c.x.min+1e-9)
	ticks := c.x.ticks
	if narrow && len(ticks) > 5 {
		ticks = thinned(ticks)
	}
	p.X.Tick.Marker = plot.ConstantTicks(ticks)
	if c.logY && low > 0 && high/low > 20 {
		p.Y.Min, p.Y.Max = round125(low, false), round125(high, true)
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.ConstantTicks(decades(p.Y.Min, p.Y.Max))
		return
	}
	step := niceStep(high, 4)
	p.Y.Min, p.Y.Max = 0, math.Ceil(high/step-1e-9)*step
	p.Y.Tick.Marker = plot.ConstantTicks(linear(0, p.Y.Max, step))
}

// thinned is every second tick.
func thinned(ticks []plot.Tick) (few []plot.Tick) {
	for i := 0; i < len(ticks); i += 2 {
		few = append(few, ticks[i])
	}
	return few
}

// add draws the curve; a value between two gaps is a short dash.
func (c curve) add(p *plot.Plot, span float64) error {
	var run plotter.XYs
	flush := func() error {
		if len(run) == 1 {
			run = append(run, plotter.XY{X: run[0].X + span/200, Y: run[0].Y})
		}
		if len(run) == 0 {
			return nil
		}
		line, err := plotter.NewLine(run)
		if err != nil {
			return err
		}
		line.Color, line.Width = paletteColour(c.Colour), 1.6
		p.Add(line)
		run = nil
		return nil
	}
	for i, x := range c.xs {
		if !math.IsNaN(c.ys[i]) {
			run = append(run, plotter.XY{X: x, Y: max(c.ys[i], p.Y.Min)})
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return flush()
}

// niceStep is 1, 2 or 5 times a power of ten, so that about n of them make high.
func niceStep(high float64, n int) float64 {
	raw := high / float64(n)
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5} {
		if raw <= m*power*1.0001 {
			return m * power
		}
	}
	return 10 * power
}

func linear(from, to, step float64) (ticks []plot.Tick) {
	for i := 0; i <= 50; i++ {
		v := from + float64(i)*step
		if v > to+step/1000 {
			break
		}
		ticks = append(ticks, plot.Tick{Value: v, Label: tickLabel(v)})
	}
	return ticks
}

// round125 is the next 1, 2 or 5 times a power of ten, above or below.
func round125(v float64, up bool) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)+1e-9))
	best := power
	for _, m := range []float64{1, 2, 5, 10} {
		switch {
		case up && v <= m*power*1.0001:
			return m * power
		case !up && m*power <= v*1.0001:
			best = m * power
		}
	}
	return best
}

// decades are the ticks of a logarithmic axis; 2 and 5 too where there is room.
func decades(from, to float64) (ticks []plot.Tick) {
	few := math.Log10(to/from) < 3.2
	power := math.Pow(10, math.Floor(math.Log10(from)+1e-9))
	for ; power < to*1.0001; power *= 10 {
		for _, m := range []float64{1, 2, 5} {
			if v := m * power; v > from*0.9999 && v < to*1.0001 && (m == 1 || few) {
				ticks = append(ticks, plot.Tick{Value: v, Label: tickLabel(v)})
			}
		}
	}
	return ticks
}

func tickLabel(v float64) string {
	if v >= 1_000 {
		return grouped(int64(math.Round(v)))
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// timeAxis is the seconds of a run.
func timeAxis(end float64) axis {
	a := axis{max: max(end, 1)}
	step := 1.0
	for _, step = range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400} {
		if a.max/step <= 8 {
			break
		}
	}
	for v := 0.0; v <= a.max && len(a.ticks) < 100; v += step {
		label := fmt.Sprintf("%g s", v)
		if step >= 60 {
			label = fmt.Sprintf("%d:%02d", int(v)/3600, int(v)/60%60)
		} else if a.max >= 120 {
			label = fmt.Sprintf("%d:%02d", int(v)/60, int(v)%60)
		}
		a.ticks = append(a.ticks, plot.Tick{Value: v, Label: label})
	}
	return a
}

// percentileAxis puts as much room between p90 and p99 as between p99 and p99.9.
func percentileAxis(samples int64) axis {
	a := axis{max: min(math.Log10(float64(max(samples, 10))), 6.2)}
	for i, label := range []string{"0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%"} {
		if v := float64(i); v <= a.max {
			a.ticks = append(a.ticks, plot.Tick{Value: v, Label: label})
		}
		if i == 0 {
			a.ticks = append(a.ticks, plot.Tick{Value: math.Log10(2), Label: "50%"})
		}
	}
	return a
}
