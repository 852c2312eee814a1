package cgroup

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"hull/hulltest"

	"github.com/google/go-cmp/cmp"
)

func TestParseMountinfo(t *testing.T) {
	const info = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 /docker/1 /sys/fs/cgroup/systemd\040x rw master:3 propagate_from:2 - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
bad line
42 - cgroup
`
	got := fromMounts(parseMountinfo([]byte(info)))
	want := []hierarchy{
		{"cpu", "/sys/fs/cgroup/cpu,cpuacct"}, {"cpuacct", "/sys/fs/cgroup/cpu,cpuacct"},
		{"name=systemd", "/sys/fs/cgroup/systemd x"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(hierarchy{})); diff != "" {
		t.Error(diff)
	}
}

func TestParseCgroupFile(t *testing.T) {
	got := parseCgroupFile([]byte("4:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/user.slice\n\nx\n"))
	want := map[string]string{"cpu": "/a", "cpuacct": "/a", "name=systemd": "/b:c", "": "/user.slice"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add([]byte("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fromMounts(parseMountinfo(data))
		parseCgroupFile(data)
	})
}

func TestCleanPath(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "/", "/a/b": "/a/b", "/a//b/": "/a/b", "/../../etc": "/etc", "a": "a", "a/../../b": "b",
		"../../x": "x", "./a": "a", "..": "",
	} {
		if got := cleanPath(path); got != want {
			t.Errorf("cleanPath(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestParseUnit(t *testing.T) {
	for _, tt := range []struct {
		path     string
		rootless bool
		want     unit
	}{
		{"", false, unit{"hull-c1.scope", "system.slice"}},
		{"", true, unit{"hull-c1.scope", "user.slice"}},
		{"machine.slice:libpod:abc", false, unit{"libpod-abc.scope", "machine.slice"}},
		{":cri-containerd:abc", false, unit{"cri-containerd-abc.scope", "system.slice"}},
		{"kubepods-besteffort.slice::pod1.slice", false, unit{"pod1.slice", "kubepods-besteffort.slice"}},
	} {
		got, err := parseUnit(tt.path, "c1", tt.rootless)
		if err != nil || got != tt.want {
			t.Errorf("parseUnit(%q) = %v, %v, want %v", tt.path, got, err, tt.want)
		}
	}
	for _, bad := range []string{"/a/b", "a:b", "a:b:c:d", "system:p:n", "a--b.slice:p:n", "a/b.slice:p:n", ".slice:p:n", "x.slice:p:", "x.slice:a/b:n"} {
		if u, err := parseUnit(bad, "c1", false); err == nil || !strings.HasPrefix(err.Error(), "linux.cgroupsPath: ") {
			t.Errorf("parseUnit(%q) = %v, %v", bad, u, err)
		}
	}
}

func TestExpandSlice(t *testing.T) {
	for slice, want := range map[string]string{
		"a.slice": "/a.slice", "a-b.slice": "/a.slice/a-b.slice", "a-b-c.slice": "/a.slice/a-b.slice/a-b-c.slice",
		"-.slice": "/",
	} {
		if got, err := expandSlice(slice); err != nil || got != want {
			t.Errorf("expandSlice(%q) = %q, %v, want %q", slice, got, err, want)
		}
	}
}

func TestUnitPaths(t *testing.T) {
	got, err := unitPaths(V2, unit{"hull-c1.scope", "a-b.slice"}, "/user.slice/user-1000.slice/user@1000.service")
	want := map[string]string{"": "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/a.slice/a-b.slice/hull-c1.scope"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

// TestUnifiedAlone runs this package's tests once more where cgroup v2 is all there is, in a mount namespace. It has
// few controllers, so that a machine with all of them on v2 tests more.
func TestUnifiedAlone(t *testing.T) {
	hulltest.Require(t, hulltest.Root, v1)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(disableControllers)
	c := exec.Command("sh", "-c", "mount -t cgroup2 none /sys/fs/cgroup && exec "+self+" -test.v -test.count=1")
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // which makes mounts private, too
	c.Env = append(os.Environ(), "HULL_TEST_REQUIRE=root,cgroup2")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(strings.TrimSpace(line), "--- ") {
			t.Log("v2: " + strings.TrimSpace(line))
		}
	}
}

// disableControllers gives back the controllers that the tests of v2 have turned on for the whole host, where v1 may want
// them.
func disableControllers() {
	const file = "/sys/fs/cgroup/unified/cgroup.subtree_control"
	enabled, err := os.ReadFile(file)
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(enabled)) {
		_ = os.WriteFile(file, []byte("-"+c), 0)
	}
}
