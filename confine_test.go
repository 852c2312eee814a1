package hull_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// A command over the host's files is one that nobody trusts. The intruder is such a command: it tries the ways out that
// are known, and says which worked.

// envDisk has the confiner do as on a kernel whose tmpfs can't hold what a command writes.
const envDisk = "HULL_TEST_DISK"

// intruderPath is where it finds itself.
const intruderPath = "/opt/hull-intruder"

// target is what the host has, for the intruder to reach.
type target struct {
	secret   string // a file outside the working tree that everyone may read
	pid      int    // of a process of the host
	abstract string // a listening socket without a file
	socket   string // one with a file, in the working tree
	tcp      string // one on the host's loopback
}

func (t target) args() []string {
	return []string{t.secret, fmt.Sprint(t.pid), t.abstract, t.socket, t.tcp}
}

func init() {
	// The confiner runs the intruder as hull do runs a command: as whoever it is itself, in the directory it is in.
	roles["confiner"] = func(args []string) error {
		cmd := hull.Command(intruderPath, args[1:]...)
		if os.Getenv(envDisk) != "" {
			hull.SetTmpfsHasUserXattr(false)
		}
		cmd.Host.Bind = []hull.HostBind{{Source: args[0], Dest: intruderPath, ReadOnly: true}}
		cmd.ExtraEnv = []string{envRole + "=intruder"}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.Runtime = &hull.Runtime{Warn: func(line string) { fmt.Fprintln(os.Stderr, "warning:", line) }}
		return cmd.Run()
	}
	roles["intruder"] = func(args []string) error {
		if args[0] == "again" {
			if err := errors.Join(os.RemoveAll("d"), os.Mkdir("d", 0o755)); err != nil {
				return err
			}
			names, err := os.ReadDir("d")
			fmt.Println("made again:", names)
			return err
		}
		t := target{secret: args[0], abstract: args[2], socket: args[3], tcp: args[4]}
		fmt.Sscan(args[1], &t.pid)
		for _, a := range attacks {
			if err := a.try(t); err == nil {
				fmt.Printf("worked: %s\n", a.name)
			} else if errors.As(err, new(exposed)) {
				fmt.Printf("worked: %s: %v\n", a.name, err)
			}
		}
		fmt.Println("tried", len(attacks))
		return nil
	}
}

// exposed is what an attack has found that it shouldn't have.
type exposed string

func (e exposed) Error() string { return string(e) }

// An attack works if it returns nil, or what it has found.
type attack struct {
	name string
	try  func(t target) error
}

func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
		return errno
	}
	return nil
}

func ptrTo(s string) uintptr { p, _ := unix.BytePtrFromString(s); return uintptr(unsafe.Pointer(p)) }

func openAny(flags int, files ...string) error {
	err := error(unix.ENOENT)
	for _, file := range files {
		fd, oerr := unix.Open(file, flags|unix.O_CLOEXEC, 0)
		if oerr == nil {
			unix.Close(fd)
			return exposed(file)
		}
		err = oerr
	}
	return err
}

// everyRoot returns paths of a file as processes see it.
func everyRoot(file string) (paths []string) {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range append(procs, "/proc/self", "/proc/thread-self") {
		paths = append(paths, p+"/root"+file, p+"/cwd/"+strings.Repeat("../", 20)+file)
	}
	return paths
}

