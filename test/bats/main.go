// Command bats runs runc's own integration suite against another runtime and says which tests it loses.
//
// The suite is not part of this repository: the argument is a clone of runc at the tag Tag, in which the suite's
// helper programs are built and its two root file systems are made (from busybox and debootstrap, where the original
// downloads images). It wants root, a C compiler, libseccomp's headers, bats, gawk, jq and a controlling terminal;
// script(1) gives it one. Each file of the suite runs in a mount and a network namespace of its own, so that a test
// that dies leaves no mounts and no links.
//
//	go run ./test/bats -runtime bin/hull /path/to/runc
//	go run ./test/bats -runtime bin/hull /path/to/runc kill.bats exec.bats
//	go run ./test/bats -runtime /path/to/runc/runc -write test/bats/expected.txt /path/to/runc
//
// expected.txt has the tests that runc built from that tag passes itself. A test of that list which doesn't pass is
// lost, and the exit status is 1. differs.txt excuses tests that compare runc's own wording, each with its reason.
package main

import (
	"bufio"
	"cmp"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Tag is the version of runc whose suite expected.txt was recorded with.
const Tag = "v1.4.0"

// fileTimeout ends a file in which a test hangs. The timeout that bats has for each test is no help: it is a job of the
// test's shell, for which the tests' wait would wait.
const fileTimeout = 10 * time.Minute

// suitePID is the environment variable with a process in the network namespace of the suite.
const suitePID = "HULL_BATS_PID"

// skipped are files that aren't run unless they are named: checkpoint.bats wants a CRIU that works, and changes /etc/criu.
var skipped = []string{"checkpoint.bats"}

//go:embed expected.txt
var expected string

//go:embed differs.txt
var differs string

func main() {
	goruntime.LockOSThread() // Pdeathsig goes by the thread that started a process
	runtime := flag.String("runtime", cmp.Or(os.Getenv("RUNTIME"), "bin/hull"), "runtime under test")
	write := flag.String("write", "", "record the tests that pass in `file`, compare nothing")
	logs := flag.String("logs", filepath.Join(os.TempDir(), "hull-bats"), "`directory` for the output of each file")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: bats [flags] RUNC-CLONE [FILE.bats ...]\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	ok, err := run(*runtime, *write, *logs, flag.Arg(0), flag.Args()[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "bats:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// run reports whether no expected test was lost.
func run(runtime, write, logs, clone string, files []string) (bool, error) {
	runtime, err := lookPath(runtime)
	if err != nil {
		return false, err
	}
	s, err := openSuite(clone, logs)
	if err != nil {
		return false, err
	}
	if err := s.prepare(); err != nil {
		return false, err
	}
	link, err := s.linkRuntime(runtime)
	if err != nil {
		return false, err
	}
	if len(files) == 0 {
		if files, err = s.files(); err != nil {
			return false, err
		}
	}
	if err := adoptOrphans(); err != nil {
		return false, err
	}
	results, err := s.runAll(link, files)
	if err != nil {
		return false, err
	}
	if write != "" {
		return true, record(write, results)
	}
	wanted, err := parseNames(expected)
	if err != nil {
		return false, err
	}
	excuses, err := parseExcuses(differs)
	if err != nil {
		return false, err
	}
	return report(os.Stdout, judge(results, wanted, excuses, files)), nil
}

func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// suite is a clone of runc in which the suite runs.
type suite struct {
	dir  string // top of the clone
	logs string
}

func openSuite(clone, logs string) (*suite, error) {
	dir, err := filepath.Abs(clone)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, "tests/integration/helpers.bash")); err != nil {
		return nil, fmt.Errorf("%s is no clone of runc: %w", dir, err)
	}
	out, err := exec.Command("git", "-C", dir, "describe", "--tags", "--exact-match").Output()
	if tag := strings.TrimSpace(string(out)); err != nil || tag != Tag {
		return nil, fmt.Errorf("%s is not at tag %s", dir, Tag)
	}
	return &suite{dir: dir, logs: logs}, os.MkdirAll(logs, 0o755)
}

// needs are the programs without which a part of the suite fails or skips in ways that look like the runtime's.
var needs = []string{"bats", "busybox", "debootstrap", "gawk", "gcc", "ip", "jq", "make", "script", "xz"}

// prepare builds the helper programs and the root file systems.
func (s *suite) prepare() error {
	var missing []error
	for _, name := range needs {
		_, err := exec.LookPath(name)
		missing = append(missing, err)
	}
	if err := errors.Join(missing...); err != nil {
		return err
	}
	if err := errors.Join(s.shimIP(), s.shimSSHFS()); err != nil {
		return err
	}
	build := exec.Command("make", "-C", s.dir, "test-binaries")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("make test-binaries: %w", err)
	}
	for name, fill := range map[string]func(dir string) error{"busybox": fillBusybox, "debian": fillDebian} {
		if err := s.image(name, fill); err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
	}
	return nil
}

// shims is a directory of programs that come before those of PATH in the tests.
func (s *suite) shims() string { return filepath.Join(s.logs, "shims") }

// linkRuntime returns a link to the runtime by the name that the suite expects in its help and version.
func (s *suite) linkRuntime(path string) (string, error) {
	link := filepath.Join(s.shims(), "runc")
	err := os.Remove(link)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return link, os.Symlink(path, link)
}

// shimIP writes an ip(8) that says `netns 1`, by which a test means the namespace the suite runs in, with a pid of that
// namespace; and that makes veth links of `type dummy` where the kernel was built without. Tests move such a link and
// give it addresses, for which one end of a pair will do.
func (s *suite) shimIP() error {
	if err := os.MkdirAll(s.shims(), 0o755); err != nil {
		return err
	}
	ip, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	device := "dummy"
	probe := exec.Command(ip, "link", "add", "dummy0", "type", device)
	probe.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	if probe.Run() != nil {
		device = "veth"
	}
	text := fmt.Sprintf(`#!/bin/bash
args=()
for a; do
	case "$last $a" in
	"type dummy") a=%s ;;
	"netns 1") a=$%s ;;
	esac
	args+=("$a")
	last=$a
done
exec %q "${args[@]}"
`, device, suitePID, ip)
	return os.WriteFile(filepath.Join(s.shims(), "ip"), []byte(text), 0o755)
}

// shimSSHFS writes an sshfs(1) that talks to an sftp-server(8) of its own. Without an ssh server in the network namespace
// the suite would mount tmpfs in the place of FUSE, and say nothing of it; so it does where a program is missing.
func (s *suite) shimSSHFS() error {
	const server = "/usr/lib/openssh/sftp-server"
	sshfs, err := exec.LookPath("sshfs")
	if _, serr := os.Stat(server); err != nil || serr != nil {
		fmt.Println("mounts_sshfs.bats will use tmpfs: no sshfs, or no " + server)
		return nil
	}
	// sshfs calls it as ssh, with arguments that don't matter.
	ssh := filepath.Join(s.shims(), "ssh")
	return errors.Join(
		os.WriteFile(ssh, []byte("#!/bin/sh\nexec "+server+"\n"), 0o755),
		os.WriteFile(filepath.Join(s.shims(), "sshfs"), fmt.Appendf(nil, "#!/bin/sh\nexec %q -o ssh_command=%q \"$@\"\n", sshfs, ssh), 0o755))
}

func (s *suite) files() ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "tests/integration/*.bats"))
	var files []string
	for _, p := range paths {
		if name := filepath.Base(p); !slices.Contains(skipped, name) {
			files = append(files, name)
		}
	}
	return files, err
}

