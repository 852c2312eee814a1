package hull_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/wire"
)

// TestSandbox has tests of the native isolation pass in a sandbox: see newRuntime. Those that are missing are of what a
// sandbox can't do (docs/isolation.md), or look at the host's side of a native container.
func TestSandbox(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	for name, test := range sandboxSuite() {
		t.Run(name, test)
	}
}

func sandboxSuite() map[string]func(*testing.T) {
	return map[string]func(*testing.T){
		"BindMounts":                  TestBindMounts,
		"CVE_2019_18837":              TestCVE_2019_18837,
		"CVE_2019_5736":               TestCVE_2019_5736,
		"CVE_2021_30465":              TestCVE_2021_30465,
		"CVE_2021_41103":              TestCVE_2021_41103,
		"CVE_2024_25621":              TestCVE_2024_25621,
		"CVE_2024_45310":              TestCVE_2024_45310,
		"CVE_2025_31133":              TestCVE_2025_31133,
		"CVE_2025_52565":              TestCVE_2025_52565,
		"CVE_2025_52881":              TestCVE_2025_52881,
		"CVE_2025_62161":              TestCVE_2025_62161,
		"CVE_2026_41579":              TestCVE_2026_41579,
		"CVE_2026_47766":              TestCVE_2026_47766,
		"CgroupNamespace":             TestCgroupNamespace,
		"ConfigIsKept":                TestConfigIsKept,
		"ConfigurationThatCannotBe":   TestConfigurationThatCannotBe,
		"CreateCancelled":             TestCreateCancelled,
		"DefaultDevices":              TestDefaultDevices,
		"Delete":                      TestDelete,
		"DeleteAmongOthers":           TestDeleteAmongOthers,
		"DeleteDamagedRecord":         TestDeleteDamagedRecord,
		"DeletedContainer":            TestDeletedContainer,
		"CorkedDataLeavesAtTheEnd":    TestCorkedDataLeavesAtTheEnd,
		"DockerNameServer":            TestDockerNameServer,
		"ExitStatus":                  TestExitStatus,
		"FUSE":                        TestFUSE,
		"HookChangesLimits":           TestHookChangesLimits,
		"HookSeesTheNamespaces":       TestHookSeesTheNamespaces,
		"HooksStopAtTheFirstFailure":  TestHooksStopAtTheFirstFailure,
		"HostIsOutOfSight":            TestHostIsOutOfSight,
		"HostNetworkDevice":           TestHostNetworkDevice,
		"Hostname":                    TestHostname,
		"IDTaken":                     TestIDTaken,
		"IDTakenAtTheSameTime":        TestIDTakenAtTheSameTime,
		"IgnoredSignalsOfTheCaller":   TestIgnoredSignalsOfTheCaller,
		"InitIsSpared":                TestInitIsSpared,
		"LifeCycle":                   TestLifeCycle,
		"LifeCycleByOthers":           TestLifeCycleByOthers,
		"LimitsAndUpdate":             TestLimitsAndUpdate,
		"List":                        TestList,
		"LoopbackIsUp":                TestLoopbackIsUp,
		"ManyContainers":              TestManyContainers,
		"MaskedPaths":                 TestMaskedPaths,
		"MountOnAnotherKind":          TestMountOnAnotherKind,
		"MountsInOrder":               TestMountsInOrder,
		"NoPath":                      TestNoPath,
		"OOM":                         TestOOM,
		"OneOffset":                   TestOneOffset,
		"PauseAndResume":              TestPauseAndResume,
		"PauseCreated":                TestPauseCreated,
		"PausedContainerDies":         TestPausedContainerDies,
		"PidFile":                     TestPidFile,
		"PidFileThatCannotBe":         TestPidFileThatCannotBe,
		"PidfdSocket":                 TestPidfdSocket,
		"PidsLimitHolds":              TestPidsLimitHolds,
		"PoststopThatFails":           TestPoststopThatFails,
		"ReadonlyRoot":                TestReadonlyRoot,
		"ReadonlyRootMountPoints":     TestReadonlyRootMountPoints,
		"RunIsStarted":                TestRunIsStarted,
		"SeccompThatCannotBe":         TestSeccompThatCannotBe,
		"Signals":                     TestSignals,
		"SignalsBeforeTheStart":       TestSignalsBeforeTheStart,
		"SocketAndMapInTheRoot":       TestSocketAndMapInTheRoot,
		"Stats":                       TestStats,
		"Stdin":                       TestStdin,
		"Terminal":                    TestTerminal,
		"TerminalControls":            TestTerminalControls,
		"TerminalHangup":              TestTerminalHangup,
		"TerminalModes":               TestTerminalModes,
		"TerminalOfCreate":            TestTerminalOfCreate,
		"TerminalOfExec":              TestTerminalOfExec,
		"TerminalOfUser":              TestTerminalOfUser,
		"TerminalResized":             TestTerminalResized,
		"TerminalShowsAll":            TestTerminalShowsAll,
		"TerminalThatNobodyTakes":     TestTerminalThatNobodyTakes,
		"ConsoleComesFirst":           TestConsoleComesFirst,
		"ConsoleSocket":               TestConsoleSocket,
		"ConsoleSocketThatCannotBe":   TestConsoleSocketThatCannotBe,
		"ConsoleThatRefuses":          TestConsoleThatRefuses,
		"Tmpfs":                       TestTmpfs,
		"UnknownContainer":            TestUnknownContainer,
		"UserNamespaceWithoutTheUser": TestUserNamespaceWithoutTheUser,
		"WritableRoot":                TestWritableRoot,
		"WrongState":                  TestWrongState,
		"Rlimits":                     TestRlimits,
		"ExecBeforeStart":             TestExecBeforeStart,
		"ExecInPaused":                TestExecInPaused,
		"UserNamespaceMaps":           TestUserNamespaceMaps,
		"SeccompShortAllowList":       TestSeccompShortAllowList,
		"ExecAmidDelete":              TestExecAmidDelete,
		"CVE_2022_24769":              TestCVE_2022_24769,
		"CVE_2022_27650":              TestCVE_2022_27650,
		"CVE_2022_29162":              TestCVE_2022_29162,
		"CVE_2025_27612":              TestCVE_2025_27612,
		"CVE_2024_21626":              TestCVE_2024_21626,
		"Check":                       TestCheck,
		"CheckTellsAll":               TestCheckTellsAll,
		"CheckWithoutAPlace":          TestCheckWithoutAPlace,
	}
}

