package arrival

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxTrace is how many lines of a trace are read.
const maxTrace = 1_000_000

// ReadTrace reads due times. Without a column each line is one; blank lines and what follows
// a # are left out. With a column the text is CSV (RFC 4180) with a header that names it. A
// time is in seconds (12.5) or carries its unit (12.5s, 300ms). The lines may be in any order;
// the result ascends.
func ReadTrace(r io.Reader, column string) ([]time.Duration, error) {
	var offsets []time.Duration
	var err error
	if column == "" {
		offsets, err = readLines(r)
	} else {
		offsets, err = readColumn(r, column)
	}
	switch {
	case err != nil:
		return nil, err
	case len(offsets) == 0:
		return nil, errors.New("the trace is empty")
	}
	slices.Sort(offsets)
	return offsets, nil
}

func readLines(r io.Reader) ([]time.Duration, error) {
	var offsets []time.Duration
	scan := bufio.NewScanner(r)
	for line := 1; scan.Scan(); line++ {
		text, _, _ := strings.Cut(scan.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		at, err := offset(text)
		if err == nil && len(offsets) == maxTrace {
			err = fmt.Errorf("more than %d arrivals", maxTrace)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		offsets = append(offsets, at)
	}
	return offsets, scan.Err()
}

func readColumn(r io.Reader, column string) ([]time.Duration, error) {
	rows := csv.NewReader(r)
	rows.ReuseRecord, rows.TrimLeadingSpace = true, true
	header, err := rows.Read()
	if err != nil {
		return nil, fmt.Errorf("no header: %w", err)
	}
	at := slices.Index(header, column)
	if at < 0 {
		return nil, fmt.Errorf("no column %q; there are %s", column, strings.Join(header, ", "))
	}
	var offsets []time.Duration
	for {
		row, err := rows.Read()
		switch {
		case errors.Is(err, io.EOF):
			return offsets, nil
		case err != nil:
			return nil, err
		case len(offsets) == maxTrace:
			return nil, fmt.Errorf("more than %d arrivals", maxTrace)
		}
		due, err := offset(strings.TrimSpace(row[at]))
		if err != nil {
			line, _ := rows.FieldPos(at)
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		offsets = append(offsets, due)
	}
}

func offset(text string) (time.Duration, error) {
	at, err := time.ParseDuration(text)
	if err != nil {
		seconds, wrong := strconv.ParseFloat(text, 64)
		if wrong != nil || math.IsNaN(seconds) || math.Abs(seconds) > maxLength.Seconds() {
			return 0, fmt.Errorf("%.40q: must be seconds (12.5) or a duration (300ms)", text)
		}
		at = time.Duration(math.Round(seconds * 1e9))
	}
	if at < 0 || at > maxLength {
		return 0, fmt.Errorf("%.40q: must be 0 to %v after the start", text, maxLength)
	}
	return at, nil
}
