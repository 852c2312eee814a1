package hull_test

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// namespaceFiles are the files of /proc/PID/ns by their types in config.json.
var namespaceFiles = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.MountNamespace: "mnt", specs.IPCNamespace: "ipc",
	specs.UTSNamespace: "uts", specs.UserNamespace: "user", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
}

func namespacesOf(t testing.TB, pid int) map[specs.LinuxNamespaceType]string {
	t.Helper()
	all := make(map[specs.LinuxNamespaceType]string)
	for kind, file := range namespaceFiles {
		dest, err := os.Readlink(procPath(pid, "ns/"+file))
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = dest
	}
	return all
}

func addNamespace(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(without(s.Linux.Namespaces, kind), specs.LinuxNamespace{Type: kind, Path: path})
	}
}

func noNamespace(kind specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Namespaces = without(s.Linux.Namespaces, kind) }
}

// userNamespace gives the container a user namespace whose root is user 100000 of the host.
func userNamespace(s *specs.Spec) {
	addNamespace(specs.UserNamespace, "")(s)
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
}

func TestNewNamespaces(t *testing.T) {
	hulltest.Require(t, hulltest.TimeNS)
	c := running(t, userNamespace, addNamespace(specs.TimeNamespace, ""))
	ours, init := namespacesOf(t, os.Getpid()), namespacesOf(t, c.Init().Pid)
	for kind, inode := range init {
		if inode == ours[kind] {
			t.Errorf("the %s namespace is the caller's", kind)
		}
	}
	// A process that is added is in all of them.
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	added, err := c.Exec(t.Context(), hull.ExecOptions{Process: p})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, init, namespacesOf(t, added.Pid))
	if err := added.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	wait(t, added)
}

// What config.json doesn't name is the caller's (config-linux.md, "Namespaces").
func TestNamespacesOfTheCaller(t *testing.T) {
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace} {
		t.Run(string(kind), func(t *testing.T) {
			c := running(t, noNamespace(kind), func(s *specs.Spec) {
				switch kind {
				case specs.UTSNamespace:
					s.Hostname = ""
				case specs.NetworkNamespace: // sysfs can be mounted by who owns the network namespace: the host's root
				}
			})
			expect(t, namespacesOf(t, os.Getpid())[kind], namespacesOf(t, c.Init().Pid)[kind])
			says(t, exec1(t, c, verb("echo", "in")), "in")
		})
	}
}

// One container in the namespaces of another, as the containers of a pod are.
func TestNamespacesByPath(t *testing.T) {
	hulltest.Require(t, hulltest.TimeNS)
	first := running(t, userNamespace, addNamespace(specs.TimeNamespace, ""))
	theirs := namespacesOf(t, first.Init().Pid)
	for kind, file := range namespaceFiles {
		if kind == specs.MountNamespace || kind == specs.UserNamespace {
			continue // below
		}
		t.Run(string(kind), func(t *testing.T) {
			c := running(t, addNamespace(kind, procPath(first.Init().Pid, "ns/"+file)), func(s *specs.Spec) {
				if kind == specs.UTSNamespace {
					s.Hostname = ""
				}
			})
			want := namespacesOf(t, os.Getpid())[kind]
			got := namespacesOf(t, c.Init().Pid)
			if got[kind] != theirs[kind] || got[kind] == want {
				t.Errorf("the %s namespace is %s, want %s", kind, got[kind], theirs[kind])
			}
			expect(t, got, namespacesOfExec(t, c))
		})
	}
	t.Run("all", func(t *testing.T) {
		c := running(t, func(s *specs.Spec) {
			s.Linux.Namespaces = nil
			for kind, file := range namespaceFiles {
				if kind != specs.MountNamespace {
					addNamespace(kind, procPath(first.Init().Pid, "ns/"+file))(s)
				}
			}
			addNamespace(specs.MountNamespace, "")(s)
			s.Hostname = ""
		})
		got, want := namespacesOf(t, c.Init().Pid), maps.Clone(theirs)
		if got[specs.MountNamespace] == want[specs.MountNamespace] {
			t.Error("the mount namespace is shared, too")
		}
		want[specs.MountNamespace] = got[specs.MountNamespace]
		expect(t, want, got)
		expect(t, got, namespacesOfExec(t, c))
	})
}

