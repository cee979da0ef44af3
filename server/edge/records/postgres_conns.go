package records

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Bounds of the connections.
const (
	firstRest = 100 * time.Millisecond // after a connection that failed
	lastRest  = 2 * time.Second
)

// door opens connections. After one that failed it rests, longer each time; who asks
// meanwhile gets the same error at once: a database that comes back is not overrun, and
// nobody waits at a closed door.
type door struct {
	config  func() (*pgx.ConnConfig, error)
	prepare func(context.Context, *pgx.Conn) error // the schema

	mu       sync.Mutex
	failed   int // times in a row
	until    time.Time
	last     error
	prepared bool
}

func (d *door) open(ctx context.Context) (*pgx.Conn, error) {
	d.mu.Lock()
	if time.Now().Before(d.until) {
		err := d.last
		d.mu.Unlock()
		return nil, fmt.Errorf("%w (it is tried again soon)", err)
	}
	d.mu.Unlock()
	conn, err := d.try(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, err // the caller had no more time, which says little of the database
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.failed, d.until, d.last = 0, time.Time{}, nil
		return conn, nil
	}
	rest := min(firstRest<<min(d.failed, 10), lastRest)
	d.failed++
	d.until, d.last = time.Now().Add(rest/2+rand.N(rest/2)), err
	return nil, err
}

func (d *door) try(ctx context.Context) (*pgx.Conn, error) {
	config, err := d.config()
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err = d.ready(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

// settings of each connection. The server ends a statement before the Writer's own limit
// does: its answer leaves the connection whole. Plans are made for the values at hand, since
// one for any value can't know how much a filter leaves. synchronous_commit is only ever
// raised: with "off" a commit is answered before it is on the disk, and Delivered would be
// said of a CDR that a power cut takes.
const settings = `
SET statement_timeout = '8s';
SET idle_in_transaction_session_timeout = '30s';
SET plan_cache_mode = force_custom_plan;
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`

// ready makes a new connection usable. The schema is looked at once per process, by the
// first connection that gets so far.
func (d *door) ready(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.PgConn().Exec(ctx, settings).ReadAll(); err != nil {
		return err
	}
	d.mu.Lock()
	prepared := d.prepared
	d.mu.Unlock()
	if prepared {
		return nil
	}
	if err := d.prepare(ctx, conn); err != nil { // twice at once is harmless: it is what nodes do
		return err
	}
	d.mu.Lock()
	d.prepared = true
	d.mu.Unlock()
	return nil
}

// conns are at most so many connections for one kind of work, opened when they are needed
// and kept. Lists that take long are of another kind than writing and can't hold it up.
type conns struct {
	door  *door
	slots chan struct{}

	mu     sync.Mutex
	idle   []*pgx.Conn // the last used last
	closed bool
}

func newConns(d *door, most int) *conns { return &conns{door: d, slots: make(chan struct{}, most)} }

// with does work on a connection. When one that was kept turns out to be dead (the server
// was restarted, a firewall forgot it), work is done again on another; it must be something
// that can be done twice, for the first time may have been done as well and only its answer
// lost.
func (c *conns) with(ctx context.Context, work func(*pgx.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		conn, kept, err := c.take(ctx)
		if err != nil {
			return err
		}
		err = work(conn)
		if demoted(err) {
			_ = conn.Close(ctx)
		}
		broken := conn.IsClosed()
		c.give(ctx, conn)
		if !broken {
			return err
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return err // the driver closes a connection that is left in the middle of an answer
		}
		c.drop(ctx) // the others of its age are no better
		if err == nil || !kept || ctx.Err() != nil {
			return err
		}
	}
}

// demoted says that the server has become one that can't be written to, while the connection
// stayed: another of the hosts may have taken over.
func demoted(err error) bool {
	known, ok := errors.AsType[*pgconn.PgError](err)
	return ok && known.Code == "25006"
}

// errClosed says that the store was closed by its owner.
var errClosed = errors.New("the store is closed")

func (c *conns) take(ctx context.Context) (conn *pgx.Conn, kept bool, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, false, errClosed
	}
	if n := len(c.idle); n > 0 {
		conn, c.idle = c.idle[n-1], c.idle[:n-1]
		c.mu.Unlock()
		return conn, true, nil
	}
	c.mu.Unlock()
	conn, err = c.door.open(ctx)
	return conn, false, err
}

func (c *conns) give(ctx context.Context, conn *pgx.Conn) {
	c.mu.Lock()
	if !c.closed && !conn.IsClosed() {
		c.idle = append(c.idle, conn)
		conn = nil
	}
	c.mu.Unlock()
	if conn != nil {
		_ = conn.Close(ctx)
	}
}

func (c *conns) drop(ctx context.Context) {
	c.mu.Lock()
	idle := c.idle
	c.idle = nil
	c.mu.Unlock()
	for _, conn := range idle {
		_ = conn.Close(ctx)
	}
}

// close closes what is idle now, and what is in use when it is given back.
func (c *conns) close(ctx context.Context) {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop(ctx)
}
