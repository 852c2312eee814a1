package native

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/caps"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/seccomp"
	"hull/internal/stub"
	"hull/internal/task"
)

// process is the part that a container's init and a process of exec have in common: what config.json says below
// "process", and the steps that turn a stub into it.
type process struct {
	*specs.Process
	container *engine.Container
	keyring   bool // join a session keyring of the container's own

	cred       task.Cred
	caps       caps.Sets
	affinity   task.Affinity // of exec alone
	rlimits    []task.Rlimit
	seccomp    *seccomp.Program // or nil
	noNewPrivs bool
	userns     bool // a user namespace is used, new or joined
	terminal   bool
	ownStream  [3]bool // which of the standard streams get the process's user as their owner
	null       [3]int  // the access modes of those that are the host's null device, or noNull

	status  specs.ContainerState // what a seccomp agent is told
	initPid int                  // of the container's init; 0: this process

	opened  int         // descriptors that earlier batches may have left open
	child   bool        // it is a supervisor's
	upper   bool        // the upper directory was asked for
	asked   bool        // the passwd file was asked for
	program int         // descriptor of the program, if it isn't searched for
	found   []candidate // of the search for the program
	path    string      // of the program, once it is found
	env     []string    // complete
}

func newProcess(c *engine.Container, p *specs.Process, stdio [3]*os.File) (*process, error) {
	t := &process{ownStream: ownStreams(stdio), null: nullStreams(stdio), Process: p, container: c, terminal: p.Terminal, noNewPrivs: p.NoNewPrivileges, env: cleanEnv(p.Env)}
	var errs [5]error
	t.cred, errs[0] = task.Credentials(p.User)
	t.rlimits, errs[1] = task.Rlimits(p.Rlimits)
	t.seccomp, errs[2] = compileSeccomp(c.Spec.Linux.Seccomp)
	t.caps, _ = caps.FromSpec(p.Capabilities)
	_, t.userns = engine.Namespace(c.Spec, specs.UserNamespace)
	if len(p.Args) == 0 {
		errs[3] = fault.Spec("process.args", "must name a program")
	}
	errs[4] = t.checkLabels()
	return t, errors.Join(errs[:]...)
}

// seccompEarly tells whether the filter is loaded before the capabilities are dropped: without no_new_privs loading one
// needs CAP_SYS_ADMIN. A filter that notifies is loaded while the parent can still fetch its listener.
func (t *process) seccompEarly() bool { return t.seccomp != nil && !t.noNewPrivs }
func (t *process) seccompLate() bool {
	return t.seccomp != nil && t.noNewPrivs && !t.seccomp.Notify
}

// joinKeyring gives the process a session keyring of the container's, unless it is to keep the caller's.
func (t *process) joinKeyring(b *stub.Batch) {
	if t.keyring {
		b.JoinKeyring(t.container.Keyring())
	}
}

// plan emits the steps from the container's root, in its own files, to the user of process; as far as the stub can go
// without its parent.
func (t *process) plan(b *stub.Batch, extra int) {
	t.settings(b)
	t.openPasswd(b)
	if !t.limitsFromParent() {
		t.planUser(b, extra)
	}
}

// planUser emits what comes after the limits.
func (t *process) planUser(b *stub.Batch, extra int) {
	t.changeUser(b)
	t.useEffective(b)
	if t.program == 0 {
		t.found = t.findProgram(b)
	}
	t.closeOthers(b, extra)
	if !t.notifies() {
		t.confine(b)
	}
}

func (t *process) notifies() bool { return t.seccomp != nil && t.seccomp.Notify }

// become executes b, which ends in what plan emitted, by do, and what is left then. It finds out the program and completes
// the environment. When it returns, only lastSteps are left.
func (t *process) become(b *stub.Batch, s *stub.Stub, p *engine.Process, extra int, do func(*stub.Batch) error) error {
	if err := do(b); err != nil {
		return t.explain(err)
	}
	if err := t.takeFiles(s.Files(), p); err != nil {
		return err
	}
	t.opened += b.MaxOpened()
	if t.limitsFromParent() {
		if err := t.setLimits(s); err != nil {
			return err
		}
		b = new(stub.Batch)
		t.planUser(b, extra)
		if err := s.Do(b); err != nil {
			return t.explain(err)
		}
	}
	if t.program == 0 {
		if err := t.choose(b); err != nil {
			return err
		}
	}
	if t.notifies() {
		return t.confineNotifying(s)
	}
	return nil
}

