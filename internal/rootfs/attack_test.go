package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/fault"
)

// In each of these an image, or a volume that another container shares, attacks. Every run also checks that nothing
// has been mounted outside the root: see onlyInside.

// CVE-2019-19921, CVE-2023-27561, CVE-2025-54867.
func TestProcThroughLink(t *testing.T) {
	needRoot(t)
	for _, name := range []string{"proc", "sys"} {
		for _, target := range []string{"/etc", "etc", "/none", "../../../../../tmp"} {
			t.Run(name+" to "+target, func(t *testing.T) {
				c := newContainer(t)
				link(t, target, c.rootfs(name))
				c.fails(t, throughLink(), `an ordinary directory without links: /`+name)
			})
		}
	}
}

// throughLink is the errno for a directory that is a link: openat2(2) knows better than openat(2).
func throughLink() unix.Errno {
	if Probe().Openat2 {
		return unix.ELOOP
	}
	return unix.ENOTDIR
}

func TestProcIsAFile(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	os.Remove(c.rootfs("proc"))
	write(t, c.rootfs("proc"), "")
	c.fails(t, unix.ENOTDIR, `mounts[0] "/proc"`)
}

// CVE-2019-16884: a volume that pretends to be proc.
func TestProcIsAVolume(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.Spec.Mounts[0] = specs.Mount{Destination: "/proc", Source: t.TempDir(), Options: []string{"bind"}}
	c.fails(t, unix.EPERM, `mounts[0] "/proc": the source is no proc file system`)
	c.Spec.Mounts[0].Source = "/proc/sys"
	c.fails(t, unix.EPERM, `mounts[0] "/proc": the source is not the root of proc`)
	c.Spec.Mounts[0].Source = "/proc"
	c.expect(t, "test -e /proc/self/mountinfo && echo ok", "ok")
}

func TestMountInsideProc(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	dir := t.TempDir()
	write(t, dir+"/file", "fake\n")
	c.mount(specs.Mount{Destination: "/proc/sys", Source: dir, Options: []string{"bind"}})
	c.fails(t, fault.BadSpec, "inside /proc")
	c.Spec.Mounts[6].Destination = "/x/../proc//sys"
	c.fails(t, fault.BadSpec, "inside /proc")

	// Through a link of the image.
	for _, target := range []string{"/proc/sys", "/proc", "proc/self/attr"} {
		link(t, target, c.rootfs("into"))
		c.Spec.Mounts[6].Destination = "/into"
		if Probe().Openat2 || target != "proc/self/attr" { // else "self" is a link that nobody follows
			c.fails(t, unix.EPERM, `mounts[6] "/into": the path leads into proc`)
		} else {
			c.fails(t, unix.ENOTDIR, `mounts[6] "/into"`)
		}
		c.Spec.Mounts[6].Source, c.Spec.Mounts[6].Destination = dir+"/file", "/into/version"
		if _, err := c.run(t); err == nil {
			t.Errorf("a file is mounted in %s", target)
		}
		c.Spec.Mounts[6].Source = dir
	}

	c.Spec.Mounts[6] = specs.Mount{Destination: "/proc/uptime", Source: dir + "/file", Options: []string{"bind"}}
	c.expect(t, "cat /proc/uptime", "fake")
}

// CVE-2021-30465 without the race: links in the image that lead out of it, if followed outside the root.
func TestTargetThroughLink(t *testing.T) {
	needRoot(t)
	host := tempDir(t)
	write(t, host+"/marker", "host")
	for _, target := range []string{host, "../../../../../../../../../../.." + host} {
		for _, typ := range []string{"bind", "tmpfs"} {
			c := newContainer(t)
			link(t, target, c.rootfs("etc/link"))
			c.mount(specs.Mount{Destination: "/etc/link/in", Type: typ, Source: "/tmp"})
			c.expect(t, "test -d "+host+"/in && echo inside", "inside")
			if names, _ := os.ReadDir(host); len(names) != 1 {
				t.Errorf("%s has %v", host, names)
			}
		}
	}
}

// Magic links lead to where no path does.
func TestTargetThroughMagicLink(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.mount(specs.Mount{Destination: "/etc/link/tmp", Type: "tmpfs", Source: "tmpfs"})
	for _, target := range []string{"/proc/self/root", "/proc/1/cwd", "/proc/self/fd/3"} {
		link(t, target, c.rootfs("etc/link"))
		if _, err := c.run(t); err == nil {
			t.Errorf("mounted through %s", target)
		}
	}
}

// CVE-2026-41579: what is made and deleted in /dev would be in a volume of the host.
func TestDevThroughLink(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	vol := t.TempDir()
	write(t, vol+"/ptmx", "precious")
	c.Spec.Mounts = append(c.Spec.Mounts[:1], specs.Mount{Destination: "/vol", Source: vol, Options: []string{"bind"}})
	link(t, "/vol", c.rootfs("dev"))
	c.fails(t, throughLink(), "an ordinary directory without links: /dev")
	if data, _ := os.ReadFile(vol + "/ptmx"); string(data) != "precious" {
		t.Errorf("ptmx = %q", data)
	}
	if names, _ := os.ReadDir(vol); len(names) != 1 {
		t.Errorf("the volume has %v", names)
	}
}

