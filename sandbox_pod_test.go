package hull_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/wire"
)

// Annotations as containerd's plugin for CRI and CRI-O write them.
func ofPod(kind, id string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-id": id}
	}
}

func ofCRIO(kind, id string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Annotations = map[string]string{"io.kubernetes.cri-o.ContainerType": kind, "io.kubernetes.cri-o.SandboxID": id}
	}
}

// TestSandboxMember has tests of containers that are alone pass in a pod, too: newRuntime makes one, and what they create joins it.
// Those that are missing make their bundles themselves, or look at what is the pod's.
func TestSandboxMember(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	for name, test := range map[string]func(*testing.T){
		"BindMounts":              TestBindMounts,
		"CVE_2019_18837":          TestCVE_2019_18837,
		"CVE_2021_30465":          TestCVE_2021_30465,
		"CVE_2022_24769":          TestCVE_2022_24769,
		"CVE_2022_29162":          TestCVE_2022_29162,
		"CVE_2024_21626":          TestCVE_2024_21626,
		"CVE_2024_45310":          TestCVE_2024_45310,
		"CVE_2025_31133":          TestCVE_2025_31133,
		"CVE_2025_52565":          TestCVE_2025_52565,
		"CVE_2025_52881":          TestCVE_2025_52881,
		"DefaultDevices":          TestDefaultDevices,
		"Delete":                  TestDelete,
		"ExitStatus":              TestExitStatus,
		"FUSE":                    TestFUSE,
		"FUSEOfAnother":           testFUSEOfAnother,
		"StartHooks":              TestSandboxStartHooks,
		"HooksStop":               TestHooksStopAtTheFirstFailure,
		"HostIsOutOfSight":        TestHostIsOutOfSight,
		"Hostname":                TestHostname,
		"InitIsSpared":            TestInitIsSpared,
		"LifeCycleByOthers":       TestLifeCycleByOthers,
		"LoopbackIsUp":            TestLoopbackIsUp,
		"MaskedPaths":             TestMaskedPaths,
		"MountsInOrder":           TestMountsInOrder,
		"NoPath":                  TestNoPath,
		"OneOffset":               TestOneOffset,
		"PauseAndResume":          TestPauseAndResume,
		"PauseCreated":            TestPauseCreated,
		"PausedContainerDies":     TestPausedContainerDies,
		"PidFile":                 TestPidFile,
		"PidFileThatCannotBe":     TestPidFileThatCannotBe,
		"PidfdSocket":             TestPidfdSocket,
		"PoststopThatFails":       TestPoststopThatFails,
		"ReadonlyRoot":            TestReadonlyRoot,
		"Rlimits":                 TestRlimits,
		"RunIsStarted":            TestRunIsStarted,
		"SeccompShortAllowList":   TestSeccompShortAllowList,
		"Signals":                 TestSignals,
		"SignalsBeforeTheStart":   TestSignalsBeforeTheStart,
		"SocketAndMapInTheRoot":   TestSocketAndMapInTheRoot,
		"Stdin":                   TestStdin,
		"Terminal":                TestTerminal,
		"TerminalControls":        TestTerminalControls,
		"TerminalHangup":          TestTerminalHangup,
		"TerminalModes":           TestTerminalModes,
		"TerminalOfCreate":        TestTerminalOfCreate,
		"TerminalOfExec":          TestTerminalOfExec,
		"TerminalOfUser":          TestTerminalOfUser,
		"TerminalResized":         TestTerminalResized,
		"TerminalShowsAll":        TestTerminalShowsAll,
		"TerminalThatNobodyTakes": TestTerminalThatNobodyTakes,
		"ConsoleComesFirst":       TestConsoleComesFirst,
		"ConsoleThatRefuses":      TestConsoleThatRefuses,
		"Tmpfs":                   TestTmpfs,
		"WritableRoot":            TestWritableRoot,
		"WrongState":              TestWrongState,
		"ExecBeforeStart":         TestExecBeforeStart,
		"ExecInPaused":            TestExecInPaused,
		"ExecAmidDelete":          TestExecAmidDelete,
	} {
		t.Run(name, test)
	}
}

// podsOf are the pods that containers of runtimes join.
var podsOf = make(map[*hull.Runtime]*hull.Container)

func addPod(t testing.TB, r *hull.Runtime) {
	t.Helper()
	c, err := r.Run(t.Context(), "pod", hull.CreateOptions{Bundle: hulltest.Bundle(t, ofPod("sandbox", "pod"), args("sleep", "3600"))})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	t.Cleanup(func() {
		if state, err := c.State(); err != nil || state.Status != hull.Running {
			t.Errorf("the pod is %s: %s", state.Status, readFile(t, filepath.Join(c.Dir(), "sandbox.log")))
		}
	})
	podsOf[r] = c
}