// settings emits what needs rights that the process loses, or descriptors that its limits may not allow.
func (t *process) settings(b *stub.Batch) {
	l := t.container.Spec.Linux
	if t.noNewPrivs {
		b.In("process.noNewPrivileges")
		b.Prctl(unix.PR_SET_NO_NEW_PRIVS, stub.Int(1), stub.Int(0), stub.Int(0), stub.Int(0))
	}
	if t.Scheduler != nil {
		b.In("process.scheduler")
		attr, _ := task.Scheduler(t.Scheduler)
		b.Call(unix.SYS_SCHED_SETATTR, stub.Int(0), b.Const(attr[:]).Arg(), stub.Int(0))
	}
	if t.IOPriority != nil {
		b.In("process.ioPriority")
		prio, _ := task.IOPriority(t.IOPriority)
		const whoProcess = 1 // IOPRIO_WHO_PROCESS, include/uapi/linux/ioprio.h
		b.Call(unix.SYS_IOPRIO_SET, stub.Int(whoProcess), stub.Int(0), stub.Int(prio))
	}
	if l.Personality != nil {
		b.In("linux.personality")
		v, _ := task.Personality(l.Personality)
		b.Call(unix.SYS_PERSONALITY, stub.Int(v))
	}
	if l.MemoryPolicy != nil {
		b.In("linux.memoryPolicy")
		m, _ := task.MemoryPolicy(l.MemoryPolicy)
		nodes := stub.Int(0)
		if len(m.Nodes) > 0 {
			nodes = b.Const(m.Nodes.Bytes()).Arg()
		}
		b.Call(unix.SYS_SET_MEMPOLICY, stub.Int(m.Mode), nodes, stub.Int(m.MaxNode()))
	}
	t.reopenNull(b)
	// Standard streams were opened by someone else: the process must be able to reopen them as /dev/stdout. Files whose
	// owner can't be changed stay as they are.
	b.In("process.user")
	for fd := range 3 {
		if t.terminal || t.ownStream[fd] {
			b.Ignore(b.Call(unix.SYS_FCHOWN, stub.Int(fd), stub.Int(t.cred.UID), stub.Int(-1)), 0)
		}
	}
}

