package hulltest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// envLeak makes TestLeaker, in a test process of its own, leak what it names.
const envLeak = "HULLTEST_LEAK"

// leakers leak something on purpose.
var leakers = map[string]func(t *testing.T){
	"nothing": func(t *testing.T) {
		Bundle(t)
		f, err := os.Open("/dev/null")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := exec.Command(Prog(t), "true").Run(); err != nil {
			t.Fatal(err)
		}
	},
	"failure":    func(t *testing.T) { t.Error("on purpose") },
	"descriptor": func(t *testing.T) { kept, _ = os.Open("/dev/zero") },
	"child": func(t *testing.T) {
		cmd := &exec.Cmd{Path: copyOfProg(t), Args: []string{"sleep", "600"}, Dir: "/"}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	},
	"zombie": func(t *testing.T) {
		cmd := exec.Command("/bin/true")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
	},
	"daemon": func(t *testing.T) { // orphaned, like a detached container
		out, err := exec.Command("/bin/sh", "-c", `exec >/dev/null 2>&1; cd "$1"; "$0" sleep 600 &`, copyOfProg(t), "/").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	},
	"mount": func(t *testing.T) {
		dir := filepath.Join(workDir(t), "mnt")
		if err := errors.Join(os.Mkdir(dir, 0o755), unix.Mount("hulltest", dir, "tmpfs", 0, "size=4k")); err != nil {
			t.Fatal(err)
		}
	},
	"file": func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(os.TempDir(), "left"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	},
	"cgroup": func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(cgroupRoot(t), Token(t)+"-x"), 0o755); err != nil {
			t.Fatal(err)
		}
	},
}

// kept keeps a file from being closed by the garbage collector.
var kept *os.File

// cgroupRoot returns the root of a hierarchy in which a cgroup can be made.
func cgroupRoot(t *testing.T) string {
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if haveFS(dir, unix.CGROUP_SUPER_MAGIC) == nil || haveFS(dir, unix.CGROUP2_SUPER_MAGIC) == nil {
			return dir
		}
	}
	t.Skip("no cgroup hierarchy is mounted where it usually is")
	return ""
}

// copyOfProg returns a program in the work directory that NoLeaks doesn't remove by itself.
func copyOfProg(t *testing.T) string {
	t.Helper()
	root := filepath.Join(workDir(t), "root")
	makeRootFS(t, root)
	return filepath.Join(root, ProgPath)
}

// TestLeaker does nothing unless TestNoLeaks asks it to.
func TestLeaker(t *testing.T) {
	if leak, ok := leakers[os.Getenv(envLeak)]; ok {
		leak(t)
	}
}

func TestNoLeaks(t *testing.T) {
	for name, test := range map[string]struct {
		want  string // what NoLeaks says, as a pattern; "": nothing
		fails bool
		needs []Need
	}{
		"nothing":    {"", false, nil},
		"failure":    {"", true, nil},
		"descriptor": {`descriptor of /dev/zero \(1\)`, true, nil},
		"child":      {`process \d+ \["sleep" "600"\]`, true, nil},
		"zombie":     {`process \d+ \(true\) Z .* in .*`, true, nil},
		"daemon":     {`process \d+ \["DIR/root/bin/testprog" "sleep" "600"\]`, true, nil},
		"mount":      {`mount of tmpfs at DIR/mnt`, true, []Need{Root}},
		"file":       {`file DIR/left`, true, nil},
		"cgroup":     {`cgroup /sys/fs/cgroup/\S*TOKEN-x`, true, []Need{Root}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Require(t, test.needs...)
			out, err := runLeaker(t, name)
			if (err != nil) != test.fails {
				t.Errorf("status: %v", err)
			}
			var said []string
			for line := range strings.Lines(out) {
				if leak, ok := strings.CutPrefix(line, "hulltest: leaked: "); ok {
					said = append(said, strings.TrimSpace(leak))
				}
			}
			// A process may come with the pidfd that package os has of it, a file with the directory it is in.
			pattern := `^(descriptor of anon_inode:\[pidfd\] \(1\)\|)?(` + test.want + `)?(\|file DIR/(root|mnt))?$`
			if got := strings.Join(said, "|"); !regexp.MustCompile(pattern).MatchString(got) || (got == "") != (test.want == "") {
				t.Errorf("got  %s\nwant %s\n%s", got, test.want, out)
			}
		})
	}
}

// runLeaker runs this test's program again to leak, cleans up behind it, and returns what it says with its directory
// replaced by DIR and its token by TOKEN.
func runLeaker(t *testing.T, name string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	stdout, err := os.Create(filepath.Join(base, "out")) // no pipe: what is leaked would hold it open
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd := exec.Command(exe, "-test.run=^TestLeaker$")
	cmd.Env = append(os.Environ(), envLeak+"="+name, "TMPDIR="+base, envProg+"="+Prog(t))
	cmd.Stdout, cmd.Stderr = stdout, stdout
	runErr := cmd.Run()
	output, err := os.ReadFile(stdout.Name())
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, output)
	out := regexp.MustCompile(regexp.QuoteMeta(base)+`/`+prefix+`\d+`).ReplaceAllString(string(output), "DIR")
	return regexp.MustCompile(prefix+`\d+-x`).ReplaceAllString(out, "TOKEN-x"), runErr
}