// runAll runs files of the suite, and leaves the machine's cgroups as they were.
func (s *suite) runAll(runtime string, files []string) (results []Result, err error) {
	before := readMachine()
	defer func() { err = errors.Join(err, before.restore()) }()
	for _, file := range files {
		r, err := s.run(runtime, file)
		if err != nil {
			return nil, err
		}
		results = append(results, r...)
	}
	return results, nil
}

// run runs one file of the suite. That tests fail is no error of run.
func (s *suite) run(runtime, file string) ([]Result, error) {
	begin := time.Now()
	dir := filepath.Join(s.logs, file)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	bats := fmt.Sprintf("ip link set lo up && %s=$$ bats --tap --report-formatter tap --output %q tests/integration/%s",
		suitePID, dir, file)
	cmd := exec.Command("script", "--quiet", "--return", "--flush", "--command", bats, filepath.Join(dir, "terminal"))
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "RUNC="+runtime, "PATH="+s.shims()+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A keyboard on which nobody types. At the end of its input script would type ^D, which tests see in their output.
	keyboard, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	defer keyboard.Close()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer time.AfterFunc(fileTimeout, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }).Stop()
	if err := waitFor(cmd.Process.Pid); err != nil {
		return nil, err
	}
	// The report is written at the end; of a file that was ended early there is what stood on the terminal.
	tap, err := os.Open(filepath.Join(dir, "report.tap"))
	if errors.Is(err, os.ErrNotExist) {
		tap, err = os.Open(filepath.Join(dir, "terminal"))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: no report: %w", file, err)
	}
	defer tap.Close()
	results, err := ParseTAP(file, tap)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	n := count(results)
	fmt.Printf("ran  %-28s %3d ok %3d not ok %3d skipped  %.1fs\n", file, n[Passed], n[Failed], n[Skipped], time.Since(begin).Seconds())
	return results, nil
}

