package hull_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func TestCheckpoint(t *testing.T) {
	s := counter(t)
	s.want("a", 1)
	saved := s.Init().Pid
	s.checkpoint(hull.CheckpointOptions{})
	if _, err := s.runtime.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("after the checkpoint: %v, want no container", err)
	}
	s.restore(hull.RestoreOptions{})
	s.want("b", 2)
	wantStatus(t, s.Container, hull.Running)
	if pid := s.Init().Pid; pid == saved {
		t.Errorf("pid %d as before", pid)
	}
	says(t, exec1(t, s.Container, verb("readlink", "/proc/1/exe")), actorPath)
	// CRIU has given it a time namespace.
	expect(t, exec1(t, s.Container, verb("readlink", "/proc/1/ns/time")), exec1(t, s.Container, verb("readlink", "/proc/self/ns/time")))
	refused(t, s.tryRestore(hull.RestoreOptions{}), hull.ErrExist, "restore box", "already exists")

	// What was restored is saved and restored as any other.
	c, err := s.runtime.Container("box")
	if err != nil {
		t.Fatal(err)
	}
	s.Container = c
	_ = s.Pause()
	wantStatus(t, s.Container, hull.Paused)
	if err := s.Resume(); err != nil {
		t.Error(err)
	}
	if err := s.Signal(unix.SIGKILL, false); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
}

// TestCheckpointNamedPipes: the streams are pipes with names on the host, as containerd makes them; at the restoration others, or
// pipes without a name.
func TestCheckpointNamedPipes(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU)
	r := newRuntime(t)
	r.CRIU = hulltest.CRIUProgram()
	s := &saving{runtime: r, image: filepath.Join(t.TempDir(), "image"), counting: named(newCounting(t), 0o700)}
	s.bundle = hulltest.Bundle(t, withActor(t, t.TempDir()), playing("counter"))
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: s.bundle, Stdio: s.stdio})
	if err != nil {
		t.Fatal(errorText(err))
	}
	s.Container = c
	s.given()
	remove(t, r, c)
	s.want("a", 1)
	s.checkpoint(hull.CheckpointOptions{})
	other := named(newCounting(t), 0o622)
	if err := s.tryRestore(hull.RestoreOptions{CreateOptions: hull.CreateOptions{Stdio: other.stdio}}); err != nil {
		t.Fatal(errorText(err))
	}
	other.given()
	s.counting = other
	s.want("b", 2)
	s.checkpoint(hull.CheckpointOptions{})
	s.restore(hull.RestoreOptions{}) // to pipes without a name
	s.want("c", 3)
	s.ends()
}

// It can be done again and again, and the program's end is that of the restored container.
func TestCheckpointAgain(t *testing.T) {
	s := counter(t)
	for n := 1; n <= 3; n++ {
		s.want("x", n)
		s.checkpoint(hull.CheckpointOptions{})
		s.restore(hull.RestoreOptions{})
	}
	s.want("x", 4)
	s.ends()
}

func TestCheckpointLeavesRunning(t *testing.T) {
	s := counter(t)
	s.want("a", 1)
	s.checkpoint(hull.CheckpointOptions{LeaveRunning: true})
	wantStatus(t, s.Container, hull.Running)
	s.want("b", 2)
	if err := s.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	s.restore(hull.RestoreOptions{}) // as it was then
	s.want("c", 2)
	s.ends()
}

func TestCheckpointOfPaused(t *testing.T) {
	s := counter(t)
	s.want("a", 1)
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	s.checkpoint(hull.CheckpointOptions{LeaveRunning: true})
	wantStatus(t, s.Container, hull.Paused)
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	s.want("b", 2)
	s.ends()
}