// Whoever can reach the control socket may be out of his mind; the container goes on.
func TestSandboxControl(t *testing.T) {
	c := running(t)
	path := filepath.Join(c.Dir(), "control.sock")
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(null)
	for name, message := range map[string]struct {
		text string
		fds  []int
	}{
		"nothing":              {"", nil},
		"garbage":              {"\x00\xff", nil},
		"half a message":       {`{"Op":"exec","Proc`, nil},
		"no such request":      {`{"Op":"dance","Container":"box"}`, nil},
		"no such container":    {`{"Op":"ps","Container":"fox"}`, nil},
		"exec of nothing":      {`{"Op":"exec","Container":"box"}`, nil},
		"exec without streams": {`{"Op":"exec","Container":"box","Process":{"args":["/bin/testprog","true"],"cwd":"/"}}`, nil},
		"too many descriptors": {`{"Op":"ps","Container":"box"}`, []int{null, null, null, null, null, null}},
		"too long":             {`{"Op":"ps","Container":"box","Signal":` + strings.Repeat("1", 150000) + "}", nil},
		"exec that never goes": {`{"Op":"exec","Container":"box","Same":[9,-1,7],"Process":{"args":["/bin/testprog","sleep","9"],"cwd":"/"}}`, []int{null, null, null}},
	} {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := unix.Sendmsg(fd, []byte(message.text), unix.UnixRights(message.fds...), nil, unix.MSG_NOSIGNAL); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		time.Sleep(5 * time.Millisecond)
		unix.Close(fd)
		says(t, exec1(t, c, verb("echo", name)), name)
	}
	eventually(t, "nothing of that is left", func() bool {
		list, err := c.Inside()
		return err == nil && len(list) == 1
	})
}