// namespacesOfExec returns the namespaces of a process that exec adds.
func namespacesOfExec(t *testing.T, c *hull.Container) map[specs.LinuxNamespaceType]string {
	t.Helper()
	got := exec1(t, c, verb("namespaces"))
	all := make(map[specs.LinuxNamespaceType]string)
	for line := range strings.Lines(got.Out) {
		name, inode, _ := strings.Cut(strings.TrimSpace(line), " ")
		for kind, file := range namespaceFiles {
			if file == name {
				all[kind] = inode
			}
		}
	}
	return all
}

// The container's files are arranged in the mount namespace that is joined, which must show the bundle.
func TestMountNamespaceByPath(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	path, stop := make(chan string), make(chan struct{})
	defer close(stop)
	go func() {
		defer close(path)
		runtime.LockOSThread() // the thread ends with its goroutine
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		path <- fmt.Sprintf("/proc/%d/task/%d/ns/mnt", os.Getpid(), unix.Gettid())
		<-stop
	}()
	ns := <-path
	if ns == "" {
		t.FailNow()
	}
	inode, err := os.Readlink(ns)
	if err != nil {
		t.Fatal(err)
	}
	c := running(t, addNamespace(specs.MountNamespace, ns))
	expect(t, inode, namespacesOf(t, c.Init().Pid)[specs.MountNamespace])
	says(t, exec1(t, c, verb("ls", "/bin")), "testprog")
}

func TestNamespaceByPathThatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name, path string
		kind       error
		hint       string
	}{
		{"missing", "/nonexistent/ns", unix.ENOENT, ""},
		{"another type", "/proc/self/ns/uts", unix.EINVAL, "no namespace of that type"},
		{"no namespace", "/etc/passwd", unix.EINVAL, "no namespace of that type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := tryRun(t, newRuntime(t), addNamespace(specs.NetworkNamespace, test.path))
			refused(t, err, test.kind, "linux.namespaces", test.path, test.hint)
		})
	}
}

// A network namespace that someone has made and keeps open, as CNI's plugins do.
func TestNetworkNamespaceByPath(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	path := filepath.Join(t.TempDir(), "netns")
	write(t, path, "")
	inode := makeNetNS(t, path)
	c := running(t, addNamespace(specs.NetworkNamespace, path))
	expect(t, inode, namespacesOf(t, c.Init().Pid)[specs.NetworkNamespace])
	// Its loopback is the business of whoever made it.
	got := exec1(t, c, verb("connect", "tcp", "127.0.0.1:1"))
	if !strings.Contains(got.Err, "network is unreachable") {
		t.Errorf("the loopback of a foreign namespace was brought up: %+v", got)
	}
}

// makeNetNS makes a network namespace that lives as a mount at path, and returns its name.
func makeNetNS(t *testing.T, path string) string {
	t.Helper()
	made := make(chan string)
	go func() {
		defer close(made)
		runtime.LockOSThread() // the thread ends with its goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		inode, _ := os.Readlink(self)
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
			return
		}
		made <- inode
	}()
	inode := <-made
	if inode == "" {
		t.FailNow()
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	return inode
}

func TestLoopbackIsUp(t *testing.T) {
	got := run(t, args("connect", "tcp", "127.0.0.1:1"))
	if !strings.Contains(got.Err, "connection refused") {
		t.Errorf("%+v: nobody listens there, but it must be reachable", got)
	}
}

// What ip(8) asks of the devices that the host has.
func TestHostNetworkDevice(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	got := run(t, args("interface", "lo"), noNamespace(specs.NetworkNamespace))
	has(fmt.Sprintf("index %d\nmtu %d\nqueue ", lo.Index, lo.MTU))(t, got)
}

