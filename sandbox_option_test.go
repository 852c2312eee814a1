package hull_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// What is written to the root is kept in memory, or in a file, and the host's files stay as they are.
func TestSandboxOverlay(t *testing.T) {
	files := t.TempDir()
	for _, overlay := range []string{"memory", "dir=" + files} {
		t.Run(overlay[:3], func(t *testing.T) {
			rt, streams := newRuntime(t), newStreams(t)
			rt.Sandbox.Overlay = overlay
			bundle := hulltest.Bundle(t, func(s *specs.Spec) {
				s.Process.Args = hulltest.Args("do", "write", "/old", "new\n", ",", "cat", "/old", ",", "write", "/more", "text", ",", "stat", "/more", ",", "ls", "/dir")
				s.Root.Readonly = false
			})
			root := filepath.Join(bundle, "rootfs")
			if err := errors.Join(os.WriteFile(filepath.Join(root, "old"), []byte("old\n"), 0o644), os.MkdirAll(filepath.Join(root, "dir/below"), 0o755),
				os.Chmod(root, 0o751)); err != nil {
				t.Fatal(err)
			}
			c, err := rt.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Stdio: streams.stdio()})
			if err != nil {
				t.Fatal(errorText(err))
			}
			remove(t, rt, c)
			if out := fmt.Sprint(streams.outcome(t, c.Init())); !strings.Contains(out, "new\n") || !strings.Contains(out, "below") {
				t.Errorf("got %s", out)
			}
			text, err := os.ReadFile(filepath.Join(root, "old"))
			_, more := os.Stat(filepath.Join(root, "more"))
			left, _ := os.ReadDir(files)
			if string(text) != "old\n" || err != nil || more == nil || len(left) > 0 {
				t.Errorf("the host has %q, %v, %v, %v", text, err, more, left)
			}
		})
	}
}

// What is kept in memory is saved with the container, what is kept in a file can't be.
func TestSandboxOverlaySaved(t *testing.T) {
	r := newRuntime(t)
	r.Sandbox.Overlay = "memory"
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, false)
	wait(t, c.Init())
	_, err := r.Restore(t.Context(), "box", restoreOptions(bundle, image, d))
	refused(t, err, hull.ErrUnsupported, "saved with")
	r.Sandbox.Overlay = ""
	d = d.goesOn()
	c = restore(t, r, "box", restoreOptions(bundle, image, d))
	d.step(2)
	if n := readonlyRoots(t, c); n == 0 {
		t.Error("no root is open")
	}
	again := filepath.Join(t.TempDir(), "image")
	checkpoint(t, c, again, false)
	wait(t, c.Init())
	d = d.goesOn()
	c = restore(t, r, "again", restoreOptions(bundle, again, d))
	d.step(3)
	if n := readonlyRoots(t, c); n == 0 {
		t.Error("no root is open")
	}
	d.in.Close()
	expect(t, "0", wait(t, c.Init()))
	if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
		t.Error(errorText(err))
	}
	r.Sandbox.Overlay = "dir=" + t.TempDir()
	c, _ = runSaved(t, r, bundle)
	err = c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: filepath.Join(t.TempDir(), "image")}})
	refused(t, err, hull.ErrUnsupported, "overlay")
}

// A restored sandbox has no options, and would not let its programs connect with the host's.
func TestSandboxHostSocketsSaved(t *testing.T) {
	r := newRuntime(t)
	r.Sandbox.HostUDS = "open"
	c, _ := runSaved(t, r, savedBundle(t))
	err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: filepath.Join(t.TempDir(), "image")}})
	refused(t, err, hull.ErrUnsupported, "host-uds")
}

// Sockets of the host's and its network together are refused, with the cure.
func TestSandboxHostSocketsOnHostNetwork(t *testing.T) {
	r := newRuntime(t)
	r.Sandbox.HostUDS = "open"
	_, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, noNamespace(specs.NetworkNamespace))})
	refused(t, err, hull.ErrUnsupported, "host-uds")
	if !strings.Contains(hull.Hint(err), "linux.namespaces") {
		t.Errorf("%v: no cure, but %q", err, hull.Hint(err))
	}
}