// A command over the host's files, which is not found by others: nothing but its own end ends it.
func TestSandboxCommand(t *testing.T) {
	hulltest.Require(t, hulltest.Command("sh"))
	cmd := hull.CommandContext(t.Context(), "sh", "-c", "read line; echo got $line; kill -TERM $$")
	cmd.Runtime, cmd.Stdin, cmd.Dir = newRuntime(t), strings.NewReader("word\n"), "/"
	out, err := cmd.Output()
	var ended *hull.ExitError
	if !errors.As(err, &ended) || !ended.WaitStatus.Signaled() || string(out) != "got word\n" {
		t.Errorf("got %q, %v", out, err)
	}
	cmd = hull.CommandContext(t.Context(), "hull-no-such-command")
	cmd.Runtime, cmd.Dir = newRuntime(t), "/"
	if err := cmd.Run(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
}

// connectBoth has a container connect with both of the outside's addresses.
func connectBoth(s *specs.Spec) {
	s.Process.Args = hulltest.Args("do", "connect", "tcp", "10.98.0.1:80", ",", "connect", "tcp", "[fd98::1]:80")
}

// joinOutside joins a network namespace with one that listens, by a veth pair.
func joinOutside(t *testing.T, inside *hulltest.Netns) (outside *hulltest.Netns) {
	t.Helper()
	outside = hulltest.NewNetns(t, nil)
	inside.Run(t, "ip", "link", "set", "lo", "up")
	inside.Run(t, "ip", "link", "add", "eth0", "mtu", "1400", "type", "veth", "peer", "name", "out", "netns", strconv.Itoa(outside.TID))
	for _, e := range []struct {
		ns             *hulltest.Netns
		device, v4, v6 string
	}{{outside, "out", "10.98.0.1/32", "fd98::1/128"}, {inside, "eth0", "10.97.0.2/24", "fd97::2/64"}} {
		e.ns.Run(t, "ip", "addr", "add", e.v4, "dev", e.device)
		e.ns.Run(t, "ip", "addr", "add", e.v6, "dev", e.device, "nodad")
		e.ns.Run(t, "ip", "link", "set", e.device, "up")
	}
	// The gateways answer nobody who asks for them: one is a neighbour that somebody has made, the other an address on the link.
	outside.Run(t, "ip", "addr", "add", "fd97::1/64", "dev", "out", "nodad")
	outside.Run(t, "ip", "route", "add", "10.97.0.0/24", "dev", "out")
	link := strings.Fields(outside.Run(t, "ip", "-o", "link", "show", "out"))
	hardware := link[slices.Index(link, "link/ether")+1]
	inside.Run(t, "ip", "neigh", "add", "10.97.0.254", "dev", "eth0", "lladdr", hardware, "nud", "permanent")
	inside.Run(t, "ip", "route", "add", "default", "via", "10.97.0.254", "metric", "5")
	inside.Run(t, "ip", "route", "add", "default", "via", "10.97.0.99", "metric", "9")
	inside.Run(t, "ip", "-6", "route", "add", "default", "via", "fd97::1")
	outside.Listen(t, "10.98.0.1:80")
	outside.Listen(t, "[fd98::1]:80")
	return outside
}

// wantTakenOver checks that the host's kernel has nothing left to answer with.
func wantTakenOver(t *testing.T, inside *hulltest.Netns) {
	t.Helper()
	for _, what := range [][]string{{"addr", "show", "eth0"}, {"route"}, {"-6", "route"}} {
		if out := inside.Run(t, append([]string{"ip"}, what...)...); strings.Contains(out, "inet") || strings.Contains(out, "eth0 ") {
			t.Errorf("ip %s: %s", what, out)
		}
	}
}

// The network that somebody has prepared is the sandbox's, whenever that was before its program runs: by a namespace that
// is named, by a hook, or between create and start.
func TestSandboxNetwork(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"))
	t.Run("path", func(t *testing.T) {
		inside := hulltest.NewNetns(t, nil)
		joinOutside(t, inside)
		says(t, run(t, connectBoth, func(s *specs.Spec) {
			i := slices.IndexFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
			s.Linux.Namespaces[i].Path = procPath(inside.TID, "ns/net")
		}), "connected", "connected")
		wantTakenOver(t, inside)
	})
	t.Run("created", func(t *testing.T) {
		streams := newStreams(t)
		c := create(t, newRuntime(t), hull.CreateOptions{Stdio: streams.stdio()}, connectBoth)
		inside := hulltest.NewNetns(t, func() (*os.File, error) { return os.Open(procPath(c.Init().Pid, "ns/net")) })
		joinOutside(t, inside)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(errorText(err))
		}
		says(t, streams.outcome(t, c.Init()), "connected", "connected")
	})
	t.Run("refused", func(t *testing.T) {
		c := create(t, newRuntime(t), hull.CreateOptions{}, connectBoth)
		inside := hulltest.NewNetns(t, func() (*os.File, error) { return os.Open(procPath(c.Init().Pid, "ns/net")) })
		joinOutside(t, inside)
		inside.Run(t, "ip", "route", "add", "blackhole", "192.0.2.0/24")
		refused(t, c.Start(t.Context()), hull.ErrUnsupported, "route to 192.0.2.0/24", "lead nowhere")
	})
}

