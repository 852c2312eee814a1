package boot

import (
	"os"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

	"hull/internal/elf"
	"hull/internal/sentry/rootfs"
	"hull/internal/sentry/task"
	"hull/spec"
)

// rehearse makes the files of a container that is none, loads a program from there, and gives up both. What a kernel does for the
// first time takes longer: neither the pages of its own text and of its heap are there yet, nor what Go finds out of types and
// interfaces. While it waits for a container it has the time, and once there is one somebody waits for it.
//
// No process is made: the first of the container would not be the first of its pid namespace then.
func (s *Sandbox) rehearse() error {
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // which is empty, in the jail
	if err != nil {
		return &os.PathError{Op: "open", Path: "/", Err: err}
	}
	c := &container{Sandbox: s, pids: s.root.pids, ipc: s.root.ipc, uts: s.root.uts, group: s.root.group, kept: rootfs.Share{Of: s.budget}}
	defer c.kept.Return()
	c.Container = Container{ID: "rehearsal", Bundle: "/", Spec: spec.Example(spec.Options{}), Files: []rootfs.Tree{{FD: root}}}
	m, err := c.prepareMounts()
	if err != nil {
		unix.Close(root)
		return err
	}
	ns, err := m.Attach()
	if err != nil {
		return err
	}
	ctx := m.Context()
	defer ns.DecRef(ctx)
	program := elf.Program{Text: make([]byte, 4000)} // never executed: there is no instruction
	if err := s.loadProgram(ctx, ns, "/dev/program", program.File()); err != nil {
		return err
	}
	_, err = task.Filter(spec.Seccomp())
	return err
}

// loadProgram writes a program into a file, and makes what the memory of a process would be that executes it.
func (s *Sandbox) loadProgram(ctx context.Context, ns *vfs.MountNamespace, name string, program []byte) error {
	root := ns.Root(ctx)
	defer root.DecRef(ctx)
	f, err := s.kernel.VFS().OpenAt(ctx, auth.NewRootCredentials(s.kernel.RootUserNamespace()), &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)},
		&vfs.OpenOptions{Flags: linux.O_CREAT | linux.O_WRONLY, Mode: 0o755})
	if err != nil {
		return err
	}
	_, err = f.Write(ctx, usermem.BytesIOSequence(program), vfs.WriteOptions{})
	f.DecRef(ctx)
	if err != nil {
		return err
	}
	links := uint(linux.MaxSymlinkTraversals)
	image, _, _, failure := s.kernel.LoadTaskImage(ctx, loader.LoadArgs{Root: root, WorkingDir: root, RemainingTraversals: &links,
		ResolveFinal: true, Filename: name, Argv: []string{name}, Features: s.kernel.FeatureSet()})
	if failure != nil {
		return failure.ToError()
	}
	image.MemoryManager.DecUsers(context.Background())
	return nil
}