// Others may change the root of a container that says so.
func TestSandboxSharedRoot(t *testing.T) {
	rt := newRuntime(t)
	rt.Sandbox.FileAccess = "shared"
	c := create(t, rt, hull.CreateOptions{}, args("sleep", "3600"))
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(errorText(err))
	}
	state, err := c.State()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(state.Rootfs, "shared")
	for _, text := range []string{"one", "two and more"} {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		says(t, exec1(t, c, verb("cat", "/shared")), text)
	}
}

// Of a root that is the container's alone more files stay open than the sandbox's file system keeps by itself, which is a
// thousand; of one that it shares with the host no more.
func TestSandboxKeepsFilesOpen(t *testing.T) {
	const files, few = 1500, 1000
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || l.Max/8 < files {
		t.Skipf("a process may have %d files open (%v), too few to keep %d for this", l.Max, err, files)
	}
	for _, access := range []string{"exclusive", "shared"} {
		t.Run(access, func(t *testing.T) {
			rt := newRuntime(t)
			rt.Sandbox.FileAccess = access
			c := create(t, rt, hull.CreateOptions{}, args("sleep", "3600"))
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(errorText(err))
			}
			state, err := c.State()
			if err != nil {
				t.Fatal(err)
			}
			before := descriptors(t, c)
			stats := []string{"do"}
			for i := range files {
				name := fmt.Sprintf("/file%d", i)
				if err := os.WriteFile(filepath.Join(state.Rootfs, name), nil, 0o644); err != nil {
					t.Fatal(err)
				}
				stats = append(stats, "stat", name, ",")
			}
			if got := exec1(t, c, verb(stats[0], stats[1:len(stats)-1]...)); got.Status != "0" {
				t.Fatalf("got %v", got)
			}
			if kept := descriptors(t, c) - before; access == "shared" && kept > few+few/10 || access == "exclusive" && kept < files {
				t.Errorf("of %d files %d stayed open", files, kept)
			}
		})
	}
}

// descriptors counts the descriptors of a sandbox's process.
func descriptors(t *testing.T, c *hull.Container) int {
	t.Helper()
	fds, err := os.ReadDir(procPath(c.Init().Pid, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// A FIFO joins a program with one of the host only where that is chosen.
func TestSandboxFifo(t *testing.T) {
	for _, option := range []string{"none", "open"} {
		t.Run(option, func(t *testing.T) {
			rt, streams, dir := newRuntime(t), newStreams(t), t.TempDir()
			rt.Sandbox.HostFifo = option
			if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
				t.Fatal(err)
			}
			reader, err := os.OpenFile(filepath.Join(dir, "fifo"), os.O_RDWR|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			c := create(t, rt, hull.CreateOptions{Stdio: streams.stdio()}, args("write", "/vol/fifo", "heard"), func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: dir, Options: []string{"bind"}})
			})
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(errorText(err))
			}
			if option == "none" {
				time.Sleep(200 * time.Millisecond)
				_ = c.Signal(unix.SIGKILL, false)
			}
			streams.outcome(t, c.Init())
			got := make([]byte, 16)
			_ = reader.SetReadDeadline(time.Now().Add(time.Second))
			n, _ := reader.Read(got)
			if want := map[string]string{"none": "", "open": "heard"}[option]; string(got[:n]) != want {
				t.Errorf("with %q: %q came through, want %q", option, got[:n], want)
			}
		})
	}
}