// The name server of Docker's user-defined networks is a program of the host's in the container's network namespace: the
// container asks it, it asks others, and in a sandbox neither knows that the network is another kernel's.
func TestDockerNameServer(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"), hulltest.Command("nft"), hulltest.Tun)
	streams := newStreams(t)
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: streams.stdio()}, func(s *specs.Spec) {
		s.Process.Args = hulltest.Args("do", "resolve", "udp", "web.test", ",", "resolve", "tcp", "web.test", ",",
			"resolve", "udp", "far.test", ",", "resolve", "tcp", "far.test", ",", "connect", "tcp", "10.98.0.1:80")
	})
	inside := hulltest.NewNetns(t, func() (*os.File, error) { return os.Open(procPath(c.Init().Pid, "ns/net")) })
	outside := joinOutside(t, inside)
	outside.ServeDNS(t, "10.98.0.1:53", hulltest.DNS(map[string]string{"far.test": "192.0.2.2"}))
	inside.DockerDNS(t, map[string]string{"web.test": "10.97.0.3"}, "10.98.0.1:53")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	says(t, streams.outcome(t, c.Init()), "10.97.0.3", "10.97.0.3", "192.0.2.2", "192.0.2.2", "connected")
}

// startContainer hooks are programs of the container's: they see its files, have its user, and run before its program does.
func TestSandboxStartHooks(t *testing.T) {
	inside := func(args ...string) specs.Hook {
		return specs.Hook{Path: hulltest.ProgPath, Args: append([]string{"hook"}, args...)}
	}
	hooks := func(list ...specs.Hook) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Hooks = &specs.Hooks{StartContainer: list} }
	}
	unprivileged := func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000, GID: 1000} }
	tmp := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}})
	}
	says(t, run(t, args("do", "cat", "/tmp/one", ",", "echo", ",", "stat", "/tmp/two"), unprivileged, tmp,
		hooks(inside("write", "/tmp/one", "first"), inside("write", "/tmp/two", "second"))), "first", "/tmp/two file 0644 1000 1000 6")
	for name, test := range map[string]struct {
		hook  specs.Hook
		words []string
	}{
		"fails":   {inside("do", "cat", "/proc/self/fd/0", ",", "exit", "5"), []string{"exit status 5", `"status":"created"`, `"id":"box"`}},
		"missing": {specs.Hook{Path: "/no/hook"}, []string{"no such file"}},
		"slow":    {func() specs.Hook { h := inside("sleep", "60"); h.Timeout = ptr(1); return h }(), []string{"ran past its timeout of 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := tryRun(t, newRuntime(t), args("sleep", "60"), hooks(inside("true"), test.hook))
			refused(t, err, nil, append([]string{"run box", "hooks.startContainer[1]"}, test.words...)...)
			c := create(t, newRuntime(t), hull.CreateOptions{}, args("sleep", "60"), hooks(inside("true"), test.hook))
			refused(t, c.Start(t.Context()), nil, append([]string{"start box", "hooks.startContainer[1]"}, test.words...)...)
			wantStatus(t, c, hull.Stopped)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it takes %v", took)
			}
		})
	}
}

