package upper

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/internal/overlay"
)

// manifest prints what there is in a directory, in a form that can be compared.
const manifest = `find . -name 'x y' -prune -o -printf '%P|%y|%m|%U:%G|%l|' \( -type f -printf '%s|%n|%T@|' -exec sha256sum {} \; -o -printf '\n' \) | sort`

// settled returns the time at which a command may be started.
func settled() time.Time {
	since := time.Now()
	AwaitTick(since)
	return since
}

func (h *host) apply(t testing.TB, since time.Time) error {
	t.Helper()
	tree := h.tree()
	changes, err := tree.Changes()
	check(t, err)
	err = tree.Apply(changes, since)
	check(t, tree.Close())
	return err
}

// clean checks that no stage is left.
func (h *host) clean(t testing.TB) {
	t.Helper()
	if left := h.shell(t, "lower", "find . -name '.hull-*'"); left != "" {
		t.Errorf("left over: %s", left)
	}
}

// refused checks that changes are refused for reasons, and the host's files are as they were.
func (h *host) refused(t testing.TB, since time.Time, want ...string) {
	t.Helper()
	before := h.shell(t, "lower", manifest)
	err := h.apply(t, since)
	var r *Refusal
	if !errors.As(err, &r) {
		t.Fatalf("not refused: %v", err)
	}
	var got []string
	for _, reason := range r.Reasons {
		got = append(got, reason.String())
	}
	equal(t, strings.Join(got, "\n"), strings.Join(want, "\n"))
	equal(t, h.shell(t, "lower", manifest), before)
	h.clean(t)
}

const example = `
	echo one >one; echo two >two; echo gone >gone; mkdir dir empty sub deep; echo a >dir/a; echo b >dir/b; mkdir -p deep/1/2; echo 3 >deep/1/2/3
	ln -s one link; ln -s one link2; echo same >sub/touched; echo x >mode; ln one one-more; mkdir ro; echo r >ro/r; chmod 555 ro`

const exampleCommand = `
	echo more >>one; rm gone; echo new >new; mkdir made; echo in >made/in; ln -s nowhere made/link; mkdir made/ro; echo x >made/ro/x; chmod 555 made/ro
	rm -r dir; mkdir dir; echo c >dir/c; echo b >dir/b
	rm link; ln -s two link; rm link2; echo file >link2; rmdir empty; echo file >empty
	touch sub/touched; chmod 600 mode; ln new newer; rm two; mkdir two; echo >two/x; chmod 700 sub; mv deep/1 deep/4 || cp -r deep/1 deep/4
	chmod 755 ro; rm -r ro; mkdir closed; chmod 500 closed; truncate -s 100M sparse; printf x | dd of=sparse bs=1 seek=50M conv=notrunc 2>/dev/null; touch -d 2001-02-03 new`

// The host's files become what the command saw.
func TestApply(t *testing.T) {
	h := newHost(t, example)
	since := settled()
	want := h.command(t, exampleCommand+"\n"+manifest)
	check(t, h.apply(t, since))
	equal(t, applied(h.shell(t, "lower/tree", manifest)), applied(want))
	h.clean(t)
	equal(t, h.shell(t, "lower/tree", "cat one-more; stat -c %b sparse | awk '{print ($1<100)}'"), "one\n1\n")
	// Then there is nothing left to do.
	equal(t, h.list(t), "")
}

// applied leaves out of example's manifest what isn't applied: the times of what is otherwise the same, and the names that
// overlayfs counts in the lower layer.
func applied(lines string) string {
	var s strings.Builder
	for line := range strings.Lines(lines) {
		name, _, _ := strings.Cut(line, "|")
		if name != "sub/touched" && name != "dir/b" && name != "one-more" {
			s.WriteString(line)
		}
	}
	return s.String()
}

// notSynced saves the time that disks take.
func notSynced(t *testing.T) {
	fsync = func(int) error { return nil }
	t.Cleanup(func() { fsync = unix.Fsync })
}

// Whatever a command does, the host's files become what it saw.
func TestApplyRandom(t *testing.T) {
	notSynced(t)
	n := 20
	if testing.Short() {
		n = 5
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		h := newHost(t, randomScript(r, 40))
		since := settled()
		script := randomScript(r, 60)
		want := h.command(t, script+manifest)
		if err := h.apply(t, since); err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, script)
		}
		equal(t, h.shell(t, "lower/tree", manifest), want)
		h.clean(t)
		equal(t, h.list(t), "")
		if t.Failed() {
			t.Fatalf("seed %d:\n%s", seed, script)
		}
	}
}

