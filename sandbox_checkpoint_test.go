package hull_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/image"
)

func TestSandboxCheckpoint(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "a", "image")
	c, d := runSaved(t, r, bundle)
	for n := range 3 {
		d.step(n + 1)
	}
	// Processes of exec end with the sandbox.
	for _, terminal := range []bool{false, true} {
		var master console
		p := c.ProcessSpec()
		p.Args, p.Terminal = hulltest.Args("sleep", "3600"), terminal
		o := hull.ExecOptions{Process: p}
		if terminal {
			o.Console = master.take
		}
		e, err := c.Exec(t.Context(), o)
		if err != nil {
			t.Fatal(errorText(err))
		}
		if terminal {
			defer master.Close()
		}
		defer func() { expect(t, "137", wait(t, e)) }()
	}
	checkpoint(t, c, image, false)
	expect(t, "signal SIGKILL", wait(t, c.Init()))
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("the container is still there: %v", err)
	}
	if fi, err := os.Stat(image); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", fi, err)
	}
	// By another name, and twice; the image says of which isolation it is.
	for _, id := range []string{"box", "fox"} {
		d := d.goesOn()
		r := &hull.Runtime{Root: r.Root, SandboxProgram: r.SandboxProgram, Warn: r.Warn}
		c := restore(t, r, id, restoreOptions(bundle, image, d))
		if c.Isolation() != hull.Sandbox {
			t.Errorf("its isolation is %s", c.Isolation())
		}
		d.step(4)
		d.step(5)
		list, err := c.Inside()
		for deadline := time.Now().Add(5 * time.Second); len(list) > 2 && time.Now().Before(deadline); list, err = c.Inside() {
			time.Sleep(10 * time.Millisecond)
		}
		if err != nil || len(list) != 2 {
			t.Errorf("got %v, %v", list, err)
		}
		if err := c.Pause(); err != nil {
			t.Error(errorText(err))
		}
		if err := c.Resume(); err != nil {
			t.Error(errorText(err))
		}
		d.in.Close()
		expect(t, "0", wait(t, c.Init()))
		if err := c.Delete(t.Context(), hull.DeleteOptions{}); err != nil {
			t.Error(errorText(err))
		}
	}
}

// What was restored can be saved, and what is left running goes on with what it has.
func TestSandboxLeaveRunning(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), t.TempDir()
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, filepath.Join(dir, "1"), true)
	d.step(2)
	checkpoint(t, c, filepath.Join(dir, "2"), true)
	d.step(3)
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	d = d.goesOn()
	c = restore(t, r, "box", restoreOptions(bundle, filepath.Join(dir, "2"), d))
	d.step(3)
	checkpoint(t, c, filepath.Join(dir, "3"), false)
	d = d.goesOn()
	restore(t, r, "box", restoreOptions(bundle, filepath.Join(dir, "3"), d))
	d.step(4)
}

// An image may be of any size that somebody has made up: who waits for it can leave off.
func TestSandboxRestoreInterrupted(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	checkpoint(t, c, dir, false)
	wait(t, c.Init())
	header := filepath.Join(dir, image.Header)
	raw, err := os.ReadFile(header)
	if err != nil {
		t.Fatal(err)
	}
	i, err := image.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	i.Files[image.Pages].Length = 1 << 42
	if raw, err = i.Encode(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(header, raw, 0o600), os.Truncate(filepath.Join(dir, image.Files[image.Pages]), 1<<42)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	_, err = r.Restore(ctx, "box", restoreOptions(bundle, dir, d.goesOn()))
	refused(t, err, context.DeadlineExceeded, "restore box")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it takes %v", took)
	}
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}

// A terminal goes on where it was, with another one of the host's.
func TestSandboxCheckpointTerminal(t *testing.T) {
	r := newRuntime(t)
	bundle, image := savedBundle(t, withTerminal), filepath.Join(t.TempDir(), "image")
	var master console
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Console: master.take})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	d := newDialogue(t)
	d.in, d.err, d.out = master.File, master.File, bufio.NewReader(master)
	defer master.Close()
	expect(t, "ready", d.line())
	d.typedStep(1)
	checkpoint(t, c, image, true)
	d.typedStep(2)
	checkpoint(t, c, image+"2", false)
	for range 2 {
		var again console
		o := restoreOptions(bundle, image+"2", d)
		o.Stdio, o.Console = hull.Stdio{}, again.take
		c = restore(t, r, "box", o)
		defer again.Close()
		n := &dialogue{t: t, in: again.File, err: again.File, out: bufio.NewReader(again), up: d.up}
		n.typedStep(3)
		n.typedStep(4)
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
}

