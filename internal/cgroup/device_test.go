package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"hull/hulltest"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestDevices opens devices in a cgroup that denies all but the default ones, and one that was taken out of them.
func TestDevices(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g := newGroup(t, newConfig(t, nil))
	dir := t.TempDir()
	if err := unix.Mknod(dir+"/kmsg", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(dir+"/full", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7))); err != nil {
		t.Fatal(err)
	}
	set := func(rules ...specs.LinuxDeviceCgroup) {
		t.Helper()
		if err := g.setDevices(rules); err != nil {
			t.Fatal(err)
		}
	}
	opens := func(path string) bool {
		t.Helper()
		err := inside(g, "sh", "-c", "read x; exec 3<"+path)
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return err == nil
	}
	deny := specs.LinuxDeviceCgroup{Access: "rwm"}
	kmsg := specs.LinuxDeviceCgroup{Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r", Allow: true}
	set(deny)
	if opens(dir+"/kmsg") || !opens(dir+"/full") {
		t.Error("with the default rules: kmsg opens, or full doesn't")
	}
	if err := inside(g, "sh", "-c", "read x; mknod "+dir+"/node c 1 11"); err != nil {
		t.Errorf("mknod with the default rules: %v", err)
	}
	set(deny, kmsg)
	if !opens(dir + "/kmsg") {
		t.Error("allowed, kmsg doesn't open")
	}
	set(deny)
	if opens(dir + "/kmsg") {
		t.Error("not allowed any more, kmsg opens")
	}
	set(specs.LinuxDeviceCgroup{Access: "rwm", Allow: true})
	if !opens(dir + "/kmsg") {
		t.Error("with everything allowed, kmsg doesn't open")
	}
}

// TestDevicesFromTheStart: the rules are there before the first process is.
func TestDevicesFromTheStart(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	g := newGroup(t, newConfig(t, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}))
	node := t.TempDir() + "/kmsg"
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Fatal(err)
	}
	if err := inside(g, "sh", "-c", "read x; exec 3<"+node); err == nil {
		t.Error("kmsg opens")
	}
	if err := inside(g, "sh", "-c", "read x; exec 3</dev/null"); err != nil {
		t.Errorf("null: %v", err)
	}
}

// inside runs a program that is in g's cgroups before it reads its first line.
func inside(g *Group, args ...string) error {
	c := exec.Command(args[0], args[1:]...)
	in, err := c.StdinPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	defer c.Process.Kill()
	if err := g.addDirect("", c.Process.Pid); err != nil {
		return err
	}
	if _, err := in.Write([]byte("\n")); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	in.Close()
	return c.Wait()
}

func BenchmarkDevices(b *testing.B) {
	hulltest.Require(b, hulltest.Root)
	g, err := New(newConfig(b, nil))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		if err := g.Create(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := g.setDevices([]specs.LinuxDeviceCgroup{{Access: "rwm"}}); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := g.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
