package natd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/nat"
	"hull/internal/natd"
)

// envConfined has this program try what a confined hull-net could do, with a file that may be written by anyone.
const envConfined = "HULL_NATD_TEST_CONFINED"

// confined says what is not refused. It looks from a thread that was there before, too: what is confined is the process.
func confined() {
	parent := os.Getppid()
	ask, told := make(chan struct{}), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		<-ask
		try("before", parent)
		close(told)
	}()
	time.Sleep(10 * time.Millisecond)
	if err := natd.Confine(); err != nil {
		fmt.Println("confine:", err)
	}
	try("main", parent)
	close(ask)
	<-told
	os.Exit(0)
}

func try(thread string, parent int) {
	say := func(what string, err error, want ...error) {
		for _, w := range want {
			if errors.Is(err, w) {
				return
			}
		}
		fmt.Printf("%s: %s: %v\n", thread, what, err)
	}
	_, err := os.ReadFile("/etc/resolv.conf")
	say("read resolv.conf", err, nil)
	_, err = os.ReadFile("/usr/bin/env")
	say("read another file", err, unix.EACCES)
	f, err := os.OpenFile(os.Getenv(envConfined), os.O_WRONLY, 0)
	say("write", err, unix.EACCES)
	f.Close()
	say("make", os.WriteFile(os.Getenv(envConfined)+"-made", nil, 0o666), unix.EACCES)
	say("remove", os.Remove(os.Getenv(envConfined)), unix.EACCES)
	say("execute", syscall.Exec("/bin/true", []string{"true"}, nil), unix.EPERM, unix.EACCES)
	_, err = os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	say("start a process", err, unix.EPERM)
	for _, family := range []int{unix.AF_UNIX, unix.AF_NETLINK, unix.AF_PACKET} {
		_, err = unix.Socket(family, unix.SOCK_DGRAM, 0)
		say(fmt.Sprintf("socket of family %d", family), err, unix.EPERM)
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		say(fmt.Sprintf("socket of family %d", family), err, nil)
		unix.Close(fd)
	}
	say("signal", unix.Kill(parent, 0), unix.EPERM)
	say("set the id back", unix.Setreuid(0, 0), unix.EPERM)
	say("namespace", unix.Unshare(unix.CLONE_NEWUSER), unix.EPERM)
}

func TestConfined(t *testing.T) {
	hulltest.Require(t, hulltest.Root, landlock, static)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, nil, 0o666), os.Chmod(file, 0o666), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint32{0, 1000} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{envConfined + "=" + file}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("as user %d it could, or could not: %v\n%s", id, err, out)
		}
	}
}

// landlock is the need of the version that knows signals (Linux 6.12).
var landlock = hulltest.Need{Name: "landlock", Check: func() error {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	if abi < 6 {
		return fmt.Errorf("version %d, not 6", abi)
	}
	return nil
}}

// static is the need of a program without cgo, as hull-net is: otherwise package syscall can't reach all threads.
var static = hulltest.Need{Name: "nocgo", Check: func() error {
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}}

// All threads of hull-net are confined when the container runs.
func TestThreadsAreConfined(t *testing.T) {
	w := newWorld(t, true)
	c := w.container(t, nat.Config{})
	if err := c.Echo(hulltest.Outside4+":80", 1<<20); err != nil {
		t.Fatal(err)
	}
	tasks, _ := filepath.Glob(filepath.Dir(running(hullNet(t))[0]) + "/task/*/status")
	for _, task := range tasks {
		p, err := os.ReadFile(task)
		if err != nil || !strings.Contains(string(p), "NoNewPrivs:\t1\n") || !strings.Contains(string(p), "Seccomp:\t2\n") {
			t.Errorf("%s: %v\n%s", task, err, p)
		}
	}
	if len(tasks) < 2 {
		t.Errorf("hull-net has %d threads", len(tasks))
	}
}