// Streams may be others than they were: files, or the null device, instead of pipes, and the other way round.
func TestSandboxCheckpointStreams(t *testing.T) {
	for name, before := range map[string]int{"of one that ran": 0, "of one that was restored": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRuntime(t)
			bundle, dir := savedBundle(t), t.TempDir()
			image := func(n int) string { return filepath.Join(dir, fmt.Sprint("image", n)) }
			c, d := runSaved(t, r, bundle)
			d.step(1)
			checkpoint(t, c, image(0), false)
			for n := range before { // from pipes to pipes
				d = d.goesOn()
				c = restore(t, r, "box", restoreOptions(bundle, image(n), d))
				d.step(n + 2)
				checkpoint(t, c, image(n+1), false)
			}
			// From pipes to files.
			in, err := os.Create(filepath.Join(dir, "in"))
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if _, err := in.WriteString("go\ngo\n"); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			out, err := os.Create(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			o := restoreOptions(bundle, image(before), d)
			o.Stdio = hull.Stdio{In: in, Out: out, Err: out}
			c = restore(t, r, "box", o)
			expect(t, "0", wait(t, c.Init()))
			text, err := os.ReadFile(out.Name())
			if err != nil || !strings.HasPrefix(string(text), fmt.Sprintf("count %d ", before+2)) || strings.Count(string(text), "\n") != 2 {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}

// Somebody who is killed while a container is saved or restored leaves one that goes on, or can be deleted.
func TestSandboxCheckpointKilled(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), t.TempDir()
	c, d := runSaved(t, r, bundle)
	d.step(1)
	n := 1
	for i := range 8 {
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "checkpoint", "box", filepath.Join(dir, fmt.Sprint(i)))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 7 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		n++
		d.step(n)
		names, err := filepath.Glob(filepath.Join(dir, fmt.Sprint(i), ".*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(names) > 0 { // the next takes it away
			checkpoint(t, c, filepath.Join(dir, fmt.Sprint(i)), true)
			if names, _ = filepath.Glob(filepath.Join(dir, fmt.Sprint(i), ".*")); len(names) > 0 {
				t.Errorf("%v are left", names)
			}
		}
	}
	image := filepath.Join(dir, "image")
	checkpoint(t, c, image, false)
	for i := range 8 {
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "restore", "box", image, bundle)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 20 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
	d = d.goesOn()
	restore(t, r, "box", restoreOptions(bundle, image, d))
	d.step(n + 1)
}

func init() { roles["checkpointer"] = playCheckpointer }

// playCheckpointer is a caller who may be killed: ROOT SANDBOX-PROGRAM checkpoint|restore ID IMAGE [BUNDLE].
func playCheckpointer(args []string) error {
	r := &hull.Runtime{Root: args[0], SandboxProgram: args[1], Isolation: hull.Sandbox}
	image := hull.ImageOptions{Path: args[4]}
	if args[2] == "restore" {
		_, err := r.Restore(context.Background(), args[3], hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: args[5]}, ImageOptions: image})
		return err
	}
	c, err := r.Container(args[3])
	if err != nil {
		return err
	}
	return c.Checkpoint(context.Background(), hull.CheckpointOptions{ImageOptions: image, LeaveRunning: true})
}

// Where there is no room for an image, the container goes on, and no image is there.
func TestSandboxCheckpointWithoutRoom(t *testing.T) {
	r := newRuntime(t)
	c, d := runSaved(t, r, savedBundle(t))
	d.step(1)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, leave := range []bool{true, false} {
		err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: dir}, LeaveRunning: leave})
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("got %v, want ENOSPC", err)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("%v, %v are left", names, err)
		}
	}
	d.step(2)
}