// bundle makes a bundle for a container of the runtime.
func bundle(t testing.TB, r *hull.Runtime, edits ...func(*specs.Spec)) string {
	t.Helper()
	if pod := podsOf[r]; pod != nil {
		edits = append(slices.Clone(edits), func(s *specs.Spec) { inPodOf(s, pod) })
	}
	return hulltest.Bundle(t, edits...)
}

// inPodOf has a configuration join the pod, with what else it has.
func inPodOf(s *specs.Spec, pod *hull.Container) {
	annotations := s.Annotations
	ofPod("container", pod.ID())(s)
	for key, value := range annotations {
		s.Annotations[key] = value
	}
	for i, ns := range s.Linux.Namespaces {
		if file, ok := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc"}[ns.Type]; ok {
			s.Linux.Namespaces[i].Path = procPath(pod.Init().Pid, "ns/"+file)
		}
	}
}

// newPod returns the first container of a pod, which runs.
func newPod(t testing.TB, edits ...func(*specs.Spec)) (*hull.Runtime, *hull.Container) {
	t.Helper()
	r := newRuntime(t)
	edits = append([]func(*specs.Spec){ofPod("sandbox", "box"), args("sleep", "3600"), func(s *specs.Spec) { s.Hostname = "pod" }}, edits...)
	return r, runningIn(t, r, edits...)
}

// inPod gives a configuration the namespaces of a member, as containerd's plugin does (WithPodNamespaces).
func inPod(pod *hull.Container) func(*specs.Spec) {
	return func(s *specs.Spec) {
		ofPod("container", pod.ID())(s)
		s.Hostname = ""
		path := func(name string) string { return procPath(pod.Init().Pid, "ns/"+name) }
		s.Linux.Namespaces = []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace, Path: path("ipc")}, {Type: specs.UTSNamespace, Path: path("uts")},
			{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: path("net")}, {Type: specs.CgroupNamespace},
		}
	}
}

// podPIDs gives a configuration the pid namespace of the pod, or of another member.
func podPIDs(c *hull.Container) func(*specs.Spec) {
	return func(s *specs.Spec) {
		i := slices.IndexFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
		s.Linux.Namespaces[i].Path = procPath(c.Init().Pid, "ns/pid")
	}
}

// member returns a container of the pod that was created.
func member(t testing.TB, r *hull.Runtime, pod *hull.Container, id string, o hull.CreateOptions, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	o.Bundle = hulltest.Bundle(t, append([]func(*specs.Spec){inPod(pod), args("sleep", "3600")}, edits...)...)
	c, err := r.Create(t.Context(), id, o)
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	return c
}

// runningMember returns one whose program sleeps until it is killed.
func runningMember(t testing.TB, r *hull.Runtime, pod *hull.Container, id string, edits ...func(*specs.Spec)) *hull.Container {
	t.Helper()
	c := member(t, r, pod, id, hull.CreateOptions{}, edits...)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	return c
}

// What the pod's first container says of itself, that it is the last to be killed, is not said of the others.
func TestSandboxPodOOMScore(t *testing.T) {
	score := func(n int) func(*specs.Spec) { return func(s *specs.Spec) { s.Process.OOMScoreAdj = &n } }
	r, pod := newPod(t, score(100))
	for _, step := range []struct {
		id          string
		score, want int
	}{{"a", 500, 500}, {"b", 300, 300}, {"c", 700, 300}} {
		runningMember(t, r, pod, step.id, score(step.score))
		pids, err := pod.Processes()
		if err != nil || len(pids) < 2 {
			t.Fatalf("processes %v, %v", pids, err)
		}
		for _, pid := range pids {
			if got := strings.TrimSpace(readFile(t, procPath(pid, "oom_score_adj"))); got != strconv.Itoa(step.want) {
				t.Errorf("with %s: process %d has %s, want %d", step.id, pid, got, step.want)
			}
		}
	}
}