// Options that can't be are refused before anything is made.
func TestSandboxOptions(t *testing.T) {
	for _, o := range []hull.SandboxOptions{{Overlay: "disk"}, {Overlay: "dir=relative"}, {FileAccess: "both"}, {FileAccessMounts: "x"}, {HostFifo: "all"}, {HostUDS: "x"}} {
		rt := newRuntime(t)
		rt.Sandbox = o
		_, err := rt.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
		refused(t, err, hull.ErrBadUsage)
	}
	rt := newRuntime(t)
	rt.Sandbox.Overlay = "dir=/nonexistent"
	_, err := rt.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v", err)
	}
	// Never the machine's own KVM, which may hang who uses it.
	fifo := t.TempDir() + "/kvm"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, o := range []hull.SandboxOptions{{Platform: "ptrace"}, {Platform: "kvm", PlatformDevice: fifo + "0"}, {Platform: "kvm", PlatformDevice: fifo}} {
		rt.Sandbox = o
		_, err := rt.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
		refused(t, err, hull.ErrUnsupported, "platform "+o.Platform)
		if _, err := rt.Container("box"); !errors.Is(err, hull.ErrNotExist) {
			t.Errorf("%+v: something is left: %v", o, err)
		}
	}
	rt = newRuntime(t)
	rt.Isolation, rt.Sandbox.Overlay = hull.Native, "memory"
	_, err = rt.Create(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t)})
	refused(t, err, hull.ErrBadUsage)
}

// The settings that the kernel of a sandbox has are set, those that are so anyway are what is asked for.
func TestSandboxSysctls(t *testing.T) {
	want := map[string]string{
		"net.ipv4.ip_local_port_range": "20000 20100", "net.ipv4.tcp_recovery": "0",
		"net.ipv4.tcp_rmem": "4096 8192 16384", "net.ipv4.tcp_sack": "0", "net.ipv4.tcp_wmem": "4096 16384 65536",
		"kernel.domainname": "example.test", "net.core.somaxconn": "1024", "kernel.shmmax": "18446744073692774399",
		"kernel.shmall": "18446744073692774399", "kernel.shmmni": "4096", "kernel.msgmni": "32000", "kernel.msgmax": "8192",
		"kernel.msgmnb": "16384", "kernel.sem": "32000 1024000000 500 32000",
	}
	c := running(t, func(s *specs.Spec) { s.Linux.Sysctl = want })
	for name, value := range want {
		out := exec1(t, c, verb("sysctl", name))
		if got := strings.Join(strings.Fields(out.Out), " "); got != value {
			t.Errorf("%s: got %q, want %q", name, got, value)
		}
	}
}

// A tmpfs begins with what it covers, which stays as it is.
func TestSandboxCopyUp(t *testing.T) {
	bundle := hulltest.Bundle(t, func(s *specs.Spec) {
		s.Process.Args = hulltest.Args("do", "cat", "/dir/a/text", ",", "stat", "/dir/a/text", ",", "readlink", "/dir/link", ",", "write", "/dir/new", "text")
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dir", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	})
	dir := filepath.Join(bundle, "rootfs/dir")
	text := filepath.Join(dir, "a/text")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(text, []byte("text\n"), 0o640),
		os.Chown(text, 1234, 5678), unix.Chmod(text, 0o4755), os.Link(text, filepath.Join(dir, "z")), os.Symlink("/a/b", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	rt, streams := newRuntime(t), newStreams(t)
	c, err := rt.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Stdio: streams.stdio()})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, rt, c)
	out := streams.outcome(t, c.Init())
	for _, want := range []string{"text\n", "/dir/a/text", "4755", "1234", "5678", "/a/b"} {
		if !strings.Contains(out.Out, want) || out.Status != "0" {
			t.Errorf("no %q in %+v", want, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("the host has what was written")
	}
}

// An idmapped mount shows the ids that its maps say, and gives those to what is made in it.
func TestSandboxIDMap(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chown(dir, 7003, 7004), os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Chown(filepath.Join(dir, "file"), 7007, 7008)); err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 7000, HostID: 0, Size: 1000}}
	r, streams := newRuntime(t), newStreams(t)
	bundle := hulltest.Bundle(t, args("do", "stat", "/vol/file", ",", "write", "/vol/new", "x"), func(s *specs.Spec) {
		s.Process.User = specs.User{UID: 3, GID: 4}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: dir, Options: []string{"bind"}, UIDMappings: ids, GIDMappings: ids})
	})
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Stdio: streams.stdio()})
	if errors.Is(err, unix.EINVAL) {
		t.Skipf("needs a file system for temporary files that can be idmapped: %v", err)
	}
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	if out := streams.outcome(t, c.Init()); !strings.Contains(out.Out, " 7 8 ") || out.Status != "0" {
		t.Errorf("got %+v", out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "new"), &st); err != nil || st.Uid != 7003 || st.Gid != 7004 {
		t.Errorf("on the host it is %d:%d's, %v", st.Uid, st.Gid, err)
	}
}

