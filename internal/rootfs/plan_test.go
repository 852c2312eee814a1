package rootfs

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest/golden"
	"hull/internal/fault"
	"hull/internal/stub"
)

var newest = Features{Openat2: true, CloseRange: true, MountSetattr: true}

func TestPlan(t *testing.T) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
	volume := specs.Mount{Destination: "/vol", Source: "vol", Options: []string{"rbind", "ro", "rprivate"}}
	mapped := volume
	mapped.UIDMappings, mapped.GIDMappings = ids, ids
	for _, tt := range []struct {
		name   string
		change func(c *Config)
	}{
		{"default", func(c *Config) {}},
		{"userns", func(c *Config) {
			c.UserNS = true
			c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = ids, ids
			inside := mapped
			inside.Source = "rootfs/vol"
			c.Spec.Mounts = append(c.Spec.Mounts, volume, mapped, inside)
		}},
		{"idmap", func(c *Config) { c.Spec.Mounts = append(c.Spec.Mounts, mapped, mapped) }},
		{"bound dev", func(c *Config) {
			c.Spec.Mounts[1] = specs.Mount{Destination: "/dev", Source: "/dev", Options: []string{"rbind"}}
		}},
		{"no pivot", func(c *Config) { c.NoPivot, c.Terminal = true, true }},
		{"propagation", func(c *Config) {
			c.Spec.Linux.RootfsPropagation = "rshared"
			c.Spec.Mounts[1].Options = append(c.Spec.Mounts[1].Options, "ro")
		}},
		{"devices", func(c *Config) {
			mode := os.FileMode(0o600)
			c.Spec.Linux.Devices = []specs.LinuxDevice{
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode}, {Path: "/dev/p/", Type: "p"},
			}
		}},
		{"minimal", func(c *Config) { c.Spec = &specs.Spec{Root: &specs.Root{Path: "/"}} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Config{Spec: defaultSpec(), Bundle: "/bundle", Kernel: newest}
			tt.change(&c)
			p, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			golden.Compare(t, "testdata/"+strings.ReplaceAll(tt.name, " ", "-")+".golden", p.String())
		})
	}
}