// cleanUp removes what a leaker says it left.
func cleanUp(t *testing.T, output []byte) {
	t.Helper()
	for line := range bytes.Lines(output) {
		fields := strings.Fields(strings.TrimPrefix(string(line), "hulltest: leaked: "))
		if len(fields) < 2 || !bytes.HasPrefix(line, []byte("hulltest: leaked: ")) {
			continue
		}
		switch fields[0] {
		case "process":
			pid, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: a zombie, gone with its parent
		case "mount":
			point := fields[len(fields)-1]
			if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
				t.Errorf("umount %s: %v", point, err)
			}
		case "cgroup":
			if err := os.Remove(fields[1]); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestRemoveAllSparesWhatIsMounted(t *testing.T) {
	Require(t, Root)
	dir, precious := t.TempDir(), t.TempDir()
	file := filepath.Join(precious, "file")
	point := filepath.Join(dir, "a", "b")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.MkdirAll(point, 0o700), unix.Mount(precious, point, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	err := removeAll(dir)
	if err == nil || !strings.Contains(err.Error(), "is mounted at "+point) {
		t.Errorf("with a mount: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	if err := unix.Unmount(point, 0); err != nil {
		t.Fatal(err)
	}
	if err := removeAll(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("stat: %v", err)
	}
}

func TestLeaksWhileTheyLast(t *testing.T) {
	w := watch{dir: workDir(t), fds: openFDs()}
	f, err := os.Open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	leaks, err := w.leakedFDs()
	if diff := cmp.Diff([]string{"descriptor of /dev/full (1)"}, leaks); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	f.Close()
	if leaks, err := w.leakedFDs(); len(leaks) > 0 || err != nil {
		t.Errorf("after closing: %v, %v", leaks, err)
	}
	runtime.KeepAlive(f)
}

func TestParseMounts(t *testing.T) {
	got := parseMounts(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue
22 27 0:21 / /proc rw - proc proc rw
nonsense
1 2 3 - x
`)
	want := []mount{{"/mnt1", "/mnt 2", "ext3"}, {"/", "/proc", "proc"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestParent(t *testing.T) {
	state, got := parent("/proc/self")
	if want := fmt.Sprint(os.Getppid()); got != want || state == "" || state == "Z" {
		t.Errorf("%s, want %s", got, want)
	}
	dir := t.TempDir()
	for content, want := range map[string]string{"7 (a) b (c)) S 42 7": "42", "7 (x": "", "": ""} {
		if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, got := parent(dir); got != want {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
	if _, got := parent("/proc/0"); got != "" {
		t.Errorf("no process: %q", got)
	}
}

func TestUses(t *testing.T) {
	w := watch{dir: "/tmp/hulltest-1"}
	for _, test := range []struct {
		name, link, dest, file, content string
		want                            bool
	}{
		{name: "nothing"},
		{name: "its program", link: "exe", dest: "/tmp/hulltest-1/prog", want: true},
		{name: "its directory", link: "cwd", dest: "/tmp/hulltest-1", want: true},
		{name: "its root", link: "root", dest: "/tmp/hulltest-1/b/rootfs", want: true},
		{name: "another's program", link: "exe", dest: "/tmp/hulltest-12/prog"},
		{name: "its cgroup", file: "cgroup", content: "4:pids:/hulltest-1-7\n0::/\n", want: true},
		{name: "another cgroup", file: "cgroup", content: "0::/user.slice\n"},
		{name: "a root from there", file: "mountinfo", content: "1 2 8:1 /tmp/hulltest-1/b/rootfs / rw - ext4 x rw\n", want: true},
		{name: "another root", file: "mountinfo", content: "1 2 8:1 /tmp/hulltest-12/rootfs / rw - ext4 x rw\n"},
		{name: "a mount from there elsewhere", file: "mountinfo", content: "1 2 8:1 /tmp/hulltest-1/b /mnt rw - ext4 x rw\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			proc := t.TempDir()
			if test.link != "" {
				if err := os.Symlink(test.dest, filepath.Join(proc, test.link)); err != nil {
					t.Fatal(err)
				}
			}
			if test.file != "" {
				if err := os.WriteFile(filepath.Join(proc, test.file), []byte(test.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.uses(proc); got != test.want {
				t.Errorf("uses = %v", got)
			}
		})
	}
}

func TestWithin(t *testing.T) {
	for path, want := range map[string]bool{"/a/b": true, "/a/b/c": true, "/a/bc": false, "/a": false, "": false} {
		if got := within(path, "/a/b"); got != want {
			t.Errorf("within(%q) = %v", path, got)
		}
	}
}