// The network of a restored container is that which is there then.
func TestSandboxCheckpointNetwork(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("ip"))
	r := newRuntime(t)
	bundle, image := savedBundle(t), filepath.Join(t.TempDir(), "image")
	configuration := func() *specs.Spec {
		inside := hulltest.NewNetns(t, nil)
		joinOutside(t, inside)
		raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		s := new(specs.Spec)
		if err := json.Unmarshal(raw, s); err != nil {
			t.Fatal(err)
		}
		for i := range s.Linux.Namespaces {
			if ns := &s.Linux.Namespaces[i]; ns.Type == specs.NetworkNamespace {
				ns.Path = procPath(inside.TID, "ns/net")
			}
		}
		return s
	}
	connects := func(c *hull.Container) {
		t.Helper()
		says(t, exec1(t, c, verb("connect", "tcp", "10.98.0.1:80")), "connected")
	}
	d := newDialogue(t)
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Spec: configuration(), Stdio: d.stdio})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	expect(t, "ready", d.line())
	connects(c)
	checkpoint(t, c, image, true)
	connects(c)
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	d = d.goesOn()
	o := restoreOptions(bundle, image, d)
	o.Spec = configuration()
	c = restore(t, r, "box", o)
	d.step(1)
	connects(c)
}

// A sandbox that is killed amid all leaves an error, and what delete takes away.
func TestSandboxKilledAmidCheckpoint(t *testing.T) {
	r := newRuntime(t)
	bundle, dir := savedBundle(t), t.TempDir()
	image := filepath.Join(dir, "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, false)
	for i := range 6 {
		d := d.goesOn()
		after := time.Duration(i) * 5 * time.Millisecond
		c := restore(t, r, "box", restoreOptions(bundle, image, d))
		path := filepath.Join(dir, fmt.Sprint(i))
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "checkpoint", "box", path)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after)
		_ = unix.Kill(c.Init().Pid, unix.SIGKILL)
		err := cmd.Wait()
		_, serr := os.Stat(filepath.Join(path, "sandbox.header"))
		if (err == nil) != (serr == nil) {
			t.Errorf("killed after %v: checkpoint: %v, header: %v", after, err, serr)
		}
		if names, _ := filepath.Glob(filepath.Join(path, ".*")); len(names) > 0 {
			t.Errorf("killed after %v: %v are left", after, names)
		}
		if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
	for i := range 6 {
		after := time.Duration(i) * 20 * time.Millisecond
		cmd := actor(t, "checkpointer", r.Root, r.SandboxProgram, "restore", "box", image, bundle)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var c *hull.Container
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && (c == nil || c.Init().Pid == 0); {
			c, _ = r.Container("box")
		}
		time.Sleep(after)
		if c != nil && c.Init().Pid > 0 {
			_ = unix.Kill(c.Init().Pid, unix.SIGKILL)
		}
		_ = cmd.Wait()
		if err := r.Delete(t.Context(), "box", hull.DeleteOptions{Force: true}); err != nil {
			t.Error(errorText(err))
		}
	}
}

// A paused container is saved as it is, and stays paused if it stays: nothing happens in it meanwhile, though it was asked to.
func TestSandboxCheckpointOfPaused(t *testing.T) {
	r := newRuntime(t)
	image := hull.ImageOptions{Path: filepath.Join(t.TempDir(), "image")}
	bundle := savedBundle(t)
	c, d := runSaved(t, r, bundle)
	d.step(1)
	if err := c.Pause(); err != nil {
		t.Fatal(errorText(err))
	}
	d.ask()
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image, LeaveRunning: true}); err != nil {
		t.Fatal(errorText(err))
	}
	wantStatus(t, c, hull.Paused)
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(d.err.Fd()), Events: unix.POLLIN}}, 0); n != 0 {
		t.Errorf("it has said something while it was saved: %v", err)
	}
	if err := c.Resume(); err != nil {
		t.Fatal(errorText(err))
	}
	d.said(2)
	if err := c.Pause(); err != nil {
		t.Fatal(errorText(err))
	}
	image.Path += "2"
	if err := c.Checkpoint(t.Context(), hull.CheckpointOptions{ImageOptions: image}); err != nil {
		t.Fatal(errorText(err))
	}
	if _, err := r.Container("box"); !errors.Is(err, hull.ErrNotExist) {
		t.Errorf("after the checkpoint: %v, want no container", err)
	}
	d = d.goesOn()
	wantStatus(t, restore(t, r, "box", restoreOptions(bundle, image.Path, d)), hull.Running)
	d.step(3)
}

