// Command vm runs the tests in a virtual machine: Debian with systemd as process 1, cgroup v2 alone, AppArmor, and a
// kernel and an architecture of one's choice.
//
//	go run ./test/vm -runtime bin/hull
//	go run ./test/vm -runtime bin/hull -kernel trixie ./internal/cgroup/...
//	go run ./test/vm -runtime bin/arm64/hull -arch arm64
//
// The machine is qemu's, without KVM, so that it runs everywhere; it is five to ten times slower than its host, and no
// time measured in it means anything. The kernel is the one for clouds of a Debian suite (bookworm: 6.1), downloaded
// and unpacked, never installed. The root file system is debootstrap's, bookworm, whatever the kernel. Both stay in a
// cache directory, with the image made of them. Needs Debian's apt-get, debootstrap, mkfs.ext4, busybox, kmod,
// qemu-system-x86 or qemu-system-arm and root, which owns the image's files. A machine of another architecture than the
// host's configures its packages itself, the first time.
//
// Engines are there, too, for who names their package:
//
//	go run ./test/vm -runtime bin/hull -suite '^engines$' ./test/engines
//
// has Podman, as root and as the user, Docker and containerd run containers with systemd's cgroups; where HULL_TEST_CONTAINERD
// names a directory as test/engines/newest/build makes one, the newest containerd, too.
//
// Package life runs in it six times: as root with the cgroupfs driver and with the systemd driver; as an ordinary user
// with either in a cgroup that was delegated; and in one that was not, with the systemd driver and without. The test
// programs of packages run as root and as the user.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// rootTests are the tests of package hull that run unless packages are chosen: those that cgroup v2 and an old kernel make a
// difference to. All of them take a quarter of an hour in the machine.
const rootTests = "Limit|Stats|OOM|Cgroup|Memory|LifeCycle|SignalAll|Pause|Freez|Delete|NamespacesByPath|TimeOffsets|Device|Idmapped|" +
	"NothingGets|DeletedDirectory|Scratch|SandboxPool(Once|Killed)$|^TestSandboxPool$/^(LifeCycle|PauseAndResume|PidsLimitHolds)$"

// sandboxTests are the tests of package hull that need hull-sandbox.
const sandboxTests = "^TestSandbox"

// kernelPackages are those whose tests depend on what the kernel is and has; those of others pass on every machine alike.
var kernelPackages = []string{
	".", "./internal/cgroup/...", "./internal/linux", "./internal/native", "./internal/netdev", "./internal/rootfs",
	"./internal/seccomp", "./internal/stub", "./internal/task",
}

// engineTests are the tests of package engines that run unless tests are chosen: of each engine what has to do with cgroups and
// systemd, which are life, pausing, figures, limits and running out of memory. The rest is the same on any machine, and too slow
// here.
const engineTests = "^(TestPodman|TestPodmanRootless|TestDocker)$/^hull(-s)?$/^(life|limits)$" +
	"|^TestContainerd$/^newest$/^(hull|hull-s|shim|shim-sandbox)$/^(life|oom)$"

// enginesPackage is run as root alone, in the suite engines.
const enginesPackage = "./test/engines"

// archPackages are those that have assembly, or ask the kernel for what differs between architectures. On the host's
// own architecture test/run has tried them.
var archPackages = []string{"./internal/hook", "./internal/sigaction", "./internal/tty"}

func main() {
	var vm machine
	name := flag.String("arch", "amd64", "`architecture` of the machine, and of the runtime: amd64 or arm64")
	runtime := flag.String("runtime", cmp.Or(os.Getenv("RUNTIME"), "bin/hull"), "runtime under test")
	flag.StringVar(&vm.suite, "kernel", "bookworm", "Debian `suite` whose kernel is booted")
	flag.StringVar(&vm.mirror, "mirror", os.Getenv("HULL_VM_MIRROR"), "`address` of a Debian mirror; default: the one that apt uses here")
	flag.StringVar(&vm.cache, "cache", defaultCache(), "`directory` for what is downloaded and made")
	flag.DurationVar(&vm.timeout, "timeout", time.Hour, "end the machine after this long")
	life := flag.Bool("life", false, "run package life alone, no packages' test programs")
	var tests selection
	flag.StringVar(&tests.run, "run", "", "run the tests that match the `pattern`, as go test -run does")
	flag.StringVar(&tests.suites, "suite", ".", "run the suites of guest.sh that match the `pattern`, as grep -E does")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: vm [flags] [package ...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	var err error
	if vm.arch, err = findArch(*name); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(2)
	}
	switch tests.packages = flag.Args(); {
	case *life:
		tests.packages = nil
	case len(tests.packages) == 0:
		tests.packages, tests.rootRun = kernelPackages, rootTests
		if !vm.arch.native() {
			tests.packages = append(tests.packages, archPackages...)
		}
	}
	if err := run(&vm, *runtime, tests); err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(1)
	}
}

func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "hull-vm")
}

// machine is what is booted.
type machine struct {
	arch    *arch
	suite   string // Debian's, of the kernel
	mirror  string
	cache   string
	timeout time.Duration
}

// selection is what runs of the tests.
type selection struct {
	suites   string // a pattern of grep -E
	packages []string
	run      string // a pattern of go test -run, or "" for all
	rootRun  string // the same for package hull, if run is ""
	skip     string // a pattern of go test -skip, or ""
}

// pattern returns the one for a package.
func (s selection) pattern(pkg string) string {
	switch {
	case s.run != "":
	case pkg == "hull":
		return s.rootRun
	case pkg == "hull/test/engines":
		return engineTests
	}
	return s.run
}

// flags returns those of a package's test program.
func (s selection) flags(pkg string) string {
	var flags []string
	if pattern := s.pattern(pkg); pattern != "" {
		flags = append(flags, "-test.run "+pattern)
	}
	if s.skip != "" {
		flags = append(flags, "-test.skip "+s.skip)
	}
	return strings.Join(flags, " ")
}

func run(vm *machine, runtime string, tests selection) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: the image's files belong to it")
	}
	if err := os.MkdirAll(vm.cache, 0o755); err != nil {
		return err
	}
	boot, err := vm.prepare()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hull-vm")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if boot.payload, err = vm.makePayload(work, runtime, tests); err != nil {
		return err
	}
	return boot.run(os.Stdout, vm.console(), vm.timeout)
}