// A pod's containers have a life of their own each.
func TestSandboxPod(t *testing.T) {
	r, pod := newPod(t)
	a, b := member(t, r, pod, "a", hull.CreateOptions{}), runningMember(t, r, pod, "b")
	wantStatus(t, a, hull.Created)
	says(t, exec1(t, a, verb("do", "echo", "in a", ",", "hostname", ",", "ls", "/")), slices.Concat([]string{"in a", "pod (none)"}, rootDirs)...)
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	wantStatus(t, a, hull.Running)
	for _, c := range []*hull.Container{pod, a, b} {
		list, err := c.Inside()
		if err != nil || len(list) != 1 || list[0].Command != "testprog" {
			t.Errorf("%s: processes %v, %v", c.ID(), list, err)
		}
		got := inside(t, c)
		for began := time.Now(); got.Memory < 1<<18 && time.Since(began) < hulltest.Patient(5*time.Second); got = inside(t, c) {
			time.Sleep(10 * time.Millisecond) // it has just been started
		}
		if got.Pids < 1 || got.Memory < 1<<18 { // its time on a processor may be less than a tick
			t.Errorf("%s: %+v", c.ID(), got)
		}
		pids, err := c.Processes()
		if err != nil || !slices.Contains(pids, c.Init().Pid) {
			t.Errorf("%s: %d is not among the cgroup's %v, %v", c.ID(), c.Init().Pid, pids, err)
		}
	}
	if err := a.Pause(); err != nil {
		t.Fatal(errorText(err))
	}
	wantStatus(t, a, hull.Paused)
	wantStatus(t, b, hull.Running)
	wantStatus(t, pod, hull.Running)
	says(t, exec1(t, b, verb("echo", "goes on")), "goes on")
	if err := pod.Pause(); err != nil {
		t.Fatal(errorText(err))
	}
	wantStatus(t, b, hull.Running)
	says(t, exec1(t, b, verb("echo", "still")), "still")
	for _, c := range []*hull.Container{pod, a} {
		if err := c.Resume(); err != nil {
			t.Fatal(errorText(err))
		}
		says(t, exec1(t, c, verb("echo", "again")), "again")
	}
	if err := a.Signal(unix.SIGKILL, true); err != nil {
		t.Error(errorText(err))
	}
	expect(t, "signal SIGKILL", wait(t, a.Init()))
	wantStatus(t, a, hull.Stopped)
	refused(t, execTrue(t.Context(), a), hull.ErrBadState, "exec a", "stopped")
	if err := a.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Fatal(errorText(err))
	}
	says(t, exec1(t, b, verb("echo", "b is left")), "b is left")
	if err := pod.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "137", wait(t, b.Init()))
	wantStatus(t, b, hull.Stopped)
	refused(t, execTrue(t.Context(), b), hull.ErrBadState, "exec b", "stopped", `container "box", in whose sandbox it was, has stopped`)
	if err := b.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(errorText(err))
	}
}

// rootDirs are what is in the root of a bundle.
var rootDirs = []string{"bin", "dev", "etc", "proc", "sys", "tmp"}

// A pid namespace is a container's own, the pod's, or that of another of its containers.
func TestSandboxPodPIDs(t *testing.T) {
	r, pod := newPod(t)
	a := runningMember(t, r, pod, "a")
	says(t, exec1(t, a, verb("cat", "/proc/1/comm")), "testprog")
	processes := func(c *hull.Container) int {
		n := 0
		for _, name := range strings.Fields(exec1(t, c, verb("ls", "/proc")).Out) {
			if _, err := strconv.Atoi(name); err == nil {
				n++
			}
		}
		return n
	}
	expect(t, 2, processes(a)) // with that of exec
	b := runningMember(t, r, pod, "b", podPIDs(a))
	expect(t, 3, processes(b))
	expect(t, 3, processes(a))
	shared := runningMember(t, r, pod, "shared", podPIDs(pod))
	expect(t, 5, processes(shared)) // all of the pod: others' namespaces are below it
	absent := runningMember(t, r, pod, "absent", func(s *specs.Spec) { s.Linux.Namespaces = without(s.Linux.Namespaces, specs.PIDNamespace) })
	expect(t, 6, processes(absent))
	// The end of the first process is that of all its container's processes, in whatever pid namespace.
	p, err := absent.Exec(t.Context(), hull.ExecOptions{Process: sleeper(absent)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, 7, processes(shared))
	if err := absent.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "signal SIGKILL", wait(t, p))
	expect(t, 5, processes(shared))
}

func sleeper(c *hull.Container) *specs.Process {
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	return p
}

// What is shared in a pod is, and what isn't is not.
func TestSandboxPodShares(t *testing.T) {
	r, pod := newPod(t)
	volume := t.TempDir()
	bind := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}})
	}
	a := runningMember(t, r, pod, "a", bind)
	b := runningMember(t, r, pod, "b", bind, func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 1000, GID: 1000}
		s.Process.Capabilities = nil
		s.Linux.Namespaces = append(without(s.Linux.Namespaces, specs.UTSNamespace), specs.LinuxNamespace{Type: specs.UTSNamespace})
		s.Hostname = "own"
	})
	says(t, exec1(t, a, verb("write", "/volume/file", "of a")))
	says(t, exec1(t, b, verb("do", "cat", "/volume/file", ",", "hostname", ",", "id")), "of aown (none)", "uid 1000 1000 1000", "gid 1000 1000 1000", "groups")
	says(t, exec1(t, a, verb("write", "/tmp/file", "of a")))
	if got := exec1(t, b, verb("cat", "/tmp/file")); got.Status == "0" {
		t.Errorf("b has a's file: %+v", got)
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid", "mnt"} {
		link := func(c *hull.Container) string {
			got := exec1(t, c, verb("readlink", "/proc/self/ns/"+ns))
			if got.Status != "0" {
				t.Errorf("%s: %+v", ns, got)
			}
			return got.Out
		}
		of, as, bs := link(pod), link(a), link(b)
		shared := ns == "net" || ns == "ipc"
		if (of == as) != (shared || ns == "uts") || (as == bs) != shared {
			t.Errorf("%s: the pod has %q, a %q, b %q", ns, of, as, bs)
		}
	}
}

