package app

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dialtone-cc/dialtone/server/config"
	"github.com/dialtone-cc/dialtone/server/core"
)

// identity is what a node must know again after a restart. It is kept in the data
// directory, readable by its owner alone.
type identity struct {
	Node          core.NodeID `json:"node"`
	OperatorKey   kept        `json:"operator_key,omitempty"`
	AgentPassword kept        `json:"agent_password,omitempty"`
}

// kept is a secret that is written down in clear, unlike a core.Secret, but printed as stars.
type kept string

// String hides the value.
func (k kept) String() string { return "***" }

// GoString hides the value from %#v.
func (k kept) GoString() string { return "***" }

func (k kept) secret() core.Secret { return core.Secret(k) }

const identityFile = "node.json"

// readIdentity returns the identity of a data directory, completed by what was configured
// or, where nothing was, by what chance gives. A configured operator key is not kept: the
// directory holds no copy of what is managed elsewhere.
func readIdentity(cfg *config.Config) (identity, error) {
	var id identity
	name := filepath.Join(cfg.Data, identityFile)
	content, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(content, &id)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return id, fmt.Errorf("%s cannot be read: %w; mend it, or move it away to begin with new keys", name, err)
	}
	if cfg.Node != "" {
		id.Node = cfg.Node
	}
	if id.Node == "" {
		id.Node = core.NodeID("node-" + strings.ToLower(rand.Text()[:10]))
	}
	if id.OperatorKey == "" && cfg.OperatorKey == "" {
		id.OperatorKey = kept("dt_operator_" + rand.Text())
	}
	return id, id.write(cfg.Data)
}

// write replaces the file as a whole: a crash leaves the old one or the new one.
func (id identity) write(dir string) error {
	content, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, identityFile)
	file, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(content, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// occupy makes the data directory and takes it for this process.
func occupy(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("data directory %s is in use by another dialtone: end that one, or choose another directory with --data", dir)
	}
	return lock, nil
}

func chance() (bytes [32]byte) {
	_, _ = rand.Read(bytes[:]) // never fails
	return bytes
}
