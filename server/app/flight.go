package app

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dialtone-cc/dialtone/server/edge/loop"
)

// crashed writes down what led to the end of the core. The process must end: what is in
// memory can't be trusted, what was promised is in the store.
func (m *Main) crashed(err error) {
	var broken *loop.Broken
	stack := ""
	if errors.As(err, &broken) {
		stack = string(broken.Stack)
	}
	file, dumpErr := m.DumpFlight()
	m.log.Error("the core broke; ending the process, a restart takes the calls up again", "err", err, "flight_record", file, "dump_err", dumpErr, "stack", stack)
	m.broke <- err
}

// DumpFlight writes the flight record to a file in the data directory and returns its name.
func (m *Main) DumpFlight() (string, error) {
	l := m.loop.Load()
	if l == nil {
		return "", errors.New("the core has not started")
	}
	pruneFlights(m.cfg.Data)
	name := filepath.Join(m.cfg.Data, "flight-"+time.Now().UTC().Format("20060102T150405.000")+".txt")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	_, err = l.Flight().WriteTo(file)
	return name, errors.Join(err, file.Close())
}

// How many flight records are kept: a node that breaks and is started again all night must
// not fill the disk.
const keptFlights = 10

// pruneFlights makes room for one more record. The names sort by time.
func pruneFlights(dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "flight-*.txt"))
	if err != nil || len(files) < keptFlights {
		return
	}
	slices.Sort(files)
	for _, old := range files[:len(files)-keptFlights+1] {
		_ = os.Remove(old)
	}
}
