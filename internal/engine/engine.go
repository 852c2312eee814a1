// Package engine has what the two kinds of isolation have in common: the types that pass between the life cycle of a
// container (package hull) and what isolates it (package native; package sandbox).
package engine

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/overlay"
	"hull/internal/rdt"
	"hull/internal/sandbox/wire"
	"hull/internal/stub"
)

// Container is what an engine knows of a container.
type Container struct {
	ID       string
	Bundle   string // absolute
	Dir      string // its state directory; the engine may make files there
	Spec     *specs.Spec
	Cgroup   *cgroup.Group
	RDT      *rdt.Group // or nil
	Rootless bool
	Pod      *Pod // or nil
	// Streams are what the container's standard streams were when it was made, as the engine has described them; see
	// checkpoint.DescribeStreams.
	Streams [3]string
	// Restored tells that it goes on where another was saved. It has a time namespace then, for its clocks, that its
	// configuration need not have.
	Restored bool
	// Overlaid tells that its sandbox keeps what is written to roots.
	Overlaid bool
}

// Pod is the first container of a sandbox, of one that has joined it.
type Pod struct {
	ID  string
	Dir string // its state directory

	// Only while one joins:
	Spec     *specs.Spec
	Init     Init
	Overlaid bool                 // the sandbox keeps what is written to roots
	Member   func(pid int) string // returns the id of the container of the pod whose init has that pid, or ""
}

// Root returns the absolute path of the container's root file system on the host, or "".
func (c *Container) Root() string {
	switch {
	case c.Spec.Root == nil:
		return ""
	case filepath.IsAbs(c.Spec.Root.Path):
		return c.Spec.Root.Path
	}
	return filepath.Join(c.Bundle, c.Spec.Root.Path)
}

// Keyring returns the name of the container's session keyring, which is the one that engines know.
func (c *Container) Keyring() string { return "_ses." + c.ID }

// JoinGroups emits what moves a stub into the container's cgroups of v1 and its group of resctrl.
func (c *Container) JoinGroups(b *stub.Batch) {
	b.In("linux.cgroupsPath")
	b.JoinTasks(c.Cgroup.TaskFiles())
	b.In("linux.intelRdt")
	b.JoinTasks(c.RDT.TaskFiles())
}

// HasNamespace tells whether a container has a namespace of that type that is not its caller's: a new one, or one that it joins.
func HasNamespace(s *specs.Spec, t specs.LinuxNamespaceType) bool {
	_, ok := Namespace(s, t)
	return ok
}

// Namespace returns what a configuration says of the namespace of that type, if it says something.
func Namespace(s *specs.Spec, t specs.LinuxNamespaceType) (ns specs.LinuxNamespace, ok bool) {
	if s.Linux == nil {
		return ns, false
	}
	i := slices.IndexFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
	if i < 0 {
		return ns, false
	}
	return s.Linux.Namespaces[i], true
}

// IO is where a process reads and writes.
type IO struct {
	// Stdio are its descriptors 0, 1 and 2. Nil means /dev/null. With a terminal they are not used.
	Stdio [3]*os.File
	// Extra are its descriptors from 3 on.
	Extra []*os.File
}

// CreateRequest says how a container is made.
type CreateRequest struct {
	Container
	IO
	NoPivot      bool
	NoNewKeyring bool
	// Overlay has the container show the host's files, instead of the root file system of its configuration; or nil.
	Overlay *overlay.Plan
	// Donated has the container's program get what a plan shows as descriptors, in the places of Extra that it names, instead
	// of its own files; or nil.
	Donated *overlay.Donation
	// Program is the number among Extra, from 1, of the file that is executed instead of what process.args[0] names; or 0.
	Program int
	// NoDev leaves /dev out: the program is hull's own and wants none.
	NoDev bool
	// Supervise makes the container's first process one of hull's, whose child the program is. See stub.Batch.Supervise.
	Supervise bool
	// Begun is what Begin has returned for the same configuration and IO; or nil.
	Begun Beginning
	// WantsChild has the container's process be a child of this one: who starts this one may be waiting for it.
	WantsChild bool
	// Park leaves the init waiting for Start. Otherwise it runs at once.
	Park bool
	// Hooks is called with the init's pid when the namespaces and mounts are made and the host's files are still
	// visible: prestart and createRuntime hooks run then.
	Hooks func(pid int) error
	// Links are the devices of a sandbox that somebody else carries the packets of. They are none of a network namespace.
	Links []Link
	// NetNS is called with the network namespace as soon as the init is in it, unless NetNS is nil. It takes the descriptor.
	NetNS func(*os.File)
	// Forked is called with the init while it is set up, unless it is nil.
	Forked func(Init) error
	// Prepared is called with the init's pid when all is set up, before the container's program can run.
	Prepared func(p *Process) error
	// BeforeStart is called with Park unset, after Prepared: startContainer hooks run then.
	BeforeStart func(p *Process) error
	Trace       func(line string)
	Warn        func(line string)
}

// Link is a device of a sandbox.
type Link struct {
	wire.Link
	Socket *os.File
}

