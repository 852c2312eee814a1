package shim

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/containerd"
)

// keptFile is where a shim keeps, in the bundle, what is needed to take a container away when the shim has been killed.
const keptFile = "hull-shim.json"

// kept is what it has.
type kept struct {
	Root   string           `json:"root"`           // of hull's states
	Exit   *containerd.Exit `json:"exit,omitempty"` // how the container's process has ended, once it has
	Bundle string           `json:"-"`
}

func readKept(bundle string) (*kept, error) {
	k := &kept{Bundle: bundle}
	raw, err := os.ReadFile(filepath.Join(bundle, keptFile))
	if err != nil {
		return k, err
	}
	return k, json.Unmarshal(raw, k)
}

// save replaces the file at once.
func (k *kept) save() error {
	raw, err := json.Marshal(k)
	if err != nil {
		return err
	}
	path := filepath.Join(k.Bundle, keptFile)
	if err := os.WriteFile(path+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// remove takes a container away, however far its making came. A process whose end nobody knows was killed.
func (k *kept) remove(id, bundle string) (containerd.Exit, error) {
	exit := containerd.Exit{Status: signalled + int(unix.SIGKILL), At: time.Now()}
	if k.Root != "" {
		r := &hull.Runtime{Root: k.Root}
		if c, err := r.Container(id); err == nil {
			exit.Pid = c.Init().Pid
		}
		if err := r.Delete(context.Background(), id, hull.DeleteOptions{Force: true}); err != nil && !errors.Is(err, hull.ErrNotExist) {
			return exit, err
		}
	}
	if k.Exit != nil {
		exit = *k.Exit
	}
	return exit, unmountRootfs(bundle)
}