// What is tolerated is told.
func TestWarnings(t *testing.T) {
	p, err := New(Config{NoLabels: true, Bundle: "/bundle", Spec: &specs.Spec{
		Root:   &specs.Root{Path: "/root"},
		Mounts: []specs.Mount{{Destination: "/b", Source: "/b", Options: []string{"bind", "ro", "noacl"}}},
		Linux:  &specs.Linux{MountLabel: "system_u:object_r:container_file_t:s0"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`mounts[0] "/b": option "noacl" ignored: a bind mount has no file system of its own`,
		"linux.mountLabel: not applied: this host's kernel has no SELinux, or has it disabled",
	}
	if diff := cmp.Diff(want, p.Warnings()); diff != "" {
		t.Error(diff)
	}
}

// All mistakes are reported at once, each with its field.
func TestNewRefuses(t *testing.T) {
	s := &specs.Spec{
		Mounts: []specs.Mount{
			{Destination: "/a"},
			{Destination: "/proc", Type: "tmpfs"},
			{Destination: "/proc/sys/kernel", Type: "tmpfs"},
			{Destination: "/proc/uptime", Type: "tmpfs"},
			{Destination: "/b", Source: "/b", Options: []string{"bind", "rro"}},
			{Destination: "/b", Source: "/b", Options: []string{"bind", "idmap"}},
			{Destination: "/c", Type: "tmpfs", Options: []string{"tmpcopyup"}},
		},
		Linux: &specs.Linux{
			RootfsPropagation: "mine",
			MountLabel:        "a\x00",
			MaskedPaths:       []string{"/ok", "relative"},
			ReadonlyPaths:     []string{"/\x00"},
			Devices: []specs.LinuxDevice{
				{Path: "/dev/a", Type: "x"}, {Path: "dev/a", Type: "c"}, {Path: "/", Type: "c"},
				{Path: "/dev/a\x00", Type: "c"}, {Path: "/dev/b", Type: "b", Major: 4096}, {Path: "/dev/b", Type: "b", Minor: -1},
			},
		},
	}
	_, err := New(Config{Spec: s, Bundle: "/bundle"})
	const want = `root.path: missing
mounts[0] "/a": type: missing: want a file system such as tmpfs, or the option bind or rbind
mounts[1] "/proc": the file system at /proc must be proc, not "tmpfs"
mounts[2] "/proc/sys/kernel": nothing can be mounted inside /proc but files like /proc/cpuinfo
mounts[3] "/proc/uptime": nothing can be mounted inside /proc but files like /proc/cpuinfo
mounts[4] "/b": options for a whole tree of mounts need Linux 5.12
mounts[6] "/c": tmpcopyup needs Linux 5.6
linux.mountLabel: has a NUL byte
linux.rootfsPropagation: "mine" is none of shared, slave, private, unbindable or their r forms
linux.devices[0] "/dev/a": type: "x" is none of c, b, u, p
linux.devices[1] "dev/a": path: not an absolute path of a file
linux.devices[2] "/": path: not an absolute path of a file
linux.devices[3] "/dev/a\x00": path: has a NUL byte
linux.devices[4] "/dev/b": 4096:0 is no device number: they go up to 4095:1048575
linux.devices[5] "/dev/b": 0:-1 is no device number: they go up to 4095:1048575
linux.maskedPaths[1]: "relative" is not an absolute path
linux.readonlyPaths[0]: has a NUL byte
mounts[5] "/b": idmapped mounts need Linux 5.12`
	if err == nil {
		t.Fatal("accepted")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
	if !errors.Is(err, fault.BadSpec) || !errors.Is(err, fault.Unsupported) {
		t.Error("a kind is missing")
	}
}

func TestRootlessIDMapRefused(t *testing.T) {
	s := defaultSpec()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/b", Source: "/b", Options: []string{"bind", "idmap"}})
	_, err := New(Config{Spec: s, Bundle: "/bundle", Kernel: newest, UserNS: true, Rootless: true})
	if !errors.Is(err, fault.Unsupported) || err.Error() != `mounts[6] "/b": idmapped mounts need root` {
		t.Errorf("error = %v", err)
	}
}

func TestSourceMissing(t *testing.T) {
	s := defaultSpec()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/b", Source: "/does/not/exist", Options: []string{"bind"}})
	p, err := New(Config{Spec: s, Bundle: "/bundle", Kernel: newest, UserNS: true})
	if err != nil {
		t.Fatal(err)
	}
	files, err := p.Sources()
	if files != nil || err == nil {
		t.Fatalf("Sources = %v, %v", files, err)
	}
	if os.Geteuid() == 0 && err.Error() != `mounts[6] "/b": open_tree "/does/not/exist": no such file or directory` {
		t.Errorf("error = %v", err)
	}
}

func TestExplain(t *testing.T) {
	s := defaultSpec()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "xfs"}, specs.Mount{Destination: "/t", Type: "tmpfs"})
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, Size: 1}}
	p, err := New(Config{Spec: s, Bundle: "/bundle", Kernel: newest, UserNS: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		err  fault.Error
		want string
	}{
		{fault.Error{Field: "root.path", Step: "pivot_root", Err: unix.EINVAL}, "initramfs"},
		{fault.Error{Field: "root.path", Step: `openat "/bundle/rootfs"`, Err: unix.EACCES}, "search every directory"},
		{fault.Error{Field: `mounts[2] "/dev/pts"`, Step: "fsconfig gid=5", Err: unix.EINVAL}, "gidMappings"},
		{fault.Error{Field: `mounts[0] "/proc"`, Step: "fsmount proc", Err: unix.EPERM}, "new pid namespace"},
		{fault.Error{Field: `mounts[5] "/sys"`, Step: "fsmount sysfs", Err: unix.EPERM}, "new network namespace"},
		{fault.Error{Field: `mounts[6] "/x"`, Step: "fsopen xfs", Err: unix.ENODEV}, "no file system xfs"},
		{fault.Error{Field: `mounts[7] "/t"`, Step: "fsconfig nosuidd", Err: unix.EINVAL}, "did you mean nosuid?"},
		{fault.Error{Field: `mounts[7] "/t"`, Step: "fsconfig sise=1m", Err: unix.EINVAL}, "did you mean size?"},
		{fault.Error{Field: `mounts[7] "/t"`, Step: "fsconfig size=1x", Err: unix.EINVAL}, "with k, m or g"},
		{fault.Error{Field: `mounts[7] "/t"`, Step: "fsconfig mode=9", Err: unix.EINVAL}, ""},
		{fault.Error{Field: `mounts[6] "/x"`, Step: "fsconfig nosuidd", Err: unix.EINVAL}, ""},
		{fault.Error{Field: `mounts[0] "/proc"`, Step: "fsmount proc", Err: unix.EIO}, ""},
		{fault.Error{Field: "x", Step: "fsmount proc", Err: unix.EPERM}, ""},
		{fault.Error{Field: "root.path", Step: "pivot_root", Err: unix.EINVAL, Hint: "said"}, "said"},
	} {
		got := fault.Hint(p.Explain(&tt.err))
		if got == "" && tt.want != "" || !strings.Contains(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("hint of %v = %q, want %q", &tt.err, got, tt.want)
		}
	}
	if other := errors.New("x"); p.Explain(other) != other {
		t.Error("another error has been changed")
	}
}

func TestGuide(t *testing.T) {
	dir := t.TempDir()
	vol := t.TempDir()
	mkdir(t, dir+"/a")
	mkdir(t, vol+"/v")
	link(t, "/b/c", dir+"/dangling")
	link(t, "a", dir+"/rel")
	link(t, "../../../..", dir+"/a/up")
	link(t, "loop", dir+"/loop")
	link(t, "/a", vol+"/back")
	g := newGuide(dir)
	for path, want := range map[string]string{
		"/": "/", "/a": "/a", "/a/none/x": "/a/none/x", "/dangling/x": "/b/c/x", "/rel/x": "/a/x",
		"/a/up/rel": "/a", "/loop/x": "/loop/x",
	} {
		if got := g.follow(path); got != want {
			t.Errorf("follow(%q) = %q, want %q", path, got, want)
		}
	}
	g.mounted("/a", vol)
	g.mounted("/a/v", "")
	for path, want := range map[string]string{"/a/back/x": vol + "/x", "/a/v/x": "", "/rel/v": "", "/b": dir + "/b"} {
		if got := g.host(g.follow(path)); got != want {
			t.Errorf("host(%q) = %q, want %q", path, got, want)
		}
	}
	unix.Chmod(vol, 0o1750)
	if got := g.mode("/rel"); got != "1750" {
		t.Errorf("mode = %q", got)
	}
	for _, path := range []string{"/none", "/a/v", "/dangling"} {
		if got := g.mode(path); got != "" {
			t.Errorf("mode(%q) = %q", path, got)
		}
	}
}

func TestRevealing(t *testing.T) {
	const text = `22 1 0:21 / /proc rw,relatime shared:5 - proc proc rw
23 1 0:22 / /sys rw - sysfs sysfs rw
24 1 0:21 /sys /other rw - proc proc rw
25 1 0:40 / /b\040undle/rootfs/proc rw - proc proc rw
26 1 0:41 / /with\040space\134x rw - proc proc rw
27 1 0:42 / /tmp rw - tmpfs proc rw
garbage
28 1 0 / /x
`
	want := []string{"/proc", "/sys", `/with space\x`}
	if diff := cmp.Diff(want, revealing([]byte(text), "/b undle/rootfs")); diff != "" {
		t.Errorf("revealing (-want +got):\n%s", diff)
	}
}

func TestPrefixes(t *testing.T) {
	for path, want := range map[string]string{"/": "", "/a": "/a", "/a/bc/d": "/a /a/bc /a/bc/d"} {
		if got := strings.Join(prefixes(path), " "); got != want {
			t.Errorf("prefixes(%q) = %q, want %q", path, got, want)
		}
	}
}

func TestBelow(t *testing.T) {
	for _, tt := range []struct {
		path, dir string
		want      bool
	}{
		{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/a/b", false}, {"/a", "/", true}, {"/", "/", true},
	} {
		if got := below(tt.path, tt.dir); got != tt.want {
			t.Errorf("below(%q, %q) = %v", tt.path, tt.dir, got)
		}
	}
}

func dirent(name string) []byte {
	p := make([]byte, 19, 64)
	p = append(append(p, name...), 0)
	p = append(p, make([]byte, -len(p)&7)...)
	binary.LittleEndian.PutUint16(p[16:], uint16(len(p)))
	return p
}

func TestDirentNames(t *testing.T) {
	var p []byte
	for _, name := range []string{".", "..", "a", "a/b", "long name"} {
		p = append(p, dirent(name)...)
	}
	if diff := cmp.Diff([]string{"a", "long name"}, direntNames(p)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// What a stub answers is not trusted.
func FuzzDirentNames(f *testing.F) {
	f.Add(dirent("a"))
	f.Add(append(dirent(".."), dirent("b/c")...))
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, name := range direntNames(p) {
			if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				t.Errorf("name %q", name)
			}
		}
	})
}

func FuzzRevealing(f *testing.F) {
	f.Add([]byte("22 1 0:21 / /proc rw,relatime - proc proc rw\n"))
	f.Fuzz(func(t *testing.T, text []byte) { revealing(text, "/") })
}

// That a batch can be emitted for every way of the kernel is seen without privileges; what it does, only with a stub.
func TestPrepareEmits(t *testing.T) {
	for _, f := range []Features{newest, {}, {Openat2: true}, {Openat2: true, CloseRange: true}} {
		for _, v2 := range []bool{false, true} {
			s := defaultSpec()
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup"},
				specs.Mount{Destination: "/v", Source: "/v", Options: []string{"rbind", "ro", "rslave"}},
				specs.Mount{Destination: "/f", Type: "fuse.x", Options: []string{"iversion", "a=b"}},
				specs.Mount{Destination: "/f", Options: []string{"remount", "ro"}})
			p, err := New(Config{Spec: s, Bundle: "/bundle", Kernel: f, Cgroups: Cgroups{V2: v2}})
			if err != nil {
				t.Fatal(err)
			}
			b := new(stub.Batch)
			p.Prepare(b, nil)
			n := b.Len()
			p.Enter(b)
			if n < 50 || b.Len() <= n {
				t.Errorf("%d and %d entries", n, b.Len())
			}
		}
	}
}