// A node of the image under the name of a default device is not taken for it.
func TestDeviceIsSomethingElse(t *testing.T) {
	needRoot(t)
	host := t.TempDir() + "/file"
	write(t, host, "host")
	for name, prepare := range map[string]func(path string){
		"link": func(path string) { link(t, host, path) },
		"file": func(path string) { write(t, path, "") },
	} {
		c := newContainer(t)
		c.Spec.Mounts = c.Spec.Mounts[:1]
		prepare(c.rootfs("dev/null"))
		t.Run(name, func(t *testing.T) {
			// As runc does, what is there is left as it is; nothing is written through it.
			c.expect(t, "head -c1 /dev/zero | wc -c", "1")
		})
	}
	if data, _ := os.ReadFile(host); string(data) != "host" {
		t.Errorf("host's file = %q", data)
	}
}

// CVE-2025-31133, CVE-2025-62161: the container's null device is not what masks.
func TestMaskIsTheHostsNull(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	dev := t.TempDir()
	write(t, dev+"/evil", "evil")
	link(t, "evil", dev+"/null")
	c.Spec.Mounts[1] = specs.Mount{Destination: "/dev", Source: dev, Options: []string{"bind"}}
	c.Spec.Mounts = c.Spec.Mounts[:2]
	write(t, c.rootfs("etc/secret"), "secret")
	c.Spec.Linux.MaskedPaths = []string{"/etc/secret"}
	c.expect(t, "stat -c '%F %t:%T' /etc/secret; cat /etc/secret", "character special file 1:3")
}

// CVE-2025-52565.
func TestConsoleIsALink(t *testing.T) {
	needRoot(t)
	c := newContainer(t)
	c.Terminal, c.console = true, "before"
	host := t.TempDir() + "/file"
	write(t, host, "host")
	c.hook = func(pid int) {
		dev := "/proc/" + itoa(pid) + "/root" + c.rootfs("dev")
		os.Remove(dev + "/console")
		link(t, "/proc/sys/kernel/core_pattern", dev+"/console")
	}
	c.script = "grep -c devpts /proc/self/mountinfo; grep core_pattern /proc/self/mountinfo"
	if out, err := c.run(t); err == nil && out != "2" {
		t.Errorf("output = %s", out)
	}
}

func TestTmpCopyUpThroughLink(t *testing.T) {
	needRoot(t)
	hulltest.Require(t, hulltest.Openat2)
	c := newContainer(t)
	host := tempDir(t)
	write(t, host+"/secret", "s")
	link(t, host, c.rootfs("etc/link"))
	link(t, host, c.rootfs("up"))
	c.mount(specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	c.mount(specs.Mount{Destination: "/up", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	c.expect(t, "readlink /etc/link; find /etc /up/ -type f", host)
}

// CVE-2021-30465, CVE-2024-45310: a directory of a shared volume is swapped for a link while a container is set up.
func TestRenamingRace(t *testing.T) {
	needRoot(t)
	host := tempDir(t)
	mkdir(t, host+"/in")
	write(t, host+"/in/marker", "host")
	vol := tempDir(t)
	mkdir(t, vol+"/a/in")
	link(t, "../../../../../../../../../../../../.."+host, vol+"/b")
	stop := make(chan bool)
	stopped := make(chan bool)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, vol+"/a", unix.AT_FDCWD, vol+"/b", unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	good, bad := 0, 0
	for until := time.Now().Add(3 * time.Second); good+bad < 10 || time.Now().Before(until); {
		c := newContainer(t)
		c.Spec.Linux.MaskedPaths = []string{"/vol/a/in/marker"}
		c.mount(specs.Mount{Destination: "/vol", Source: vol, Options: []string{"bind"}})
		c.mount(specs.Mount{Destination: "/vol/a/in", Type: "tmpfs", Source: "tmpfs"})
		c.mount(specs.Mount{Destination: "/vol/a/in/new", Source: "/bin", Options: []string{"rbind"}})
		c.mount(specs.Mount{Destination: "/vol/a/file", Source: busybox, Options: []string{"bind"}})
		c.script = "true"
		if _, err := c.run(t); err == nil {
			good++
		} else if bad++; strings.HasPrefix(err.Error(), "mounted outside the root") {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(host + "/in/marker"); err != nil || string(data) != "host" {
			t.Fatalf("marker = %q, %v", data, err)
		}
		if names, _ := filepath.Glob(host + "/*"); len(names) != 1 {
			t.Fatalf("host has %v", names)
		}
	}
	t.Logf("%d containers made, %d refused", good, bad)
}