// ownStreams tells which of the standard streams may be given to the process's user: not the host's null device, or
// whatever else of its devices a caller passes on.
func ownStreams(stdio [3]*os.File) (own [3]bool) {
	for i, f := range stdio {
		if f == nil {
			continue
		}
		fi, err := f.Stat()
		own[i] = err == nil && (fi.Mode()&os.ModeDevice == 0 || isTerminal(f))
	}
	return own
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// limitsFromParent tells whether the limits are set by the parent: raising one needs a capability in the initial user
// namespace (getrlimit(2)), which a stub in another one hasn't.
func (t *process) limitsFromParent() bool { return t.userns && os.Geteuid() == 0 }

// limitField names a limit. t.rlimits has those of the configuration in their order.
func (t *process) limitField(i int) string {
	return "process.rlimits[" + strconv.Itoa(i) + "] " + quote(t.Rlimits[i].Type)
}

// leavesLimit tells whether a limit is left to the supervisor's child: that of open files, unless it needs rights or passing
// a filter that may not know the call. It would be the supervisor's, too, which sends hull a descriptor; and of what counts
// against it then, descriptors in flight, the user may have any number elsewhere (unix(7), ETOOMANYREFS).
func (t *process) leavesLimit(l task.Rlimit) bool {
	if l.Resource != unix.RLIMIT_NOFILE || !t.child || t.seccompEarly() || t.notifies() {
		return false
	}
	var own unix.Rlimit
	return unix.Getrlimit(l.Resource, &own) == nil && l.Limit.Max <= own.Max
}

// emitLimits emits the setting of the limits that are left to the child, or of the others.
func (t *process) emitLimits(b *stub.Batch, left bool) {
	for i, l := range t.rlimits {
		if t.leavesLimit(l) == left {
			b.In(t.limitField(i))
			b.Call(unix.SYS_PRLIMIT64, stub.Int(0), stub.Int(l.Resource), b.Const(stub.Bytes(&l.Limit)).Arg(), stub.Int(0))
		}
	}
}

func (t *process) setLimits(s *stub.Stub) error {
	for i, l := range t.rlimits {
		if t.leavesLimit(l) {
			continue
		}
		if err := unix.Prlimit(s.Pid, l.Resource, &l.Limit, nil); err != nil {
			return t.explain(&fault.Error{Field: t.limitField(i), Step: "prlimit64", Err: err})
		}
	}
	return nil
}

// changeUser emits the way from root to the process's user. The order is: limits, while they may be raised; the
// bounding set, which needs CAP_SETPCAP; the ids. The permitted capabilities are kept for confine.
func (t *process) changeUser(b *stub.Batch) {
	if !t.limitsFromParent() {
		t.emitLimits(b, false)
	}
	// The directory may be one that only the container's root can enter, or only its user.
	b.In("process.cwd")
	chdir := b.Call(unix.SYS_CHDIR, b.String(t.Cwd).Arg())
	b.Note(quote(t.Cwd))
	b.Ignore(chdir, unix.EACCES)

	b.In("process.capabilities.bounding")
	for n := range caps.Last() + 1 {
		if !t.caps.Bounding.Has(n) {
			b.Prctl(unix.PR_CAPBSET_DROP, stub.Int(n), stub.Int(0), stub.Int(0), stub.Int(0))
			b.Note("drop " + caps.Of(n).String())
		}
	}
	b.In("process.user")
	b.Prctl(unix.PR_SET_KEEPCAPS, stub.Int(1), stub.Int(0), stub.Int(0), stub.Int(0))
	t.setGroups(b)
	b.Call(unix.SYS_SETRESGID, stub.Int(t.cred.GID), stub.Int(t.cred.GID), stub.Int(t.cred.GID))
	b.Call(unix.SYS_SETRESUID, stub.Int(t.cred.UID), stub.Int(t.cred.UID), stub.Int(t.cred.UID))
	t.enterCwd(b, chdir)
	mask := 0o022
	if t.User.Umask != nil {
		mask = int(*t.User.Umask)
	}
	b.In("process.user.umask")
	b.Call(unix.SYS_UMASK, stub.Int(mask))
}

// makeRoom emits what has the table of descriptors grow. Once threads share it, each time it grows they wait for a grace period
// of RCU, milliseconds; hull's own programs have threads, and descriptors for many mounts.
func (t *process) makeRoom(b *stub.Batch) {
	const most = 512
	b.Ignore(b.Call(unix.SYS_FCNTL, stub.Int(t.program), stub.Int(unix.F_DUPFD_CLOEXEC), stub.Int(most-1)), 0)
}

// closeOthers emits the closing of all descriptors but those that lastSteps and the program need, and marks these so
// that only the program's survive execve (CVE-2024-21626). It comes before the filter, which may know neither call.
func (t *process) closeOthers(b *stub.Batch, extra int) {
	b.In("")
	last := reportFD(extra)
	const end = 1<<32 - 1
	if linux.HaveCloexecRange() {
		b.Call(unix.SYS_CLOSE_RANGE, stub.Int(stub.Control+1), stub.Int(stub.FirstExtra-1), stub.Int(0))
		b.Call(unix.SYS_CLOSE_RANGE, stub.Int(last+1), stub.Int(uint32(end)), stub.Int(0))
		b.Call(unix.SYS_CLOSE_RANGE, stub.Int(3), stub.Int(uint32(end)), stub.Int(unix.CLOSE_RANGE_CLOEXEC))
		return
	}
	// All are close-on-exec already. But while the init is parked nobody in the container may find one of the host's.
	for fd := stub.Control + 1; fd <= last+t.opened+b.MaxOpened(); fd++ {
		if fd < stub.FirstExtra || fd > last {
			b.Ignore(b.Call(unix.SYS_CLOSE, stub.Int(fd)), 0)
		}
	}
}

// confine emits the filter, if it is loaded early, and the capabilities. All that follows has to pass the filter, as it
// has to with the peers: capset, prctl, dup3, read, rt_sigprocmask, execve; and write, for the replies.
func (t *process) confine(b *stub.Batch) {
	if t.seccompEarly() {
		t.raiseAll(b)
		loadSeccomp(b, t.seccomp)
	}
	t.setCapabilities(b)
}

// confineNotifying is confine with a filter whose listener is handed to an agent. From then on calls may wait for it.
func (t *process) confineNotifying(s *stub.Stub) error {
	b := new(stub.Batch)
	t.raiseAll(b)
	if err := t.loadNotifier(s, b); err != nil {
		return err
	}
	b = new(stub.Batch)
	t.setCapabilities(b)
	return t.explain(s.Do(b))
}

// useEffective makes the capabilities effective that the program will have so, for the search of it: the change of user
// has cleared them. They are permitted still.
func (t *process) useEffective(b *stub.Batch) {
	sets, _ := t.caps.Within(caps.Supported())
	t.setEffective(b, "process.capabilities", func(word int, _ stub.Result) stub.Arg {
		return stub.Int(uint32(sets.Effective & sets.Permitted >> (32 * word)))
	})
}

// raiseAll makes all permitted capabilities effective: without no_new_privs loading a filter needs CAP_SYS_ADMIN
// (seccomp(2)).
func (t *process) raiseAll(b *stub.Batch) {
	if !t.noNewPrivs {
		t.setEffective(b, "linux.seccomp", func(_ int, permitted stub.Result) stub.Arg { return permitted.Arg() })
	}
}

// setEffective changes the effective set to what f returns for each word of 32 bits.
func (t *process) setEffective(b *stub.Batch, field string, f func(word int, permitted stub.Result) stub.Arg) {
	b.In(field)
	header := caps.Sets{}.Header()
	h, data := b.Const(header[:]).Arg(), b.Out(caps.DataSize)
	b.Call(unix.SYS_CAPGET, h, data.Arg())
	for word := range 2 {
		// struct __user_cap_data_struct: effective, permitted, inheritable.
		permitted := b.Load(data, 12*word+4)
		b.Store(data, 12*word, f(word, permitted))
	}
	b.Call(unix.SYS_CAPSET, h, data.Arg())
	b.Note("effective")
}

func (t *process) setGroups(b *stub.Batch) {
	if t.keepGroups() {
		return
	}
	groups := make([]byte, 0, 4*len(t.cred.Groups))
	for _, g := range t.cred.Groups {
		groups = append(groups, byte(g), byte(g>>8), byte(g>>16), byte(g>>24))
	}
	b.In("process.user.additionalGids")
	set := b.Call(unix.SYS_SETGROUPS, stub.Int(len(t.cred.Groups)), b.Const(groups).Arg())
	if t.userns && len(t.cred.Groups) == 0 {
		// In a user namespace that gave up setgroups for its map there is nothing to drop them with.
		b.Ignore(set, unix.EPERM)
	}
	b.In("process.user")
}

// keepGroups tells whether the caller's supplementary groups stay, as crun's annotation asks: by any value but 0.
func (t *process) keepGroups() bool {
	v, ok := t.container.Spec.Annotations["run.oci.keep_original_groups"]
	return ok && v != "0"
}

// enterCwd tries the directory again as the user, if root could not enter it, and makes sure that where the process
// is lies below its root: a directory from outside would be its way out (CVE-2024-21626).
func (t *process) enterCwd(b *stub.Batch, first stub.Result) {
	b.In("process.cwd")
	in, again := b.Label(), b.Label()
	entered := b.Assert(first.Arg(), ^uint64(0), 0, unix.EACCES, "chdir")
	b.OnOK(entered, in)
	b.OnErr(entered, 0, again)
	b.Mark(again)
	b.Call(unix.SYS_CHDIR, b.String(t.Cwd).Arg())
	b.Note(quote(t.Cwd))
	b.Mark(in)
	cwd := b.Out(unix.PathMax)
	b.Call(unix.SYS_GETCWD, cwd.Arg(), stub.Int(unix.PathMax))
	b.Assert(b.Load(cwd, 0).Arg(), 0xff, '/', unix.EXDEV, quote(t.Cwd)+" is outside of the container's root")
}

func (t *process) setCapabilities(b *stub.Batch) {
	b.In("process.capabilities")
	b.Prctl(unix.PR_SET_KEEPCAPS, stub.Int(0), stub.Int(0), stub.Int(0), stub.Int(0))
	sets, _ := t.caps.Within(caps.Supported())
	// Package oci has warned of those that the kernel would refuse (capset(2), PR_CAP_AMBIENT_RAISE).
	sets.Effective &= sets.Permitted
	sets.Ambient &= sets.Permitted & sets.Inheritable
	header, data := sets.Header(), sets.Data()
	b.Call(unix.SYS_CAPSET, b.Const(header[:]).Arg(), b.Const(data[:]).Arg())
	b.Note("effective, permitted and inheritable")
	b.In("process.capabilities.ambient")
	b.Ignore(b.Prctl(unix.PR_CAP_AMBIENT, stub.Int(unix.PR_CAP_AMBIENT_CLEAR_ALL), stub.Int(0), stub.Int(0), stub.Int(0)), unix.EINVAL)
	for n := range caps.Last() + 1 {
		if sets.Ambient.Has(n) {
			b.Prctl(unix.PR_CAP_AMBIENT, stub.Int(unix.PR_CAP_AMBIENT_RAISE), stub.Int(n), stub.Int(0), stub.Int(0))
			b.Note("raise " + caps.Of(n).String())
		}
	}
}

// lastSteps emits what a process does alone: descriptors to their places, the wait for start, the signals as a new
// program expects them, the filter if it is loaded late.
func (t *process) lastSteps(b *stub.Batch, extra int, park bool) {
	b.In("")
	for i := range extra {
		flags := 0
		if 3+i == t.program {
			flags = unix.O_CLOEXEC // the file of the host's that is executed is none of the program's business
		}
		b.Dup3(stub.Fd(stub.FirstExtra+i), 3+i, flags)
	}
	if park {
		// The socket to hull is of no use any more, and a container may be parked for long. But close(2) may be none of
		// what a filter that is loaded already lets pass.
		if extra == 0 && !t.seccompEarly() && !t.notifies() {
			b.Close(stub.Fd(stub.Control))
		}
		// As kill(1) would end a program that waits, though this one is the first in its pid namespace.
		b.ExitOn(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
		b.Call(unix.SYS_READ, stub.Int(reportFD(extra)), b.Out(1).Arg(), stub.Int(1))
	}
	b.DefaultSignals()
	if t.seccompLate() {
		loadSeccomp(b, t.seccomp)
	}
	b.In("process.args[0]")
	if t.program != 0 {
		t.makeRoom(b)
		b.Execveat(stub.Fd(t.program), t.Args, t.env)
		return
	}
	b.Execve(t.path, t.Args, t.env)
}

// explain adds hints to errors of the credentials.
func (t *process) explain(err error) error {
	var e *fault.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Field == "process.user" && errors.Is(err, unix.EINVAL):
		e.Hint = "the user namespace has no mapping for this id: linux.uidMappings and linux.gidMappings must cover it"
	case e.Field == "process.capabilities.bounding": // dropping from it needs CAP_SETPCAP alone
	case strings.HasPrefix(e.Field, "process.capabilities") && errors.Is(err, unix.EPERM):
		e.Hint = "a capability that hull itself lacks can't be given to a container"
	case e.Field == "process.scheduler" && errors.Is(err, unix.EPERM):
		e.Hint = t.schedulerHint()
	case strings.HasPrefix(e.Field, "process.rlimits") && errors.Is(err, unix.EPERM):
		e.Hint = t.limitHint(e.Field)
	}
	return err
}

// limitHint says what keeps the limit that field names from being set. Beyond fs.nr_open nobody may have open files,
// whatever the rights (kernel/sys.c, do_prlimit).
func (t *process) limitHint(field string) string {
	for i, l := range t.rlimits {
		if l.Resource != unix.RLIMIT_NOFILE || t.limitField(i) != field {
			continue
		}
		text, err := os.ReadFile("/proc/sys/fs/nr_open")
		most, parseErr := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && parseErr == nil && l.Limit.Max > most {
			return fmt.Sprintf("this host lets a process have %d open files at most: sysctl fs.nr_open", most)
		}
	}
	return "raising a hard limit needs CAP_SYS_RESOURCE"
}