// Engine is a kind of isolation.
type Engine interface {
	// Check refuses a configuration that this kind of isolation can't do, before anything is made.
	Check(s *specs.Spec) error
	// Examine refuses what Create would find wrong before it makes anything, beside what Check does. Of the streams it knows nothing.
	Examine(ctx context.Context, r *CreateRequest) error
	// Begin begins a creation of which no more is known yet, and goes on with that by itself: until Create, nobody may change
	// what s says of namespaces and their maps. The result may be nil.
	Begin(s *specs.Spec, io IO, trace func(string)) Beginning
	// Create makes the container and starts its program, or leaves it waiting for Start.
	Create(ctx context.Context, r *CreateRequest) (*Process, error)
	// Start lets the program of a container that waits run. steps are those of the Process that Create returned.
	Start(c *Container, init Init, steps []stub.Step) error
	// StartHooks runs the startContainer hooks.
	StartHooks(ctx context.Context, r *ExecRequest) error
	// Exec starts another process in a running container.
	Exec(ctx context.Context, r *ExecRequest) (*Process, error)
	// Checkpoint saves a container.
	Checkpoint(ctx context.Context, r *CheckpointRequest) error
	// Restore makes a container of one that was saved.
	Restore(ctx context.Context, r *RestoreRequest) (*Process, error)
	// Pause stops all processes of the container until Resume.
	Pause(ctx context.Context, c *Container) error
	// Resume lets them go on.
	Resume(c *Container) error
	// Dial connects with a TCP port of the container's loopback.
	Dial(c *Container, init Init, port uint16) (*os.File, error)
	// Leave takes away what a container has left on the host outside of its namespaces.
	Leave(c *Container) error
}

// Kernel is an engine whose containers have a kernel of their own, which can be asked: the host's knows nothing of their
// processes. What it says is no more to be trusted than the container.
type Kernel interface {
	Engine
	// SignalAll sends a signal to all processes of a container.
	SignalAll(c *Container, sig unix.Signal) error
	// Processes lists them.
	Processes(c *Container) ([]wire.Process, error)
	// Usage returns what they use.
	Usage(c *Container) (*wire.Usage, error)
	// Limit sets limits in the cgroup that a container has in that kernel, as files (cgroup.Inside).
	Limit(c *Container, files map[string]string) error
	// Memory returns what the memory of the kernel and all its containers is used for.
	Memory(c *Container) (*wire.MemoryKinds, error)
	// Wait waits for the end of a process, which is named by its pid in the container, or with root among all of that kernel.
	Wait(ctx context.Context, c *Container, pid int, root bool) (unix.WaitStatus, error)
	// Debug writes to w what the kernel shows of itself, and sets what it logs.
	Debug(c *Container, w io.Writer, r DebugRequest) error
}

// DebugRequest is what a kernel is asked to show and to log. What is empty isn't.
type DebugRequest struct {
	Show     string        // one of package wire's
	Duration time.Duration // of a profile
	LogLevel string
	Trace    string
}

// HostFiles is an engine that makes containers over the host's files, which have no state directory.
type HostFiles interface {
	Engine
	// CheckHostFiles is Check for such a container.
	CheckHostFiles(s *specs.Spec) error
	// BeginInit is Begin for a container without a cgroup of its own: its first process can be made, too. What of that needs no
	// configuration is begun at once. The result may be nil.
	BeginInit(ctx context.Context, io IO, trace func(string)) (InitBeginning, error)
}

// Beginning is a creation that an engine has begun before all is known. Create takes it over; who doesn't come to that
// abandons it.
type Beginning interface{ Abandon() }

// InitBeginning is a Beginning that doesn't know the configuration yet. Who doesn't come to that abandons it.
type InitBeginning interface {
	// Configure says it, and returns what Create takes; or nil if something has to come first.
	Configure(s *specs.Spec) Beginning
	Beginning
}

// ExecRequest says how a process is started in a running container.
type ExecRequest struct {
	Container
	IO
	Init         Init // the container's init
	Process      *specs.Process
	Path         string // of the program, in a sandbox, unless that is what process.args[0] names
	NoNewKeyring bool
	Cgroups      []string // sub-cgroups; see cgroup.Group.Join
	AwaitThaw    bool     // wait for as long as the container is paused
	// Attached says that only the caller waits for the process, and that nobody asks for its pid: it may be a Remote.
	Attached bool
	Prepared func(p *Process) error
	Trace    func(line string)
	Warn     func(line string)
}

// Init names a container's first process beyond doubt: a pid alone may have been given to another process since.
type Init struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // clock ticks since boot; field 22 of /proc/PID/stat
}

// Process is a process that an engine has started.
type Process struct {
	Init
	PidFD   *os.File
	Console *os.File // master of its terminal; or nil
	Upper   *os.File // what its changes go to, if Overlay.Send asked for it; or the mount that Overlay.Serve has made
	// Ended returns how the process has ended, if its wait status, which is given, doesn't tell; or nil.
	Ended func(unix.WaitStatus) unix.WaitStatus
	// Wait waits for the end of a process that is no child of this program, and returns how it has ended; or nil.
	Wait func() (unix.WaitStatus, error)
	// Remote is set of a process of an ExecRequest that is Attached, if there is none for it on this host. Then Init and PidFD
	// are not.
	Remote Remote
	// Supervisor waits for the program, which is its child, if that was asked for. Then PidFD is nil.
	Supervisor *stub.Supervisor
	// Steps are what a parked init still has to do. Start wants them again, to name the one that fails.
	Steps []stub.Step
	// Overlaid tells that its sandbox keeps what is written to roots, though only an image has said so.
	Overlaid bool
}

// Remote is a process that this host has none for: one in a sandbox.
type Remote interface {
	// Wait waits for its end, and returns how it has ended: by SIGKILL, if its sandbox has ended before it.
	Wait() (unix.WaitStatus, error)
	Signal(unix.Signal) error
	// Close leaves it alone: it goes on.
	Close() error
}

// HookState returns the state that hooks get on standard input.
func HookState(c *Container, pid int, status specs.ContainerState) []byte {
	b, err := json.Marshal(specs.State{
		Version: c.Spec.Version, ID: c.ID, Status: status, Pid: pid, Bundle: c.Bundle, Annotations: c.Spec.Annotations,
	})
	if err != nil {
		panic("bug: " + err.Error())
	}
	return b
}