// createContainer hooks are programs of the host's: they see its files, and on the root those that are mounted there. What they
// change of them is the container's, and what couldn't be is refused.
func TestSandboxCreateContainerHooks(t *testing.T) {
	hulltest.Require(t, hulltest.Command("mount"))
	d := newDiary(t)
	mount, err := exec.LookPath("mount")
	if err != nil {
		t.Fatal(err)
	}
	volume := t.TempDir()
	write(t, filepath.Join(volume, "here"), "of the host")
	hooks := func(list ...specs.Hook) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Root.Readonly = false
			s.Hooks = &specs.Hooks{CreateContainer: list}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/volume", Source: volume, Options: []string{"bind"}})
		}
	}
	prog := func(args ...string) specs.Hook {
		return specs.Hook{Path: hulltest.Prog(t), Args: append([]string{"testprog"}, args...)}
	}
	see := []specs.Hook{d.hook("createContainer"), prog("do", "cat", "volume/here", ",", "write", "made", "made by a hook "), prog("write", "volume/here", "of the host")}
	sees := func(t *testing.T, c *hull.Container, jailed int, streams streams) {
		t.Helper()
		records := d.read(t)
		if len(records) == 0 {
			t.Fatal("the hook was not called")
		}
		got := records[len(records)-1]
		state, err := c.State()
		if err != nil {
			t.Fatal(err)
		}
		theirs, ours := namespacesOf(t, jailed), namespacesOf(t, os.Getpid())
		expect(t, hookRecord{Name: "createContainer", Env: []string{}, Net: theirs[specs.NetworkNamespace], Mount: got.Mount, Cwd: state.Rootfs,
			State: specs.State{Version: state.OCIVersion, ID: c.ID(), Status: specs.StateCreating, Pid: c.Init().Pid, Bundle: state.Bundle, Annotations: state.Annotations}}, got)
		if got.Mount == ours[specs.MountNamespace] || got.Mount == theirs[specs.MountNamespace] {
			t.Errorf("its mount namespace is not one of its own")
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(errorText(err))
		}
		says(t, streams.outcome(t, c.Init()), "made by a hook of the host")
	}
	look := args("do", "cat", "/made", ",", "cat", "/volume/here", ",", "echo")
	t.Run("alone", func(t *testing.T) {
		streams := newStreams(t)
		c := create(t, newRuntime(t), hull.CreateOptions{Stdio: streams.stdio()}, look, hooks(see...))
		sees(t, c, c.Init().Pid, streams)
	})
	t.Run("in a pod", func(t *testing.T) {
		r, pod := newPod(t)
		streams := newStreams(t)
		sees(t, member(t, r, pod, "a", hull.CreateOptions{Stdio: streams.stdio()}, look, hooks(see...)), pod.Init().Pid, streams)
	})
	t.Run("with ids of its own", func(t *testing.T) {
		_, err := tryRun(t, newRuntime(t), args("true"), userNamespace, func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{prog("do", "cat", "/proc/self/uid_map", ",", "exit", "5")}}
		})
		refused(t, err, nil, "hooks.createContainer[0]", "exit status 5", "100000", "65536")
	})
	for name, test := range map[string]struct {
		hook specs.Hook
		word string
	}{
		"fails":  {prog("false"), "exit status 1"},
		"own":    {prog("write", "dev/made", "lost"), "read-only file system"},
		"mounts": {specs.Hook{Path: mount, Args: []string{"mount", "-t", "tmpfs", "none", "tmp"}}, "has mounted something on"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), args("true"), hooks(test.hook))
			refused(t, err, nil, "run box", "hooks.createContainer", test.word)
		})
	}
}

// Where the host's /sys is to be, read-only, is that of the container's kernel; anywhere else, or to be written to, it is refused.
func TestSandboxSysOfTheHost(t *testing.T) {
	sys := func(destination string, options ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/sys") })
			s.Mounts = append(s.Mounts, specs.Mount{Destination: destination, Source: "/sys", Type: "bind", Options: options})
		}
	}
	got := run(t, sys("/sys", "rbind", "rprivate", "nosuid", "noexec", "nodev", "ro"), args("mounts", "/sys"))
	if got.Status != "0" || !strings.Contains(got.Out, " - sysfs ") || !strings.Contains(got.Out, " ro") {
		t.Errorf("got %+v", got)
	}
	for name, edit := range map[string]func(*specs.Spec){"elsewhere": sys("/mnt", "rbind", "ro"), "writable": sys("/sys", "rbind")} {
		t.Run(name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), args("true"), edit)
			refused(t, err, nil, "/sys")
		})
	}
}

// A process that was not started yet has not ended.
func TestSandboxWaitBeforeStart(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	ws, err := c.WaitProcess(ctx, 1, true)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%#x, %v", ws, err)
	}
}

