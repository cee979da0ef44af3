package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Where things listen. All on loopback and away from the ports that people use.
const (
	sipAddr     = "127.0.0.1:26160"
	httpAddr    = "127.0.0.1:26180"
	controlAddr = "127.0.0.1:26222" // of rtpengine
	phonePort   = 26199             // agents of sipp
	callerPort  = 26197
	setupPort   = 26198
	rtpPorts    = "10000-25999" // below the ports that phones get from the system
)

// secret is the password of every agent and the operator's key: nothing outside loopback
// can reach them, and the data is thrown away.
const secret = "benchmark-only"

// dialtone is a server under measurement.
type dialtone struct {
	*process
	dir string
}

// startDialtone runs `dialtone dev` on fresh data.
func (s *Suite) startDialtone(ctx context.Context, flags ...string) (*dialtone, error) {
	dir, err := os.MkdirTemp(s.work, "dialtone-")
	if err != nil {
		return nil, err
	}
	argv := append([]string{s.binary, "dev", "--data", filepath.Join(dir, "data"), "--sip", sipAddr, "--http", httpAddr, "--rtp", rtpPorts}, flags...)
	p, err := start(dir, "dialtone", []string{"DIALTONE_AGENT_PASSWORD=" + secret, "DIALTONE_OPERATOR_KEY=" + secret}, argv...)
	if err != nil {
		return nil, err
	}
	d := &dialtone{process: p, dir: dir}
	if err := until(ctx, 30*time.Second, func() bool {
		resp, err := http.Get("http://" + httpAddr + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}); err != nil {
		d.stop()
		return nil, fmt.Errorf("dialtone is not ready: %w\n%s", err, d.tail())
	}
	return d, nil
}

// close stops the server and removes its data.
func (d *dialtone) close() {
	d.stop()
	_ = os.RemoveAll(d.dir)
}

// call makes one request of the API for the demo tenant. The API bounds the requests of a
// key: what it refuses for that comes again.
func (d *dialtone) call(method, path string, body, answer any) error {
	for {
		status, err := d.request(method, path, body, answer)
		if status != http.StatusTooManyRequests {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *dialtone) request(method, path string, body, answer any) (status int, err error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		content = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, "http://"+httpAddr+path, content)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	req.Header.Set("Dialtone-Tenant", "demo")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s", bytes.TrimSpace(text))
	}
	if err == nil && answer != nil {
		err = json.Unmarshal(text, answer)
	}
	if err != nil {
		return resp.StatusCode, fmt.Errorf("%s %s: %d: %w", method, path, resp.StatusCode, err)
	}
	return resp.StatusCode, nil
}

// employ makes agents FROM to FROM+n-1 in a queue; those below 1021 are there from the start.
func (d *dialtone) employ(from, n int, queue string) error {
	for i := from; i < from+n; i++ {
		agent := map[string]any{"password": secret, "queues": []string{queue}, "ready_on_register": true}
		if err := d.call(http.MethodPut, "/v1/agents/"+strconv.Itoa(i), agent, nil); err != nil {
			return err
		}
	}
	return nil
}

// atRest says whether no interaction lives and every CDR is filed.
func (d *dialtone) atRest() bool {
	live, err := d.sum("dialtone_live_interactions")
	left, err2 := d.sum("dialtone_outbox_records")
	return err == nil && err2 == nil && live+left == 0
}

// sum is the sum of a metric over its labels; 0 where it is not there. The name may go on
// with labels: then it is that one line.
func (d *dialtone) sum(name string) (float64, error) {
	resp, err := http.Get("http://" + httpAddr + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("/metrics: %d", resp.StatusCode)
	}
	return sum(string(text), name), err
}

func sum(metrics, name string) float64 {
	total := 0.0
	for line := range strings.Lines(metrics) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		fields := strings.Fields(rest)
		v, _ := strconv.ParseFloat(fields[len(fields)-1], 64)
		total += v
	}
	return total
}

// until waits for a condition, with a limit.
func until(ctx context.Context, limit time.Duration, condition func() bool) error {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
