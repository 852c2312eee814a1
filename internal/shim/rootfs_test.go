package shim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hull/internal/containerd"
)

func TestRelativeLayers(t *testing.T) {
	for _, test := range []struct {
		lower, dir, want string
	}{
		{"/var/s/1/fs:/var/s/22/fs", "/var/s", "lowerdir=1/fs:22/fs"},
		{"/var/s/1/fs", "/var/s/1", "lowerdir=fs"},
		{"/a/x:/b/y", "", "lowerdir=/a/x:/b/y"},
		{"/var/sa/x:/var/s/y", "/var", "lowerdir=sa/x:s/y"},
		{`/var/s/a\:b:/var/s/c`, "", `lowerdir=/var/s/a\:b:/var/s/c`},
		{"/var/s/1::/var/s/2", "", "lowerdir=/var/s/1::/var/s/2"},
		{"relative:/var", "", "lowerdir=relative:/var"},
	} {
		options := []string{"index=off", "lowerdir=" + test.lower}
		dir, got := relativeLayers("overlay", options)
		if want := []string{"index=off", test.want}; dir != test.dir || !slices.Equal(got, want) {
			t.Errorf("%s: %q in %q, want %q in %q", test.lower, got, dir, want, test.dir)
		}
	}
}

func TestParseConfig(t *testing.T) {
	var o options
	if err := o.parseConfig("isolation = \"sandbox\" # its own kernel\n\n  SystemdCgroup = true\nroot = '/run/x'\n", "ns"); err != nil {
		t.Fatal(err)
	}
	if o.runtime.Isolation != "sandbox" || !o.runtime.SystemdCgroup || o.runtime.Root != "/run/x/ns" {
		t.Errorf("%+v", o)
	}
	for _, bad := range []string{"isolation = \"vm\"", "speed = 3", "root = \"x\"", "no_pivot_root = 1", "[section]"} {
		if err := o.parseConfig(bad, "ns"); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// What containerd 1.6 and ctr can say is the path of a file (ctr run --runtime-config-path).
func TestConfigPath(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hull.toml")
	if err := os.WriteFile(file, []byte("systemd_cgroup = true\nroot = \"/run/x\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &service{namespace: "ns"}
	take := func(path, body string) (*options, error) {
		// Fields 2 and 3 of runtimeoptions.v1.Options.
		message := append([]byte{2<<3 | 2, byte(len(path))}, path...)
		message = append(append(message, 3<<3|2, byte(len(body))), body...)
		return s.options(&containerd.Any{TypeURL: containerd.GenericOptions, Value: message})
	}
	o, err := take(file, "")
	if err != nil || !o.runtime.SystemdCgroup || o.runtime.Root != "/run/x/ns" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = take(file, "systemd_cgroup = false\n"); err != nil || o.runtime.SystemdCgroup || o.runtime.Root != "/run/x/ns" {
		t.Errorf("with a text beside it, which says more: %+v, %v", o, err)
	}
	for _, bad := range []string{filepath.Dir(file), file + ".no", "/dev/zero", "relative.toml"} {
		if o, err := take(bad, ""); err == nil {
			t.Errorf("%s was taken: %+v", bad, o)
		} else if !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestInRoot has links of an image's where something is to be mounted, and a directory that another takes the place of.
func TestInRoot(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "etc/a")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	want, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"absolute": "/etc", "up": "../../../../etc"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		f, err := inRoot(root, "/"+name+"/a")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := os.Rename(dir, dir+".moved"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/", dir); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Stat(descriptorPath(f)); err != nil || !os.SameFile(got, want) {
			t.Errorf("%s leads to %s, %v", name, f.Name(), err)
		}
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+".moved", dir); err != nil {
			t.Fatal(err)
		}
	}
	if f, err := inRoot(root, "absolute/passwd"); err == nil {
		t.Errorf("a file of the host's: %s", f.Name())
	}
}