// What can't be is said, and leaves nothing.
func TestSandboxPodThatCannotBe(t *testing.T) {
	r, pod := newPod(t)
	a := runningMember(t, r, pod, "a", func(s *specs.Spec) { s.Hostname = "pod" }) // which it is
	native := &hull.Runtime{Root: r.Root}
	other, err := native.Create(t.Context(), "native", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, native, other)
	for name, test := range map[string]struct {
		edit  func(*specs.Spec)
		kind  error
		words []string
	}{
		"none":         {ofPod("container", "nobody"), hull.ErrBadSpec, []string{"annotations.io.kubernetes.cri.sandbox-id", `no container "nobody"`}},
		"CRI-O's none": {ofCRIO("container", "nobody"), hull.ErrBadSpec, []string{"annotations.io.kubernetes.cri-o.SandboxID", `no container "nobody"`, "drop_infra_ctr"}},
		"native":       {ofPod("container", "native"), hull.ErrBadSpec, []string{`"native" has native isolation`}},
		"itself":       {ofPod("container", "x"), hull.ErrBadSpec, []string{`"x" is this container`}},
		"a member":     {ofPod("container", "a"), hull.ErrBadSpec, []string{`"a" has joined that of "box"`}},
		"no id":        {ofPod("container", ""), hull.ErrBadSpec, []string{"annotations.io.kubernetes.cri.sandbox-id", "missing"}},
		"no kind":      {ofPod("box", "box"), hull.ErrBadSpec, []string{"annotations.io.kubernetes.cri.container-type", `"box" is neither`}},
		"network": {func(s *specs.Spec) { s.Linux.Namespaces[4].Path = "" }, hull.ErrUnsupported,
			[]string{"linux.namespaces[4]", "one network, the pod's"}},
		"other ipc": {func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/self/ns/ipc" }, hull.ErrUnsupported,
			[]string{"linux.namespaces[1].path", "not that of the pod"}},
		"other pids": {func(s *specs.Spec) { s.Linux.Namespaces[0].Path = procPath(other.Init().Pid, "ns/pid") }, hull.ErrUnsupported,
			[]string{"linux.namespaces[0].path", "not that of the pod"}},
		"ids": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		}, hull.ErrUnsupported, []string{"linux.namespaces[6]", "mapped otherwise"}},
		"ids beside a path": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: procPath(pod.Init().Pid, "ns/user")})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		}, hull.ErrUnsupported, []string{"linux.namespaces[6]", "mapped otherwise"}},
		"no ids for a mount": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: procPath(pod.Init().Pid, "ns/user")})
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/tmp", Options: []string{"bind", "ro", "idmap"}})
		}, hull.ErrBadSpec, []string{"mounts[", "idmap needs uidMappings and gidMappings"}},
		"hostname": {func(s *specs.Spec) { s.Hostname = "other" }, hull.ErrUnsupported, []string{"hostname", `"other"`, `it is "pod"`}},
		"domainname": {func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.domainname": "other"} }, hull.ErrUnsupported,
			[]string{"domainname", `"other"`}},
		"no program": {func(s *specs.Spec) { s.Process.Args = []string{"/no/program"} }, unix.ENOENT, []string{"process.args[0]", "/no/program"}},
		"cwd":        {func(s *specs.Spec) { s.Process.Cwd = "/nowhere" }, unix.ENOENT, []string{"process.cwd"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := r.Create(t.Context(), "x", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod), args("true"), test.edit)})
			refused(t, err, test.kind, append([]string{"create x"}, test.words...)...)
			if left, err := r.Container("x"); !errors.Is(err, hull.ErrNotExist) {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
	says(t, exec1(t, a, verb("echo", "goes on")), "goes on")
	t.Run("isolation", func(t *testing.T) {
		r := &hull.Runtime{Root: r.Root, SandboxProgram: r.SandboxProgram} // nobody says which
		c, err := r.Create(t.Context(), "follows", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod))})
		if err != nil {
			t.Fatal(errorText(err))
		}
		remove(t, r, c)
		expect(t, hull.Sandbox, c.Isolation())
		r.Isolation = hull.Native
		_, err = r.Create(t.Context(), "x", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod))})
		refused(t, err, hull.ErrBadSpec, `"box" is in a sandbox`, "native isolation")
	})
	if err := pod.Signal(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	wait(t, pod.Init())
	_, err = r.Create(t.Context(), "x", hull.CreateOptions{Bundle: hulltest.Bundle(t, ofPod("container", "box"), func(s *specs.Spec) {
		s.Linux.Namespaces = without(s.Linux.Namespaces, specs.NetworkNamespace)
	})})
	refused(t, err, hull.ErrBadState, "sandbox-id", `"box"`, "is stopped")
}

