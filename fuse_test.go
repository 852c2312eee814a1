package hull_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func init() {
	roles["fuse device"] = fuseDevice
	roles["fuse"] = runOverFUSE
}

// fuseDevice becomes an ordinary user who may open /dev/fuse, as on most hosts, in a mount namespace of this program's own, and
// goes on as runOverFUSE.
func fuseDevice(args []string) error {
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("tmpfs", "/dev/shm", "tmpfs", 0, ""),
		unix.Mknod("/dev/shm/fuse", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 229))),
		unix.Chmod("/dev/shm/fuse", 0o666),
		unix.Mount("/dev/shm/fuse", "/dev/fuse", "", unix.MS_BIND, ""),
	); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), envRole+"=fuse")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, Pdeathsig: unix.SIGKILL}
	return cmd.Run()
}

// runOverFUSE runs a command as it is run where there is no overlayfs.
func runOverFUSE(args []string) error {
	hull.SetNoOverlay()
	cmd := hull.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Runtime = &hull.Runtime{Warn: func(line string) { fmt.Fprintln(os.Stderr, "warning:", line) }}
	cmd.Host.Keep = os.Getenv("FUSE_KEEP")
	cmd.User = os.Getenv("FUSE_USER")
	if os.Getenv("FUSE_TIME") != "" {
		cmd.Limits = hull.Limits{Time: 500 * time.Millisecond, Grace: 100 * time.Millisecond}
	}
	if os.Getenv("FUSE_TRACE") != "" {
		cmd.Runtime.Trace = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	err := cmd.Run()
	if fault := (*hull.Error)(nil); errors.As(err, &fault) && fault.Hint != "" {
		err = fmt.Errorf("%w (%s)", err, fault.Hint)
	}
	return err
}

// overFUSE returns a command that runs another over a working tree of an ordinary user's, and that.
func overFUSE(t *testing.T, args ...string) (cmd *exec.Cmd, tree string) {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.FUSE, hulltest.Command("fuse-overlayfs"), hulltest.Command("sh"))
	if _, err := unix.Openat2(-1, "", &unix.OpenHow{}); err == unix.EPERM {
		t.Skip("openat2 is forbidden here, which fuse-overlayfs doesn't take for a kernel without it")
	}
	tree = t.TempDir()
	for d := tree; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"", ".git", "dir"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(tree, dir), 0o755), os.Chown(filepath.Join(tree, dir), 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{".git/HEAD", "file", "gone", "old", "dir/a"} {
		if err := errors.Join(os.WriteFile(filepath.Join(tree, file), []byte("old\n"), 0o644), os.Chown(filepath.Join(tree, file), 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	cmd = actor(t, "fuse device", args...)
	cmd.Dir = tree
	cmd.Env = append(cmd.Env, "HOME=/", "PWD="+tree)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	return cmd, tree
}

// listing is what there is of a tree.
func listing(t *testing.T, tree string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", `cd "$1" && find . -printf "%p %M %U %s %T@\n" | sort && cat file gone old dir/a`, "sh", tree).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestCommandOverFUSE(t *testing.T) {
	cmd, tree := overFUSE(t, "sh", "-c", `set -e
		echo new >file; rm gone; mv old moved; rm -r dir; mkdir dir; echo b >dir/b; ln -s file link; touch /tmp/t
		cat file moved; ls; ls dir; id -u
		ls -A /root /home /srv 2>&1 | grep -v : | wc -w
		! cat /etc/shadow 2>/dev/null && echo unread
		touch /usr/x && rm /usr/bin/env && ! test -e /usr/bin/env && echo programs, too
		! grep -q fuse /proc/[0-9]*/comm && echo unseen
		! cat /dev/fuse 2>/dev/null && echo no device
		grep -c " / .*fuse" /proc/self/mountinfo`)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	before := listing(t, tree)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.String())
	}
	want := "new\nold\ndir\nfile\nlink\nmoved\nb\n65534\n0\nunread\nprograms, too\nunseen\nno device\n1\n"
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if lines := strings.Split(strings.TrimSpace(stderr.String()), "\n"); len(lines) != 1 || !strings.HasPrefix(lines[0], "warning: other users than root can't mount an overlay here: fuse-overlayfs ") {
		t.Errorf("standard error: %q", lines)
	}
	if after := listing(t, tree); after != before {
		t.Errorf("the host's files were\n%sand are\n%s", before, after)
	}
}

// What would need an upper directory of overlayfs' is refused before anything is made.
func TestKeepOverFUSE(t *testing.T) {
	cmd, tree := overFUSE(t, "true")
	cmd.Env = append(cmd.Env, "FUSE_KEEP=kept")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "do: keep or look at changes: a test says that there is no overlayfs (fuse-overlayfs stands in for it here, and what that leaves is none of overlayfs' directories)") || strings.Contains(string(out), "warning") {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(tree, "kept")); err == nil {
		t.Error("a directory was made")
	}
}

