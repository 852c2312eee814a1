package upper

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/overlay"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

const nobody = 65534

// env is set in a run of the tests as an ordinary user.
const env = "HULL_UPPER_TEST_USER"

// host is a directory shown to commands by an overlay of /tree.
type host struct {
	dir     string // lower: the host's files; changes/upper: the upper directory of all
	upper   *os.File
	lower   *os.File
	entries []overlay.Entry
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newHost makes the host's files by a shell script that runs in them.
func newHost(t testing.TB, script string) *host {
	t.Helper()
	if os.Geteuid() == 0 {
		hulltest.Require(t, hulltest.Root, hulltest.Overlay)
	} else {
		hulltest.Require(t, hulltest.UserNS)
	}
	h := &host{dir: t.TempDir(), entries: []overlay.Entry{{Kind: overlay.Dir, Path: "/"}, {Kind: overlay.Overlay, Path: "/tree"}}}
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+rwX", h.dir).Run() })
	for _, d := range []string{"lower/tree", "changes/upper/tree", "changes/work", "view"} {
		check(t, os.MkdirAll(filepath.Join(h.dir, d), 0o755))
	}
	h.shell(t, "lower/tree", script)
	var err error
	h.upper, err = os.Open(filepath.Join(h.dir, "changes/upper"))
	check(t, err)
	h.lower, err = os.Open(filepath.Join(h.dir, "lower"))
	check(t, err)
	t.Cleanup(func() { h.upper.Close(); h.lower.Close() })
	return h
}

func (h *host) path(p string) string { return filepath.Join(h.dir, p) }

// shell runs a script in a directory of h.
func (h *host) shell(t testing.TB, dir, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", "umask 022\n"+script)
	cmd.Dir = h.path(dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// command runs a script in the overlay, mounted as hull does it. What it prints is returned.
func (h *host) command(t testing.TB, script string) string {
	t.Helper()
	options := "lowerdir=lower/tree,upperdir=changes/upper/tree,workdir=changes/work,index=off,metacopy=off,xino=off,nfs_export=off"
	attr := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		options += ",userxattr"
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID}
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	} else {
		options += ",redirect_dir=off"
	}
	// exec: the mounts are seen by what mounts them and its children alone.
	cmd := exec.Command("sh", "-ec", "umask 022; mount --make-rprivate /; mount -t overlay -o "+options+" o view; cd view\n"+script)
	cmd.Dir, cmd.SysProcAttr = h.dir, attr
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

func (h *host) tree() *Tree {
	return &Tree{Upper: h.upper, Lower: h.lower, Entries: h.entries, UserXattr: os.Geteuid() != 0}
}

func (h *host) changes(t testing.TB) []Change {
	t.Helper()
	tree := h.tree()
	all, err := tree.Changes()
	check(t, err)
	check(t, tree.Close())
	return all
}

func (h *host) list(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	check(t, Print(&s, h.changes(t)))
	return s.String()
}

func equal(t testing.TB, got, want string) {
	t.Helper()
	if diff := cmp.Diff(strings.TrimLeft(want, "\n"), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestUser runs the tests that an ordinary user can run.
func TestUser(t *testing.T) {
	if os.Getenv(env) != "" {
		t.Skip("this is it")
	}
	hulltest.Require(t, hulltest.Root, hulltest.UserNS, hulltest.Overlay)
	dir := t.TempDir()
	check(t, os.Chmod(filepath.Dir(dir), 0o755))
	check(t, os.Chmod(dir, 0o777))
	self, err := os.ReadFile("/proc/self/exe")
	check(t, err)
	program := filepath.Join(dir, "upper.test")
	check(t, os.WriteFile(program, self, 0o755))
	cmd := exec.Command(program, "-test.v", "-test.short", "-test.skip=^Fuzz")
	cmd.Dir = dir
	cmd.Env = []string{"TMPDIR=" + dir, env + "=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func TestNothing(t *testing.T) {
	h := newHost(t, "echo x >file; mkdir dir; ln -s file link; ln file hard")
	h.command(t, "cat file dir/* link 2>/dev/null || true")
	equal(t, h.list(t), "")
}

func TestKinds(t *testing.T) {
	h := newHost(t, `
		echo one >one; echo two >two; echo gone >gone; mkdir dir empty sub; echo a >dir/a; echo b >dir/b
		ln -s one link; ln -s one link2; mkfifo pipe; echo same >sub/touched; echo same >sub/rewritten; echo x >mode`)
	h.command(t, `
		echo more >>one; rm gone; echo new >new; mkdir made; echo in >made/in; ln -s nowhere made/link; mkfifo made/pipe
		rm -r dir; mkdir dir; echo c >dir/c; echo b >dir/b
		rm link; ln -s two link; rm link2; echo file >link2; rmdir empty; echo file >empty
		touch sub/touched; echo same >sub/rewritten; chmod 600 mode; ln new newer; rm pipe; mkdir pipe; echo >pipe/x`)
	equal(t, h.list(t), `
D /tree/dir/a (file, 2 B)
A /tree/dir/c (file, 2 B)
M /tree/empty (file, 5 B, was dir)
D /tree/gone (file, 5 B)
M /tree/link (symlink to two)
M /tree/link2 (file, 5 B, was symlink)
A /tree/made (dir)
A /tree/made/in (file, 3 B)
A /tree/made/link (symlink to nowhere)
A /tree/made/pipe (fifo)
M /tree/mode (file, 2 B)
A /tree/new (file, 4 B)
A /tree/newer (hard link to /tree/new)
M /tree/one (file, 9 B)
M /tree/pipe (dir, was fifo)
A /tree/pipe/x (file, 1 B)
`)
}

// A directory that is deleted is one change; what is made and deleted again is none.
func TestDeletedDirectory(t *testing.T) {
	h := newHost(t, "mkdir -p d/e/f; echo >d/e/f/g")
	h.command(t, "rm -r d; echo >x; rm x; mkdir y; rmdir y; chmod 700 .")
	equal(t, h.list(t), "D /tree/d (dir)\n")
}

func TestRenamed(t *testing.T) {
	h := newHost(t, "mkdir d; echo 1 >d/a; echo 2 >f")
	h.command(t, "mv f g; cp -r d e; mv d/a d/b; mv g h")
	equal(t, h.list(t), `
D /tree/d/a (file, 2 B)
A /tree/d/b (file, 2 B)
A /tree/e (dir)
A /tree/e/a (file, 2 B)
D /tree/f (file, 2 B)
A /tree/h (file, 2 B)
`)
}

func TestAttributes(t *testing.T) {
	hulltest.Require(t, hulltest.Command("setfattr"))
	h := newHost(t, "echo 1 >a; echo 2 >b; mkdir d e; setfattr -n user.k -v v a")
	h.command(t, "setfattr -n user.k -v w a; setfattr -n user.k -v v b; setfattr -x user.k b; setfattr -n user.k -v v d; touch e/x; rm e/x")
	equal(t, h.list(t), "M /tree/a (file, 2 B)\nM /tree/d (dir)\n")
}

func TestWeirdNames(t *testing.T) {
	h := newHost(t, ":")
	h.command(t, `echo >"$(printf 'a\nA passwd (file, 1 B)')"; echo >"$(printf '\033[2J\377\\ é')"; echo >"$(printf 'l\342\200\256r')"; ln -s "$(printf '\n')x" link`)
	equal(t, h.list(t), `
A /tree/\x1b[2J\xff\\ é (file, 1 B)
A /tree/a\nA passwd (file, 1 B) (file, 1 B)
A /tree/link (symlink to x)
A /tree/l\u202er (file, 1 B)
`)
	b, err := json.Marshal(h.changes(t)[0])
	check(t, err)
	var v struct {
		Path      string
		PathBytes []byte
	}
	check(t, json.Unmarshal(b, &v))
	if string(v.PathBytes) != "/tree/\x1b[2J\xff\\ é" || v.Path != "/tree/\x1b[2J\ufffd\\ é" {
		t.Errorf("%s", b)
	}
}

func TestJSON(t *testing.T) {
	h := newHost(t, "ln -s a link")
	h.command(t, "echo one >a; rm link; mkdir link")
	for i, want := range []string{
		`{"kind":"A","path":"/tree/a","type":"file","size":4,"mode":"0644","uid":UID,"gid":UID}`,
		`{"kind":"M","path":"/tree/link","type":"dir","was":"symlink","size":0,"mode":"0755","uid":UID,"gid":UID}`,
	} {
		b, err := json.Marshal(h.changes(t)[i])
		check(t, err)
		uid := "0"
		if os.Geteuid() != 0 {
			uid = "65534"
		}
		equal(t, string(b), strings.ReplaceAll(want, "UID", uid))
	}
}

// What the owner may not read itself is read, and has its mode again afterwards.
func TestUnreadable(t *testing.T) {
	h := newHost(t, "echo 1 >f; chmod 0 f")
	h.command(t, "mkdir -p d/e; echo 1 >d/e/f; chmod 0 d/e/f d/e d; touch f")
	want := "A /tree/d (dir)\nA /tree/d/e (dir)\nA /tree/d/e/f (file, 2 B)\n"
	if os.Geteuid() != 0 {
		want += "M /tree/f (file, 2 B)\n" // nobody can tell
	}
	equal(t, h.list(t), want)
	if fi, err := os.Stat(h.path("changes/upper/tree/d")); err != nil || fi.Mode().Perm() != 0 {
		t.Errorf("%v, %v", fi, err)
	}
}

// Linux 6.7 has whiteouts that are no devices, too.
func TestAttributeWhiteout(t *testing.T) {
	hulltest.Require(t, hulltest.Command("setfattr"))
	h := newHost(t, "echo 1 >a; mkdir d; echo 2 >d/b")
	notes := h.tree().notes()
	h.shell(t, "changes/upper/tree", ":>a; setfattr -n "+notes+"whiteout -v y a; mkdir d; :>d/b; setfattr -n "+notes+"whiteout d/b; setfattr -n "+notes+"opaque -v x d")
	equal(t, h.list(t), "D /tree/a (file, 2 B)\nD /tree/d/b (file, 2 B)\n")
}

// Outside of overlays nothing of the host is below.
func TestEmptyPlaces(t *testing.T) {
	h := newHost(t, "mkdir private; echo >private/secret")
	for _, d := range []string{"lower/etc", "lower/home/ann", "changes/upper/home/ann", "changes/upper/etc"} {
		check(t, os.MkdirAll(h.path(d), 0o755))
	}
	for _, d := range []string{"lower/", "changes/upper/"} {
		for _, l := range []string{"lib", "bin", "sbin"} {
			check(t, os.Symlink("usr/"+l, h.path(d+l)))
		}
	}
	check(t, os.WriteFile(h.path("changes/upper/file"), nil, 0o644))
	h.entries = append(h.entries, overlay.Entry{Kind: overlay.Dir, Path: "/home"}, overlay.Entry{Kind: overlay.Dir, Path: "/home/ann"},
		overlay.Entry{Kind: overlay.Link, Path: "/lib", Source: "usr/lib"}, overlay.Entry{Kind: overlay.Link, Path: "/bin", Source: "usr/bin"},
		overlay.Entry{Kind: overlay.Link, Path: "/sbin", Source: "usr/sbin"}, overlay.Entry{Kind: overlay.File, Path: "/file"},
		overlay.Entry{Kind: overlay.Dir, Path: "/tree/private"})
	check(t, os.MkdirAll(h.path("changes/upper/tree/private"), 0o700))
	h.shell(t, "changes/upper", "echo 1 >home/ann/x; rm lib bin; ln -s evil bin; echo 2 >tree/private/new")
	equal(t, h.list(t), `
M /bin (symlink to evil)
A /etc (dir)
A /home/ann/x (file, 2 B)
D /lib (symlink)
A /tree/private/new (file, 2 B)
`)
	for _, c := range h.changes(t) {
		if c.Shown {
			t.Errorf("%s is shown", c.Path)
		}
	}
}

// A file that is larger than can be read is compared in no time.
func TestHugeFile(t *testing.T) {
	h := newHost(t, "truncate -s 1T same other; printf x | dd of=other bs=1 seek=700G conv=notrunc 2>/dev/null")
	h.command(t, "touch same; chmod 600 same; chmod 644 same; printf y | dd of=other bs=1 seek=800G conv=notrunc 2>/dev/null; truncate -s 8T new")
	equal(t, h.list(t), "A /tree/new (file, 8.8 TB)\nM /tree/other (file, 1.1 TB)\n")
}

func TestComparePaths(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"/a", "/a", 0}, {"/a", "/a/b", -1}, {"/a/b", "/a b", -1}, {"/a\x01", "/a/b", 1}, {"/a", "/b", -1}, {"/ab", "/a", 1}} {
		if got := comparePaths(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d", c.a, c.b, got)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("/a\nb\\n\xff\u202e")
	f.Fuzz(func(t *testing.T, path string) {
		got := Escape(path)
		for _, r := range got {
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e {
				t.Errorf("%q has %U", got, r)
			}
		}
		if again := Escape(got); strings.Contains(got, `\`) && again == got {
			t.Errorf("%q and %q are written the same way", path, got)
		}
	})
}

func FuzzParseNames(f *testing.F) {
	f.Add([]byte("user.a\x00trusted.overlay.opaque\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree := Tree{}
		for _, name := range parseNames(b) {
			if c, _ := tree.classify(name); c == content && !strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "system.posix_acl_") {
				t.Errorf("%q reaches the host", name)
			}
		}
	})
}
