package hull_test

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/stub"
)

// A processCase is a field below process (config.md, "Process") and what the process then sees. It is tried on a
// container's init and on a process of exec, whose container has it not.
type processCase struct {
	name  string
	edit  func(*specs.Process)
	files func(t *testing.T, rootfs string) // or nil
	args  []string
	want  outcome
	check func(testing.TB, outcome) // instead of want, for an answer that isn't the same everywhere
}

func ok(lines ...string) outcome {
	o := outcome{Status: "0"}
	for _, l := range lines {
		o.Out += l + "\n"
	}
	return o
}

// begins and has check what a program that succeeds says.
func begins(text string) func(testing.TB, outcome) {
	return func(t testing.TB, got outcome) {
		t.Helper()
		if got.Status != "0" || !strings.HasPrefix(got.Out, text) {
			t.Errorf("%+v doesn't begin with %q", got, text)
		}
	}
}

func has(text string) func(testing.TB, outcome) {
	return func(t testing.TB, got outcome) {
		t.Helper()
		if got.Status != "0" || !strings.Contains(got.Out, text) {
			t.Errorf("%+v hasn't %q", got, text)
		}
	}
}

func (c processCase) run(t *testing.T) {
	if c.check == nil {
		c.check = func(t testing.TB, got outcome) { t.Helper(); expect(t, c.want, got) }
	}
	edited := new(specs.Process)
	var plain specs.Process
	edit := func(s *specs.Spec) {
		plain = *s.Process
		c.edit(s.Process)
		s.Process.Args = hulltest.Args(c.args[0], c.args[1:]...)
		*edited = *s.Process
	}
	make := func(t *testing.T, edits ...func(*specs.Spec)) string {
		bundle := hulltest.Bundle(t, edits...)
		if c.files != nil {
			c.files(t, filepath.Join(bundle, "rootfs"))
		}
		return bundle
	}
	t.Run("run", func(t *testing.T) {
		got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: make(t, edit)})
		if err != nil {
			t.Fatal(errorText(err))
		}
		c.check(t, got)
	})
	t.Run("exec", func(t *testing.T) {
		r := newRuntime(t)
		box, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: make(t, edit, func(s *specs.Spec) {
			*s.Process = plain
			s.Process.Args = hulltest.Args("sleep", "3600")
		})})
		if err != nil {
			t.Fatal(errorText(err))
		}
		remove(t, r, box)
		c.check(t, exec1(t, box, func(p *specs.Process) { *p = *edited }))
	})
}

const (
	noCaps  = "0000000000000000"
	example = "0000000020000420" // CAP_KILL, CAP_NET_BIND_SERVICE, CAP_AUDIT_WRITE: capabilities(7) 5, 10, 29
)