// cri adds to a configuration what containerd's plugin for CRI writes into those of all containers (internal/cri/server/podsandbox,
// internal/cri/server/container_create.go), as far as it isn't the example's.
func cri(name, shm string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for key, value := range map[string]string{
			"io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "default", "io.kubernetes.cri.sandbox-uid": "4d21",
			"io.kubernetes.cri.container-name": name, "io.kubernetes.cri.image-name": "example.test/" + name + ":1",
		} {
			s.Annotations[key] = value
		}
		s.Process.NoNewPrivileges = true
		s.Process.Env = append(s.Process.Env, "HOSTNAME=web", "KUBERNETES_SERVICE_HOST=10.96.0.1")
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" || m.Destination == "/sys/fs/cgroup" })
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind"}},
			specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: "/etc/resolv.conf", Options: []string{"rbind", "rprivate", "ro"}},
		)
		// Kubernetes gives a pause container 2, of its pod's cgroup, in which nobody else runs. Without such a one that would be 2 beside the whole machine.
		s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024))}}
		s.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
		s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"}
	}
}

// A pod as Kubernetes has it by containerd: a pause container, and two beside it, with pid namespaces of their own or the pod's.
func TestSandboxPodOfCRI(t *testing.T) {
	shm := t.TempDir()
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprintf("shared pids %v", shared), func(t *testing.T) {
			r := newRuntime(t)
			r.Isolation = ""
			pause := runningIn(t, r, ofPod("sandbox", "box"), cri("pause", shm), func(s *specs.Spec) {
				s.Annotations[hull.IsolationAnnotation] = "sandbox"
				s.Hostname, s.Root.Readonly, s.Process.OOMScoreAdj = "web", true, ptr(500) // -998, but not everyone may
				s.Process.User = specs.User{UID: 65535, GID: 65535, AdditionalGids: []uint32{65535}}
			})
			var members []*hull.Container
			for _, name := range []string{"app", "sidecar"} {
				edits := []func(*specs.Spec){cri(name, shm), func(s *specs.Spec) {
					s.Process.OOMScoreAdj = ptr(1000)
					s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
				}}
				if shared {
					edits = append(edits, podPIDs(pause))
				}
				members = append(members, runningMember(t, r, pause, name, edits...))
			}
			app, sidecar := members[0], members[1]
			says(t, exec1(t, app, verb("do", "write", "/dev/shm/from-app", "hello", ",", "hostname")), "web (none)")
			says(t, exec1(t, sidecar, verb("do", "cat", "/dev/shm/from-app", ",", "echo", ",", "env", "HOSTNAME")), "hello", "web")
			if got := exec1(t, sidecar, verb("cat", "/proc/1/status")); !strings.HasPrefix(got.Out, "Name:\ttestprog") {
				t.Errorf("process 1: %+v", got)
			}
			list, err := pause.Inside()
			if err != nil || len(list) != 1 {
				t.Errorf("the pause container's processes: %v, %v", list, err)
			}
			for _, c := range members {
				expect(t, hull.Sandbox, c.Isolation())
				if err := c.Signal(unix.SIGKILL, false); err != nil {
					t.Error(errorText(err))
				}
				expect(t, "signal SIGKILL", wait(t, c.Init()))
				if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
					t.Error(errorText(err))
				}
			}
			wantStatus(t, pause, hull.Running)
			if err := os.Remove(filepath.Join(shm, "from-app")); err != nil {
				t.Error(err)
			}
		})
	}
}

// Whoever comes and goes leaves nothing in the sandbox.
func TestSandboxPodLeaks(t *testing.T) {
	r, pod := newPod(t)
	volume := t.TempDir()
	round := func(n int) {
		c := runningMember(t, r, pod, "m"+strconv.Itoa(n))
		says(t, exec1(t, c, verb("echo", "here")), "here")
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Fatal(errorText(err))
		}
		_, err := r.Create(t.Context(), "x", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod), func(s *specs.Spec) {
			s.Process.Args = []string{"/no/program"}
		})})
		refused(t, err, unix.ENOENT)
		_, err = r.Create(t.Context(), "x", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod), func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/proc/version/below", Source: volume, Options: []string{"bind"}})
		})})
		refused(t, err, unix.ENOTDIR)
	}
	for n := range 3 {
		round(n)
	}
	before := filesOf(t, pod)
	for n := range 10 {
		round(3 + n)
	}
	if after := filesOf(t, pod); after > before+3 {
		t.Errorf("%d open files, before %d", after, before)
	}
}

