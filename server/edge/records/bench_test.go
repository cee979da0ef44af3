package records

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkPut measures what a CDR costs: time, this process's CPU, and for PostgreSQL the
// server's besides, for transactions of various sizes from one writer.
func BenchmarkPut(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) {
		benchmarkPut(b, func() Store { return openSQLite(b, filepath.Join(b.TempDir(), "records.db")) }, nil)
	})
	b.Run("PostgreSQL", func(b *testing.B) {
		server := newServer(b)
		benchmarkPut(b, func() Store { return openPostgres(b, server.at(server.database(b))) }, server.cpu)
	})
}

func benchmarkPut(b *testing.B, open func() Store, server func() time.Duration) {
	for _, size := range []int{1, 16, 64, maxBatch} {
		b.Run(fmt.Sprint(size, " per transaction"), func(b *testing.B) {
			s := open()
			defer s.Close()
			all := make([]time.Duration, 2)
			usage := func(sign time.Duration) {
				all[0] += sign * ownCPU()
				if server != nil {
					all[1] += sign * server()
				}
			}
			batch, n := samples("demo", size), 0
			usage(-1)
			for b.Loop() {
				for i := range batch {
					batch[i].ID = id(n)
					n++
				}
				if err := s.Put(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			usage(1)
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "CDRs/s")
			b.ReportMetric(float64(all[0].Microseconds())/float64(n), "own-us/CDR")
			if server != nil {
				b.ReportMetric(float64(all[1].Microseconds())/float64(n), "server-us/CDR")
			}
		})
	}
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cpu is what the server's processes have used, in ticks of 10 ms.
func (s *postgresServer) cpu() time.Duration {
	ticks := 0
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		_, rest, _ := strings.Cut(string(text), ") ")
		f := strings.Fields(rest) // from the third field of proc(5) on
		if len(f) < 15 {
			continue
		}
		number := func(field int) int { n, _ := strconv.Atoi(f[field-3]); return n }
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		switch s.process.Pid {
		case pid:
			ticks += number(14) + number(15) + number(16) + number(17) // with those that have ended
		case number(4):
			ticks += number(14) + number(15)
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
