package hull

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/native"
	"hull/internal/overlay"
	"hull/internal/stub"
	"hull/spec"
)

// noOverlay is native.NoOverlay, but for tests: they run where there is one.
var noOverlay = native.NoOverlay

// fuseProgram stands in for an overlayfs that ordinary users can't mount.
const fuseProgram = "fuse-overlayfs"

// fuseServer is the process that serves the files of one command. It runs in a container of its own, as the caller without a
// capability, with nothing of the host but programs and what the command is shown, read-only, beside its tmpfs with what is
// written. The command can neither see nor trace it: it is in another pid namespace, and in another user namespace. Its supervisor,
// the first process there, ends with hull, however that happens, and takes it along; and it ends by itself with the mount, which is
// the command's alone.
type fuseServer struct {
	supervisor *stub.Supervisor
	mount      *os.File
	said       *os.File // what it writes to its standard error
	done       chan struct{}
	status     unix.WaitStatus // when it is done
	killed     atomic.Bool
}

// Places of the server's.
const (
	fuseLower = "/lower"
	fuseUpper = "/upper"
	fuseWork  = "/work"
)

// checkFuse returns the path of the program that serves a command's files where absent says why there is no overlayfs, or why it
// can't be had.
func (c *Cmd) checkFuse(absent error) (string, error) {
	if c.Host.Watch || c.Host.Keep != "" {
		return "", &fault.Error{Step: "keep or look at changes", Kind: fault.Unsupported, Err: cause(absent),
			Hint: fuseProgram + " stands in for it here, and what that leaves is none of overlayfs' directories"}
	}
	explain := func(why string) error {
		return &fault.Error{Step: "overlay", Kind: fault.Unsupported, Err: cause(absent), Hint: fuseProgram + " would stand in for it: " + why}
	}
	program, err := exec.LookPath(fuseProgram)
	if err != nil {
		return "", explain("it is not installed")
	}
	if !filepath.IsAbs(program) || !slices.ContainsFunc(fusePrograms, func(dir string) bool { return below(program, dir) }) {
		return "", explain(program + " is none of the system's programs")
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		return "", explain("/dev/fuse can't be opened: " + err.Error())
	}
	return program, nil
}

// fusePrograms are the directories where the program, its loader and its libraries are.
var fusePrograms = []string{"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/nix", "/gnu"}

