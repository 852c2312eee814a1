package overlay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes directories, files (without a slash at the end) and links (name -> target) and returns the root.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range names {
		link, target, isLink := strings.Cut(name, " -> ")
		path := filepath.Join(root, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case isLink:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// A mount that lies in another one is one entry, though it lies in the overlay around both, too.
func TestMountInMount(t *testing.T) {
	root := tree(t, "a/b/c/")
	for _, empty := range [][]string{nil, {"/a/b/c"}} {
		plan, err := New(Options{Root: root, Empty: empty, Mounts: []string{root, root + "/a", root + "/a/b", root + "/a/b/c"}})
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, e := range plan.Entries {
			if seen[e.Path] {
				t.Errorf("%s is there twice:\n%s", e.Path, plan)
			}
			seen[e.Path] = true
		}
		if len(seen) != 4 {
			t.Errorf("%d entries:\n%s", len(seen), plan)
		}
	}
}

func TestNew(t *testing.T) {
	root := tree(t, "bin -> usr/bin", "usr/bin/", "var/tmp/", "var/lib/data/", "home/ann/src/", "home/bob/", "proc/", "note", "tmp/", "lnk -> var/lib", "var/tmp/work/", "usr/lib/app/")
	mounts := []string{"/", "/proc", root, root + "/var/lib/data"}
	private := []string{"/home", "/tmp", "/var/tmp"}
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"root", Options{Empty: private, Omit: []string{"/proc"}, Show: []string{"/home/ann/src"}, Make: []string{"/home/ann"}}, `
dir     / 0755
link    /bin -> usr/bin
dir     /home 0755
link    /lnk -> var/lib
file    /note from ROOT/note
dir     /tmp 0755
overlay /usr over ROOT/usr, joint
overlay /var over ROOT/var, joint
way     /var/lib 0755
overlay /var/lib/data over ROOT/var/lib/data
dir     /var/tmp 0755
dir     /home/ann 0755
overlay /home/ann/src over ROOT/home/ann/src, joint
`},
		// Nothing can be mounted over a directory with locked mounts in it.
		{"user namespace", Options{UserNS: true, Empty: private, Omit: []string{"/proc"}}, `
dir     / 0755
link    /bin -> usr/bin
dir     /home 0755
link    /lnk -> var/lib
file    /note from ROOT/note
dir     /tmp 0755
overlay /usr over ROOT/usr
dir     /var 0755
dir     /var/lib 0755
overlay /var/lib/data over ROOT/var/lib/data
dir     /var/tmp 0755
`},
		{"only programs", Options{Only: []string{"/usr", "/var", "/bin"}, Empty: []string{"/var/tmp", "/lnk"}, Omit: []string{"/proc"},
			Show: []string{"/home/ann/src", "/var/tmp/work"}, Make: []string{"/home/ann"}}, `
dir     / 0755
link    /bin -> usr/bin
dir     /home 0755
link    /lnk -> var/lib
dir     /tmp 0755
overlay /usr over ROOT/usr, joint
overlay /var over ROOT/var, joint
dir     /var/lib 0755
dir     /var/tmp 0755
dir     /home/ann 0755
overlay /home/ann/src over ROOT/home/ann/src, joint
overlay /var/tmp/work over ROOT/var/tmp/work, joint
`},
		{"home", Options{Only: []string{"/usr"}, Empty: []string{"/home/ann", "/home/bob"}, Omit: []string{"/proc"}, Show: []string{"/home/ann"}}, `
dir     / 0755
link    /bin -> usr/bin
dir     /home 0755
link    /lnk -> var/lib
dir     /tmp 0755
overlay /usr over ROOT/usr, joint
dir     /var 0755
overlay /home/ann over ROOT/home/ann, joint
`},
		// Someone else's home in a tree that is shown stays empty.
		{"home in a tree", Options{Only: []string{"/usr"}, Empty: []string{"/home/bob"}, Omit: []string{"/proc"}, Show: []string{"/home"}}, `
dir     / 0755
link    /bin -> usr/bin
overlay /home over ROOT/home, joint
dir     /home/bob 0755
link    /lnk -> var/lib
dir     /tmp 0755
overlay /usr over ROOT/usr, joint
dir     /var 0755
`},
		// Its owner may have no id there; then /usr/lib could not be copied.
		{"tree among programs in a user namespace", Options{UserNS: true, Only: []string{"/usr"}, Omit: []string{"/proc"}, Show: []string{"/usr/lib/app"}}, `
dir     / 0755
link    /bin -> usr/bin
dir     /home 0755
link    /lnk -> var/lib
dir     /tmp 0755
overlay /usr over ROOT/usr
dir     /var 0755
way     /usr/lib 0755
`},
		{"all", Options{}, `
overlay / over ROOT
way     /var 0755
way     /var/lib 0755
overlay /var/lib/data over ROOT/var/lib/data
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Root, c.o.Mounts = root, mounts
			p, err := New(c.o)
			if err != nil {
				t.Fatal(err)
			}
			got := "\n" + strings.ReplaceAll(p.String(), root, "ROOT")
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestParseMounts(t *testing.T) {
	got := parseMounts([]byte("22 1 254:0 / / rw - ext4 /dev/vda rw\n23 22 0:5 / /a\\040b\\134 rw - proc proc rw\nrubbish\n"))
	if diff := cmp.Diff([]string{"/", `/a b\`}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add([]byte("23 22 0:5 / /a\\040b\\134 rw - proc proc rw\n"))
	f.Fuzz(func(t *testing.T, b []byte) { parseMounts(b) })
}

// Links are followed as the container sees them: not into places that are empty there.
func TestResolve(t *testing.T) {
	root := tree(t, "etc/resolv.conf -> ../run/resolve/stub.conf", "etc/hosts", "run/resolve/stub.conf -> real.conf", "run/resolve/real.conf",
		"etc/alt -> /etc/hosts", "etc/loop -> loop", "lib -> usr/lib", "usr/lib/x -> ../../etc/alt", "etc/up -> ../../../etc/hosts")
	p, err := New(Options{Root: root, Only: []string{"/etc", "/usr", "/lib"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/etc/hosts":         "/etc/hosts",
		"/etc/missing":       "/etc/missing",
		"/etc/resolv.conf":   "/run/resolve/stub.conf",
		"/lib/x":             "/etc/hosts",
		"/etc/loop":          "/etc/loop",
		"/etc/up":            "/etc/hosts",
		"/nothing/../etc/up": "/etc/hosts",
	} {
		if got := p.Resolve(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	p.Binds = []Bind{{Path: "/run", Source: root + "/run"}}
	if got := p.Resolve("/etc/resolv.conf"); got != "/run/resolve/real.conf" {
		t.Errorf("with /run bound, resolv.conf is %s", got)
	}
}

func TestUnbindable(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ source, at, want string }{
		{dir, "/dev/null", "a directory can't be shown where a file is"},
		{dir, "/dev/nul", ""},
		{file, "/dev/null", ""},
		{"/dev/null", "/dev/zero", ""},
	} {
		p := &Plan{Binds: []Bind{{Source: tt.source, Path: tt.at}}}
		if got := p.Unbindable(0); got != tt.want {
			t.Errorf("%s at %s: %q, want %q", tt.source, tt.at, got, tt.want)
		}
	}
}