func randomScript(r *rand.Rand, n int) string {
	names := []string{"a", "b", "c", "d"}
	path := func() string {
		p := names[r.IntN(4)]
		for range r.IntN(3) {
			p += "/" + names[r.IntN(4)]
		}
		return p
	}
	var s strings.Builder
	for range n {
		a, b := path(), path()
		switch r.IntN(9) {
		case 0, 1:
			fmt.Fprintf(&s, "mkdir -p %s", a)
		case 2, 3:
			// Times of their own, that what is written without a change is not seen as one.
			fmt.Fprintf(&s, "test -d %s || { echo %d >%[1]s && touch -hd @%[3]d %[1]s; }", a, r.IntN(1000), r.IntN(1e9))
		case 4:
			fmt.Fprintf(&s, "rm -rf %s", a)
		case 5:
			fmt.Fprintf(&s, "test -e %s || ln -s %s %[1]s", a, b)
		case 6:
			fmt.Fprintf(&s, "mv -T %s %s", a, b)
		case 7:
			fmt.Fprintf(&s, "test -h %s || chmod 7%d%d %[1]s", a, r.IntN(8), r.IntN(8))
		case 8:
			fmt.Fprintf(&s, "rm -rf %s && mkdir %[1]s", a)
		}
		s.WriteString(" 2>/dev/null || true\n")
	}
	return s.String()
}

func TestHardLinks(t *testing.T) {
	h := newHost(t, "mkdir d e; echo >d/x")
	since := settled()
	h.command(t, "echo 1 >d/a; ln d/a e/b; ln d/a c; mkdir n; ln d/a n/d; ln -s x l; ln l l2")
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", "stat -c '%n %h' d/a e/b c n/d l l2; cat n/d"), "d/a 4\ne/b 4\nc 4\nn/d 4\nl 2\nl2 2\n1\n")
	h.clean(t)
}

func TestApplyAttributes(t *testing.T) {
	hulltest.Require(t, hulltest.Command("setfattr"))
	h := newHost(t, "echo 1 >a; mkdir d; setfattr -n user.gone -v x d; setfattr -n user.old -v x d")
	since := settled()
	h.command(t, "setfattr -n user.k -v w a; setfattr -n user.new -v v d; setfattr -n user.old -v y d; setfattr -x user.gone d; mkdir e; setfattr -n user.e -v e e; chmod 500 d")
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", "getfattr -d a d e; stat -c %a d"), `
# file: a
user.k="w"

# file: d
user.new="v"
user.old="y"

# file: e
user.e="e"

500
`)
}

// What the host's directory hands down reaches what the command made once: in the overlay.
func TestInheritedACL(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("setfattr"))
	// u::rwx u:1:rwx g::rwx m::rwx o::rwx, as linux/posix_acl_xattr.h has it.
	const acl = "0x0200000001000700ffffffff020007000100000004000700ffffffff10000700ffffffff20000700ffffffff"
	h := newHost(t, "mkdir d; setfattr -n system.posix_acl_default -v "+acl+" d")
	since := settled()
	const list = "getfattr -R -m system -d -e hex d; find d -printf '%P %m\\n'"
	want := h.command(t, "echo 1 >d/a; mkdir d/b; echo 2 >d/b/c; echo 3 >d/plain; setfattr -x system.posix_acl_access d/plain; chmod 600 d/plain\n"+list)
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", list), want)
	if !strings.Contains(want, "system.posix_acl_access=") {
		t.Error("nothing was inherited")
	}
}

// A directory that is closed by the command has things replaced in it before.
func TestClosedDirectory(t *testing.T) {
	h := newHost(t, "mkdir -p d/e f; echo 1 >d/a; echo 1 >d/e/a; echo 1 >f/a")
	since := settled()
	want := h.command(t, "echo 2 >d/a; echo 2 >d/e/a; rm f/a; "+manifest+"; chmod 400 d/e d; chmod 0 f")
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", "stat -c '%a' d f; chmod 755 d f; stat -c %a d/e; chmod 755 d/e"), "400\n0\n400\n")
	equal(t, h.shell(t, "lower/tree", manifest), want)
	h.clean(t)
}

func TestSetgidDirectory(t *testing.T) {
	h := newHost(t, "mkdir shared; chmod 2775 shared")
	since := settled()
	h.command(t, "mkdir -p shared/a/b")
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", "stat -c %a shared/a/b"), "2755\n")
}

func TestRefused(t *testing.T) {
	h := newHost(t, "mkdir d; echo >sgid; chmod 2755 sgid")
	since := settled()
	h.command(t, `echo >suid; chmod 4755 suid; mkdir g; chmod 2755 g; mkfifo d/pipe; echo >>sgid; chmod 2755 sgid; ln -s /etc/passwd ok; mkdir u; chmod 4755 u
		perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); bind(S,sockaddr_un("sock"))'`)
	h.refused(t, since,
		"/tree/d/pipe is a fifo", "/tree/g has the set-group-ID bit", "/tree/sgid has the set-group-ID bit", "/tree/sock is a socket",
		"/tree/suid has the set-user-ID bit", "/tree/u has the set-user-ID bit")
}

