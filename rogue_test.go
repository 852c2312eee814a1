package hull_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/filter"
)

// The rogue is the kernel of a sandbox that its container has taken over. It is this test binary in the place of
// hull-sandbox: in the jail that hull makes, with the descriptors that hull gives, confined as package boot does it. What
// the program of its configuration is called is what it tries; standard output has the results.
type rogue struct {
	trees   []int // donated descriptors: the root, then the sources of bind mounts
	control int
	report  *os.File
	args    []string
}

func init() {
	roles["rogue"] = func(args []string) error {
		r := new(rogue)
		if err := r.take(args); err != nil {
			return err
		}
		runtime.GOMAXPROCS(2) // or Go would ask how many processors there are, which the filter ends it for
		part := roguery[r.args[0]]
		if part.before != nil {
			part.before(r)
		}
		f, err := filter.Compile(filter.Process{})
		if err == nil {
			err = filter.Confine(wire.Nowhere, f)
		}
		if err != nil {
			return err
		}
		if _, err := r.report.WriteString(wire.Ready); err != nil {
			return err
		}
		part.after(r)
		_, err = r.report.WriteString("0")
		return err
	}
}

// take reads what hull has given.
func (r *rogue) take(args []string) error {
	fs := flag.NewFlagSet("boot", flag.ContinueOnError)
	for _, ignored := range []string{"release", "id", "bundle", "log-fd", "start-fd", "submount", "overlay"} {
		fs.String(ignored, "", "")
	}
	fs.IntVar(&r.control, "controller-fd", -1, "")
	spec, report, trees := fs.Int("spec-fd", -1, ""), fs.Int("report-fd", -1, ""), fs.String("io-fds", "", "")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	r.report = os.NewFile(uintptr(*report), "report")
	for n := range strings.SplitSeq(*trees, ",") {
		fd, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		r.trees = append(r.trees, fd)
	}
	var st unix.Stat_t
	if err := unix.Fstat(*spec, &st); err != nil {
		return err
	}
	raw := make([]byte, st.Size)
	if _, err := unix.Pread(*spec, raw, 0); err != nil {
		return err
	}
	var s specs.Spec
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	r.args = s.Process.Args
	return nil
}

// tries prints what came of an attempt.
func (r *rogue) tries(what string, err error) {
	var errno unix.Errno
	if errors.As(err, &errno) {
		fmt.Printf("%s: %s\n", what, unix.ErrnoName(errno))
		return
	}
	fmt.Printf("%s: %v\n", what, err)
}

// roguery is what a rogue does, before it is confined and after.
var roguery = map[string]struct{ before, after func(*rogue) }{
	"files":  {(*rogue).beforeFiles, (*rogue).files},
	"moved":  {nil, (*rogue).moved},
	"root":   {nil, (*rogue).writeRoot},
	"lies":   {nil, (*rogue).lies},
	"status": {nil, (*rogue).lieAboutStatus},
}

// The trees of a rogue that tries files.
const (
	rogueRoot = iota
	rogueVolume
	rogueReadonly
	rogueFile
)

