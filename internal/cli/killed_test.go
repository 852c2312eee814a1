package cli

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// envKills is how often the tests below kill hull. Without it they do so for killTime.
const envKills = "HULL_TEST_KILLS"

const killTime = 3 * time.Second

// TestKilledDo kills hull do at random moments and looks for what is left: of processes, mounts, files and cgroups. As
// root of a user namespace it counts all namespaces, too: that one's limits tell how many there are, whoever holds them.
func TestKilledDo(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS, hulltest.Command("sh"))
	for name, attr := range whoKills {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"-time", killTime.String()}
			if testing.Short() {
				args = []string{"-time", "1s"}
			}
			if n := os.Getenv(envKills); n != "" {
				args = []string{"-kills", n}
			}
			if name == "userns" {
				args = append(args, "-count")
			}
			out := asKiller(t, attr, args...)
			if out = strings.TrimSpace(out); !strings.HasPrefix(out, "killed ") || strings.Contains(out, "killed 0 ") {
				t.Errorf("got %q", out)
			}
			t.Log(out)
		})
	}
}

// TestManyDo runs a hundred, eight at a time.
func TestManyDo(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.UserNS)
	for _, name := range []string{"root", "user"} {
		t.Run(name, func(t *testing.T) {
			if out := asKiller(t, whoKills[name], "-many", "100"); out != "ran 100\n" {
				t.Errorf("got %q", out)
			}
		})
	}
}

// whoKills are the callers of hull, in mount namespaces of their own, where nobody else mounts anything.
var whoKills = map[string]*syscall.SysProcAttr{
	"root": {Unshareflags: unix.CLONE_NEWNS},
	"user": {Unshareflags: unix.CLONE_NEWNS, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	"userns": {Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}}},
}

// asKiller runs killer and returns what it prints.
func asKiller(t *testing.T, attr *syscall.SysProcAttr, args ...string) string {
	t.Helper()
	dir, hull := t.TempDir(), filepath.Dir(hulltest.HullBinary(t))
	for _, d := range []string{hull, dir} {
		for ; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil { // for the user, who comes by
				t.Fatal(err)
			}
		}
	}
	if c := attr.Credential; c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "killer" // see TestMain
	cmd.Dir = dir
	cmd.SysProcAttr = attr
	cmd.Env = []string{"PATH=" + hull + ":" + os.Getenv("PATH"), "HOME=/", "TMPDIR=" + dir, "XDG_CACHE_HOME=" + dir}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	return string(out)
}

// killer is a program of its own: it is the one that orphans come to, and its children are hull's alone.
func killer() {
	k := killing{hulls: map[int]bool{}}
	count := flag.Bool("count", false, "count namespaces")
	flag.DurationVar(&k.time, "time", time.Hour, "how long to kill")
	flag.IntVar(&k.kills, "kills", 1<<30, "how often to kill")
	many := flag.Int("many", 0, "run so many without killing them")
	flag.Parse()
	var err error
	switch {
	case unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != nil:
		err = errors.New("no subreaper")
	case *many > 0:
		if err = runMany(*many); err == nil {
			fmt.Println("ran", *many)
		}
	case *count:
		err = k.counting()
	default:
		err = k.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runMany(n int) error {
	begin, errs := make(chan bool), make(chan error)
	for range 8 {
		go func() {
			for range begin {
				out, err := exec.Command("hull", "do", "--pids", "10", "true").CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, out)
				}
				errs <- err
			}
		}()
	}
	go func() {
		for range n {
			begin <- true
		}
		close(begin)
	}()
	var all error
	for range n {
		all = errors.Join(all, <-errs)
	}
	return all
}

// killing is what killer does.
type killing struct {
	time  time.Duration
	kills int
	hulls map[int]bool // the processes that have ended, whose cgroups may be left

	killed, ended int
	slowest       time.Duration // from the kill to the end of all processes
}

// victim is a hull do that has all that could be left behind, and ends by itself soon or late.
func victim(soon bool) *exec.Cmd {
	last := "100"
	if soon {
		last = "0.005"
	}
	return exec.Command("hull", "do", "--memory", "100m", "--pids", "20", "--files", "50", "--timeout", "1m", "--diff",
		"--json", "result", "sh", "-c", "setsid sleep 100 & echo x >file; mkdir -p /tmp/d; sleep "+last)
}