func TestProcess(t *testing.T) {
	for _, c := range []processCase{
		{
			name: "user",
			edit: func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 2000, AdditionalGids: []uint32{7, 5, 4000000000}}
			},
			args: []string{"id"},
			want: ok("uid 1000 1000 1000", "gid 2000 2000 2000", "groups 5 7 4000000000"),
		}, {
			name: "largest ids",
			edit: func(p *specs.Process) { p.User = specs.User{UID: 4294967294, GID: 4294967294} },
			args: []string{"status", "Uid", "Gid", "Groups"},
			want: ok("Uid 4294967294 4294967294 4294967294 4294967294", "Gid 4294967294 4294967294 4294967294 4294967294", "Groups "),
		}, {
			name: "no groups of the caller's",
			edit: func(p *specs.Process) {},
			args: []string{"id"},
			want: ok("uid 0 0 0", "gid 0 0 0", "groups"),
		}, {
			name: "umask",
			edit: func(p *specs.Process) { p.User.Umask = ptr(uint32(0o027)) },
			args: []string{"umask"},
			want: ok("0027"),
		}, {
			name: "umask 0",
			edit: func(p *specs.Process) { p.User.Umask = ptr(uint32(0)) },
			args: []string{"umask"},
			want: ok("0000"),
		}, {
			name: "default umask",
			edit: func(p *specs.Process) {},
			args: []string{"umask"},
			want: ok("0022"),
		}, {
			name: "env in its order",
			edit: func(p *specs.Process) { p.Env = []string{"B=2", "HOME=/x", "A=1", "EMPTY=", "SPACE=a b", "EQ=a=b"} },
			args: []string{"env"},
			want: ok("B=2", "HOME=/x", "A=1", "EMPTY=", "SPACE=a b", "EQ=a=b"),
		}, {
			name: "HOME of passwd",
			edit: func(p *specs.Process) { p.User.UID = 1000 },
			files: func(t *testing.T, rootfs string) {
				write(t, rootfs+"/etc/passwd", "root:x:0:0::/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n")
			},
			args: []string{"env", "HOME"},
			want: ok("/home/joe"),
		}, {
			name: "HOME without passwd",
			edit: func(p *specs.Process) {},
			args: []string{"env", "HOME"},
			want: ok("/"),
		}, {
			name: "HOME that is set stays",
			edit: func(p *specs.Process) { p.Env = []string{"HOME=/set"} },
			files: func(t *testing.T, rootfs string) {
				write(t, rootfs+"/etc/passwd", "root:x:0:0::/root:/bin/sh\n")
			},
			args: []string{"env"},
			want: ok("HOME=/set"),
		}, {
			name: "passwd is a fifo",
			edit: func(p *specs.Process) {},
			files: func(t *testing.T, rootfs string) {
				if err := unix.Mkfifo(rootfs+"/etc/passwd", 0o600); err != nil {
					t.Fatal(err)
				}
			},
			args: []string{"env", "HOME"},
			want: ok("/"),
		}, {
			name: "cwd",
			edit: func(p *specs.Process) { p.Cwd = "/tmp" },
			args: []string{"cwd"},
			want: ok("/tmp"),
		}, {
			name: "cwd that only its user may enter",
			edit: func(p *specs.Process) {
				p.Cwd, p.User.UID, p.User.GID = "/home", 1000, 1000
				p.Capabilities = &specs.LinuxCapabilities{}
			},
			files: func(t *testing.T, rootfs string) {
				mkdir(t, rootfs+"/home", 0o700)
				if err := os.Chown(rootfs+"/home", 1000, 1000); err != nil {
					t.Fatal(err)
				}
			},
			args: []string{"cwd"},
			want: ok("/home"),
		}, {
			name: "cwd that only root may enter",
			edit: func(p *specs.Process) {
				p.Cwd, p.User.UID, p.User.GID = "/root", 1000, 1000
			},
			files: func(t *testing.T, rootfs string) { mkdir(t, rootfs+"/root", 0o700) },
			args:  []string{"status", "Uid"},
			want:  ok("Uid 1000 1000 1000 1000"),
		}, {
			name: "capabilities of the example",
			edit: func(p *specs.Process) {},
			args: []string{"caps"},
			want: ok("CapInh "+noCaps, "CapPrm "+example, "CapEff "+example, "CapBnd "+example, "CapAmb "+noCaps),
		}, {
			name: "no capabilities",
			edit: func(p *specs.Process) { p.Capabilities = nil },
			args: []string{"caps"},
			want: ok("CapInh "+noCaps, "CapPrm "+noCaps, "CapEff "+noCaps, "CapBnd "+noCaps, "CapAmb "+noCaps),
		}, {
			name: "each set for itself",
			edit: func(p *specs.Process) {
				p.User.UID = 1000 // execve gives root the bounding set
				p.Capabilities = &specs.LinuxCapabilities{
					Bounding:    []string{"CAP_KILL", "CAP_CHOWN", "CAP_SYS_ADMIN"},
					Inheritable: []string{"CAP_KILL", "CAP_CHOWN"},
					Permitted:   []string{"CAP_KILL", "CAP_CHOWN"},
					Effective:   []string{"CAP_KILL"},
					Ambient:     []string{"CAP_KILL"},
				}
			},
			args: []string{"caps"},
			want: ok("CapInh 0000000000000021", "CapPrm 0000000000000020", "CapEff 0000000000000020",
				"CapBnd 0000000000200021", "CapAmb 0000000000000020"),
		}, {
			name: "unknown capabilities are left out",
			edit: func(p *specs.Process) {
				p.Capabilities.Bounding = append(p.Capabilities.Bounding, "CAP_FUTURE")
			},
			args: []string{"status", "CapBnd"},
			want: ok("CapBnd " + example),
		}, {
			name: "no new privileges",
			edit: func(p *specs.Process) { p.NoNewPrivileges = true },
			args: []string{"status", "NoNewPrivs"},
			want: ok("NoNewPrivs 1"),
		}, {
			name: "new privileges",
			edit: func(p *specs.Process) { p.NoNewPrivileges = false },
			args: []string{"status", "NoNewPrivs"},
			want: ok("NoNewPrivs 0"),
		}, {
			name: "oomScoreAdj",
			edit: func(p *specs.Process) { p.OOMScoreAdj = ptr(500) },
			args: []string{"cat", "/proc/self/oom_score_adj"},
			want: ok("500"),
		}, {
			name:  "scheduler",
			edit:  func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5} },
			args:  []string{"sched"},
			check: begins("policy 3 flags 0x0 nice 5 priority 0 "),
		}, {
			name: "ioPriority",
			edit: func(p *specs.Process) {
				p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
			},
			args:  []string{"sched"},
			check: has("\nioprio class 2 level 6\n"),
		}, {
			name: "signals of a new program",
			edit: func(p *specs.Process) {},
			args: []string{"status", "SigBlk", "SigIgn"},
			want: ok("SigBlk "+noCaps, "SigIgn "+noCaps),
		}, {
			name: "no descriptors but the three",
			edit: func(p *specs.Process) {},
			args: []string{"do", "ls", "/proc/self/fdinfo"},
			want: ok("0", "1", "2", "3"), // 3 is the directory itself
		}, {
			name: "program of the search path",
			edit: func(p *specs.Process) { p.Env = []string{"HOME=/", "PATH=/nowhere:/etc:/bin"} },
			args: []string{"echo", "/bin/testprog"},
			want: ok("/bin/testprog"),
		},
	} {
		t.Run(c.name, c.run)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func symlink(t testing.TB, target, path string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(path), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

func TestRlimits(t *testing.T) {
	all := []struct {
		kind, line string
		value      uint64
	}{
		{"RLIMIT_CORE", "Max core file size", 1000},
		{"RLIMIT_CPU", "Max cpu time", 500},
		{"RLIMIT_DATA", "Max data size", 1 << 40},
		{"RLIMIT_FSIZE", "Max file size", 1 << 30},
		{"RLIMIT_LOCKS", "Max file locks", 100},
		{"RLIMIT_MEMLOCK", "Max locked memory", 1 << 20},
		{"RLIMIT_MSGQUEUE", "Max msgqueue size", 100000},
		{"RLIMIT_NOFILE", "Max open files", 64},
		{"RLIMIT_NPROC", "Max processes", 90000},
		{"RLIMIT_RSS", "Max resident set", 1 << 33},
		{"RLIMIT_RTTIME", "Max realtime timeout", 5000000},
		{"RLIMIT_SIGPENDING", "Max pending signals", 70},
		{"RLIMIT_STACK", "Max stack size", 4 << 20},
		{"RLIMIT_AS", "Max address space", 1 << 42},
	}
	var limits []specs.POSIXRlimit
	for _, l := range all {
		limits = append(limits, specs.POSIXRlimit{Type: l.kind, Soft: l.value, Hard: l.value})
	}
	check := func(t *testing.T, got outcome) {
		t.Helper()
		for _, l := range all {
			want := fmt.Sprintf("%d %d", l.value, l.value)
			found := false
			for line := range strings.Lines(got.Out) {
				if rest, ok := strings.CutPrefix(line, l.line); ok {
					found = strings.HasPrefix(strings.Join(strings.Fields(rest), " "), want)
				}
			}
			if !found {
				t.Errorf("%s: not %s in\n%s", l.kind, want, got.Out)
			}
		}
	}
	check(t, run(t, args("limits"), func(s *specs.Spec) { s.Process.Rlimits = limits }))
	check(t, exec1(t, running(t), verb("limits"), func(p *specs.Process) { p.Rlimits = limits }))
}

// A process that may open no more files than it has can be set up.
func TestFewFiles(t *testing.T) {
	got := run(t, args("true"), func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 3, Hard: 3}}
	})
	expect(t, "0", got.Status)
}