// filesOf returns how many files the sandbox of a pod has open.
func filesOf(t *testing.T, pod *hull.Container) int {
	t.Helper()
	fds, err := os.ReadDir(procPath(pod.Init().Pid, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Where the sandbox keeps what is written, no container's root can be written to by it, whoever joins.
func TestSandboxPodOverlay(t *testing.T) {
	r := newRuntime(t)
	r.Sandbox.Overlay = "memory"
	writable := func(s *specs.Spec) { s.Root.Readonly = false }
	pod := runningIn(t, r, ofPod("sandbox", "box"), args("sleep", "3600"), writable)
	r.Sandbox = hull.SandboxOptions{}
	a := runningMember(t, r, pod, "a", writable)
	says(t, exec1(t, a, verb("do", "write", "/made", "inside\n", ",", "cat", "/made")), "inside")
	if roots := readonlyRoots(t, pod); roots < 2 {
		t.Errorf("%d roots are open", roots)
	}
}

// readonlyRoots checks that the host's kernel lets a sandbox write to no root that it has open, and returns how many there are.
func readonlyRoots(t *testing.T, c *hull.Container) (roots int) {
	t.Helper()
	dir := procPath(c.Init().Pid, "fd")
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		root := filepath.Join(dir, fd.Name())
		if _, err := os.Stat(filepath.Join(root, "bin/testprog")); err != nil {
			continue
		}
		roots++
		if err := os.WriteFile(filepath.Join(root, "outside"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("descriptor %s: %v", fd.Name(), err)
		}
	}
	return roots
}

// A container of a pod whose terminal can't be where it belongs isn't made, and nothing of it stays.
func TestSandboxPodConsoleThatCannotBe(t *testing.T) {
	r, pod := newPod(t)
	dev := t.TempDir()
	if err := os.Mkdir(filepath.Join(dev, "pts"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/version/below", filepath.Join(dev, "console")); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	create := func() {
		_, err = r.Create(t.Context(), "x", hull.CreateOptions{ConsoleSocket: socket, Bundle: hulltest.Bundle(t, inPod(pod), withTerminal, func(s *specs.Spec) {
			s.Mounts = append(slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") }),
				specs.Mount{Destination: "/dev", Source: dev, Options: []string{"bind"}},
				specs.Mount{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance"}})
		})})
		refused(t, err, unix.ENOTDIR, "/dev/console")
	}
	create()
	before := filesOf(t, pod)
	for range 5 {
		create()
	}
	if after := filesOf(t, pod); after > before+3 {
		t.Errorf("%d open files, before %d", after, before)
	}
	runningMember(t, r, pod, "x")
}

// A terminal for which there is no devpts is refused, and the others in the sandbox go on.
func TestSandboxPodTerminalWithoutDevpts(t *testing.T) {
	withoutDev := func(s *specs.Spec) {
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	}
	var master console
	_, err := newRuntime(t).Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, withTerminal, withoutDev), Console: master.take})
	refused(t, err, unix.ENOENT, "process.terminal", "/dev/pts")
	r, pod := newPod(t)
	_, err = r.Create(t.Context(), "x", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod), withTerminal, withoutDev), Console: master.take})
	refused(t, err, unix.ENOENT, "process.terminal", "/dev/pts")
	runningMember(t, r, pod, "x")
}

// When the process that stands for a container is killed, the container is, whatever state it is in.
func TestSandboxPodStandInKilled(t *testing.T) {
	r, pod := newPod(t)
	for name, c := range map[string]*hull.Container{
		"created": member(t, r, pod, "created", hull.CreateOptions{}),
		"running": runningMember(t, r, pod, "running"),
		"paused":  runningMember(t, r, pod, "paused"),
	} {
		if name == "paused" {
			if err := c.Pause(); err != nil {
				t.Fatal(errorText(err))
			}
		}
		if err := unix.Kill(c.Init().Pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		expect(t, "signal SIGKILL", wait(t, c.Init()))
		wantStatus(t, c, hull.Stopped)
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Errorf("%s: %v", name, errorText(err))
		}
	}
	list, err := pod.Inside()
	if err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v", list, err)
	}
	out := exec1(t, pod, verb("ls", "/proc")).Out
	for _, name := range strings.Fields(out) {
		if n, err := strconv.Atoi(name); err == nil && n != 1 {
			if got := exec1(t, pod, verb("cat", "/proc/"+name+"/comm")); got.Status == "0" {
				t.Errorf("process %s is left", name)
			}
		}
	}
}

