package life

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull/hulltest"
)

// Devices that no rule allows can't be opened; systemd's own filter, after a reload, changes nothing in that.
func TestDevices(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	fuse := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rwm"}
	b := running(t, func(s *specs.Spec) {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, fuse)
		for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
			*set = append(*set, "CAP_MKNOD", "CAP_SYS_RAWIO")
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"dev"}})
	})
	// Nodes can be made of all devices: that is among the rules that every container gets.
	b.sh("mknod /mnt/fuse c 10 229 && mknod /mnt/mem c 1 1")
	host(t, "sh", "-c", "test -e /sys/class/misc/fuse || modprobe fuse") // built in, or a module
	look := func() {
		t.Helper()
		equal(t, "a default device", b.sh("head -c 1 /dev/zero | wc -c && echo >/dev/null"), "1")
		equal(t, "a device that is allowed", b.sh("true <>/mnt/fuse && echo opened"), "opened")
		got := b.do("exec", b.id, "sh", "-c", "true </mnt/mem")
		if got.status == 0 || !strings.Contains(got.err, "Operation not permitted") {
			t.Errorf("/dev/mem can be opened: %+v", got)
		}
	}
	look()
	if systemd() {
		systemctl(t, "daemon-reload")
		look()
	}
	b.ok("update", "--pids-limit", "100", b.id)
	look()
}

// A cgroup namespace hides where the host has the container; its mount shows the container's cgroup alone.
func TestCgroupView(t *testing.T) {
	b := running(t)
	equal(t, "/proc/1/cgroup", b.sh("cat /proc/1/cgroup"), "0::/")
	equal(t, "/sys/fs/cgroup/cgroup.procs", strings.Fields(b.sh("cat /sys/fs/cgroup/cgroup.procs"))[0], "1")
	if got := b.do("exec", b.id, "mkdir", "/sys/fs/cgroup/x"); got.status == 0 {
		t.Error("a read-only cgroup mount can be written to")
	}

	b = running(t, without(specs.CgroupNamespace))
	cgroup := strings.TrimPrefix(b.cgroup(), "/sys/fs/cgroup")
	equal(t, "/proc/1/cgroup without a namespace", b.sh("cat /proc/1/cgroup"), "0::"+cgroup)
	if got := b.do("exec", b.id, "mkdir", "/sys/fs/cgroup"+cgroup+"/x"); got.status == 0 {
		t.Error("without a namespace, the host's cgroups can be written to")
	}
}

// The profile hulltest-life is loaded by guest.sh: it denies /etc/passwd.
func TestAppArmor(t *testing.T) {
	hulltest.Require(t, runtimeNeed, hulltest.AppArmor)
	confined := func(s *specs.Spec) { s.Process.ApparmorProfile = "hulltest-life" }
	const label = "hulltest-life (enforce)"
	b := running(t, confined)
	equal(t, "label of the init", b.sh("cat /proc/1/attr/current"), label)
	equal(t, "label of exec", b.sh("cat /proc/self/attr/current"), label)
	if got := b.do("exec", b.id, "cat", "/etc/passwd"); got.status == 0 || !strings.Contains(got.err, "Permission denied") {
		t.Errorf("reading what the profile denies: %+v", got)
	}
	got := newBox(t, "true", func(s *specs.Spec) { s.Process.ApparmorProfile = "hulltest-no-such" }).run()
	equal(t, "exit status with an unknown profile", got.status, 1)
	contains(t, "message", got.err, "hulltest-no-such")

	b = running(t)
	equal(t, "label of exec --apparmor", b.ok("exec", "--apparmor", "hulltest-life", b.id, "cat", "/proc/self/attr/current"), label)
}

func TestTimeNamespace(t *testing.T) {
	hulltest.Require(t, hulltest.TimeNS)
	b := running(t, func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1_000_000}}
	})
	for _, who := range []string{"1", "self"} {
		if up := b.sh("cut -d. -f1 /proc/uptime"); len(up) != len("1000000") {
			t.Errorf("uptime for %s: %s, want more than 1000000", who, up)
		}
		equal(t, "offsets of "+who, strings.Join(strings.Fields(b.sh("grep boottime /proc/"+who+"/timens_offsets")), " "), "boottime 1000000 0")
	}
}

// Files of the host's root belong to another inside, on an idmapped mount.
func TestIdmappedMount(t *testing.T) {
	hulltest.Require(t, hulltest.Root, runtimeNeed)
	dir, err := os.MkdirTemp("/var/tmp", hulltest.Token(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { // which any owner may pass through
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1234, Size: 10}}
	got := newBox(t, "stat -c %u:%g /mnt/file", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir,
			Options: []string{"bind", "idmap"}, UIDMappings: ids, GIDMappings: ids})
	}).run()
	equal(t, "owner seen from inside", got, outcome{out: "1234:1234"})

	user := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	got = newBox(t, "stat -c %u:%g /mnt/file && touch /mnt/new", func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings, s.Linux.GIDMappings = user, user
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir,
			Options: []string{"bind", "idmap"}})
	}).run()
	equal(t, "owner seen from a user namespace", got, outcome{out: "0:0"})
	if info, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	} else {
		equal(t, "owner of a new file, on the host", owner(info), "0:0")
	}
}

func TestSeccomp(t *testing.T) {
	edit := func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: ptr(uint(28))}, // ENOSPC
		}}
	}
	b := running(t, edit)
	got := b.do("exec", b.id, "mkdir", "/tmp/x")
	if got.status == 0 || !strings.Contains(got.err, "No space left") {
		t.Errorf("mkdir: %+v", got)
	}
	contains(t, "status", b.sh("grep Seccomp /proc/1/status"), "Seccomp:\t2")
}