func TestPersonality(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	edit := func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} }
	want := map[string]string{"x86_64": "i686", "aarch64": "armv8l"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	machine := want[unix.ByteSliceToString(u.Machine[:])]
	if machine == "" {
		t.Skip("needs a machine that has a 32-bit personality")
	}
	says(t, run(t, args("uname"), edit), machine)
	says(t, exec1(t, running(t, edit), verb("uname")), machine)
}

// Descriptors that are passed get the numbers from 3 on, and nothing comes with them.
func TestExtraFiles(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := t.TempDir()
	var files []*os.File
	for _, name := range []string{"one", "two", "three"} {
		write(t, filepath.Join(dir, name), "this is "+name)
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	want := ok("0", "1", "2", "3", "4", "5", "6") // 6 is the directory itself
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{
		Bundle: hulltest.Bundle(t, args("ls", "/proc/self/fdinfo")), ExtraFiles: files,
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, want, got)
	read := hulltest.Args("cat", "/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/5")
	got, err = tryRunWith(t, newRuntime(t), hull.CreateOptions{
		Bundle: hulltest.Bundle(t, func(s *specs.Spec) { s.Process.Args = read }), ExtraFiles: files,
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, outcome{Status: "0", Out: "this is onethis is twothis is three"}, got)

	c := running(t)
	for _, list := range []bool{true, false} {
		streams := newStreams(t)
		p := c.ProcessSpec()
		if p.Args = read; list {
			p.Args = hulltest.Args("ls", "/proc/self/fdinfo")
		}
		proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: streams.stdio(), ExtraFiles: files})
		if err != nil {
			t.Fatal(err)
		}
		got := streams.outcome(t, proc)
		if list {
			expect(t, want, got)
		} else {
			expect(t, outcome{Status: "0", Out: "this is onethis is twothis is three"}, got)
		}
	}
}