// beforeFiles is for what the jail alone must stop.
func (r *rogue) beforeFiles() {
	r.tries("jail: change the mode of its own program", unix.Chmod("/proc/self/exe", 0o777))
	r.tries("jail: give its own program away", unix.Chown("/proc/self/exe", 1234, 1234))
	r.tries("jail: write to the root", unix.Mkdir("/x", 0o755))
	r.tries("jail: change a setting of the host", os.WriteFile("/proc/sys/kernel/core_pattern", []byte("x"), 0))
	r.tries("jail: look for devices", unix.Access("/dev", unix.F_OK))
	r.tries("jail: mount", unix.Mount("proc", "/proc", "proc", 0, ""))
	r.tries("jail: take the volume's mount", unix.MoveMount(r.trees[rogueVolume], "", unix.AT_FDCWD, "/nowhere", unix.MOVE_MOUNT_F_EMPTY_PATH))
	r.tries("jail: make the read-only mount writable", unix.MountSetattr(r.trees[rogueReadonly], "", unix.AT_EMPTY_PATH,
		&unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}))
	r.tries("jail: open by handle", openByHandle(r.trees[rogueVolume]))
	r.tries("jail: make a device", unix.Mknodat(r.trees[rogueVolume], "dev", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	r.tries("jail: raise the limit of its processes", unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
}

// openByHandle opens a file by its number: who may do that opens each of the file system, in a tree or not.
func openByHandle(dir int) error {
	at, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	h, _, err := unix.NameToHandleAt(at, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	fd, err := unix.OpenByHandleAt(at, h, unix.O_RDONLY)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func (r *rogue) files() {
	root, vol, ro, file := r.trees[rogueRoot], r.trees[rogueVolume], r.trees[rogueReadonly], r.trees[rogueFile]
	open := func(dir int, name string, flags int) error {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	chmod := func(dir int, name string) error {
		b := append([]byte(name), 0)
		_, _, errno := unix.RawSyscall(unix.SYS_FCHMODAT, uintptr(dir), uintptr(unsafe.Pointer(&b[0])), 0o777)
		if errno == 0 {
			return nil
		}
		return errno
	}
	r.tries("a path of the host", open(vol, "/etc/passwd", unix.O_RDONLY))
	r.tries("a path in /proc", open(vol, "/proc/self/status", unix.O_RDONLY))
	r.tries("its own program", chmod(vol, "/proc/self/exe"))
	r.tries("a magic link to a tree", open(vol, fmt.Sprintf("/proc/self/fd/%d/plain", vol), unix.O_RDONLY))
	r.tries("the host's processes", open(vol, "/proc/1/root/etc/passwd", unix.O_RDONLY))
	r.tries("up from a tree", r.climbs(vol))
	r.tries("up from the root", r.climbs(root))
	r.tries("up and over", open(vol, "../secret", unix.O_RDONLY))
	r.tries("a link out", chmod(vol, "link"))
	r.tries("a link out, in between", open(vol, "dirlink/secret", unix.O_RDONLY))
	r.tries("an absolute link", open(vol, "absolute/etc/passwd", unix.O_RDONLY))
	r.tries("a device of the host's", open(vol, "device", unix.O_RDWR))
	r.tries("a socket of the host's", open(vol, "socket", unix.O_RDWR))
	r.tries("read-only: write", open(ro, "plain", unix.O_WRONLY))
	r.tries("read-only: make", open(ro, "new", unix.O_WRONLY|unix.O_CREAT))
	r.tries("read-only: make a directory", unix.Mkdirat(ro, "dir", 0o755))
	r.tries("read-only: remove", unix.Unlinkat(ro, "plain", 0))
	r.tries("read-only: rename", unix.Renameat(ro, "plain", ro, "other"))
	r.tries("read-only: mode", chmod(ro, "plain"))
	r.tries("read-only: owner of the mount", unix.Fchownat(ro, "", 1, 1, unix.AT_EMPTY_PATH))
	r.tries("read-only: link", unix.Linkat(ro, "plain", ro, "other", 0))
	r.tries("between trees: link", unix.Linkat(ro, "plain", vol, "stolen", 0))
	r.tries("between trees: rename", unix.Renameat(ro, "plain", vol, "stolen"))
	r.tries("between trees: rename out", unix.Renameat(vol, "plain", root, "stolen"))
	_, err := unix.Pwrite(file, []byte("x"), 0)
	r.tries("read-only file: write", err)
	r.tries("read-only file: mode", unix.Fchmod(file, 0o777))
	r.tries("read-only file: owner", unix.Fchown(file, 1, 1))
	r.tries("read-only file: truncate", unix.Ftruncate(file, 0))
	_, err = unix.Mmap(file, 0, 4096, unix.PROT_WRITE, unix.MAP_SHARED)
	r.tries("read-only file: map", err)
	r.tries("read-only file: attribute", unix.Fsetxattr(file, "user.x", []byte("x"), 0))
	r.tries("what it may: write", open(vol, "plain", unix.O_WRONLY))
	r.tries("what it may: make", open(vol, "mine", unix.O_WRONLY|unix.O_CREAT))
	var have unix.Stat_t
	for fd := range 256 {
		if unix.Fstat(fd, &have) == nil && fmt.Sprint(have.Dev, have.Ino) == r.args[1] {
			fmt.Println("it has its own program open at", fd)
		}
	}
}

// climbs tells whether there is anything above a tree.
func (r *rogue) climbs(dir int) error {
	var below, above unix.Stat_t
	if err := unix.Fstat(dir, &below); err != nil {
		return err
	}
	if err := unix.Fstatat(dir, "..", &above, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if below.Ino == above.Ino && below.Dev == above.Dev {
		return errors.New("nothing")
	}
	return nil
}

// moved has a directory open while the host moves it out of the tree: there is no mount that it is below any more.
func (r *rogue) moved() {
	vol := r.trees[rogueVolume]
	sub, err := unix.Openat(vol, "sub", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		r.tries("open", err)
		return
	}
	fmt.Println("has it")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var st unix.Stat_t
		if unix.Fstatat(vol, "sub", &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			break
		}
	}
	for _, name := range []string{"..", "../secret", "../../secret"} {
		_, err := unix.Openat(sub, name, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
		r.tries(name, err)
	}
}

// rogueRuntime is a runtime whose sandboxes are rogues.
func rogueRuntime(t *testing.T) *hull.Runtime {
	t.Helper()
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	r := newRuntime(t)
	r.Isolation, r.SandboxProgram = hull.Sandbox, staticTests.path(t)
	return r
}

func plays(part string, args ...string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Process.Args = append([]string{part}, args...) }
}

func (r *rogue) writeRoot() {
	_, err := unix.Openat(r.trees[rogueRoot], "made", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	r.tries("make a file in the root", err)
}

// What a container with an overlay writes is kept by its kernel, and so that needs no root that can be written to.
func TestRogueOverlay(t *testing.T) {
	r := rogueRuntime(t)
	r.Sandbox.Overlay = "memory"
	got, err := tryRun(t, r, plays("root"))
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, outcome{Status: "0", Out: "make a file in the root: EROFS\n"}, got)
}

// What the kernel of a sandbox can't do with files, though it is in the hands of the container: what it was given is all
// there is for it, what is read-only stays so, links lead nowhere.
func TestRogueFiles(t *testing.T) {
	r := rogueRuntime(t)
	host := t.TempDir()
	volume, readonly := filepath.Join(host, "volume"), filepath.Join(host, "readonly")
	for _, dir := range []string{volume, readonly} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "plain"), "plain")
	}
	write(t, filepath.Join(host, "secret"), "secret")
	for name, to := range map[string]string{"link": "../secret", "dirlink": "..", "absolute": "/"} {
		if err := os.Symlink(to, filepath.Join(volume, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(volume, "device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(volume, "socket"), unix.S_IFSOCK|0o666, 0); err != nil {
		t.Fatal(err)
	}
	var program unix.Stat_t
	if err := unix.Stat(r.SandboxProgram, &program); err != nil {
		t.Fatal(err)
	}
	got, err := tryRun(t, r, plays("files", fmt.Sprint(program.Dev, program.Ino)), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/v", Source: volume, Options: []string{"bind"}},
			specs.Mount{Destination: "/r", Source: readonly, Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/f", Source: filepath.Join(readonly, "plain"), Options: []string{"bind", "ro"}})
	})
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, outcome{Status: "0", Out: `jail: change the mode of its own program: EROFS
jail: give its own program away: EROFS
jail: write to the root: EROFS
jail: change a setting of the host: EROFS
jail: look for devices: ENOENT
jail: mount: EPERM
jail: take the volume's mount: EPERM
jail: make the read-only mount writable: EPERM
jail: open by handle: EPERM
jail: make a device: EPERM
jail: raise the limit of its processes: EPERM
a path of the host: ENOENT
a path in /proc: ENOENT
its own program: ENOENT
a magic link to a tree: ENOENT
the host's processes: ENOENT
up from a tree: nothing
up from the root: nothing
up and over: ENOENT
a link out: ELOOP
a link out, in between: ELOOP
an absolute link: ELOOP
a device of the host's: EACCES
a socket of the host's: ENXIO
read-only: write: EROFS
read-only: make: EROFS
read-only: make a directory: EROFS
read-only: remove: EROFS
read-only: rename: EROFS
read-only: mode: EROFS
read-only: owner of the mount: EROFS
read-only: link: EROFS
between trees: link: EXDEV
between trees: rename: EXDEV
between trees: rename out: EXDEV
read-only file: write: EBADF
read-only file: mode: EROFS
read-only file: owner: EROFS
read-only file: truncate: EINVAL
read-only file: map: EACCES
read-only file: attribute: EROFS
what it may: write: <nil>
what it may: make: <nil>
`}, got)
	if fi, err := os.Stat(r.SandboxProgram); err != nil || fi.Mode().Perm()&0o022 != 0 {
		t.Errorf("the program on the host: %v, %v", fi.Mode(), err)
	}
}

// A directory that the host moves out of a volume takes nobody who has it open along to what is there.
func TestRogueMovedDirectory(t *testing.T) {
	r := rogueRuntime(t)
	host := t.TempDir()
	volume := filepath.Join(host, "volume")
	if err := os.MkdirAll(filepath.Join(volume, "sub"), 0o777); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(host, "secret"), "secret")
	says := newSpeaker(t)
	create(t, r, hull.CreateOptions{Stdio: hull.Stdio{Out: says.W}}, plays("moved"), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Source: volume, Options: []string{"bind"}})
	})
	says.want("has it")
	if err := os.Rename(filepath.Join(volume, "sub"), filepath.Join(host, "sub")); err != nil {
		t.Fatal(err)
	}
	says.want("..: ENOENT")
	says.want("../secret: ENOENT")
	says.want("../../secret: ENOENT")
}