// Sockets of the host's in a mount are connected with where that is chosen.
func TestSandboxHostSockets(t *testing.T) {
	for _, option := range []string{"none", "open"} {
		t.Run(option, func(t *testing.T) {
			rt, streams, dir := newRuntime(t), newStreams(t), t.TempDir()
			rt.Sandbox.HostUDS = option
			l, err := net.Listen("unix", filepath.Join(dir, "@s"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Join(dir, "@s"), 0o777)); err != nil {
				t.Fatal(err)
			}
			c := create(t, rt, hull.CreateOptions{Stdio: streams.stdio()}, args("connect", "unix", "/vol/@s"), func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: dir, Options: []string{"bind"}})
			})
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(errorText(err))
			}
			out := streams.outcome(t, c.Init())
			if want := map[string]string{"none": "refused", "open": "connected"}[option]; !strings.Contains(out.Out+out.Err, want) {
				t.Errorf("got %+v, want %s", out, want)
			}
		})
	}
}

// Sockets that the container's programs make in a mount are the host's where that is chosen, with their owners and modes; programs
// inside connect with them, too.
func TestSandboxMakesHostSockets(t *testing.T) {
	for _, option := range []string{"open", "create", "all"} {
		t.Run(option, func(t *testing.T) {
			rt, streams, dir := newRuntime(t), newStreams(t), t.TempDir()
			rt.Sandbox.HostUDS = option
			if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, 1000, 1000)); err != nil {
				t.Fatal(err)
			}
			volume := func(s *specs.Spec) {
				s.Process.User = specs.User{UID: 1000, GID: 1000, Umask: ptr(uint32(0o027))}
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/vol", Source: dir, Options: []string{"bind"}})
			}
			c := create(t, rt, hull.CreateOptions{Stdio: streams.stdio()}, args("do", "listen", "/vol/own", ",", "serve", "/vol/s"), volume)
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(errorText(err))
			}
			eventually(t, "it has said hello to itself", func() bool { return readAll(t, streams.out) == "hello\n" })
			if option == "open" {
				time.Sleep(50 * time.Millisecond)
				if _, err := os.Lstat(filepath.Join(dir, "s")); err == nil {
					t.Error("there is a socket on the host")
				}
				return
			}
			// Before somebody connects: with its only guest the program takes the socket away.
			var st unix.Stat_t
			eventually(t, "the host has a socket with an owner", func() bool { return unix.Lstat(filepath.Join(dir, "s"), &st) == nil && st.Uid != 0 && st.Gid != 0 })
			if st.Uid != 1000 || st.Gid != 1000 || st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Mode&0o777 != 0o750 {
				t.Errorf("on the host: %d:%d %o", st.Uid, st.Gid, st.Mode)
			}
			var peer net.Conn
			eventually(t, "the host connects", func() bool {
				var err error
				peer, err = net.Dial("unix", filepath.Join(dir, "s"))
				return err == nil
			})
			defer peer.Close()
			got, err := io.ReadAll(peer)
			if string(got) != "hello\n" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			expect(t, "0", wait(t, c.Init()))
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}