func TestRefusedOfRoot(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Command("setcap"), hulltest.Command("setfattr"), hulltest.Command("chattr"))
	h := newHost(t, "echo x >a; mkdir d")
	since := settled()
	h.command(t, `cp /bin/true cap; setcap cap_net_raw+ep cap; mknod disk b 8 0; mknod null c 1 3; echo >sec; setfattr -n security.ima -v x sec
		echo >over; setfattr -n trusted.overlay.redirect -v /etc/shadow over; echo >over2; setfattr -n user.overlay.opaque -v y over2
		echo >t; setfattr -n trusted.x -v y t; ln -s x l; setfattr -h -n trusted.y -v y l`)
	// What the kernel wouldn't let it write.
	h.shell(t, "changes/upper/tree", "mkdir moved; setfattr -n trusted.overlay.redirect -v /etc moved; : >meta; setfattr -n trusted.overlay.metacopy meta")
	h.refused(t, since,
		"/tree/cap has file capabilities", "/tree/disk is a block device", "/tree/l has the attribute trusted.y",
		"/tree/meta has the attribute trusted.overlay.metacopy of overlayfs", "/tree/moved has the attribute trusted.overlay.redirect of overlayfs",
		"/tree/null is a character device",
		"/tree/over has the attribute trusted.overlay.overlay.redirect of overlayfs", "/tree/over2 has the attribute user.overlay.opaque of overlayfs",
		"/tree/sec has the attribute security.ima", "/tree/t has the attribute trusted.x")
}

func TestRefusedOwner(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("is run by TestUser")
	}
	h := newHost(t, ":")
	h.command(t, "echo >a")
	tree := h.tree()
	changes, err := tree.Changes()
	check(t, err)
	changes[0].UID = 12345
	err = tree.Apply(changes, settled())
	if err == nil || err.Error() != "/tree/a belongs to user 12345" {
		t.Errorf("%v", err)
	}
}

// What has changed on the host while the command ran is not overwritten, nor deleted.
func TestConflicts(t *testing.T) {
	h := newHost(t, `mkdir d1 d2 d3 d4 d5 d6; for i in a b c d e f g h; do echo $i >$i; echo $i >d1/$i; done; mkdir -p t/u; echo >t/u/v; echo >d2/x; echo >d3/x; echo 1 >d6/x
		mkdir moved1 moved2; echo 1 >moved1/f; echo 2 >moved2/f; echo >zz; echo >copied; mkdir gone; echo >gone/x`)
	since := settled()
	h.command(t, `echo 1 >>a; rm b; echo new >n; rm -r d2 t; rm -r d1; mkdir d1; chmod 700 d4; echo 1 >moved1/f; mkdir dir; rm zz; mkdir zz; echo 2 >>copied; echo 2 >>gone/x; echo fine >fine; echo x >d5/x`)
	h.shell(t, "lower/tree", `echo 2 >>a; chmod 600 b; echo mine >n; echo >t/u/new; echo >d1/new; chmod 750 d4
		mv moved1 tmp; mv moved2 moved1; echo >dir; touch -d 2001-01-01 zz; rm copied; rm -r gone; touch c d3/y; echo >d5/mine`)
	h.refused(t, since,
		"/tree/a has changed on the host meanwhile",
		"/tree/b has changed on the host meanwhile",
		"/tree/copied may have been deleted on the host meanwhile",
		"/tree/d1/new has changed on the host meanwhile",
		"/tree/d4 has changed on the host meanwhile",
		"/tree/dir has changed on the host meanwhile",
		"/tree/gone may have been deleted on the host meanwhile",
		"/tree/moved1/f is in /tree/moved1, which has changed on the host meanwhile",
		"/tree/n has changed on the host meanwhile",
		"/tree/t has something in it that has changed on the host meanwhile: u",
		"/tree/zz has changed on the host meanwhile")
}

