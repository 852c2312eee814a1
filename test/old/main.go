// Old runs tests as below Linux 5.4, hull's oldest kernel: filters answer in the kernel's place whatever is newer. That
// proves hull's other ways of doing things. It is no proof for an old kernel, which differs in more than that.
//
//	go run ./test/old                            # the tests below, under each filter
//	go run ./test/old eperm                      # under one
//	go run ./test/old eperm go test -run Exec .  # a program under one
//
// Root only: without no_new_privs, which would take set-user-ID programs from the tests, a filter wants CAP_SYS_ADMIN.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tests are what depends on the kernel. Rootless containers are among those of rootfs and native.
var tests = []string{"./internal/linux", "./internal/stub", "./internal/rootfs", "./internal/native", "./internal/cli", "."}

// cloning are the tests of what clone3(2) is used for.
var cloning = []string{"-run=Cgroup|Exec|Hook|LifeCycle|Namespaces", "./internal/stub", "./internal/native", "."}

// slow are the tests of those packages that take seconds, or that load the machine, and that go no other way than others do.
var slow = []string{
	"KilledAtEveryStep", "LeavesNothingRunning", "ProgramThatCannotBe", "AtOnce", "AtTheSameTime", "ManyContainers",
	"HostPrograms", "CVE_2024_45310", "NetworkKill",
	"ImportsGoDown", "CommandLineStartsFast", "NoCgo", "EveryPackage", // of the source, not of the kernel
	"Completion", // of shells: fish has threads, which glibc makes with clone3(2) and takes no EPERM for an answer
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "old:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root")
	}
	os.Setenv("CGO_ENABLED", "0") // glibc, too, makes its threads with clone3(2), and knows ENOSYS alone as an answer
	chosen := filters
	if len(args) > 0 {
		i := slices.IndexFunc(filters, func(f filter) bool { return f.name == args[0] })
		if i < 0 {
			return fmt.Errorf("no filter %q; there are%s", args[0], names())
		}
		chosen = filters[i : i+1]
	}
	if len(args) > 1 {
		return chosen[0].exec(args[1:])
	}
	dir, err := os.MkdirTemp("", "hull-old-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // some tests run hull as an ordinary user
		return err
	}
	if err := build(dir); err != nil {
		return err
	}
	var failed []string
	for _, f := range chosen {
		fmt.Printf("=== %s: %s\n", f.name, f.about)
		if err := f.test(); err != nil {
			failed = append(failed, f.name)
		}
	}
	if failed != nil {
		return fmt.Errorf("tests fail under %s", strings.Join(failed, ", "))
	}
	return nil
}

func names() (list string) {
	for _, f := range filters {
		list += " " + f.name
	}
	return list
}

// build makes the programs that tests would each build for themselves.
func build(dir string) error {
	for env, pkg := range map[string]string{"HULL_TEST_BINARY": "./cmd/hull", "HULL_TEST_NET_BINARY": "./cmd/hull-net", "HULL_TEST_PROG": "./hulltest/testprog"} {
		path := filepath.Join(dir, filepath.Base(pkg))
		if err := command("go", "build", "-o", path, pkg); err != nil {
			return err
		}
		os.Setenv(env, path)
	}
	return nil
}

// test runs the tests in a process of its own, which has the filter.
func (f filter) test() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{f.name, "go", "test", "-count=1", "-short", "-timeout=5m", "-skip=" + strings.Join(slow, "|")}
	if f.newer == 0 {
		return command(self, append(args, cloning...)...)
	}
	return command(self, append(args, tests...)...)
}

func command(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// exec becomes a program that has the filter.
func (f filter) exec(args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := f.install(); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	return &os.PathError{Op: "execve", Path: path, Err: unix.Exec(path, args, os.Environ())}
}