func TestUserNamespace(t *testing.T) {
	edits := []func(*specs.Spec){userNamespace, func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}}
	}}
	c := running(t, edits...)
	want := ok("uid 5 5 5", "gid 6 6 6", "groups 7")
	expect(t, want, exec1(t, c, verb("id")))
	status := readFile(t, procPath(c.Init().Pid, "status"))
	for _, line := range []string{"Uid:\t100005\t100005\t100005\t100005\n", "Gid:\t200006\t200006\t200006\t200006\n", "Groups:\t200007 \n"} {
		if !strings.Contains(status, line) {
			t.Errorf("seen from outside it hasn't %q:\n%s", line, status)
		}
	}
	expect(t, "0     100000      65536", strings.TrimSpace(readFile(t, procPath(c.Init().Pid, "uid_map"))))
	says(t, run(t, append(edits, args("id"))...), "uid 5 5 5", "gid 6 6 6", "groups 7")
	// Device nodes can't be made in a user namespace (mknod(2)): they were before.
	has("/dev/null char 0666 0 0 ")(t, exec1(t, c, verb("stat", "/dev/null")))
	says(t, exec1(t, c, verb("write", "/dev/null", "x")))
}

func TestUserNamespaceWithoutTheUser(t *testing.T) {
	_, err := tryRun(t, newRuntime(t), userNamespace, func(s *specs.Spec) { s.Process.User.UID = 70000 })
	refused(t, err, hull.ErrBadSpec, "process.user", "linux.uidMappings")
}

// Several maps, and ids of the host that are not contiguous.
func TestUserNamespaceMaps(t *testing.T) {
	c := running(t, userNamespace, func(s *specs.Spec) {
		s.Linux.UIDMappings = []specs.LinuxIDMapping{
			{ContainerID: 0, HostID: 100000, Size: 10}, {ContainerID: 1000, HostID: 5000000, Size: 1},
		}
		s.Process.User.UID = 1000
	})
	expect(t, "5000000", strings.Fields(readFile(t, procPath(c.Init().Pid, "uid_map")))[4])
	says(t, exec1(t, c, verb("status", "Uid")), "Uid 1000 1000 1000 1000")
}

func TestTimeOffsets(t *testing.T) {
	hulltest.Require(t, hulltest.TimeNS)
	c := running(t, addNamespace(specs.TimeNamespace, ""), func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1000}, "boottime": {Secs: 1000000, Nanosecs: 5}}
	})
	expect(t, "monotonic 1000 0 boottime 1000000 5",
		strings.Join(strings.Fields(readFile(t, procPath(c.Init().Pid, "timens_offsets"))), " "))
	up := func(s string) float64 {
		var n float64
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	outside, inside := up(readFile(t, "/proc/uptime")), up(exec1(t, c, verb("cat", "/proc/uptime")).Out)
	if d := inside - outside; d < 1000000 || d > 1000060 {
		t.Errorf("its boot was %v s before the host's", d)
	}
}

func TestTimeOffsetOutOfRange(t *testing.T) {
	hulltest.Require(t, hulltest.TimeNS)
	_, err := tryRun(t, newRuntime(t), addNamespace(specs.TimeNamespace, ""), func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: -1 << 40}}
	})
	refused(t, err, unix.ERANGE, "linux.timeOffsets")
}

func TestHostname(t *testing.T) {
	before := hostname(t)
	says(t, run(t, args("hostname"), func(s *specs.Spec) { s.Hostname, s.Domainname = "web1", "example.org" }), "web1 example.org")
	expect(t, before, hostname(t))
}

func hostname(t testing.TB) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestHostnameNeedsItsNamespace(t *testing.T) {
	before := hostname(t)
	_, err := tryRun(t, newRuntime(t), noNamespace(specs.UTSNamespace))
	refused(t, err, hull.ErrBadSpec, "hostname")
	expect(t, before, hostname(t))
}