// A change on the host is seen however soon it comes, and one from just before is none.
func TestConflictAtOnce(t *testing.T) {
	h := newHost(t, "echo 1 >a; echo 1 >b")
	h.command(t, "echo 2 >a; echo 2 >b")
	tree := h.tree()
	write := func(name string) {
		check(t, os.WriteFile(h.path("lower/tree/"+name), []byte("host"), 0o644))
	}
	for range 100 {
		write("a")
		since := settled()
		write("b")
		changes, err := tree.Changes()
		check(t, err)
		err = tree.Apply(changes, since)
		if err == nil || err.Error() != "/tree/b has changed on the host meanwhile" {
			t.Fatal(err)
		}
	}
}

// Changes are put where they were listed, even if the list was made otherwise.
func TestOnlyShown(t *testing.T) {
	h := newHost(t, "echo >a")
	h.command(t, "echo 1 >b")
	tree := h.tree()
	changes, err := tree.Changes()
	check(t, err)
	for _, p := range []string{"/b", "/tree", "/tree/../b", "/tree/./b", "/treeb", "tree/b", "/", "", "/tree/\x00"} {
		c := changes[0]
		c.Path = p
		var r *Refusal
		if err := tree.Apply([]Change{c}, settled()); !errors.As(err, &r) {
			t.Errorf("%q: %v", p, err)
		}
	}
	h.entries = append(h.entries, overlay.Entry{Kind: overlay.Overlay, Path: "/tree/b/c"})
	h.refused(t, settled(), "/tree/b is not in a directory of the host that the command was shown")
}