// hull is killed at any line of its trace, while it does something with a container of a pod: delete --force leaves nothing of it,
// and the pod goes on as it was.
func TestSandboxPodKilledAtEveryStep(t *testing.T) {
	const budget = time.Second // of each
	site := newCrashSite(t)
	r := newRuntime(t)
	r.Root = site.root
	addPod(t, r)
	pod := podsOf[r]
	site.bundle = bundle(t, r, args("sleep", "3600"))
	site.group = readSpec(t, site.bundle).Linux.CgroupsPath
	for _, test := range []struct{ op, before string }{
		{"create", ""}, {"run", ""}, {"start", "create"}, {"exec", "run"}, {"delete", "run"},
	} {
		do := func(n int) (lines int) {
			if test.before != "" {
				site.die(t, test.before, 0)
			}
			killed, lines := site.die(t, test.op, n)
			what := fmt.Sprintf("%s killed at line %d", test.op, n)
			if killed && test.op == "create" {
				eventually(t, what+": what was created is gone", func() bool { return len(site.processes()) == 0 }) // as without a pod
			}
			if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
				t.Errorf("%s: %v", what, errorText(err))
			}
			if left := site.cgroups(); len(left) > 0 {
				t.Errorf("%s: cgroups %v", what, left)
			}
			if left := site.mounts(t); left != "" {
				t.Errorf("%s: mount %s", what, left)
			}
			eventually(t, what+": nothing is left", func() bool {
				reapBut(t, pod.Init().Pid)
				inside := exec1(t, pod, verb("ls", "/proc")).Out
				return len(site.processes()) == 0 && len(slices.DeleteFunc(strings.Fields(inside), func(name string) bool {
					_, err := strconv.Atoi(name)
					return err != nil
				})) == 2 // the pod's own, and that of exec
			})
			return lines
		}
		lines := do(0)
		for _, n := range sample(lines, budget) {
			do(n)
			if t.Failed() {
				return
			}
		}
	}
	says(t, exec1(t, pod, verb("echo", "goes on")), "goes on")
}

// From when a container of a pod stays there without hull, there is nothing left for hull to do that takes long, as it does to close
// detached mounts: one that nobody was told of would be left by a hull that is killed meanwhile.
func TestSandboxPodHandedOverLast(t *testing.T) {
	r, pod := newPod(t)
	bundle := hulltest.Bundle(t, inPod(pod), args("sleep", "3600"))
	root, err := os.Stat(filepath.Join(bundle, "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	said := false
	r.Trace = func(line string) {
		if !strings.HasSuffix(line, "ends with hull up to here") {
			return
		}
		said = true
		fds, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Error(err)
		}
		for _, fd := range fds { // one of a detached mount has no name
			if fi, err := os.Stat(fd); err == nil && os.SameFile(fi, root) {
				t.Errorf("the root is still open, as %s", fd)
			}
		}
	}
	c, err := r.Create(t.Context(), "a", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	if !said {
		t.Error("the trace doesn't say from when on the container is left alone")
	}
}

// reapBut reaps all children but one.
func reapBut(t *testing.T, keep int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		for _, child := range strings.Fields(readFile(t, task)) {
			if pid, err := strconv.Atoi(child); err == nil && pid != keep && !alive(pid) {
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
			}
		}
	}
}

// A process of exec that still waits for the word to go ends with its container, and delete waits for that.
func TestSandboxPodExecThatNeverGoes(t *testing.T) {
	r, pod := newPod(t)
	a := runningMember(t, r, pod, "a")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	conn, reply := asks(t, pod, wire.Request{Op: wire.Exec, Container: "a", Process: sleeper(a)}, fd, fd, fd)
	if reply.Failure != nil {
		t.Fatal(reply.Failure.Err())
	}
	if err := a.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	b, _, err := wire.ReceiveBytes(conn, wire.EndSize, 0)
	if err != nil || len(b) != wire.EndSize || b[0] != 128+9 {
		t.Errorf("its end: %v, %v", b, err)
	}
}

// Nothing joins a sandbox while its kernel is saved.
func TestSandboxPodJoinAmidCheckpoint(t *testing.T) {
	r, pod := newPod(t)
	var fds [3]int
	for i := range fds {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fds[i] = int(f.Fd())
	}
	saving, reply := asks(t, pod, wire.Request{Op: wire.Checkpoint, Container: "box"}, fds[:]...)
	if reply.Saved == nil {
		t.Fatalf("got %+v", reply)
	}
	made := make(chan error, 1)
	go func() {
		c, err := r.Create(t.Context(), "a", hull.CreateOptions{Bundle: hulltest.Bundle(t, inPod(pod), args("sleep", "3600"))})
		if err == nil {
			remove(t, r, c)
		}
		made <- err
	}()
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	if _, reply := asks(t, pod, wire.Request{Op: wire.Remove, Container: "a"}); reply.Failure != nil || time.Since(began) > 2*time.Second {
		t.Errorf("it is in the sandbox: %+v after %v", reply.Failure, time.Since(began))
	}
	if err := unix.Shutdown(saving, unix.SHUT_RDWR); err != nil { // the container goes on
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(errorText(err))
	}
	says(t, exec1(t, pod, verb("echo", "goes on")), "goes on")
}

// CRI-O makes the namespaces of a pod before its first container, and pins them: that one is given their paths, as those are that join it.
func TestSandboxPodInNamespacesThatAreThere(t *testing.T) {
	r := newRuntime(t)
	native := &hull.Runtime{Root: r.Root}
	holder, err := native.Create(t.Context(), "holder", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, native, holder)
	link := func(c *hull.Container, ns string) string {
		link, err := os.Readlink(procPath(c.Init().Pid, "ns/"+ns))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	files := map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}
	pinned := func(s *specs.Spec) {
		for i, ns := range s.Linux.Namespaces {
			if file := files[ns.Type]; file != "" {
				s.Linux.Namespaces[i].Path = procPath(holder.Init().Pid, "ns/"+file)
			}
		}
	}
	pod := runningIn(t, r, ofCRIO("sandbox", "box"), args("sleep", "3600"), pinned, func(s *specs.Spec) { s.Hostname = "pod" })
	for _, file := range files {
		if got, want := link(pod, file), link(holder, file); got != want {
			t.Errorf("%s of the sandbox's process is %s, want %s", file, got, want)
		}
	}
	member := runningMember(t, r, pod, "member", pinned, func(s *specs.Spec) { s.Hostname = "pod" })
	for _, c := range []*hull.Container{pod, member} {
		says(t, exec1(t, c, verb("hostname")), "pod (none)")
	}
}

// What is the host's own is none of a pod's: a configuration that names it asks for what a sandbox can't share.
func TestSandboxPodInNamespacesOfTheHost(t *testing.T) {
	for _, ns := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace} {
		_, err := tryRun(t, newRuntime(t), ofCRIO("sandbox", "box"), args("true"), func(s *specs.Spec) {
			s.Hostname = ""
			i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == ns })
			s.Linux.Namespaces[i].Path = "/proc/self/ns/" + string(ns)
		})
		refused(t, err, hull.ErrUnsupported, "linux.namespaces[", "the host's "+string(ns)+" namespace")
	}
}

