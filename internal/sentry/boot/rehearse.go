package boot

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"

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
	c := &container{Sandbox: s, pids: s.root.pids, ipc: s.root.ipc, uts: s.root.uts}
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
	if err := s.loadProgram(ctx, ns, "/dev/program", smallestProgram()); err != nil {
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

// smallestProgram is one that is never executed: it has no instruction.
func smallestProgram() []byte {
	const address, page = 0x400000, 0x1000
	machine := elf.EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = elf.EM_AARCH64
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: address}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	h.Ehsize, h.Phentsize, h.Phnum = uint16(binary.Size(h)), uint16(binary.Size(elf.Prog64{})), 1
	h.Phoff = uint64(h.Ehsize)
	text := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: address, Filesz: page, Memsz: page, Align: page}
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, text)
	return append(b.Bytes(), make([]byte, page-b.Len())...)
}
