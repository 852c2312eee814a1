package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// This test binary is testprog when it is called with this variable set.
const envPlay = "TESTPROG_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(envPlay) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// result is what a run of testprog gave.
type result struct {
	Status      int
	Out, Errors string
}

// testCommand returns a run of testprog that is called by name.
func testCommand(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return &exec.Cmd{Path: exe, Args: append([]string{name}, args...), Env: []string{"A=1", envPlay + "=1", "B=2 3"}}
}

func run(t *testing.T, name string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := testCommand(t, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("the input"), &out, &errs
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

func TestVerbs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("longer than hello"), 0o640); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want result
	}{
		{[]string{"true"}, result{}},
		{[]string{"false"}, result{Status: 1}},
		{[]string{"exit", "42"}, result{Status: 42}},
		{[]string{"exit", "256"}, result{2, "", "exit: wrong arguments: strconv.ParseUint: parsing \"256\": value out of range\n"}},
		{[]string{"echo", "a", "b  c"}, result{Out: "a b  c\n"}},
		{[]string{"env"}, result{Out: "A=1\nTESTPROG_PLAY=1\nB=2 3\n"}},
		{[]string{"env", "B"}, result{Out: "2 3\n"}},
		{[]string{"env", "C"}, result{1, "", "env: C is not set\n"}},
		{[]string{"cat"}, result{Out: "the input"}},
		{[]string{"write", file, "hello"}, result{}},
		{[]string{"cat", file, link}, result{Out: "hellohello"}},
		{[]string{"mkdir", filepath.Join(dir, "dir")}, result{}},
		{[]string{"ls", dir}, result{Out: "dir\nfile\nlink\n"}},
		{[]string{"nest", filepath.Join(dir, "dir"), "2"}, result{}},
		{[]string{"ls", filepath.Join(dir, "dir", strings.Repeat("x", 255))}, result{Out: strings.Repeat("x", 255) + "\n"}},
		{[]string{"readlink", link}, result{Out: "file\n"}},
		{[]string{"stat", file, link}, result{Out: fmt.Sprintf("%[1]s file 0640 %[3]d %[4]d 5\n%[2]s link 0777 %[3]d %[4]d 4\n",
			file, link, os.Getuid(), os.Getgid())}},
		{[]string{"status", "NoSuch"}, result{1, "", "status: no field NoSuch in /proc/self/status\n"}},
		{[]string{"sleep", "0.01"}, result{}},
		{[]string{"do", "echo", "a", ",", "echo", "b"}, result{Out: "a\nb\n"}},
		{[]string{"do", "echo", "a", ",", "exit", "3", ",", "echo", "b"}, result{3, "a\n", ""}},
		{[]string{"do", "echo", "a", ",", ",", "echo", "b"}, result{2, "a\n", "do: wrong arguments: a verb is missing\n"}},
		{[]string{"do", "cat", "/nonexistent"}, result{1, "", "do: cat: open /nonexistent: no such file or directory\n"}},
		{[]string{"nonsense"}, result{2, "", "nonsense: wrong arguments: no such verb\n"}},
		{[]string{"ls"}, result{2, "", "ls: wrong arguments: want ls DIR\n"}},
		{[]string{"id", "x"}, result{2, "", "id: wrong arguments: want id \n"}},
		{[]string{"mounts", "/nonexistent"}, result{1, "", "mounts: /nonexistent is not a mount point\n"}},
		{[]string{"connect", "unix", "/nonexistent"}, result{1, "", "connect: connect: no such file or directory\n"}},
		{[]string{"connect", "udp", "x"}, result{2, "", "connect: wrong arguments: \"udp\" is neither unix nor tcp\n"}},
		{[]string{"trap", "NOSUCH"}, result{2, "", "trap: wrong arguments: no signal NOSUCH\n"}},
		{[]string{"tty"}, result{Out: "0 no\n1 no\n2 no\n"}},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			if diff := cmp.Diff(test.want, run(t, "testprog", test.args...)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestCalledByTheNameOfAVerb(t *testing.T) {
	if diff := cmp.Diff(result{Out: "a b\n"}, run(t, "/bin/echo", "a", "b")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := run(t, "testprog"); got.Status != 0 || !strings.Contains(got.Out, "\ncat FILE…\n") {
		t.Errorf("without arguments: %+v", got)
	}
}

func TestTableIsSorted(t *testing.T) {
	if !slices.IsSortedFunc(verbs(), func(a, b verb) int { return strings.Compare(a.name, b.name) }) {
		t.Error("it isn't")
	}
}

// What these verbs say is known only by its form.
func TestFormOfAnswers(t *testing.T) {
	for _, test := range []struct{ verb, arg, want string }{
		{"caps", "", `(?s)^CapInh [0-9a-f]{16}\nCapPrm .*\nCapEff .*\nCapBnd .*\nCapAmb [0-9a-f]{16}\n$`},
		{"cwd", "", `^/.*/testprog\n$`},
		{"fds", "", `^0 pipe:.*\n1 pipe:.*\n2 pipe:.*\n`},
		{"hostname", "", `^\S+ \S+\n$`},
		{"id", "", `^uid \d+ \d+ \d+\ngid \d+ \d+ \d+\ngroups[ 0-9]*\n$`},
		{"limits", "", `Max open files +\d+`},
		{"mounts", "/proc", `^\d+ \d+ \d+:\d+ / /proc .* - proc `},
		{"namespaces", "", `(?m)^mnt mnt:\[\d+\]$`},
		{"sched", "", `^policy \d+ flags 0x[0-9a-f]+ nice -?\d+ .*\nioprio class \d level \d\nCpus_allowed_list [-0-9,]+\n$`},
		{"sigstatus", "", `^SigBlk [0-9a-f]{16}\nSigIgn [0-9a-f]{16}\nSigCgt [0-9a-f]{16}\n$`},
		{"stat", "/dev/null", `^/dev/null char 0666 \d+ \d+ 0 1 3\n$`},
		{"status", "Uid", `^Uid \d+ \d+ \d+ \d+\n$`},
		{"sysctl", "kernel.ostype", `^Linux\n$`},
		{"umask", "", `^0[0-7]{3}\n$`},
		{"uname", "", `^\w+\n$`},
	} {
		t.Run(test.verb, func(t *testing.T) {
			args := strings.Fields(test.verb + " " + test.arg)
			got := run(t, "testprog", args...)
			if got.Status != 0 || !regexp.MustCompile(test.want).MatchString(got.Out) {
				t.Errorf("%+v doesn't match %s", got, test.want)
			}
		})
	}
}

// start starts a verb that says "ready" and stays, and returns what it says next.
func start(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := testCommand(t, "testprog", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("%v says %q, want ready", args, lines.Text())
	}
	return cmd, lines
}

func TestTrap(t *testing.T) {
	cmd, lines := start(t, "trap", "USR1", "SIGTERM")
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "SIGTERM" {
		t.Errorf("it says %q", lines.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestHold(t *testing.T) {
	cmd, _ := start(t, "hold", "33554432")
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			fmt.Sscan(rest, &kib)
		}
	}
	if kib < 32768 {
		t.Errorf("it holds %d KiB", kib)
	}
}

func TestConnect(t *testing.T) {
	dir := t.TempDir()
	for _, network := range []string{"unix", "tcp"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(dir, "socket")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		got := run(t, "testprog", "connect", network, l.Addr().String())
		if diff := cmp.Diff(result{Out: "connected\n"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", network, diff)
		}
		l.Close()
	}
}

func TestTTY(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer ptmx.Close()
	fd := int(ptmx.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 81}); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/dev/pts/%d", n)
	pts, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pts.Close()
	cmd := testCommand(t, "testprog", "tty")
	cmd.Stdin, cmd.Stderr = pts, pts
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fmt.Sprintf("0 24x81 %[1]s\n1 no\n2 24x81 %[1]s\n", name), string(out)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSpawn(t *testing.T) {
	cmd, _ := start(t, "spawn", "3")
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var children int
	for _, stat := range stats {
		content, _ := os.ReadFile(stat)
		if fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:])); len(fields) > 1 && fields[1] == fmt.Sprint(cmd.Process.Pid) {
			children++
		}
	}
	if children != 3 {
		t.Errorf("%d children, want 3", children)
	}
}
