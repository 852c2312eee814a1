package checkpoint

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/proc"
	"hull/internal/stub"
)

// A network namespace of the container's own is saved with what is in it as long as that is no more than the loopback
// device. Other devices lead outside, and who has made them has to make them again: a hook, or whoever has called hull. Then
// the namespace is left empty, as runc leaves all of them, but with its loopback up.
//
// What was done at the checkpoint the image tells: it has the devices, or not.

// emptyNetwork is what CRIU is told for a network namespace that is left empty.
func emptyNetwork() *uint32 { return ptr(uint32(unix.CLONE_NEWNET)) }

// ownNetwork tells whether the container has a network namespace of its own.
func ownNetwork(s *specs.Spec) bool {
	ns, ok := engine.Namespace(s, specs.NetworkNamespace)
	return ok && ns.Path == ""
}

// savesNetwork tells whether the network namespace of a container that is saved is saved with what is in it.
func savesNetwork(c *engine.Container, i *engine.Image, pid int) (bool, error) {
	if !ownNetwork(c.Spec) || slices.Contains(i.EmptyNS, "network") {
		return false, nil
	}
	b, err := os.ReadFile(proc.File(pid, "net/dev"))
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(b)) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) != "lo" {
			return false, nil
		}
	}
	return true, nil
}

// hasNetwork tells whether an image has what was in a network namespace.
func hasNetwork(i *engine.Image) (bool, error) {
	dir, err := linux.OpenBeneath(i.Dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(1000)
		if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "netdev-") }) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// upLoopback brings up the loopback device in the network namespace of a process.
func upLoopback(pid int) error {
	s, err := stub.Start(stub.Config{})
	if err != nil {
		return err
	}
	defer s.Kill()
	b := new(stub.Batch)
	b.In("linux.namespaces")
	fd := b.Openat(stub.CWD, proc.File(pid, "ns/net"), unix.O_RDONLY, 0)
	b.Call(unix.SYS_SETNS, fd.Arg(), stub.Int(unix.CLONE_NEWNET))
	b.Note("net")
	b.LoopbackUp()
	if err := s.Do(b); err != nil {
		return &fault.Error{Step: "loopback of the restored network namespace", Err: err}
	}
	return nil
}