// A caller that ignores signals doesn't hand that on.
func TestIgnoredSignalsOfTheCaller(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	cmd := actor(t, "ignorer", hulltest.Bundle(t, args("status", "SigBlk", "SigIgn")), t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	expect(t, "SigBlk "+noCaps+"\nSigIgn "+noCaps+"\n", string(out))
}

func init() {
	roles["ignorer"] = func(args []string) error {
		signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGUSR1, unix.SIGTERM, unix.SIGPIPE)
		return runHere(args[0], args[1])
	}
}

// runningBelow returns a container in a cgroup below another, and what freezes and thaws that one.
func runningBelow(t *testing.T) (c *hull.Container, freeze, thaw func()) {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	parent := "/" + hulltest.Token(t) + "-above"
	file, frozen, thawed := filepath.Join("/sys/fs/cgroup/freezer", parent, "freezer.state"), "FROZEN", "THAWED"
	if hulltest.CgroupV2.Check() == nil {
		file, frozen, thawed = filepath.Join("/sys/fs/cgroup", parent, "cgroup.freeze"), "1", "0"
	}
	t.Cleanup(func() { // after that of the container
		above, _ := filepath.Glob("/sys/fs/cgroup/*" + parent)
		for _, dir := range append(above, "/sys/fs/cgroup"+parent) {
			_ = unix.Rmdir(dir)
		}
	})
	c = runningIn(t, newRuntime(t), func(s *specs.Spec) { s.Linux.CgroupsPath = parent + "/box" })
	return c, func() {
		write(t, file, frozen)
		if hulltest.CgroupV2.Check() == nil {
			// The kernel takes its time for it.
			events := filepath.Join("/sys/fs/cgroup", parent, "box/cgroup.events")
			eventually(t, "frozen", func() bool { return strings.Contains(readFile(t, events), "frozen 1") })
		}
	}, func() { write(t, file, thawed) }
}