func TestRootOverFUSE(t *testing.T) {
	cmd, _ := overFUSE(t, "sh", "-c", "id -u; stat -c %u file; echo x >>file; chmod 600 file; stat -c %u:%a file")
	cmd.Env = append(cmd.Env, "FUSE_USER=0:0")
	if out, err := cmd.Output(); err != nil || string(out) != "0\n0\n0:600\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

// startedOverFUSE starts a script that says when it runs, and returns hull's process, all processes that it has started, and among
// these the server.
func startedOverFUSE(t *testing.T, script string, env ...string) (cmd *exec.Cmd, stderr *bytes.Buffer, pid int, all []int, server int) {
	t.Helper()
	cmd, _ = overFUSE(t, "sh", "-c", "echo up; "+script)
	cmd.Env = append(cmd.Env, env...)
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Fatalf("it doesn't start: %v, %v", err, cmd.Wait())
	}
	pid = childrenOf(t, cmd.Process.Pid)[0]
	for todo := []int{pid}; len(todo) > 0; todo = todo[1:] {
		children := childrenOf(t, todo[0])
		all, todo = append(all, children...), append(todo, children...)
	}
	for _, p := range all {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p)); string(comm) == "fuse-overlayfs\n" {
			server = p
		}
	}
	if server == 0 || len(all) < 4 {
		t.Fatalf("no server among %v", all)
	}
	return cmd, stderr, pid, all, server
}

func childrenOf(t *testing.T, pid int) (children []int) {
	t.Helper()
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		b, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			children = append(children, child)
		}
	}
	return children
}

// awaitEnd waits until none of the processes is there, be it as a zombie that nobody here reaps.
func awaitEnd(t *testing.T, pids []int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); len(pids) > 0; time.Sleep(5 * time.Millisecond) {
		pids = slices.DeleteFunc(pids, func(pid int) bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, state, _ := strings.Cut(string(b), ") ")
			return err != nil || strings.HasPrefix(state, "Z")
		})
		if time.Now().After(end) {
			t.Fatalf("still there: %v", pids)
		}
	}
}

// Nothing outlives hull: not a server that can't see that its mount is gone, nor a command that waits for its answer.
func TestKilledOverFUSE(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		cmd, _, pid, all, server := startedOverFUSE(t, "sleep 0.2; cat file gone; sleep 100")
		if stopped {
			if err := unix.Kill(server, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			time.Sleep(400 * time.Millisecond)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitEnd(t, all)
		_ = cmd.Wait()
	}
}

// A server that doesn't answer keeps a command from its end no longer than its time.
func TestTimeOverFUSE(t *testing.T) {
	cmd, stderr, _, all, server := startedOverFUSE(t, "sleep 0.2; cat file gone; sleep 100", "FUSE_TIME=1")
	if err := unix.Kill(server, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "timed out after 500ms") {
		t.Errorf("%v: %s", err, stderr)
	}
	awaitEnd(t, all)
}

// The end of a server is said, whatever the command makes of it.
func TestServerKilledOverFUSE(t *testing.T) {
	cmd, stderr, _, all, server := startedOverFUSE(t, "sleep 0.3; exit 0")
	if err := unix.Kill(server, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(stderr.String(), "fuse-overlayfs: signal: killed") {
		t.Errorf("%v: %s", err, stderr)
	}
	awaitEnd(t, all)
}