func dial(network, address string) error {
	c, err := net.DialTimeout(network, address, time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

var attacks = []attack{
	{"the secret by its path", func(t target) error { return openAny(unix.O_RDONLY, t.secret) }},
	{"the secret by /proc/PID/root", func(t target) error { return openAny(unix.O_RDONLY, everyRoot(t.secret)...) }},
	{"the secret by ..", func(t target) error {
		return openAny(unix.O_RDONLY, strings.Repeat("../", 30)+t.secret, "/.."+t.secret)
	}},
	{"the secret by a link", func(t target) error {
		if err := os.Symlink(t.secret, "link"); err != nil {
			return err
		}
		return openAny(unix.O_RDONLY, "link")
	}},
	{"the secret by a link of the host", func(target) error { return openAny(unix.O_RDONLY, "planted") }},
	{"passwords", func(target) error {
		b, err := os.ReadFile("/etc/shadow")
		if err == nil && len(b) == 0 {
			err = unix.ENODATA
		}
		return err
	}},
	{"mount", func(target) error { return unix.Mount("none", "/opt", "tmpfs", 0, "") }},
	{"bind mount", func(target) error { return unix.Mount("/", "/opt", "", unix.MS_BIND|unix.MS_REC, "") }},
	{"umount of a mask", func(target) error { return unix.Unmount("/etc/shadow", unix.MNT_DETACH) }},
	{"umount of /proc", func(target) error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
	{"remount of /proc", func(target) error { return unix.Mount("", "/proc", "", unix.MS_REMOUNT|unix.MS_BIND, "") }},
	{"fsopen", func(target) error { _, err := unix.Fsopen("proc", 0); return err }},
	{"open_tree", func(target) error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err }},
	{"mount_setattr", func(target) error {
		return unix.MountSetattr(unix.AT_FDCWD, "/proc", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY})
	}},
	{"pivot_root", func(target) error { return unix.PivotRoot("/opt", "/opt") }},
	{"chroot", func(target) error { return unix.Chroot(".") }},
	{"user namespace", func(target) error { return unix.Unshare(unix.CLONE_NEWUSER) }},
	{"user namespace by clone", func(target) error {
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		return cmd.Run()
	}},
	{"namespace of another process", func(target) error {
		for _, ns := range []string{"mnt", "pid", "net", "user", "uts", "ipc"} {
			fd, err := unix.Open("/proc/1/ns/"+ns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			if unix.Setns(fd, 0) == nil {
				return exposed(ns)
			}
		}
		return unix.EPERM
	}},
	{"tracing the supervisor", func(target) error { return unix.PtraceSeize(1) }},
	{"memory of the supervisor", func(target) error { return openAny(unix.O_RDONLY, "/proc/1/mem", "/proc/1/environ", "/proc/1/maps") }},
	{"memory of the supervisor by its address", func(target) error {
		b := make([]byte, 8)
		local := []unix.Iovec{{Base: &b[0]}}
		local[0].SetLen(len(b))
		_, err := unix.ProcessVMReadv(1, local, []unix.RemoteIovec{{Base: 0x10000, Len: 8}}, 0)
		return err
	}},
	{"descriptors of the supervisor", func(target) error {
		for fd := range 64 { // root may list them, no more
			name := fmt.Sprintf("/proc/1/fd/%d", fd)
			if link, err := os.Readlink(name); err == nil {
				return exposed(link)
			}
			if err := openAny(unix.O_PATH, name); errors.As(err, new(exposed)) {
				return err
			}
		}
		return unix.EACCES
	}},
	{"killing the supervisor", func(target) error {
		if err := unix.Kill(1, unix.SIGKILL); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond) // it has no effect inside the namespace, or nobody tells
		return unix.EPERM
	}},
	{"a signal to a process of the host", func(t target) error { return unix.Kill(t.pid, 0) }},
	{"descriptors left open", func(target) error {
		for fd := 3; fd < 1024; fd++ {
			link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
			if err == nil && !strings.HasPrefix(link, "anon_inode:") && !strings.HasPrefix(link, "/proc/") && !strings.HasPrefix(link, "pipe:") && !strings.HasPrefix(link, "/sys/") {
				return exposed(fmt.Sprint(fd, " ", link))
			}
		}
		return unix.EBADF
	}},
	{"typing on the terminal", func(target) error {
		c := byte('x')
		err := call(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		if errors.Is(err, unix.ENOTTY) {
			return nil // nobody but the missing terminal has refused it
		}
		return err
	}},
	{"typing on the terminal, high bits set", func(target) error {
		c := byte('x')
		err := call(unix.SYS_IOCTL, 0, 1<<32|unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
		if errors.Is(err, unix.ENOTTY) {
			return nil
		}
		return err
	}},
	{"the user's keyring", func(target) error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_USER_KEYRING, true); return err }},
	{"a key", func(target) error {
		_, err := unix.AddKey("user", "hull", []byte("x"), unix.KEY_SPEC_USER_KEYRING)
		return err
	}},
	{"abstract socket of the host", func(t target) error { return dial("unix", t.abstract) }},
	{"socket of the host in the working tree", func(t target) error { return dial("unix", t.socket) }},
	{"loopback of the host", func(t target) error { return dial("tcp", t.tcp) }},
	{"D-Bus", func(target) error { return dial("unix", "/run/dbus/system_bus_socket") }},
	{"VSOCK", func(target) error { _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); return err }},
	{"packet socket", func(target) error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err }},
	{"kernel's settings", func(target) error {
		return openAny(unix.O_WRONLY, "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
			"/proc/sysrq-trigger", "/proc/self/oom_score_adj", "/proc/mtrr", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/fs/cgroup/release_agent")
	}},
	{"cgroups", func(target) error {
		return openAny(unix.O_RDONLY, "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs")
	}},
	{"kernel's memory and log", func(target) error {
		b := make([]byte, 1)
		for _, file := range []string{"/proc/kcore", "/dev/mem", "/dev/kmsg", "/proc/kmsg"} {
			f, err := os.Open(file)
			if err != nil {
				continue
			}
			n, _ := f.Read(b)
			f.Close()
			if n > 0 {
				return exposed(file)
			}
		}
		return unix.EACCES
	}},
	{"mode of a file of the kernel", func(target) error { return os.Chmod("/proc/version", 0o444) }},
	{"mode of what covers a file", func(target) error { return os.Chmod("/proc/keys", 0o666) }},
	{"device nodes", func(target) error {
		var root unix.Stat_t
		if err := unix.Stat("/usr", &root); err != nil {
			return err
		}
		for _, d := range []struct {
			kind uint32
			dev  uint64
		}{{unix.S_IFCHR, unix.Mkdev(1, 1)}, {unix.S_IFBLK, unix.Mkdev(254, 0)}, {unix.S_IFBLK, unix.Mkdev(8, 0)}, {unix.S_IFBLK, root.Dev}} {
			for _, file := range []string{"node", "/dev/node", "/dev/shm/node", "/tmp/node"} {
				if unix.Mknod(file, d.kind|0o600, int(d.dev)) == nil {
					return exposed(file)
				}
			}
		}
		return unix.EPERM
	}},
	{"disks", func(target) error {
		return openAny(unix.O_RDONLY, "/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop-control", "/dev/fuse")
	}},
	{"a file by its handle", func(target) error {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/usr", 0)
		if err != nil {
			h = unix.NewFileHandle(1, make([]byte, 8))
		}
		_, err = unix.OpenByHandleAt(unix.AT_FDCWD, h, unix.O_RDONLY)
		return err
	}},
	{"gaining privileges", func(target) error {
		n, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if err != nil || n != 1 {
			return exposed("no_new_privs is off")
		}
		return unix.EPERM
	}},
	{"another user", func(target) error {
		other := 4711
		return call(unix.SYS_SETRESUID, uintptr(other), uintptr(other), uintptr(other))
	}},
	{"capabilities", func(target) error {
		for _, set := range strings.Split(statusField("CapPrm"), "\n") {
			if strings.Trim(set, "0\t ") != "" {
				return exposed(set)
			}
		}
		return unix.EPERM
	}},
	{"io_uring", func(target) error { return call(unix.SYS_IO_URING_SETUP, 1, ptrTo(strings.Repeat("\x01", 128))) }},
	{"programs in the kernel", func(target) error { return call(unix.SYS_BPF, 0, ptrTo(strings.Repeat("\x01", 128)), 72) }},
	{"a call of tomorrow", func(target) error { return call(1 << 12) }},
	{"names of the host in mountinfo", func(t target) error {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, filepath.Dir(t.secret)) || strings.Contains(line, "lowerdir=/") && !strings.Contains(line, "lowerdir=/proc/self/fd/") {
				return exposed(line)
			}
		}
		return unix.ENOENT
	}},
	{"processes of the host", func(target) error {
		procs, _ := filepath.Glob("/proc/[0-9]*")
		if len(procs) > 2 { // the supervisor and this
			return exposed(fmt.Sprint(procs))
		}
		return unix.ENOENT
	}},
	// Writing works, and the test looks whether the host has something of it.
	{"", func(target) error {
		for file, text := range map[string]string{"file": "broken", "/usr/bin/hull-broken": "x", "/etc/passwd": "", "/etc/hull-broken": "x", "/tmp/hull-broken": "x"} {
			_ = os.WriteFile(file, []byte(text), 0o777)
		}
		_ = os.Remove("gone")
		_ = os.RemoveAll("dir")
		return unix.EPERM
	}},
}