// A process that only its caller waits for has none of the host's. Its end is told all the same, and signals reach it.
func TestSandboxExecAttached(t *testing.T) {
	c := running(t)
	start := func(t *testing.T, s streams, p func(*specs.Process)) *hull.Process {
		t.Helper()
		spec := c.ProcessSpec()
		p(spec)
		proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec, Stdio: s.stdio(), Attached: true})
		if err != nil {
			t.Fatal(errorText(err))
		}
		return proc
	}
	t.Run("status", func(t *testing.T) {
		s := newStreams(t)
		p := start(t, s, verb("do", "echo", "heard", ",", "exit", "7"))
		if p.Pid != 0 {
			t.Errorf("it has the pid %d", p.Pid)
		}
		got := s.outcome(t, p)
		expect(t, outcome{Status: "7", Out: "heard\n"}, got)
		if _, err := p.Wait(); !errors.Is(err, hull.ErrBadUsage) {
			t.Errorf("waited for twice: %v", err)
		}
		if err := p.Signal(unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("a signal after its end: %v", err)
		}
	})
	t.Run("signal", func(t *testing.T) {
		p := start(t, newStreams(t), verb("sleep", "3600"))
		if err := p.SignalGroup(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		expect(t, "signal SIGTERM", wait(t, p))
	})
	t.Run("not found", func(t *testing.T) {
		spec := c.ProcessSpec()
		spec.Args = []string{"nothing"}
		_, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec, Attached: true})
		if err == nil || !strings.Contains(err.Error(), "not found in $PATH") {
			t.Errorf("got %v", err)
		}
	})
	before := inside(t, c).Pids
	t.Run("left alone", func(t *testing.T) {
		start(t, newStreams(t), verb("sleep", "3600")).Release()
	})
	time.Sleep(200 * time.Millisecond)
	if got := inside(t, c).Pids; got <= before {
		t.Errorf("%d threads, as before: the process that was left has ended", got)
	}
	t.Run("given up while it is waited for", func(t *testing.T) {
		p := start(t, newStreams(t), verb("sleep", "3600"))
		waited := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := p.Wait()
				waited <- err
			}()
		}
		result := func() error {
			t.Helper()
			select {
			case err := <-waited:
				return err
			case <-time.After(10 * time.Second):
				t.Fatal("it is waited for all the same")
				return nil
			}
		}
		if err := result(); !errors.Is(err, hull.ErrBadUsage) {
			t.Errorf("waited for by two: %v", err)
		}
		p.Release()
		if err := result(); err == nil {
			t.Error("it is said to have ended")
		}
	})
	last := start(t, newStreams(t), verb("sleep", "3600"))
	if err := c.Signal(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	expect(t, "signal SIGKILL", wait(t, last))
}

// A process of exec gets further descriptors, of kinds that its kernel can make files of.
func TestSandboxExtraFiles(t *testing.T) {
	c := running(t)
	extra := func(files ...*os.File) (outcome, error) {
		p := c.ProcessSpec()
		p.Args = hulltest.Args("do", "fds", ",", "cat", "/proc/self/fd/3")
		streams := newStreams(t)
		proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: streams.stdio(), ExtraFiles: files})
		if err != nil {
			return outcome{}, err
		}
		return streams.outcome(t, proc), nil
	}
	regular, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	if _, err := regular.WriteString("what is in it\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := regular.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	pipe, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer w.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	connected, peer := os.NewFile(uintptr(pair[0]), "connected"), os.NewFile(uintptr(pair[1]), "peer")
	defer connected.Close()
	defer peer.Close()
	got, err := extra(regular, pipe, connected)
	if err != nil {
		t.Fatal(errorText(err))
	}
	if got.Status != "0" || !strings.HasSuffix(got.Out, "what is in it\n") {
		t.Errorf("got %+v", got)
	}
	socket := func(family int, address unix.Sockaddr) *os.File {
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, address)
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	unconnected := func(kind int) *os.File {
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		return f
	}
	open := func(name string, flags int) *os.File {
		f, err := os.OpenFile(name, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for name, test := range map[string]struct {
		file *os.File
		word string
	}{
		"listening": {socket(unix.AF_UNIX, &unix.SockaddrUnix{Name: "@hulltest-" + strconv.Itoa(os.Getpid())}), "a socket that listens"},
		"inet":      {socket(unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), "another family"},
		"datagrams": {unconnected(unix.SOCK_DGRAM), "a socket of datagrams"},
		"to be":     {unconnected(unix.SOCK_STREAM), "isn't connected"},
		"directory": {open("/", os.O_RDONLY), "neither a regular file"},
		"device":    {open("/dev/null", os.O_RDWR), "neither a regular file"},
		"place":     {open(regular.Name(), unix.O_PATH), "O_PATH"},
		"proc":      {open("/proc/self/status", os.O_RDONLY), "host's kernel shows itself"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := extra(regular, test.file)
			refused(t, err, hull.ErrUnsupported, "exec box", test.word)
		})
	}
	says(t, exec1(t, c, verb("echo", "goes on")), "goes on")
}

// counted is what a sandbox's kernel counts.
type counted struct {
	Memory, Pids uint64
	CPU          struct{ User, Kernel uint64 }
}

func inside(t testing.TB, c *hull.Container) (got counted) {
	t.Helper()
	s, err := c.Stats()
	if err != nil {
		t.Fatal(errorText(err))
	}
	text, err := json.Marshal(s.Inside)
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return got
}

// What the container uses is counted without the kernel that it runs on.
func TestSandboxStats(t *testing.T) {
	c := running(t)
	for _, want := range []uint64{1, 2} {
		s, err := c.Stats()
		if err != nil {
			t.Fatal(errorText(err))
		}
		got := inside(t, c)
		if got.Pids < want || got.Memory == 0 {
			t.Errorf("inside %+v; want %d processes at least, and memory", got, want)
		}
		if got.Memory > s.Memory.Usage.Usage || got.Pids > s.Pids.Current {
			t.Errorf("inside %+v is more than outside: %+v, %+v", got, s.Memory.Usage, s.Pids)
		}
		p := c.ProcessSpec()
		p.Args = hulltest.Args("sleep", "3600")
		proc, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
		if err != nil {
			t.Fatal(errorText(err))
		}
		defer func() {
			_ = proc.Signal(unix.SIGKILL)
			wait(t, proc)
		}()
	}
	if err := c.Pause(); err != nil {
		t.Fatal(err)
	}
	if s, err := c.Stats(); err != nil || s.Inside == nil {
		t.Errorf("paused: %+v, %v", s, err)
	}
}

// A request is as long as an environment can be, not as a socket's buffer.
func TestSandboxLongRequest(t *testing.T) {
	c := running(t)
	says(t, exec1(t, c, verb("echo", "heard"), func(p *specs.Process) {
		for i := range 6 {
			p.Env = append(p.Env, fmt.Sprintf("LONG%d=%s", i, strings.Repeat("x", 100000)))
		}
	}), "heard")
}

// A process gives itself a name that would clear the screen of whoever lists it.
func TestSandboxProcessNames(t *testing.T) {
	const name = "/bin/\x1b[2Jx\n"
	c := running(t, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: name, Source: hulltest.Prog(t), Options: []string{"bind", "ro"}})
		s.Process.Args = []string{name, "sleep", "3600"}
	})
	eventually(t, "it has its name", func() bool {
		list, err := c.Inside()
		return err == nil && len(list) == 1 && list[0].Command == "?[2Jx?"
	})
}