// serve starts the server of what plan shows, and makes its mount the plan's root.
func (c *Cmd) serve(program string, plan *overlay.Plan, id *identity) (_ *fuseServer, err error) {
	c.Runtime.warn("other users than root can't mount an overlay here: " + fuseProgram + " shows the host's files, which is slower")
	f := &fuseServer{done: make(chan struct{})}
	// It doesn't block: what the command makes the server say must not stop it.
	var said [2]int
	if err := unix.Pipe2(said[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	f.said = os.NewFile(uintptr(said[0]), "pipe")
	stderr := os.NewFile(uintptr(said[1]), "pipe")
	defer stderr.Close()
	defer func() {
		if err != nil {
			f.said.Close()
		}
	}()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0) // in whose place comes /dev/fuse
	if err != nil {
		return nil, err
	}
	defer null.Close()
	served := servedPlan(plan, c.Limits.Memory)
	p, err := native.Engine{}.Create(c.ctx, &engine.CreateRequest{
		Container: engine.Container{ID: "do-files", Bundle: "/", Spec: fuseSpec(program, plan, id), Cgroup: cgroup.None(), Rootless: true},
		IO:        engine.IO{Stdio: [3]*os.File{nil, nil, stderr}, Extra: []*os.File{null}},
		Overlay:   served,
		Supervise: true,
		Trace:     c.Runtime.Trace,
		Warn:      c.Runtime.warn,
	})
	if err != nil {
		return nil, fault.In("start "+fuseProgram, "", err)
	}
	p.Supervisor.Program.Close()
	f.supervisor, f.mount = p.Supervisor, p.Upper
	plan.Served = f.mount
	go func() {
		ended, _ := f.supervisor.Wait(nil, nil)
		f.status = ended.Status
		close(f.done)
	}()
	return f, nil
}

// servedPlan returns what the server sees: the programs, the directories of plan below fuseLower, and what plan makes of its own
// below fuseUpper. memory bounds what the command writes if nothing else does: it isn't in the command's cgroup.
func servedPlan(plan *overlay.Plan, memory int64) *overlay.Plan {
	p := &overlay.Plan{UserNS: true, Root: "/", Serve: true, Size: plan.Size}
	if p.Size == "" && memory > 0 {
		p.Size = strconv.FormatInt(memory, 10)
	}
	dir := func(name string, mode uint32) {
		p.Entries = append(p.Entries, overlay.Entry{Kind: overlay.Dir, Path: name, Mode: mode})
	}
	dir("/", 0o755)
	for _, name := range []string{"/proc", "/dev", "/etc", fuseLower, fuseWork} {
		dir(name, 0o755)
	}
	if unix.Access("/etc/ld.so.cache", unix.R_OK) == nil {
		p.Entries = append(p.Entries, overlay.Entry{Kind: overlay.File, Path: "/etc/ld.so.cache", Source: "/etc/ld.so.cache"})
	}
	for _, name := range fusePrograms {
		if target, err := os.Readlink(name); err == nil {
			p.Entries = append(p.Entries, overlay.Entry{Kind: overlay.Link, Path: name, Source: target})
		} else if fi, err := os.Lstat(name); err == nil && fi.IsDir() {
			p.Binds = append(p.Binds, overlay.Bind{Path: name, Source: name, ReadOnly: true, Recursive: true})
		}
	}
	for _, e := range plan.Entries {
		if e.Kind == overlay.Overlay || e.Kind == overlay.File {
			p.Binds = append(p.Binds, overlay.Bind{Path: filepath.Join(fuseLower, e.Path), Source: e.Source, ReadOnly: true})
		}
		switch e.Kind {
		case overlay.File:
			continue
		case overlay.Overlay, overlay.Way: // merged with the one below
			e.Kind = overlay.Dir
		}
		e.Path, e.Over = filepath.Join(fuseUpper, e.Path), false
		p.Entries = append(p.Entries, e)
	}
	slices.SortStableFunc(p.Binds, func(a, b overlay.Bind) int { return cmp.Compare(a.Path, b.Path) })
	return p
}

// fuseSpec returns the configuration of the server.
func fuseSpec(program string, plan *overlay.Plan, id *identity) *specs.Spec {
	s := spec.Example(spec.Options{Cwd: "/", Args: []string{program, "-f",
		"-o", "lowerdir=" + fuseLower + ",upperdir=" + fuseUpper + ",workdir=" + fuseWork + ",volatile", "/dev/fd/3"}})
	s.Root = &specs.Root{Path: "/"}
	s.Process.Terminal = false
	s.Process.Env = []string{"PATH=" + filepath.Dir(program)}
	s.Process.User = specs.User{UID: id.uid, GID: id.gid}
	s.Process.Capabilities = &specs.LinuxCapabilities{}
	s.Process.Rlimits = nil
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination != "/proc" && m.Destination != "/dev" })
	for i := range s.Mounts {
		if m := &s.Mounts[i]; m.Type == "proc" {
			m.Options = append(m.Options, "nosuid", "nodev", "noexec", "ro")
		}
	}
	l := s.Linux
	l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: id.uid, HostID: uint32(os.Geteuid()), Size: 1}}
	l.GIDMappings = []specs.LinuxIDMapping{{ContainerID: id.gid, HostID: uint32(os.Getegid()), Size: 1}}
	l.Resources, l.ReadonlyPaths, l.MaskedPaths = nil, nil, nil
	// What is empty in a directory that is shown.
	for _, e := range plan.Entries {
		if e.Kind == overlay.Dir && e.Over {
			l.MaskedPaths = append(l.MaskedPaths, filepath.Join(fuseLower, e.Path))
		}
	}
	l.Seccomp = spec.Seccomp()
	return s
}

// kill ends the server: whoever waits for it is told so by the kernel.
func (f *fuseServer) kill() {
	if f != nil {
		f.killed.Store(true)
		_ = f.supervisor.Kill()
	}
}

// fuseGrace is how long a server may take to see that its mount is gone.
const fuseGrace = time.Second / 2

// end waits for the server of a command that has ended, and returns why it has ended, if not for that.
func (f *fuseServer) end() error {
	if f == nil {
		return nil
	}
	f.mount.Close()
	defer f.said.Close()
	select {
	case <-f.done:
	case <-time.After(fuseGrace):
		f.kill()
		<-f.done
	}
	if f.killed.Load() || f.status == 0 {
		return nil
	}
	var said [512]byte
	n, _ := unix.Read(int(f.said.Fd()), said[:])
	text := strings.TrimSpace(string(said[:max(n, 0)]))
	how := fmt.Sprintf("exit status %d", f.status.ExitStatus())
	if f.status.Signaled() {
		how = "signal: " + f.status.Signal().String()
	}
	if text != "" {
		how += fmt.Sprintf(": %q", text)
	}
	return &fault.Error{Step: fuseProgram, Err: errors.New(how)}
}

// fuse returns the program that serves the command's files, where overlayfs can't show them; or "".
func (c *Cmd) fuse(ctx context.Context, userNS bool) (string, error) {
	if !userNS || c.sandboxed() {
		return "", nil
	}
	absent := noOverlay(ctx, c.Runtime.Trace)
	if absent == nil {
		return "", nil
	}
	return c.checkFuse(absent)
}