func (k *killing) run() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	usual := time.Hour
	for range 3 {
		began := time.Now()
		if out, err := victim(true).CombinedOutput(); err != nil {
			return fmt.Errorf("not killed: %w: %s", err, out)
		}
		usual = min(usual, time.Since(began))
	}
	for end := time.Now().Add(k.time); time.Now().Before(end) && k.killed < k.kills; {
		// Now and then it ends first.
		after := rand.N(usual * 11 / 10)
		if err := k.once(after); err != nil {
			return fmt.Errorf("killed after %v: %w", after, err)
		}
		if now, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !bytes.Equal(now, mounts) {
			return fmt.Errorf("killed after %v: mounts are left: %w\n%s", after, err, now)
		}
		if err := k.noFiles(); err != nil {
			return fmt.Errorf("killed after %v: %w", after, err)
		}
	}
	left, err := k.groups()
	if err != nil {
		return err
	}
	// The next hull removes what no process can have removed.
	if out, err := exec.Command("hull", "do", "true").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	still, err := k.groups()
	if len(still) > 0 {
		err = errors.Join(err, fmt.Errorf("left by the next hull: %v", still))
	}
	fmt.Printf("killed %d and let end %d; the last process was gone %v later at most; %d cgroups left\n",
		k.killed, k.ended, k.slowest.Round(time.Millisecond), len(left))
	return err
}

// once kills one hull and waits until there are no processes of it any more.
func (k *killing) once(after time.Duration) error {
	var out bytes.Buffer
	cmd := victim(rand.N(2) == 0)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second // so long the output may be open to others
	if err := cmd.Start(); err != nil {
		return err
	}
	k.hulls[cmd.Process.Pid] = true
	time.Sleep(after)
	_ = cmd.Process.Kill()
	killed := time.Now()
	switch err := cmd.Wait(); {
	case err == nil:
		k.ended++
	case cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled():
		k.killed++
	default:
		return fmt.Errorf("%w: %s", err, out.String())
	}
	if err := reapAll(); err != nil {
		return err
	}
	k.slowest = max(k.slowest, time.Since(killed))
	return nil
}

// reapAll waits for all children: what has lost its parent is one.
func reapAll() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.ECHILD:
			return nil
		case err != nil && err != unix.EINTR:
			return err
		case pid == 0 && time.Now().After(deadline):
			return fmt.Errorf("processes are left: %s", childrenOf(os.Getpid()))
		}
	}
}

func childrenOf(pid int) string {
	var all []string
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for child := range strings.FieldsSeq(string(children)) {
			cmdline, _ := os.ReadFile("/proc/" + child + "/cmdline")
			stack, _ := os.ReadFile("/proc/" + child + "/wchan")
			all = append(all, fmt.Sprintf("%s %q in %s", child, cmdline, stack))
		}
	}
	return strings.Join(all, ", ")
}

// noFiles looks at the directory where hull has been told to put temporary files.
func (k *killing) noFiles() error {
	entries, err := os.ReadDir(".")
	for _, e := range entries {
		if e.Name() != "result" {
			err = errors.Join(err, fmt.Errorf("file %s is left", e.Name()))
		}
	}
	return err
}

// groups returns the cgroups that are left. No process is in them.
func (k *killing) groups() (left []string, err error) {
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		// hull-do-PID-N, and this pid namespace is not the only one that there are hulls in.
		pid, _, ok := strings.Cut(strings.TrimPrefix(d.Name(), "hull-do-"), "-")
		if n, perr := strconv.Atoi(pid); !ok || perr != nil || !k.hulls[n] || !strings.HasPrefix(d.Name(), "hull-do-") {
			return nil
		}
		left = append(left, path)
		procs, err := os.ReadFile(path + "/cgroup.procs")
		if len(procs) > 0 {
			return fmt.Errorf("%s has processes: %q", path, procs)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			err = nil
		}
		return err
	})
	return left, err
}

// counting is run with limits of namespaces below which hull do worked before, and fails if some are left.
func (k *killing) counting() error {
	kinds := []string{"user", "mnt", "pid", "net", "uts", "ipc", "cgroup"}
	limit := func(kind string, n int) error {
		return os.WriteFile("/proc/sys/user/max_"+kind+"_namespaces", []byte(strconv.Itoa(n)), 0)
	}
	need := make(map[string]int)
	for _, kind := range kinds {
		need[kind] = 1
		for {
			if err := limit(kind, need[kind]); err != nil {
				return err
			}
			if works(300 * time.Millisecond) {
				break
			}
			need[kind]++
		}
	}
	for _, kind := range kinds {
		if err := limit(kind, 1000); err != nil {
			return err
		}
	}
	if err := k.run(); err != nil {
		return err
	}
	for _, kind := range kinds {
		if err := limit(kind, need[kind]); err != nil {
			return err
		}
		if !works(10 * time.Second) {
			return fmt.Errorf("%s namespaces are left: no room for one more among %d", kind, need[kind])
		}
	}
	return nil
}

// works tells whether hull do works before long: the kernel takes namespaces away when it has time.
func works(wait time.Duration) bool {
	for deadline := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		if exec.Command("hull", "do", "true").Run() == nil {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