// The container's programs can have its kernel run out of descriptors. It hears commands again when there are some.
func TestSandboxOutOfDescriptors(t *testing.T) {
	c := running(t)
	pid := c.Init().Pid
	time.Sleep(100 * time.Millisecond) // it waits in accept4
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 20000}, &before); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Inside(); err != nil { // by the descriptor that accept4 had when it began to wait
		t.Error(errorText(err))
	}
	heard := make(chan error, 1)
	go func() {
		_, err := c.Inside()
		heard <- err
	}()
	select {
	case err := <-heard:
		t.Fatalf("answered without a descriptor to spare: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-heard; err != nil {
		t.Error(errorText(err))
	}
	says(t, exec1(t, c, verb("echo", "heard")), "heard")
}

// Nobody but the owner connects: who gets through the directories is stopped by the socket.
func TestSandboxControlOfOthers(t *testing.T) {
	c := running(t)
	path := filepath.Join(c.Dir(), "control.sock")
	for dir := c.Dir(); dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	refused := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread alone becomes another user
		const other = 1000
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, other, other, other); errno != 0 {
			refused <- errno
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			refused <- err
			return
		}
		defer unix.Close(fd)
		refused <- unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}()
	if err := <-refused; err != unix.EACCES {
		t.Errorf("another user connects: %v", err)
	}
}

// asks sends a request to the sandbox of a container by a connection of its own, and returns that and what came back.
func asks(t testing.TB, c *hull.Container, r wire.Request, fds ...int) (conn int, reply wire.Reply) {
	t.Helper()
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(conn) })
	wait := unix.NsecToTimeval(int64(30 * time.Second))
	if err := errors.Join(unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.Connect(conn, &unix.SockaddrUnix{Name: filepath.Join(c.Dir(), wire.Control)}), wire.Send(conn, r, fds...)); err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Receive(conn, &reply, 0); err != nil {
		t.Fatal(err)
	}
	return conn, reply
}