func TestSysctl(t *testing.T) {
	before := readFile(t, "/proc/sys/kernel/shmmax")
	set := func(s *specs.Spec) {
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "12345678", "net.ipv4.ip_forward": "1", "net/ipv4/ip_default_ttl": "77"}
	}
	says(t, run(t, args("do", "sysctl", "kernel.shmmax", ",", "sysctl", "net.ipv4.ip_forward", ",", "sysctl", "net.ipv4.ip_default_ttl"), set),
		"12345678", "1", "77")
	expect(t, before, readFile(t, "/proc/sys/kernel/shmmax"))
}

func TestSysctlOfTheHost(t *testing.T) {
	for key, edit := range map[string]func(*specs.Spec){
		"kernel.shmmax":       noNamespace(specs.IPCNamespace),
		"net.ipv4.ip_forward": noNamespace(specs.NetworkNamespace),
		"kernel.pid_max":      func(*specs.Spec) {},
		"vm.swappiness":       func(*specs.Spec) {},
	} {
		t.Run(key, func(t *testing.T) {
			file := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
			before := readFile(t, file)
			_, err := tryRun(t, newRuntime(t), edit, func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{key: "1"} })
			refused(t, err, hull.ErrBadSpec, "linux.sysctl")
			expect(t, before, readFile(t, file))
		})
	}
}

func TestSysctlThatIsNot(t *testing.T) {
	_, err := tryRun(t, newRuntime(t), func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"net.no.such": "1"} })
	refused(t, err, unix.ENOENT, "linux.sysctl.net.no.such")
	expect(t, "this kernel has no such sysctl in namespaces of a container's own", hull.Hint(err))
	_, err = tryRun(t, newRuntime(t), func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.shmmax": "words"} })
	refused(t, err, unix.EINVAL, "linux.sysctl.kernel.shmmax")
}

// In a cgroup namespace its cgroup is the root.
func TestCgroupNamespace(t *testing.T) {
	got := run(t, args("cat", "/proc/self/cgroup"))
	for line := range strings.Lines(got.Out) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); parts[2] != "/" && !strings.HasPrefix(parts[1], "net_") && parts[1] != "hugetlb" {
			t.Errorf("it sees %s", line)
		}
	}
}

// The init of a container is the first process of its pid namespace, and its end takes the others along.
func TestPIDNamespace(t *testing.T) {
	out := newSpeaker(t)
	c := create(t, newRuntime(t), hull.CreateOptions{Stdio: hull.Stdio{Out: out.W}}, args("spawn", "2"))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.want("ready")
	pids, err := c.Processes()
	if err != nil || len(pids) != 3 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	says(t, exec1(t, c, verb("readlink", "/proc/1/exe")), hulltest.ProgPath)
	if err := c.Init().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, c.Init())
	for _, pid := range pids {
		gone(t, pid)
	}
}

// A session keyring of its own: the caller's keys are none of the container's.
func TestSessionKeyring(t *testing.T) {
	got := run(t, args("cat", "/proc/keys"), func(s *specs.Spec) { s.Linux.MaskedPaths = nil })
	if !strings.Contains(got.Out, "_ses.box") {
		t.Errorf("keys: %+v", got)
	}

	r := newRuntime(t)
	bundle := hulltest.Bundle(t, args("cat", "/proc/keys"), func(s *specs.Spec) { s.Linux.MaskedPaths = nil })
	streams := newStreams(t)
	c, err := r.Run(t.Context(), "keyless", hull.CreateOptions{Bundle: bundle, NoNewKeyring: true, Stdio: streams.stdio()})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	if got := streams.outcome(t, c.Init()); got.Status != "0" || strings.Contains(got.Out, "_ses.keyless") {
		t.Errorf("with NoNewKeyring: %+v", got)
	}
}

// A container is not slow to come: set-up has no wait in it.
func TestNoWaitInSetUp(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t)
	best := time.Hour
	for range 5 {
		began := time.Now()
		if _, err := tryRunWith(t, r, hull.CreateOptions{Bundle: bundle}); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
	}
	if best > 500*time.Millisecond {
		t.Errorf("the fastest of 5 runs takes %v", best)
	}
}