// adoptOrphans has the processes whose parents end become children of this one: tests wait some seconds for the end of
// a detached container, longer than which the init of some machines leaves zombies.
func adoptOrphans() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// waitFor waits for the end of a child, and for that of all others that end before. They would be left to nobody: so
// the child isn't waited for by its exec.Cmd.
func waitFor(child int) error {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid == child {
			return os.NewSyscallError("wait4", err)
		}
	}
}

func count(results []Result) map[Status]int {
	n := map[Status]int{}
	for _, r := range results {
		n[r.Status]++
	}
	return n
}

// record writes the names of the tests that passed.
func record(file string, results []Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Tests that runc %s passes itself; see main.go.\n", Tag)
	for _, r := range results {
		if r.Status == Passed {
			fmt.Fprintln(&b, r.Name)
		}
	}
	n := count(results)
	fmt.Printf("%d passed, %d failed, %d skipped\n", n[Passed], n[Failed], n[Skipped])
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// lines calls f with each line of text that is neither empty nor a comment.
func lines(text string, f func(line string) error) error {
	sc := bufio.NewScanner(strings.NewReader(text))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := f(line); err != nil {
			return err
		}
	}
	return sc.Err()
}

// parseNames reads a list like expected.txt.
func parseNames(text string) ([]string, error) {
	var names []string
	err := lines(text, func(line string) error {
		names = append(names, line)
		return nil
	})
	return names, err
}

// parseExcuses reads a list like differs.txt: a test's name, a tab, the reason.
func parseExcuses(text string) (map[string]string, error) {
	excuses := map[string]string{}
	err := lines(text, func(line string) error {
		name, reason, ok := strings.Cut(line, "\t")
		if !ok {
			return fmt.Errorf("differs.txt: %q has no reason", line)
		}
		excuses[name] = strings.TrimSpace(reason)
		return nil
	})
	return excuses, err
}

// report prints verdicts and the closing line, and reports whether none is bad.
func report(w io.Writer, vs []Verdict) bool {
	var passed, failed, skipped int
	for _, v := range vs {
		switch v.Kind {
		case Kept:
			passed++
			continue
		case Excused:
			skipped++
		case Lost, Cured:
			failed++
		case Won:
			passed++
		}
		fmt.Fprintf(w, "%-8s %s", v.Kind, v.Name)
		if v.Reason != "" {
			fmt.Fprintf(w, ": %s", v.Reason)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return failed == 0
}