// Whoever waits for a process and goes away leaves nothing behind in the kernel.
func TestSandboxWaitsThatAreGivenUp(t *testing.T) {
	c := running(t)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, err := c.WaitProcess(ctx, 1, true)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
	}
	var waiting int
	eventually(t, "no more than one waits", func() bool {
		var stacks strings.Builder
		if err := c.Debug(&stacks, hull.DebugOptions{Report: hull.DebugStacks}); err != nil {
			t.Fatal(errorText(err))
		}
		waiting = strings.Count(stacks.String(), "(*ThreadGroup).WaitExited(")
		return waiting <= 2 // and that of the container itself
	})
}

// Descriptors that are not what a request wants are an error, or make none, and none stays open.
func TestSandboxWrongDescriptors(t *testing.T) {
	c := running(t)
	open := func(path string, flags int) int {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	sealed := func(text string, seals int) int {
		fd, err := unix.MemfdCreate("config", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err == nil {
			_, err = unix.Write(fd, []byte(text))
		}
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	null, dir, path := open("/dev/null", unix.O_RDWR), open("/", unix.O_RDONLY|unix.O_DIRECTORY), open("/", unix.O_PATH)
	s := readSpec(t, hulltest.Bundle(t))
	s.Process.Args = hulltest.Args("sleep", "3600")
	s.Mounts = nil
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	config := sealed(string(text), unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	member := func(below ...string) wire.Request {
		return wire.Request{Op: wire.Create, Container: "a", Member: &wire.Member{Bundle: "/", Below: below}}
	}
	exec := wire.Request{Op: wire.Exec, Container: "box", Process: sleeper(c), Same: [3]int{0, 1, 2}}
	requests := map[string]struct {
		wire.Request
		fds []int
	}{
		"no streams":               {exec, nil},
		"more streams":             {exec, []int{null, null, null, null}},
		"a directory for a stream": {exec, []int{dir, null, null}},
		"a place for a stream":     {exec, []int{null, path, null}},
		"no member":                {wire.Request{Op: wire.Create, Container: "a"}, []int{config, null, null, null, null, dir}},
		"nothing of a member":      {member(""), nil},
		"one of a member":          {member(""), []int{config}},
		"no configuration":         {member(""), []int{null, null, null, null, null, dir}},
		"a pipe for one":           {member(""), []int{pipe[0], null, null, null, null, dir}},
		"one that may change":      {member(""), []int{sealed(string(text), 0), null, null, null, null, dir}},
		"one that is none":         {member(""), []int{sealed("{", unix.F_SEAL_WRITE), null, null, null, null, dir}},
		"no root":                  {member(), []int{config, null, null, null, null}},
		"a pipe for the root":      {member(""), []int{config, null, null, null, null, pipe[0]}},
		"a file for the root":      {member(""), []int{config, null, null, null, null, null}},
		"one file more":            {member("", ""), []int{config, null, null, null, null, dir, dir}},
		"a mount twice":            {member("", "/x"), []int{config, null, null, null, null, dir, dir}},
		"an image of less":         {wire.Request{Op: wire.Checkpoint, Container: "box"}, []int{null}},
		"an image in a pipe":       {wire.Request{Op: wire.Checkpoint, Container: "box"}, []int{pipe[1], pipe[1], pipe[0]}},
		"nothing to connect":       {wire.Request{Op: wire.Dial, Container: "box", Port: 1}, nil},
		"two to connect":           {wire.Request{Op: wire.Dial, Container: "box", Port: 1}, []int{null, null}},
		"a network of files":       {wire.Request{Op: wire.Network, Container: "box", Links: []wire.Link{{Name: "eth0"}}}, []int{null, dir}},
		"nowhere to show":          {wire.Request{Op: wire.Debug, Container: "box", Show: wire.Stacks}, nil},
		"files to be paused":       {wire.Request{Op: wire.Resume, Container: "box"}, []int{dir, dir}},
		"files to be waited for":   {wire.Request{Op: wire.Wait, Container: "box", PID: 1}, []int{dir}},
		"files to be removed":      {wire.Request{Op: wire.Remove, Container: "a"}, []int{dir}},
	}
	harmless := []string{"files to be paused", "files to be removed", "files to be waited for"}
	before := filesOf(t, c)
	for name, r := range requests {
		conn, reply := asks(t, c, r.Request, r.fds...)
		if reply.Failure == nil && !slices.Contains(harmless, name) {
			t.Errorf("%s: no failure", name)
		}
		unix.Shutdown(conn, unix.SHUT_RDWR)
		says(t, exec1(t, c, verb("echo", name)), name)
	}
	eventually(t, "nothing stays open", func() bool { return filesOf(t, c) <= before+2 })
}