func TestPreDump(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU, hulltest.CRIUMemory)
	s := counter(t)
	s.want("a", 1)
	first := filepath.Join(filepath.Dir(s.image), "first")
	s.checkpoint(hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: first}, PreDump: true})
	s.want("b", 2)
	s.checkpoint(hull.CheckpointOptions{ParentPath: "../first"})
	if _, err := os.Stat(filepath.Join(s.image, "parent")); err != nil {
		t.Error(err)
	}
	refused(t, s.tryRestore(hull.RestoreOptions{ImageOptions: hull.ImageOptions{Path: first}}), nil, "descriptors.json", "no such file")
	s.restore(hull.RestoreOptions{})
	s.want("c", 3)
	s.ends()
}

// With lazy pages the container that is saved waits, stopped, with its memory, which a program of CRIU's gets for the restored one
// as it is needed.
func TestCheckpointLazyPages(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU, hulltest.CRIULazy)
	s := counter(t)
	s.want("a", 1)
	port := freePort(t)
	work := filepath.Join(filepath.Dir(s.image), "work")
	mkdir(t, work, 0o700)
	image := hull.ImageOptions{Path: s.image, WorkPath: work, LazyPages: true}
	ready, readyW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	defer readyW.Close()
	saved := make(chan error, 1)
	go func() {
		saved <- s.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image, PageServer: "127.0.0.1:" + port, StatusFD: readyW})
	}()
	ready.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the checkpoint is not ready: %v; %v", err, errorText(<-saved))
	}
	lazy := exec.Command(cmp.Or(hulltest.CRIUProgram(), "criu"), "lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", port,
		"--images-dir", s.image, "--work-dir", work, "-v4", "--log-file", "lazy.log")
	if err := lazy.Start(); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(work, "lazy-pages.socket")
	eventually(t, "criu lazy-pages listens", func() bool { _, err := os.Stat(socket); return err == nil })

	// The one that is saved is still there.
	s.counting = newCounting(t)
	bundle := hulltest.Bundle(t, withActor(t, t.TempDir()), playing("counter"))
	restored, err := s.runtime.Restore(t.Context(), "lazy", hull.RestoreOptions{
		CreateOptions: hull.CreateOptions{Bundle: bundle, Stdio: s.stdio}, ImageOptions: image,
	})
	if err != nil {
		_ = lazy.Process.Kill()
		t.Fatal(errorText(err))
	}
	s.given()
	remove(t, s.runtime, restored)
	s.want("b", 2)
	if err := lazy.Wait(); err != nil {
		t.Errorf("criu lazy-pages: %v", err)
	}
	if err := <-saved; err != nil {
		t.Error(errorText(err))
	}
	if _, err := s.runtime.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("after the checkpoint: %v, want no container", err)
	}
	s.want("c", 3)
	s.in.Close()
	expect(t, "0", wait(t, restored.Init()))
}

// freePort returns a port of the loopback device that nobody has, at the moment.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestCheckpointParent(t *testing.T) {
	s := counter(t)
	for _, parent := range []string{"/tmp", "../nowhere"} {
		refused(t, s.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: s.image}, ParentPath: parent}),
			hull.ErrBadUsage, "checkpoint box", "--parent-path "+parent)
	}
	if _, err := os.Stat(s.image); err == nil {
		t.Error("a checkpoint that was refused has left its directory")
	}
	s.want("a", 1)
}

func TestCheckpointTCP(t *testing.T) {
	s := counter(t, playing("counter", "tcp"))
	s.want("a", 1)
	err := s.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: s.image}})
	refused(t, err, nil, "checkpoint box", "Connected TCP socket", "--tcp-established")
	left(t, s.image, "dump.log") // which the error names
	s.want("b", 2)
	tcp := hull.ImageOptions{TCPConnected: true}
	s.checkpoint(hull.CheckpointOptions{ImageOptions: tcp})
	s.restore(hull.RestoreOptions{ImageOptions: tcp})
	s.want("c", 3)
	s.ends()
}

// left wants nothing in a directory but these.
func left(t testing.TB, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("%s has %q, want %q", dir, names, want)
	}
}

