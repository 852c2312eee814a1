// Command bench measures hull beside crun, the runc that is installed, the newest runc, bubblewrap and runsc, in one run,
// and compares the figures with the budgets that hull has.
//
//	go run ./test/bench -runtime bin/hull
//	go run ./test/bench -runtime bin/hull -n 5 life memory
//	go run ./test/bench -runtime bin/hull -check -write docs/performance.md
//
// Run it as root at the top of the repository. Arguments choose groups of figures; groups.go lists them. Peers that
// aren't installed are left out. The newest runc is built in a cache directory, which takes a C compiler and a static
// libseccomp; -newest names one that is built already.
//
// The program runs itself again in a mount namespace of its own, see stage.go. docs/performance.md says how the figures
// come about.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	goruntime "runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inside is the environment variable of the process that is in the mount namespace.
const inside = "HULL_BENCH_NAMESPACE"

// options are what the command line says.
type options struct {
	runtime string
	newest  string
	runsc   string
	cache   string
	debian  string
	only    string
	most    time.Duration
	pairs   string
	boxes   int
	rounds  int
	crowd   int
	pause   time.Duration
	check   bool
	write   string
	groups  []string
}

func main() {
	o := parseFlags()
	if os.Getenv(inside) == "" {
		status, err := again()
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(status)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ok, err := measure(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.runtime, "runtime", cmp.Or(os.Getenv("RUNTIME"), "bin/hull"), "runtime whose budgets are checked")
	flag.StringVar(&o.newest, "newest", "", "the newest runc, as a built `program`; default: fetch and build it")
	flag.StringVar(&o.runsc, "runsc", "", "the newest runsc, as a built `program`; default: fetch and build it, if groups do or sandbox are measured")
	flag.StringVar(&o.cache, "cache", defaultCache(), "`directory` for what is built")
	flag.StringVar(&o.debian, "debian", "", "`directory` of Debian's root file system, for workloads: test/debian/root with the packages that workload.go lists")
	flag.StringVar(&o.only, "only", "", "of the group workloads, those whose names match a regular `expression`")
	flag.DurationVar(&o.most, "most", time.Hour, "how long rounds of the group workloads are begun, if they aren't decided before")
	flag.StringVar(&o.pairs, "pairs", "", "`file` of the pairs of earlier runs of the group workloads, which this one's are added to")
	flag.IntVar(&o.rounds, "n", 50, "rounds, in each of which every runtime has its turn")
	flag.IntVar(&o.crowd, "crowd", 200, "containers that are there for list and for the start in a crowd")
	flag.IntVar(&o.boxes, "boxes", 100, "sandboxes that are there at once in the group hundred")
	flag.DurationVar(&o.pause, "pause", 5*time.Millisecond, "rest before each measurement")
	flag.BoolVar(&o.check, "check", false, "exit with status 1 if a budget is missed or wasn't measured")
	flag.StringVar(&o.write, "write", "", "replace the tables in `file`")
	flag.Parse()
	o.groups = flag.Args()
	return o
}

func defaultCache() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "hull-bench")
}

// again runs this program again in a mount namespace of its own and returns its exit status. This process is its init
// meanwhile: the inits of containers, which nobody waits for once their runtime has exited, become its children.
func again() (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("needs root")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, fmt.Errorf("prctl PR_SET_CHILD_SUBREAPER: %w", err)
	}
	goruntime.LockOSThread() // Pdeathsig goes by the thread that started a process
	// An interrupt from the terminal reaches the other process without help, and that one cleans up.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), inside+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		// Go makes the mounts of the new namespace private.
		Sys: &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM},
	})
	if err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM {
				_ = p.Signal(s) // it may have ended
			}
		}
	}()
	return reap(p.Pid)
}

// reap reaps children until pid ends and returns its exit status. A child that lives on is an error: it is a process
// that a runtime left behind.
func reap(pid int) (int, error) {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait4: %w", err)
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case got == pid:
			if err := childless(); err != nil {
				return 1, err
			}
			return ws.ExitStatus(), nil
		}
	}
}

// childless returns an error if a child of this process is alive.
func childless() error {
	for {
		switch pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); {
		case errors.Is(err, unix.ECHILD):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait4: %w", err)
		case err == nil && pid == 0:
			return errors.New("a process is left behind")
		}
	}
}

// measure reports whether all budgets were kept, or needn't be.
func measure(ctx context.Context, o options) (ok bool, err error) {
	chosen, err := chooseGroups(o.groups)
	if err != nil {
		return false, err
	}
	if o.write != "" && len(o.groups) > 0 {
		return false, errors.New("-write wants all groups")
	}
	if o.rounds < 1 || o.crowd < 1 {
		return false, errors.New("-n and -crowd want at least 1")
	}
	b, err := newBench(o)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	for _, g := range chosen {
		fmt.Fprintf(os.Stderr, "bench: %s\n", g.name)
		if err := g.measure(ctx, b); err != nil {
			return false, fmt.Errorf("%s: %w", g.name, err)
		}
	}
	text := b.report()
	if _, err := io.WriteString(os.Stdout, text); err != nil {
		return false, err
	}
	if o.write != "" {
		if err := replaceInFile(o.write, text); err != nil {
			return false, err
		}
	}
	missed := b.missed()
	for _, line := range missed {
		fmt.Fprintln(os.Stderr, "bench: missed:", line)
	}
	return !o.check || len(missed) == 0, nil
}