// Nor is it if the path leads there by the time it is joined.
func TestSandboxPodInNamespacesThatAreSwapped(t *testing.T) {
	r := newRuntime(t)
	native := &hull.Runtime{Root: r.Root}
	holder, err := native.Create(t.Context(), "holder", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, native, holder)
	for _, ns := range []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace} {
		link := filepath.Join(t.TempDir(), "ns")
		lead := func(dest string) {
			t.Helper()
			if err := errors.Join(os.Symlink(dest, link+"-"), os.Rename(link+"-", link)); err != nil {
				t.Error(err)
			}
		}
		lead(procPath(holder.Init().Pid, "ns/"+string(ns)))
		over := make(chan struct{})
		var swapping sync.WaitGroup
		swapping.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
					lead(procPath([]int{os.Getpid(), holder.Init().Pid}[i%2], "ns/"+string(ns)))
				}
			}
		})
		for range 16 {
			box, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: bundle(t, r, ofCRIO("sandbox", "box"), func(s *specs.Spec) {
				s.Hostname = ""
				i := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == ns })
				s.Linux.Namespaces[i].Path = link
			})})
			if err != nil {
				refused(t, err, hull.ErrUnsupported, "linux.namespaces[", "the host's "+string(ns)+" namespace")
				continue
			}
			if namespacesOf(t, box.Init().Pid)[ns] == namespacesOf(t, os.Getpid())[ns] {
				t.Errorf("the sandbox's process is in the host's %s namespace", ns)
			}
			if err := box.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
				t.Error(errorText(err))
			}
			_, _ = box.Init().Wait()
		}
		close(over)
		swapping.Wait()
	}
}

// All containers of a pod can have walked through their files: what stays open of these leaves descriptors for programs.
func TestSandboxPodFilesThatStayOpen(t *testing.T) {
	const members, files = 6, 1100
	site := newCrashSite(t, ofPod("sandbox", "box"))
	site.die(t, "run with few files", 0)
	r := newRuntime(t)
	r.Root = site.root
	pod, err := r.Container("box")
	if err != nil {
		t.Fatal(errorText(err))
	}
	t.Cleanup(func() { site.cleanUp(t, "pod") })
	for i := range members {
		c := runningMember(t, r, pod, fmt.Sprintf("m%d", i))
		state, err := c.State()
		if err != nil {
			t.Fatal(err)
		}
		stats := []string{"do"}
		for i := range files {
			name := fmt.Sprintf("/file%d", i)
			if err := os.WriteFile(filepath.Join(state.Rootfs, name), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			stats = append(stats, "stat", name, ",")
		}
		if got := exec1(t, c, verb(stats[0], stats[1:len(stats)-1]...)); got.Status != "0" {
			t.Fatalf("container %d: got %s, %.200q", i, got.Status, got.Err)
		}
	}
	if open := descriptors(t, pod); open > fewDescriptors/2 {
		t.Errorf("%d descriptors of %d", open, fewDescriptors)
	}
}