func TestCheckpointTerminal(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU)
	r := newRuntime(t)
	r.CRIU = hulltest.CRIUProgram()
	bundle := hulltest.Bundle(t, withActor(t, t.TempDir()), playing("counter"), withTerminal)
	image := filepath.Join(t.TempDir(), "image")
	var master console
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Console: master.take})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	talk(t, master.File, "a", "a 1")
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}}); err != nil {
		t.Fatal(errorText(err))
	}
	master.Close()
	restored, err := r.Restore(t.Context(), "box", hull.RestoreOptions{
		CreateOptions: hull.CreateOptions{Bundle: bundle, Console: master.take}, ImageOptions: hull.ImageOptions{Path: image},
	})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, restored)
	talk(t, master.File, "b", "b 2")
	master.Close()
}

// A job of a shell's is at the terminal of the shell, which another one's restores it at.
func TestCheckpointShellJob(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU, hulltest.CRIUShellJob)
	dir := t.TempDir()
	bundle := hulltest.Bundle(t, withActor(t, dir), playing("counter"))
	job := func(verb string) (master *os.File, done <-chan error) {
		t.Helper()
		master, slave := openTerminal(t)
		defer slave.Close()
		t.Cleanup(func() { master.Close() })
		cmd := actor(t, "shell", verb, bundle, dir)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		return master, ended
	}
	r := &hull.Runtime{Root: filepath.Join(dir, "state"), CRIU: hulltest.CRIUProgram()}
	master, done := job("run")
	talk(t, master, "a", "a 1")
	c, err := r.Container("box")
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	image := hull.ImageOptions{Path: filepath.Join(dir, "image")}
	refused(t, c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image}), nil, "checkpoint box", "--shell-job")
	image.ShellJob = true
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image}); err != nil {
		t.Fatal(errorText(err))
	}
	<-done
	master, done = job("restore")
	talk(t, master, "b", "b 2")
	if c, err = r.Container("box"); err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	fmt.Fprint(master, "\x04") // the end of what is typed
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// openTerminal returns both ends of a terminal that is nobody's yet.
func openTerminal(t testing.TB) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "master")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// talk says something at a terminal and waits for an answer.
func talk(t testing.TB, master *os.File, word, want string) {
	t.Helper()
	fmt.Fprintln(master, word)
	master.SetReadDeadline(time.Now().Add(20 * time.Second))
	for lines := bufio.NewScanner(master); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == want {
			return
		}
	}
	t.Fatalf("no answer %q", want)
}

// A standard stream that is a file on the host is replaced as a pipe is. CRIU wants one of the same size.
func TestCheckpointWithFiles(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU)
	r := newRuntime(t)
	r.CRIU = hulltest.CRIUProgram()
	dir := t.TempDir()
	bundle := hulltest.Bundle(t, args("do", "echo", "before", ",", "sleep", "0.5", ",", "echo", "after"))
	open := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open("first"), open("second")
	if _, err := second.WriteString("BEFORE\n"); err != nil {
		t.Fatal(err)
	}
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Stdio: hull.Stdio{Out: first}})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	image := hull.ImageOptions{Path: filepath.Join(dir, "image")}
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image}); err != nil {
		t.Fatal(errorText(err))
	}
	restored, err := r.Restore(t.Context(), "box", hull.RestoreOptions{
		CreateOptions: hull.CreateOptions{Bundle: bundle, Stdio: hull.Stdio{Out: second}}, ImageOptions: image,
	})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, restored)
	expect(t, "0", wait(t, restored.Init()))
	expect(t, "before\n", readAll(t, first))
	expect(t, "BEFORE\nafter\n", readAll(t, second))
}

