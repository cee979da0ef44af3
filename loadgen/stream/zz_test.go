package stream
import ("testing";"runtime";"time";"unsafe")
func TestZZ(t *testing.T) {
	e := engine(t, Config{})
	var m0, m1 runtime.MemStats
	runtime.GC(); runtime.ReadMemStats(&m0)
	begin := time.Now()
	var all []*Stream
	for i := range 9000 { all = append(all, open(t, e, Options{Voice: uint64(i+1)})) }
	took := time.Since(begin)
	begin = time.Now()
	for i, s := range all { talk(t, s, all[i^1].Addr(), PCMU) }
	t2 := time.Since(begin)
	time.Sleep(2*time.Second)
	runtime.GC(); runtime.ReadMemStats(&m1)
	p := e.Pacing()
	t.Log("open each", took/9000, "talk each", t2/9000, "heap per stream", (m1.HeapAlloc-m0.HeapAlloc)/9000, "ear", unsafe.Sizeof(ear{}), "stream", unsafe.Sizeof(Stream{}), "p99.9", p.Lateness.ValueAtQuantile(99.9), "missed", p.Missed, "overrun", p.Overrun, "sent", p.Sent)
	begin = time.Now()
	for _, s := range all { s.Close() }
	t.Log("close each", time.Since(begin)/9000)
}