// nasty is text that a terminal would obey, and that looks like hull's.
const nasty = "\x1b[2J\x1b]0;owned\a\r\nhull: all is well\t\u202e"

// lies answers hull's requests with what hull must not believe.
func (r *rogue) lies() {
	answers := []any{
		wire.Reply{Failure: &wire.Failure{Field: nasty, Step: nasty, Message: strings.Repeat(nasty, 100), Hint: nasty, Errno: -5}},
		wire.Reply{Processes: []wire.Process{{PID: -1, PPID: 1, UID: 1, STime: nasty, TTY: nasty, Time: nasty, Command: nasty + strings.Repeat("x", 5000)}}},
		json.RawMessage(strings.Repeat("[", 500000) + strings.Repeat("]", 500000)),
		json.RawMessage(`{"Processes":[{"PID":1e999}]}`),
		r.control, // a descriptor that nobody has asked for
		nil,       // the end of the connection
	}
	for _, a := range answers {
		conn, _, err := unix.Accept4(r.control, unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		var request wire.Request
		if _, err := wire.Receive(conn, &request, 3); err != nil {
			return
		}
		switch {
		case a == r.control:
			_ = wire.Send(conn, wire.Reply{}, conn, conn, conn, conn)
		case a != nil:
			_ = wire.Send(conn, a)
		}
		unix.Close(conn)
	}
	select {}
}

// What the kernel of a sandbox says of itself to hull ends up in messages and on terminals.
func TestRogueLies(t *testing.T) {
	r := rogueRuntime(t)
	c := create(t, r, hull.CreateOptions{}, plays("lies"))
	clean := func(what, text string) {
		t.Helper()
		for _, bad := range []string{"\x1b", "\a", "\r", "\n", "\t", "\u202e"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q in it: %q", what, bad, text[:min(len(text), 200)])
			}
		}
		if len(text) > 8192 {
			t.Errorf("%s is %d bytes long", what, len(text))
		}
	}
	for i := range 6 {
		list, err := c.Inside()
		switch {
		case err != nil:
			clean("the error", err.Error())
			clean("the hint", hull.Hint(err))
		case len(list) == 1:
			for _, s := range []string{list[0].STime, list[0].TTY, list[0].Time, list[0].Command} {
				clean("a field", s)
			}
		default:
			t.Errorf("answer %d: %v", i, list)
		}
	}
}

// lieAboutStatus says that its program has been stopped, and ends.
func (r *rogue) lieAboutStatus() {
	_, _ = fmt.Fprint(r.report, 19<<8|0x7f)
	os.Exit(3)
}

// A container that has ended is not one that was stopped, whatever its kernel says.
func TestRogueStatus(t *testing.T) {
	got, err := tryRun(t, rogueRuntime(t), plays("status"))
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, outcome{Status: "3"}, got)
}