// Images are what anybody may have written.
func TestRestoreOfBadImage(t *testing.T) {
	s := counter(t)
	s.want("a", 1)
	s.checkpoint(hull.CheckpointOptions{})
	for name, spoil := range map[string]struct {
		how   func(dir string) error
		words []string
	}{
		"no image": {func(dir string) error { return os.RemoveAll(dir) }, []string{"no such file"}},
		"empty": {func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700))
		}, []string{"descriptors.json", "no such file"}},
		"streams that are none": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "descriptors.json"), []byte(`{"a":1}`), 0o600)
		}, []string{"descriptors.json", "not an array"}},
		"too many streams": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "descriptors.json"), []byte(`["","","",""]`), 0o600)
		}, []string{"descriptors.json", "4 streams"}},
		"streams by a link": {func(dir string) error {
			file := filepath.Join(dir, "descriptors.json")
			return errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file))
		}, []string{"descriptors.json", "symbolic links"}},
		"streams by a fifo": {func(dir string) error {
			file := filepath.Join(dir, "descriptors.json")
			return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600))
		}, []string{"descriptors.json"}},
		"without memory": {func(dir string) error { return os.Remove(filepath.Join(dir, "pagemap-1.img")) }, []string{"CRIU"}},
		"cut off":        {func(dir string) error { return os.Truncate(filepath.Join(dir, "core-1.img"), 20) }, []string{"CRIU"}},
		"no process":     {func(dir string) error { return os.Truncate(filepath.Join(dir, "pstree.img"), 8) }, []string{"CRIU"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "image")
			if err := os.CopyFS(dir, os.DirFS(s.image)); err != nil {
				t.Fatal(err)
			}
			if err := spoil.how(dir); err != nil {
				t.Fatal(err)
			}
			err := s.tryRestore(hull.RestoreOptions{ImageOptions: hull.ImageOptions{Path: dir}})
			refused(t, err, nil, append(spoil.words, "restore box")...)
			if _, err := s.runtime.Container("box"); !errors.Is(err, hull.ErrNotExist) {
				t.Errorf("a restoration that failed has left: %v", err)
			}
		})
	}
	s.restore(hull.RestoreOptions{})
	s.want("b", 2)
	s.ends()
}

func TestCheckpointWithoutCRIU(t *testing.T) {
	c := running(t)
	r := newRuntime(t)
	r.Root = filepath.Dir(c.Dir())
	for name, test := range map[string]struct {
		program string
		words   []string
	}{
		"missing":  {"/nonexistent/criu", []string{"/nonexistent/criu", "no such file"}},
		"no CRIU":  {hulltest.Prog(t), []string{hulltest.Prog(t), "ends without an answer"}},
		"not here": {"criu-of-nobody", []string{"criu-of-nobody", "not found"}},
	} {
		t.Run(name, func(t *testing.T) {
			r.CRIU = test.program
			box, err := r.Container("box")
			if err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(t.TempDir(), "image")
			err = box.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}})
			refused(t, err, hull.ErrUnsupported, append(test.words, "checkpoint box")...)
			if hull.Hint(err) == "" {
				t.Errorf("%v: no hint", err)
			}
			if _, err := os.Stat(image); err == nil {
				t.Error("a checkpoint that was refused has left its directory")
			}
			wantStatus(t, box, hull.Running)
		})
	}
}

// A network namespace is restored with what was in it, or with a loopback that is up.
func TestCheckpointNetwork(t *testing.T) {
	s := counter(t)
	loopback := func() {
		t.Helper()
		const up = "0x9" // IFF_UP and IFF_LOOPBACK, netdevice(7)
		says(t, exec1(t, s.Container, verb("cat", "/sys/class/net/lo/flags")), up)
	}
	s.want("a", 1)
	s.checkpoint(hull.CheckpointOptions{})
	s.restore(hull.RestoreOptions{})
	loopback()
	image := hull.ImageOptions{Path: filepath.Join(filepath.Dir(s.image), "empty"), EmptyNS: []string{"network"}}
	s.checkpoint(hull.CheckpointOptions{ImageOptions: image})
	image.EmptyNS = nil // the image tells
	s.restore(hull.RestoreOptions{ImageOptions: image})
	loopback()
	s.want("b", 2)
	s.ends()
}

