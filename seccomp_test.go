package hull_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func filtering(action specs.LinuxSeccompAction, errno *uint, names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: names, Action: action, ErrnoRet: errno}},
		}
	}
}

// Each action on a call that testprog's verb hostname makes, for the init and for exec, with and without
// no_new_privs, which decides when the filter is loaded.
func TestSeccomp(t *testing.T) {
	for _, privs := range []bool{true, false} {
		noNew := func(s *specs.Spec) { s.Process.NoNewPrivileges = privs }
		for _, test := range []struct {
			name string
			edit func(*specs.Spec)
			want outcome
		}{
			{"errno", filtering(specs.ActErrno, nil, "uname"), outcome{Status: "1", Err: "hostname: uname: operation not permitted\n"}},
			{"errnoRet", filtering(specs.ActErrno, ptr(uint(unix.ENOTTY)), "uname"), outcome{Status: "1", Err: "hostname: uname: inappropriate ioctl for device\n"}},
			{"kill", filtering(specs.ActKillProcess, nil, "uname"), outcome{Status: "signal SIGSYS"}},
			{"log", filtering(specs.ActLog, nil, "uname"), outcome{Status: "0", Out: "web1 (none)\n"}},
			{"allow", filtering(specs.ActAllow, nil, "uname"), outcome{Status: "0", Out: "web1 (none)\n"}},
			{"unknown call", filtering(specs.ActErrno, nil, "no_such_call"), outcome{Status: "0", Out: "web1 (none)\n"}},
		} {
			t.Run(fmt.Sprintf("%s, no_new_privs %v", test.name, privs), func(t *testing.T) {
				named := func(s *specs.Spec) { s.Hostname = "web1" }
				expect(t, test.want, run(t, args("hostname"), named, noNew, test.edit))
				expect(t, test.want, exec1(t, running(t, named, noNew, test.edit), verb("hostname")))
			})
		}
	}
}

// startContainer hooks run under the filter, too: they are programs of the container.
func TestSeccompInHook(t *testing.T) {
	for _, privs := range []bool{true, false} {
		t.Run(fmt.Sprintf("no_new_privs %v", privs), func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), filtering(specs.ActKillProcess, nil, "uname"), func(s *specs.Spec) {
				s.Process.NoNewPrivileges = privs
				s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: hulltest.ProgPath, Args: hulltest.Args("hostname")}}}
			})
			refused(t, err, nil, "hooks.startContainer[0]", "bad system call")
		})
	}
}

func TestSeccompIsOn(t *testing.T) {
	edit := filtering(specs.ActErrno, nil, "reboot")
	_, ours, _ := strings.Cut(readFile(t, "/proc/self/status"), "\nSeccomp_filters:")
	var above int // of those who have started this test
	if _, err := fmt.Sscan(ours, &above); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint("Seccomp_filters ", above+1)
	says(t, run(t, args("status", "Seccomp", "Seccomp_filters"), edit), "Seccomp 2", want)
	says(t, exec1(t, running(t, edit), verb("status", "Seccomp", "Seccomp_filters")), "Seccomp 2", want)
}

// A filter by arguments.
func TestSeccompArguments(t *testing.T) {
	edit := func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls: []specs.LinuxSyscall{{
				Names: []string{"personality"}, Action: specs.ActErrno,
				Args: []specs.LinuxSeccompArg{{Index: 0, Value: 8, Op: specs.OpEqualTo}},
			}},
		}
		s.Process.NoNewPrivileges = false
	}
	d := t.TempDir()
	hulltest.Require(t, hulltest.Root)
	got := run(t, edit, withActor(t, d), playing("personality"))
	says(t, got, "8 operation not permitted", "0 <nil>")
}

func init() {
	roles["personality"] = func([]string) error {
		for _, p := range []uintptr{8, 0} {
			_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, p, 0, 0)
			var err error
			if errno != 0 {
				err = errno
			}
			fmt.Println(p, err)
		}
		return nil
	}
}

// An allow-list too short for what hull itself does between the filter and the program must not be in the way: crun
// and runc load it last, too.
func TestSeccompShortAllowList(t *testing.T) {
	calls := readSeccompCalls(t)
	edit := func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno,
			Syscalls:      []specs.LinuxSyscall{{Names: calls, Action: specs.ActAllow}},
		}
	}
	says(t, run(t, args("echo", "ran"), edit), "ran")
	says(t, exec1(t, running(t, edit), verb("echo", "ran")), "ran")
}

// A call of a newer kernel's in a profile is no mistake, but isn't passed over in silence.
func TestSeccompUnknownCall(t *testing.T) {
	r := newRuntime(t)
	var told []string
	r.Trace = func(line string) {
		if strings.HasPrefix(line, "linux.seccomp.syscalls: ") {
			told = append(told, line)
		}
	}
	if _, err := tryRun(t, r, filtering(specs.ActErrno, nil, "no_such_call", "uname")); err != nil {
		t.Fatal(err)
	}
	expect(t, []string{"linux.seccomp.syscalls: no architecture has no_such_call: without effect"}, told)
}

// A filter that lets nothing through that starts a program would end the stub without a word.
func TestSeccompThatForbidsAnyProgram(t *testing.T) {
	for name, edit := range map[string]func(*specs.Spec){
		"default": func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno} },
		"execve":  filtering(specs.ActKillProcess, nil, "execve"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), edit)
			refused(t, err, hull.ErrBadSpec, "linux.seccomp", "execve")
		})
	}
}