// ownMounts gives the current goroutine a mount namespace of its own, until the test ends, and its thread with it.
func ownMounts(t testing.TB) {
	t.Helper()
	hulltest.Require(t, hulltest.Root)
	runtime.LockOSThread()
	check(t, unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS))
	check(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// A host without space keeps what it has.
func TestNoSpace(t *testing.T) {
	ownMounts(t)
	h := newHost(t, ":")
	check(t, unix.Mount("small", h.path("lower/tree"), "tmpfs", 0, "size=1m"))
	defer unix.Unmount(h.path("lower/tree"), unix.MNT_DETACH)
	h.shell(t, "lower/tree", "echo 1 >a; echo 2 >b; mkdir d")
	since := settled()
	h.command(t, "echo 2 >>a; rm b; mkdir -p d/e; head -c 600000 /dev/urandom >d/e/f; head -c 600000 /dev/urandom >c")
	before := h.shell(t, "lower", manifest)
	err := h.apply(t, since)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	if err != nil {
		equal(t, strings.SplitN(err.Error(), ":", 2)[0], "/tree/d/e/f")
	}
	equal(t, h.shell(t, "lower", manifest), before)
	h.clean(t)
}

// A file larger than the host's file system takes is an error, and soon.
func TestTooLarge(t *testing.T) {
	ownMounts(t)
	h := newHost(t, "echo a >a")
	probe := h.path("probe")
	check(t, os.WriteFile(probe, nil, 0o600))
	if os.Truncate(probe, 1<<63-1) == nil {
		t.Skip("needs temporary files on a file system that limits a file's size: on tmpfs any fits")
	}
	check(t, os.Remove(probe))
	check(t, unix.Mount("upper", h.path("changes"), "tmpfs", 0, ""))
	defer unix.Unmount(h.path("changes"), unix.MNT_DETACH)
	h.upper.Close()
	check(t, os.MkdirAll(h.path("changes/upper/tree"), 0o755))
	check(t, os.MkdirAll(h.path("changes/work"), 0o755))
	var err error
	h.upper, err = os.Open(h.path("changes/upper"))
	check(t, err)
	since := settled()
	h.command(t, "echo b >a; truncate -s 9223372036854775807 huge; touch -d @-9223372036 a")
	before := h.shell(t, "lower", manifest)
	equal(t, h.list(t), "M /tree/a (file, 2 B)\nA /tree/huge (file, 9.2 EB)\n")
	if err := h.apply(t, since); !errors.Is(err, unix.EFBIG) {
		t.Errorf("%v", err)
	}
	equal(t, h.shell(t, "lower", manifest), before)
	h.clean(t)
}

// Where a step fails, those before are taken back: each of them fails once.
func TestTakenBack(t *testing.T) {
	defer func() { renameat2 = unix.Renameat2 }()
	notSynced(t)
	for _, flags := range []bool{true, false} {
		for fail := 1; ; fail++ {
			h := newHost(t, example)
			since := settled()
			h.command(t, exampleCommand)
			before := h.shell(t, "lower", manifest)
			n := 0
			renameat2 = func(from int, old string, to int, name string, f uint) error {
				if !flags && f != 0 {
					return unix.EINVAL
				}
				if n++; n == fail {
					return unix.EIO
				}
				return unix.Renameat2(from, old, to, name, f)
			}
			err := h.apply(t, since)
			h.clean(t)
			if err == nil {
				if fail < 4 {
					t.Errorf("%d renames only", fail)
				}
				break
			}
			var u *Unfinished
			if !errors.Is(err, unix.EIO) || errors.As(err, &u) {
				t.Errorf("%d: %v", fail, err)
			}
			equal(t, h.shell(t, "lower", manifest), before)
		}
	}
}

// Where taking back fails as well, the error says what is there now and where the old is.
func TestUnfinished(t *testing.T) {
	defer func() { renameat2 = unix.Renameat2 }()
	h := newHost(t, "echo 1 >a; echo 1 >b; echo 1 >c")
	since := settled()
	h.command(t, "echo 2 >a; echo 2 >b; echo 2 >c")
	n := 0
	renameat2 = func(from int, old string, to int, name string, f uint) error {
		if n++; n >= 3 && name != "a" && old != "a" {
			return unix.EIO
		}
		return unix.Renameat2(from, old, to, name, f)
	}
	err := h.apply(t, since)
	var u *Unfinished
	if !errors.As(err, &u) || !errors.Is(err, unix.EIO) {
		t.Fatal(err)
	}
	equal(t, strings.Join(u.Applied, " "), "/tree/b")
	equal(t, h.shell(t, "lower/tree", "cat a b c"), "1\n2\n1\n")
	if len(u.Kept) != 1 {
		t.Fatal(u.Kept)
	}
	equal(t, h.shell(t, "lower", "cat ."+u.Kept[0]+"/1"), "1\n")
}

// A file system that can't exchange names (NFS) has another way.
func TestApplyWithoutFlags(t *testing.T) {
	defer func() { renameat2 = unix.Renameat2 }()
	renameat2 = func(from int, old string, to int, name string, f uint) error {
		if f != 0 {
			return unix.EINVAL
		}
		return unix.Renameat2(from, old, to, name, f)
	}
	h := newHost(t, example)
	since := settled()
	want := h.command(t, exampleCommand+"\n"+manifest)
	check(t, h.apply(t, since))
	equal(t, applied(h.shell(t, "lower/tree", manifest)), applied(want))
	h.clean(t)
}

// More directories than are kept open.
func TestManyDirectories(t *testing.T) {
	h := newHost(t, "for i in $(seq 300); do mkdir d$i; echo >d$i/f; done")
	since := settled()
	want := h.command(t, "for i in $(seq 300); do echo x >d$i/f; echo y >d$i/g; done; find . -type f | sort | xargs cat | md5sum")
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", "find . -type f | sort | xargs cat | md5sum"), want)
	h.clean(t)
}

// A kept upper directory is one that overlayfs takes.
func TestMountedByHand(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	ownMounts(t)
	h := newHost(t, example)
	want := h.command(t, exampleCommand+"\n"+manifest)
	check(t, os.Mkdir(h.path("work2"), 0o755))
	check(t, unix.Mount("o", h.path("view"), "overlay", 0, "lowerdir="+h.path("lower")+",upperdir="+h.path("changes/upper")+",workdir="+h.path("work2")))
	defer unix.Unmount(h.path("view"), unix.MNT_DETACH)
	equal(t, h.shell(t, "view/tree", manifest), want)
}

// Others rename on the host and in the upper directory while changes are applied. Whatever comes of it, nothing outside
// is touched, and what is opened is what was looked at.
func TestRacingRenamer(t *testing.T) {
	for _, side := range []string{"lower/tree", "changes/upper/tree"} {
		t.Run(strings.SplitN(side, "/", 2)[0], func(t *testing.T) {
			applied, refused, unfinished := 0, 0, 0
			notSynced(t)
			for range 20 {
				h := newHost(t, "mkdir -p a/b; echo 1 >a/b/f; echo 1 >a/b/g; mkdir ../../outside; echo secret >../../outside/f; echo secret >../../outside/g; mkdir ../../outside/b; echo secret >../../outside/b/f")
				since := settled()
				h.command(t, "echo 2 >a/b/f; rm a/b/g; echo n >a/b/n; mkdir a/c; echo 3 >a/c/d")
				// a is a directory, and a link to outside, in turns.
				check(t, os.Symlink(h.path("outside"), h.path(side+"/z")))
				stop, done := make(chan bool), make(chan bool)
				dir, err := os.Open(h.path(side))
				check(t, err)
				go func() {
					defer close(done)
					for i := 0; ; i++ {
						select {
						case <-stop:
							if i%2 == 1 { // an odd number of exchanges
								unix.Renameat2(int(dir.Fd()), "a", int(dir.Fd()), "z", unix.RENAME_EXCHANGE)
							}
							return
						default:
							unix.Renameat2(int(dir.Fd()), "a", int(dir.Fd()), "z", unix.RENAME_EXCHANGE)
							time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
						}
					}
				}()
				tree := h.tree()
				changes, err := tree.Changes()
				if err == nil {
					err = tree.Apply(changes, since.Add(time.Hour)) // the race is what is to stop it
				}
				close(stop)
				<-done
				dir.Close()
				var u *Unfinished
				switch {
				case err == nil:
					applied++
				case errors.As(err, &u):
					unfinished++
				default:
					refused++
				}
				equal(t, h.shell(t, "outside", "cat f g b/f; find . | sort"), "secret\nsecret\nsecret\n.\n./b\n./b/f\n./f\n./g\n")
				if out := h.shell(t, "lower/tree", "grep -rs secret . --exclude-dir=z || true"); out != "" {
					t.Errorf("what is outside has come in: %s", out)
				}
			}
			t.Logf("applied %d, not %d, in part %d", applied, refused, unfinished)
		})
	}
}

// Links in the upper directory lead nowhere, magic ones neither.
func TestLinksInUpper(t *testing.T) {
	h := newHost(t, "mkdir d; echo 1 >d/f")
	since := settled()
	h.command(t, "rm -r d; ln -s /etc d; ln -s /proc/self/root r; ln -s ../../.. up; mkdir real; ln -s /etc/shadow real/x")
	equal(t, h.list(t), "M /tree/d (symlink to /etc, was dir)\nA /tree/r (symlink to /proc/self/root)\nA /tree/real (dir)\nA /tree/real/x (symlink to /etc/shadow)\nA /tree/up (symlink to ../../..)\n")
	check(t, h.apply(t, since))
	equal(t, h.shell(t, "lower/tree", "readlink d r up real/x"), "/etc\n/proc/self/root\n../../..\n/etc/shadow\n")
}

// What a link on the host hides is not written to.
func TestLinkOnHost(t *testing.T) {
	h := newHost(t, "mkdir d; echo 1 >d/f; mkdir ../../outside; echo secret >../../outside/f")
	since := settled()
	h.command(t, "echo 2 >d/f; echo 3 >d/n")
	tree := h.tree()
	changes, err := tree.Changes()
	check(t, err)
	check(t, os.RemoveAll(h.path("lower/tree/d")))
	check(t, os.Symlink(h.path("outside"), h.path("lower/tree/d")))
	if err := tree.Apply(changes, since.Add(time.Hour)); err == nil {
		t.Error("applied")
	}
	equal(t, h.shell(t, "outside", "cat f; ls"), "secret\nf\n")
	h.clean(t)
}

// Another file system that was mounted meanwhile is not what the command was shown.
func TestMountedMeanwhile(t *testing.T) {
	ownMounts(t)
	h := newHost(t, "mkdir d; echo 1 >d/f; mkdir e; echo 1 >e/f")
	since := settled()
	h.command(t, "echo 2 >d/f; rm -r e")
	for _, d := range []string{"d", "e"} {
		check(t, unix.Mount("m", filepath.Join(h.path("lower/tree"), d), "tmpfs", 0, ""))
		defer unix.Unmount(filepath.Join(h.path("lower/tree"), d), unix.MNT_DETACH)
	}
	h.refused(t, since, "/tree/d/f can't be reached on the host: invalid cross-device link", "/tree/e has changed on the host meanwhile")
}
