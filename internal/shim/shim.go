// Package shim is what containerd starts for each pod, or for each container that is in none: it makes the containers, is the
// parent of their processes, and tells containerd what becomes of them. It outlives containerd's restarts.
//
//	containerd                                    containerd-shim-hull-v1
//	start, in the bundle's directory  ────────>   Launch: socket, the shim itself in the background
//	                                  <────────   the socket's address
//	calls of the task service         ────────>   service: package hull, in this process
//	                                  <────────   events, by a connection of the shim's (publisher)
//	delete, when the shim has gone    ────────>   Cleanup: what it has left
//
// All is done with package hull; no other program is started but those that log for a container. What a container writes goes
// into containerd's FIFOs directly: the shim holds them open, so that they outlive their readers, and copies nothing but
// standard input and terminals.
//
// containerd has root's rights, and the shim's socket is for its user alone. Containers are not trusted: what they write is
// passed on unread, and nothing they do makes the shim wait without end, or grow.
package shim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hull"
	"hull/internal/containerd"
)

// Name of the runtime, by which containerd finds the program containerd-shim-hull-v1. One that is called
// containerd-shim-hull-sandbox-v1, a link, is the runtime sandboxName and gives containers a kernel of their own.
const (
	name        = "io.containerd.hull.v1"
	sandboxName = "io.containerd.hull-sandbox.v1"
	sandboxExe  = "containerd-shim-hull-sandbox-v1"
)

// command is what containerd calls the program with.
type command struct {
	namespace string // containerd's, of the container
	id        string // of the container
	address   string // of containerd
	bundle    string // of delete
	debug     bool
	socket    bool // it is the shim itself, with its socket as descriptor socketFD
	sandbox   bool // the name it is called by asks for a kernel of its own
}

// socketFD is the number of the descriptor that start passes to the shim.
const socketFD = 3

// Run does what the arguments, of which the first is the program's name, ask for, and returns what is to be printed. As the shim
// itself it returns when that is no longer needed.
func Run(args []string, stdin io.Reader) ([]byte, error) {
	var c command
	var version, info bool
	f := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.namespace, "namespace", "", "containerd's namespace of the container")
	f.StringVar(&c.id, "id", "", "id of the container")
	f.StringVar(&c.address, "address", "", "address of containerd")
	f.StringVar(&c.bundle, "bundle", "", "directory of the bundle, for delete")
	f.BoolVar(&c.debug, "debug", false, "log every step")
	f.BoolVar(&version, "v", false, "print the version")
	f.BoolVar(&info, "info", false, "describe the runtime")
	f.BoolVar(&c.socket, "serve", false, "")
	f.String("publish-binary", "", "not used: events go by TTRPC_ADDRESS")
	if err := f.Parse(args[1:]); err != nil {
		return nil, fmt.Errorf("%w\nusage: %s -namespace NS -id ID -address ADDRESS start|delete; containerd calls it", err, f.Name())
	}
	c.sandbox = f.Name() == sandboxExe
	switch {
	case version:
		return []byte(f.Name() + ":\n  Version: " + hull.Version + "\n"), nil
	case info:
		return c.info(stdin)
	case c.namespace == "" || c.id == "":
		return nil, fmt.Errorf("usage: %s -namespace NS -id ID -address ADDRESS start|delete; containerd calls it", f.Name())
	case c.socket:
		return nil, c.serve()
	case f.Arg(0) == "start":
		return c.launch(stdin)
	case f.Arg(0) == "delete":
		return c.cleanup()
	}
	return nil, fmt.Errorf("%q is neither start nor delete", f.Arg(0))
}

// info describes the runtime, from containerd 2.0 on.
func (c *command) info(stdin io.Reader) ([]byte, error) {
	i := &containerd.RuntimeInfo{Name: name, Version: hull.Version}
	if c.sandbox {
		i.Name = sandboxName
	}
	raw, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return nil, err
	}
	if err := containerd.Unmarshal(raw, &i.Options); err != nil {
		return nil, err
	}
	if i.Features, err = features(); err != nil {
		return nil, err
	}
	return containerd.Marshal(i), nil
}

// cleanup takes away what a shim that was killed has left of a container, and returns how its process has ended as far as
// that is known.
func (c *command) cleanup() ([]byte, error) {
	bundle := c.bundle
	if bundle == "" {
		wd, err := os.Getwd()
		if err != nil {
			return nil, err
		}
		bundle = filepath.Join(filepath.Dir(wd), c.id)
	}
	kept, err := readKept(bundle)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	exit, err := kept.remove(c.id, bundle)
	if err != nil {
		return nil, err
	}
	return containerd.Marshal((*containerd.DeleteResponse)(&exit)), nil
}