// readSeccompCalls returns what a Go program needs to print a word.
func readSeccompCalls(testing.TB) []string {
	return strings.Fields(`execve arch_prctl brk mmap munmap mprotect madvise read write close openat fcntl sched_getaffinity
		rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack gettid getpid tgkill clone clone3 futex nanosleep exit exit_group
		prlimit64 prctl readlinkat newfstatat epoll_create1 epoll_ctl epoll_pwait eventfd2 pipe2 sched_yield getrandom
		set_robust_list set_tid_address rseq clock_gettime clock_nanosleep fstat lseek uname mincore restart_syscall`)
}

// agent accepts one listener, answers every notification of it with errno EXDEV, and returns the message.
func agent(t *testing.T, path string) <-chan string {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	message := make(chan string, 1)
	go func() {
		defer close(message)
		defer l.Close()
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		text, listener := receiveMessage(conn)
		conn.Close()
		message <- text
		if listener != nil {
			defer listener.Close()
			answer(int(listener.Fd()))
		}
	}()
	return message
}

// answer is the loop of seccomp_unotify(2).
func answer(fd int) {
	const (
		notifRecv = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV, linux/seccomp.h
		notifSend = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	)
	type notif struct {
		id    uint64
		pid   uint32
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	type response struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 20000); err == unix.EINTR {
			continue
		} else if n != 1 || err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return // nobody has the filter any more
		}
		var n notif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifRecv, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errors.Is(errno, unix.EINTR) || errors.Is(errno, unix.ENOENT) {
				continue
			}
			return
		}
		r := response{id: n.id, errno: -int32(unix.EXDEV)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifSend, uintptr(unsafe.Pointer(&r))); errno != 0 && errno != unix.ENOENT {
			return
		}
	}
}

// The agent gets the listener and the state of the container process (config-linux.md, "The Container Process State").
func TestSeccompNotify(t *testing.T) {
	for _, privs := range []bool{true, false} {
		t.Run(fmt.Sprintf("no_new_privs %v", privs), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "agent")
			edit := func(s *specs.Spec) {
				filtering(specs.ActNotify, nil, "uname")(s)
				s.Linux.Seccomp.ListenerPath, s.Linux.Seccomp.ListenerMetadata = path, "the metadata"
				s.Process.NoNewPrivileges = privs
				s.Annotations = map[string]string{"color": "blue"}
			}
			r := newRuntime(t)
			message := agent(t, path)
			streams := newStreams(t)
			c := create(t, r, hull.CreateOptions{Stdio: streams.stdio()}, args("hostname"), edit)
			text := <-message
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(errorText(err))
			}
			expect(t, outcome{Status: "1", Err: "hostname: uname: invalid cross-device link\n"}, streams.outcome(t, c.Init()))
			var got specs.ContainerProcessState
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			s, err := c.State()
			if err != nil {
				t.Fatal(err)
			}
			expect(t, specs.ContainerProcessState{
				Version: s.OCIVersion, Fds: []string{"seccompFd"}, Pid: c.Init().Pid, Metadata: "the metadata",
				State: specs.State{Version: s.OCIVersion, ID: "box", Status: specs.StateCreating, Pid: c.Init().Pid,
					Bundle: s.Bundle, Annotations: map[string]string{"color": "blue"}},
			}, got)
		})
	}
}

func TestSeccompNotifyOfExec(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent")
	first := agent(t, path)
	c := running(t, func(s *specs.Spec) {
		filtering(specs.ActNotify, nil, "uname")(s)
		s.Linux.Seccomp.ListenerPath = path
	})
	<-first
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	second := agent(t, path)
	expect(t, outcome{Status: "1", Err: "hostname: uname: invalid cross-device link\n"}, exec1(t, c, verb("hostname")))
	var got specs.ContainerProcessState
	if err := json.Unmarshal([]byte(<-second), &got); err != nil {
		t.Fatal(err)
	}
	if got.State.Status != specs.StateRunning || got.State.Pid != c.Init().Pid || got.Pid == c.Init().Pid || got.Pid == 0 {
		t.Errorf("the agent is told %+v", got)
	}
}

func TestSeccompAgentThatIsNot(t *testing.T) {
	_, err := tryRun(t, newRuntime(t), func(s *specs.Spec) {
		filtering(specs.ActNotify, nil, "uname")(s)
		s.Linux.Seccomp.ListenerPath = "/nonexistent/agent"
	})
	refused(t, err, unix.ENOENT, "linux.seccomp.listenerPath", "/nonexistent/agent")
}

func TestSeccompThatCannotBe(t *testing.T) {
	for name, edit := range map[string]func(*specs.LinuxSeccomp){
		"action":        func(s *specs.LinuxSeccomp) { s.DefaultAction = "SCMP_ACT_X" },
		"architecture":  func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{"SCMP_ARCH_X"} },
		"flag":          func(s *specs.LinuxSeccomp) { s.Flags = []specs.LinuxSeccompFlag{"SECCOMP_X"} },
		"no listener":   func(s *specs.LinuxSeccomp) { s.Syscalls[0].Action = specs.ActNotify },
		"errno, no use": func(s *specs.LinuxSeccomp) { s.Syscalls[0].ErrnoRet = ptr(uint(5000)) },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), func(s *specs.Spec) {
				filtering(specs.ActErrno, nil, "uname")(s)
				edit(s.Linux.Seccomp)
			})
			refused(t, err, hull.ErrBadSpec, "linux.seccomp")
		})
	}
}