// A process that can't run, since a cgroup above is frozen, is not waited for.
func TestExecBelowFrozenCgroup(t *testing.T) {
	c, freeze, thaw := runningBelow(t)
	freeze()
	// As is one that was begun before.
	refused(t, c.EndedMeanwhile(t.Context(), stub.ErrTimeout), hull.ErrBadState, "frozen")
	began := time.Now()
	_, err := c.Exec(t.Context(), hull.ExecOptions{Process: c.ProcessSpec()})
	thaw()
	refused(t, err, hull.ErrBadState, "exec box", "frozen")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it takes %v", took)
	}
	wantStatus(t, c, hull.Running)
}

// Processes that write to one open file of the caller's write one after the other, as the caller does.
func TestOneOffset(t *testing.T) {
	c := running(t)
	out := newStreams(t).out
	begin := func(name string, more ...string) *hull.Process {
		t.Helper()
		p := c.ProcessSpec()
		p.Args = hulltest.Args(name, more...)
		proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: hull.Stdio{Out: out, Err: out}})
		if err != nil {
			t.Fatal(errorText(err))
		}
		return proc
	}
	say := func(text string) {
		t.Helper()
		if _, err := out.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	say("one\n")
	waits := begin("trap", "USR1")
	eventually(t, "it is ready", func() bool { return strings.Contains(readAll(t, out), "ready") })
	expect(t, "0", wait(t, begin("echo", "two")))
	say("three\n")
	if err := waits.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	expect(t, "0", wait(t, waits))
	say("four\n")
	expect(t, "one\nready\ntwo\nthree\nSIGUSR1\nfour\n", readAll(t, out))
}

// A signal that the first process doesn't handle does nothing to it, whether it is sent to that one or to all.
func TestInitIsSpared(t *testing.T) {
	c := running(t)
	other := c.ProcessSpec()
	other.Args = hulltest.Args("sleep", "3600")
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: other})
	if err != nil {
		t.Fatal(errorText(err))
	}
	// Go handles all that would end a process.
	for _, all := range []bool{false, true} {
		if err := c.Signal(unix.SIGTSTP, all); err != nil {
			t.Fatal(errorText(err))
		}
	}
	time.Sleep(20 * time.Millisecond)
	if state := exec1(t, c, verb("cat", "/proc/1/status")).Out; !strings.Contains(state, "State:\t") || strings.Contains(state, "State:\tT") {
		t.Errorf("the first process is\n%s", state)
	}
	if err := proc.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	expect(t, "signal SIGKILL", wait(t, proc))
}

// A process whose standard streams are the null device has the container's, by which it can change nothing of the host's.
func TestNullDeviceIsTheContainers(t *testing.T) {
	c := running(t)
	proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: func() *specs.Process {
		p := c.ProcessSpec()
		p.Args = hulltest.Args("sleep", "3600")
		return p
	}()})
	if err != nil {
		t.Fatal(errorText(err))
	}
	for name, pid := range map[string]int{"init": c.Init().Pid, "exec": proc.Pid} {
		dir := fmt.Sprintf("/proc/%d/", pid)
		mounts, err := os.ReadFile(dir + "mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for fd := range 3 {
			info, err := os.ReadFile(fmt.Sprintf("%sfdinfo/%d", dir, fd))
			if err != nil {
				t.Fatal(err)
			}
			var flags, mount string
			for line := range strings.Lines(string(info)) {
				if f := strings.Fields(line); f[0] == "mnt_id:" {
					mount = f[1]
				} else if f[0] == "flags:" {
					flags = f[1]
				}
			}
			if !strings.HasPrefix(string(mounts), mount+" ") && !strings.Contains(string(mounts), "\n"+mount+" ") {
				t.Errorf("%s: descriptor %d is in mount %s, which is none of the container's", name, fd, mount)
			}
			if !strings.HasSuffix(flags, "02") {
				t.Errorf("%s: flags of descriptor %d: %s, want O_RDWR without O_NONBLOCK", name, fd, flags)
			}
		}
	}
	if err := proc.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	wait(t, proc)
}