// What can't be saved, or restored, is refused before anything is made.
func TestSandboxCheckpointRefused(t *testing.T) {
	r := newRuntime(t)
	image := filepath.Join(t.TempDir(), "image")
	bundle := savedBundle(t)
	c, d := runSaved(t, r, bundle)
	options := func(change func(*hull.CheckpointOptions)) hull.CheckpointOptions {
		o := hull.CheckpointOptions{ImageOptions: hull.ImageOptions{Path: image}}
		change(&o)
		return o
	}
	for want, o := range map[string]hull.CheckpointOptions{
		"--lazy-pages":               options(func(o *hull.CheckpointOptions) { o.LazyPages = true }),
		"--manage-cgroups-mode full": options(func(o *hull.CheckpointOptions) { o.ManageCgroups = "full" }),
		"--pre-dump":                 options(func(o *hull.CheckpointOptions) { o.PreDump = true }),
		"--parent-path":              options(func(o *hull.CheckpointOptions) { o.ParentPath = "../x" }),
		"--page-server":              options(func(o *hull.CheckpointOptions) { o.PageServer = "127.0.0.1:1" }),
		"--status-fd":                options(func(o *hull.CheckpointOptions) { o.StatusFD = os.Stdin }),
	} {
		refused(t, c.Checkpoint(t.Context(), o), hull.ErrUnsupported, "checkpoint box", want)
	}
	d.step(1)
	// A socket that a process was given, for as long as it has it.
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer ours.Close()
	p := c.ProcessSpec()
	p.Args = hulltest.Args("sleep", "3600")
	e, err := c.Exec(t.Context(), hull.ExecOptions{Process: p, Stdio: hull.Stdio{In: theirs}})
	theirs.Close()
	if err != nil {
		t.Fatal(errorText(err))
	}
	refused(t, c.Checkpoint(t.Context(), options(func(*hull.CheckpointOptions) {})), hull.ErrUnsupported, "a socket of the host's")
	if err := e.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	_, _ = e.Wait()
	if _, err := os.Stat(image); err == nil {
		t.Error("a directory is left")
	}
	if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
		t.Fatal(errorText(err))
	}
	host := func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	}
	c = runningIn(t, r, host)
	refused(t, c.Checkpoint(t.Context(), options(func(*hull.CheckpointOptions) {})), hull.ErrUnsupported, "the host's network")
	wantStatus(t, c, hull.Running)
}

// What the kernel was told is what it does when it is restored; what was written to a root in memory is in the image.
func TestSandboxCheckpointSettings(t *testing.T) {
	r := newRuntime(t)
	r.Sandbox.Overlay = "memory"
	image := filepath.Join(t.TempDir(), "image")
	const ports = "net.ipv4.ip_local_port_range"
	bundle := hulltest.Bundle(t, args("sleep", "3600"), func(s *specs.Spec) {
		s.Hostname = "saved"
		s.Linux.Sysctl = map[string]string{ports: "20000 20100"}
	})
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	see := func(c *hull.Container) {
		t.Helper()
		says(t, exec1(t, c, verb("hostname")), "saved (none)")
		says(t, exec1(t, c, verb("sysctl", ports)), "20000 20100")
	}
	see(c)
	says(t, exec1(t, c, verb("write", "/written", "kept")))
	checkpoint(t, c, image, false)
	if _, err := os.Stat(filepath.Join(bundle, "rootfs/written")); err == nil {
		t.Error("it was written to the host's files")
	}
	r.Sandbox.Overlay = "" // it is in the image
	c = restore(t, r, "box", hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: bundle}, ImageOptions: hull.ImageOptions{Path: image}})
	see(c)
	expect(t, outcome{Status: "0", Out: "kept"}, exec1(t, c, verb("cat", "/written")))
}