// Of a network namespace that was there before the container only the container is saved, and it is restored there.
func TestCheckpointJoinedNetwork(t *testing.T) {
	other := running(t)
	path := fmt.Sprintf("/proc/%d/ns/net", other.Init().Pid)
	want, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	s := counter(t, func(sp *specs.Spec) {
		for i := range sp.Linux.Namespaces {
			if sp.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				sp.Linux.Namespaces[i].Path = path
			}
		}
	}, playing("counter", "tcp"))
	s.want("a", 1)
	tcp := hull.ImageOptions{TCPConnected: true}
	s.checkpoint(hull.CheckpointOptions{ImageOptions: tcp})
	s.restore(hull.RestoreOptions{ImageOptions: tcp})
	s.want("b", 2)
	got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", s.Init().Pid))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, want, got)
	s.ends()
}

// Limits are those of the configuration, and the time of the container goes on.
func TestRestoreLimits(t *testing.T) {
	s := counter(t, resources(func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: ptr(int64(77))} }))
	s.want("a", 1)
	s.checkpoint(hull.CheckpointOptions{})
	s.restore(hull.RestoreOptions{})
	expect(t, "77", pidsMax.read(t, s.Container))
	pids, err := s.Processes()
	if err != nil || len(pids) != 1 {
		t.Errorf("processes %v, %v", pids, err)
	}
	s.want("b", 2)
	s.ends()
}

// A container that could not be restored is not saved.
func TestCheckpointUserNamespace(t *testing.T) {
	c := running(t, userNamespace)
	image := filepath.Join(t.TempDir(), "image")
	err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}})
	refused(t, err, hull.ErrUnsupported, "checkpoint box", "user namespace")
	if _, err := os.Stat(image); err == nil {
		t.Error("a checkpoint that was refused has left its directory")
	}
	wantStatus(t, c, hull.Running)
}

// prestart and createRuntime hooks see the restored namespaces.
func TestRestoreHooks(t *testing.T) {
	d := newDiary(t)
	s := counter(t, d.all, withActor(t, d.dir))
	s.want("a", 1)
	before := len(d.names(t))
	s.checkpoint(hull.CheckpointOptions{})
	s.restore(hull.RestoreOptions{})
	s.want("b", 2)
	hooks := d.read(t)[before:]
	var names []string
	for _, h := range hooks {
		names = append(names, h.Name)
		if !strings.HasPrefix(h.Name, "poststop") {
			expect(t, s.Init().Pid, h.State.Pid)
		}
	}
	expect(t, []string{"poststop 1", "poststop 2", "prestart", "createRuntime 1", "createRuntime 2"}, names)
	s.ends()
}

// A checkpoint that is given up leaves the container as it was.
func TestCheckpointGivenUp(t *testing.T) {
	s := counter(t)
	n := 0
	for patience := 10 * time.Millisecond; patience < 150*time.Millisecond; patience += 20 * time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := s.Checkpoint(ctx, hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: s.image}, LeaveRunning: true})
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(errorText(err))
		}
		if err != nil {
			left(t, s.image)
		} else if err := os.RemoveAll(s.image); err != nil {
			t.Error(err)
		}
		wantStatus(t, s.Container, hull.Running)
		n++
		s.want("x", n)
	}
}

// Where systemd makes the cgroup, it makes it for CRIU, and the restored processes stay in it.
func TestCheckpointSystemd(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.CRIU, hulltest.Systemd)
	r := newRuntime(t)
	r.CRIU, r.SystemdCgroup = hulltest.CRIUProgram(), true
	edits := []func(*specs.Spec){args("sleep", "3600"), func(s *specs.Spec) { s.Linux.CgroupsPath = "system.slice:hull:checkpoint" }}
	bundle := hulltest.Bundle(t, edits...)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	image := hull.ImageOptions{Path: filepath.Join(t.TempDir(), "image")}
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image}); err != nil {
		t.Fatal(errorText(err))
	}
	restored, err := r.Restore(t.Context(), "box", hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: bundle}, ImageOptions: image})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, restored)
	if cgroup := readFile(t, procPath(restored.Init().Pid, "cgroup")); !strings.Contains(cgroup, "hull-checkpoint.scope") {
		t.Errorf("it is in %s", cgroup)
	}
	says(t, exec1(t, restored, verb("readlink", "/proc/1/exe")), hulltest.ProgPath)
}