func statusField(name string) string {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), name+":")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

func TestNothingGetsOutOfDo(t *testing.T) {
	for _, who := range []struct {
		name string
		uid  uint32
	}{{"root", 0}, {"user", 65534}} {
		t.Run(who.name, func(t *testing.T) {
			hulltest.Require(t, hulltest.Root)
			if who.uid != 0 {
				hulltest.Require(t, hulltest.UserNS)
			}
			confine(t, who.uid)
		})
	}
}

func confine(t *testing.T, uid uint32) {
	// In /tmp itself: that of the test may not be for others.
	dir, err := os.MkdirTemp("", "hull-confine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	tree, outside := dir+"/tree", dir+"/outside"
	for _, d := range []string{dir, tree, outside, tree + "/dir"} {
		_ = os.Mkdir(d, 0o755)
		if err := errors.Join(os.Chmod(d, 0o755), os.Chown(d, int(uid), int(uid))); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{tree + "/file": "whole", tree + "/gone": "there", tree + "/dir/file": "there", outside + "/secret": canary} {
		write(t, file, text)
		if err := os.Chown(file, int(uid), int(uid)); err != nil {
			t.Fatal(err)
		}
	}
	at := target{secret: outside + "/secret", pid: os.Getpid(), abstract: "@" + filepath.Base(dir), socket: tree + "/socket"}
	if err := os.Symlink(at.secret, tree+"/planted"); err != nil {
		t.Fatal(err)
	}
	for _, l := range []struct{ network, address string }{{"unix", at.abstract}, {"unix", at.socket}, {"tcp", "127.0.0.1:0"}} {
		listener, err := net.Listen(l.network, l.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		at.tcp = listener.Addr().String()
	}
	if err := os.Chmod(at.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	program := dir + "/program"
	copyFile(t, testBinary(t), program)

	leaked, err := os.Open(at.secret)
	if err != nil {
		t.Fatal(err)
	}
	defer leaked.Close()
	cmd := actor(t, "confiner", append([]string{program}, at.args()...)...)
	cmd.Path, cmd.Args[0] = program, program
	cmd.Dir = tree
	cmd.ExtraFiles = []*os.File{leaked}
	cmd.Env = append(cmd.Env, "HOME=/", "PWD="+tree)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("%v", err)
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "worked:") || strings.HasPrefix(line, "warning:") {
			t.Error(strings.TrimSpace(line))
		}
	}
	if want := fmt.Sprintln("tried", len(attacks)); !strings.Contains(out.String(), want) {
		t.Errorf("want %q in %s", want, out.String())
	}
	for file, want := range map[string]string{tree + "/file": "whole", tree + "/gone": "there", tree + "/dir/file": "there"} {
		if b, err := os.ReadFile(file); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	for _, file := range []string{"/usr/bin/hull-broken", "/etc/hull-broken", "/tmp/hull-broken", tree + "/link"} {
		if _, err := os.Lstat(file); err == nil {
			t.Errorf("the host has %s", file)
			_ = os.Remove(file)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), os.Chmod(to, 0o755)); err != nil {
		t.Fatal(err)
	}
}

// Before Linux 6.6 overlayfs in a user namespace couldn't replace a directory that was deleted, on a tmpfs.
func TestDeletedDirectoryIsMadeAgain(t *testing.T) {
	for _, disk := range []string{"", "1"} {
		t.Run("disk="+disk, func(t *testing.T) { makeAgain(t, disk) })
	}
}

func makeAgain(t *testing.T, disk string) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	dir, err := os.MkdirTemp("", "hull-again-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, d := range []string{dir, dir + "/tree", dir + "/tree/d"} {
		_ = os.Mkdir(d, 0o755)
		if err := errors.Join(os.Chmod(d, 0o755), os.Chown(d, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/tree/d/file", "x")
	if err := os.Chown(dir+"/tree/d/file", 65534, 65534); err != nil {
		t.Fatal(err)
	}
	program := dir + "/program"
	copyFile(t, testBinary(t), program)
	cmd := actor(t, "confiner", program, "again")
	cmd.Path, cmd.Args[0], cmd.Dir = program, program, dir+"/tree"
	cmd.Env = append(cmd.Env, "HOME=/", "XDG_CACHE_HOME="+dir+"/tree/cache", "PWD="+dir+"/tree")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if disk != "" {
		cmd.Env = append(cmd.Env, envDisk+"="+disk)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "made again: []\n") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.Stat(dir + "/tree/cache/hull"); disk != "" && err != nil {
		t.Errorf("it was not written to the disk: %v", err)
	}
	if left, _ := filepath.Glob(dir + "/tree/cache/hull/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(dir + "/tree/d/file"); err != nil {
		t.Error(err)
	}
}
