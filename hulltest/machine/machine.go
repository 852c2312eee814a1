// Package machine runs tests in a machine of their own, as far as namespaces make one: for daemons that would change the
// host's network, mounts and cgroups, and would stay.
//
// The tests have namespaces for network, mounts, processes, IPC, UTS and cgroups, with a cgroup of their own in each hierarchy.
// Their first process is init below: with it ends all that was started in them, however the tests end. Mounts, bridges and rules
// of a firewall end with the namespaces, and the cgroups are removed by the process outside.
package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Config is what is different from the host in a machine.
type Config struct {
	Name    string            // begins the names of its cgroups
	Private []string          // directories of the host in whose place are empty ones
	Bind    map[string]string // directories that are shown elsewhere, by where: what they lie in may be private
	Files   map[string]string // what files of the host say here, by their paths
	Env     map[string]string // "" for none
}

// EnvStage is where a process of the test program is: "" outside, init, tests.
const EnvStage = "HULL_MACHINE_STAGE"

// Main is that of tests: it runs them in a machine of c.
func Main(m *testing.M, c Config) { Run(c, m.Run) }

// Run calls f in a machine of c, and exits with what it returns. A machine may be in another, whose tests start their own program
// without EnvStage; it ends with that process.
func Run(c Config, f func() int) {
	status, err := 0, error(nil)
	switch os.Getenv(EnvStage) {
	case "init":
		status, err = c.init()
	case "tests":
		status = f()
	default:
		status, err = Outside(c.Name)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "machine %s: %v\n", c.Name, err)
		status = 1
	}
	os.Exit(status)
}

// Outside makes cgroups whose names begin with name, starts this program as init in them and in namespaces, and removes the cgroups.
func Outside(name string) (status int, err error) {
	runtime.LockOSThread() // Pdeathsig goes by the thread
	hier, err := Hierarchies()
	if err != nil {
		return 0, err
	}
	group := name + "." + strconv.Itoa(os.Getpid())
	for dir := range hier {
		removeStale(dir, name+".")
		if err := makeCgroup(dir, group); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, removeCgroup(filepath.Join(dir, group))) }()
	}
	// The child's cgroup namespace has the cgroup that its parent is in as its root.
	was, err := moveTo(hier, func(string) string { return group })
	if err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), EnvStage+"=init")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Start()
	_, back := moveTo(hier, func(dir string) string { return was[dir] })
	if err = errors.Join(err, back); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// init is process 1 of the namespaces.
func (c Config) init() (int, error) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	if err := c.mount(); err != nil {
		return 0, err
	}
	for name, value := range c.Env {
		if err := os.Setenv(name, value); err != nil {
			return 0, err
		}
		if value == "" {
			_ = os.Unsetenv(name)
		}
	}
	return RunTests(self)
}

// RunTests is what init does once its file systems are as they should be: it sees to the loopback device, runs the tests, which are the
// program self, and reaps.
func RunTests(self *os.File) (int, error) {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	if err := os.Setenv(EnvStage, "tests"); err != nil {
		return 0, err
	}
	child, err := os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", self.Fd()), os.Args, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case pid != child.Pid:
		case ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}

// mount makes the file systems what they are in the machine.
func (c Config) mount() error {
	hier, err := Hierarchies()
	if err != nil {
		return err
	}
	bound := make(map[string]*os.File)
	for to, from := range c.Bind {
		if bound[to], err = os.Open(from); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mount private: %w", err)
	}
	type mount struct{ source, target, fstype, data string }
	mounts := []mount{
		{"proc", "/proc", "proc", ""},
		{"cgroup", Cgroups, "tmpfs", "mode=0755"},
		{"shm", "/dev/shm", "tmpfs", "mode=1777"},
	}
	for dir, options := range hier {
		if options == "cgroup2" {
			mounts = append(mounts, mount{"cgroup2", dir, "cgroup2", ""})
		} else {
			mounts = append(mounts, mount{"cgroup", dir, "cgroup", options})
		}
	}
	for _, dir := range c.Private {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		mode := "mode=0755"
		if strings.HasSuffix(dir, "tmp") {
			mode = "mode=1777"
		}
		mounts = append(mounts, mount{c.Name, dir, "tmpfs", mode})
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.target, Cgroups+"/") {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.source, m.target, m.fstype, 0, m.data); err != nil {
			return fmt.Errorf("mount %s %s: %w", m.fstype, m.target, err)
		}
	}
	for to, from := range bound {
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", from.Fd()), to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s at %s: %w", from.Name(), to, err)
		}
		from.Close()
	}
	return c.shadow()
}

// shadow mounts files over those of the host that say something else here, or that nobody here may write to.
func (c Config) shadow() error {
	if len(c.Files) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "files-")
	if err != nil {
		return err
	}
	for path, text := range c.Files {
		file := filepath.Join(dir, strings.ReplaceAll(path[1:], "/", "."))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over %s: %w", path, err)
		}
	}
	// Who has a user namespace may mount a procfs only where one can be seen that nothing is mounted over (mount_too_revealing).
	whole := filepath.Join(dir, "proc")
	if err := os.Mkdir(whole, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("proc", whole, "proc", 0, ""); err != nil {
		return fmt.Errorf("mount proc %s: %w", whole, err)
	}
	return nil
}
