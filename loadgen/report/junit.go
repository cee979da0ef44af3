package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/dialtone-cc/dialtone/loadgen/measure"
)

type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Host      string      `xml:"hostname,attr,omitempty"`
	Cases     []junitCase `xml:"testcase"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitMessage `xml:"failure"`
	Error   *junitMessage `xml:"error"`
	Output  string        `xml:"system-out,omitempty"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

// JUnit writes the run for a CI server: a test case for the run's validity (an error where it
// is not valid) and one for each objective. The objectives of an invalid run are errors as
// well, since nobody knows whether they were met.
func JUnit(w io.Writer, r *measure.Result) error {
	const class = "dialtone.loadgen"
	suite := junitSuite{Name: "dialtone loadgen " + r.Target, Time: fmt.Sprintf("%.3f", float64(r.Duration)/1e6), Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05")}
	if len(r.Machines) > 0 {
		suite.Host = r.Machines[0].Host
	}
	valid := junitCase{Class: class, Name: "valid run", Time: suite.Time}
	if !r.Valid {
		suite.Errors++
		valid.Error = &junitMessage{Message: "the run is invalid", Type: "invalid", Text: strings.Join(r.Invalid, "\n")}
	}
	suite.Cases = append(suite.Cases, valid)
	for _, v := range r.Verdicts {
		c := junitCase{Class: class + ".slo", Name: v.SLO, Time: "0", Output: fmt.Sprintf("%s (%s samples)", v.Reason, grouped(v.Samples))}
		switch {
		case !r.Valid:
			suite.Errors++
			c.Error = &junitMessage{Message: "unknown, since the run is invalid", Type: "invalid", Text: c.Output}
		case !v.Passed:
			suite.Failures++
			c.Failure = &junitMessage{Message: v.SLO + " missed: " + v.Reason, Type: "slo", Text: c.Output}
		}
		suite.Cases = append(suite.Cases, c)
	}
	suite.Tests = len(suite.Cases)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(junitSuites{Suites: []junitSuite{suite}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}
