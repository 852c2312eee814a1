package boot

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/log"

	"hull/internal/kvm"
	"hull/internal/oci"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/filter"
	"hull/internal/sentry/network"
	"hull/internal/sentry/rootfs"
	"hull/internal/sentry/stream"
)

const howToUse = "hull-sandbox is started by hull: hull --isolation sandbox run CONTAINER-ID"

// Main is the program hull-sandbox. release is that of its build. It returns the exit status: the container's program's, or
// 128 and the number of the signal that ended it.
func Main(args []string, release string) int {
	if len(args) == 2 && args[1] == wire.CPUFeatures {
		return printFeatures()
	}
	if len(args) == 3 && args[1] == wire.ProbeKVM {
		return kvm.Main(args[2])
	}
	if len(args) > 1 && args[1] == wire.Park {
		return mainParked(args[2:], release)
	}
	putOffCollection()
	o, report, err := parse(args, release)
	if err != nil {
		return misused(err)
	}
	s, err := New(o)
	if err != nil {
		tell(report, err)
		return 1
	}
	return s.runMain(report)
}

// misused says how the program is to be called.
func misused(err error) int {
	fmt.Fprintln(os.Stderr, howToUse)
	fmt.Fprintln(os.Stderr, "hull-sandbox:", err)
	return 2
}

// runMain reports that the container is there, and what becomes of it. It returns the exit status.
func (s *Sandbox) runMain(report *os.File) int {
	if _, err := report.WriteString(wire.Ready); err != nil {
		return 1
	}
	if s.Start >= 0 {
		go endUntaken(report)
	}
	settleSoon()
	ws, err := s.Run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hull-sandbox:", err)
		return 1
	}
	_, _ = fmt.Fprint(report, uint32(ws)) // nobody may be there any more
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// endUntaken ends this program if hull has ended before it took over the container. It wakes up at hull's end, not by what hull
// says: on a busy host hull would lose the processor to it at that moment, and could be killed before it has told of its success.
func endUntaken(report *os.File) {
	fds := []unix.PollFd{{Fd: int32(report.Fd())}}
	for {
		n, err := unix.Poll(fds, -1)
		if n > 0 || err != nil && err != unix.EINTR {
			break
		}
	}
	if _, err := report.Read(make([]byte, len(wire.Taken))); err != nil {
		os.Exit(1)
	}
}

// printFeatures prints the features of the processor that containers are shown.
func printFeatures() int {
	cpuid.Initialize()
	have := cpuid.HostFeatureSet().Fixed()
	for _, f := range cpuid.AllFeatures() {
		if have.HasFeature(f) {
			fmt.Println(f)
		}
	}
	return 0
}

// tell reports why there is no container.
func tell(report io.Writer, err error) {
	b, jerr := json.Marshal(wire.Fail(err))
	if jerr != nil {
		panic("bug: " + jerr.Error())
	}
	_, _ = report.Write(b)
	fmt.Fprintln(os.Stderr, "hull-sandbox:", err)
}

// parse reads the command line, and takes the descriptors that it names.
func parse(args []string, release string) (o Options, report *os.File, err error) {
	if len(args) < 2 || args[1] != "boot" {
		return o, nil, errors.New("the command is boot")
	}
	c, err := parseFlags(args[2:], release, strconv.Atoi)
	if err != nil {
		return o, nil, err
	}
	c.Streams, c.Same, err = takeStreams()
	if err == nil {
		err = c.complete()
	}
	return c.Options, c.report, err
}

// commandLine is what there is to be known of a sandbox. What it names of descriptors may not be read yet.
type commandLine struct {
	Options
	report           *os.File
	spec, links, log int
}

// parseFlags reads the command line of boot, without the command. fd returns the descriptor that a number stands for.
func parseFlags(args []string, release string, fd func(number string) (int, error)) (c commandLine, err error) {
	fs := flag.NewFlagSet("boot", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	var theirs, files string
	fs.StringVar(&theirs, "release", "", "")
	fs.StringVar(&c.ID, "id", "", "")
	fs.StringVar(&c.Bundle, "bundle", "", "")
	fs.StringVar(&files, "io-fds", "", "")
	fs.BoolVar(&c.Throwaway, "throwaway", false, "")
	fs.BoolVar(&c.Pod, "pod", false, "")
	report := c.descriptorFlags(fs, fd)
	c.viewFlags(fs, fd)
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	switch {
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case c.Bundle == "":
		return c, errors.New("--bundle is missing")
	case c.Control < 0 && !c.Throwaway || c.spec < 0 || *report < 0 || c.log < 0:
		return c, errors.New("one of --spec-fd, --controller-fd, --report-fd and --log-fd is missing")
	}
	c.report = os.NewFile(uintptr(*report), "report")
	if err := checkRelease(theirs, release); err != nil {
		tell(c.report, err)
		return c, err
	}
	c.Files, err = order(files, c.Files, fd)
	return c, err
}

// descriptorFlags defines the flags that name descriptors by their numbers, which aren't the container's files. It returns the
// report's.
func (c *commandLine) descriptorFlags(fs *flag.FlagSet, fd func(number string) (int, error)) (report *int) {
	report = new(int)
	for name, p := range map[string]*int{
		"spec-fd": &c.spec, "controller-fd": &c.Control, "start-fd": &c.Start, "report-fd": report, "log-fd": &c.log,
		"links-fd": &c.links, "kvm-fd": &c.KVM,
	} {
		*p = -1
		fs.Func(name, "", func(v string) (err error) {
			*p, err = fd(v)
			return err
		})
	}
	fs.Func("restore-fds", "", func(v string) error {
		for n := range strings.SplitSeq(v, ",") {
			f, err := fd(n)
			if err != nil {
				return err
			}
			c.Image = append(c.Image, f)
		}
		return nil
	})
	fs.Func("limit", "", func(v string) error {
		file, value, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("want FILE=VALUE")
		}
		if c.Limits == nil {
			c.Limits = make(map[string]string)
		}
		c.Limits[file] = value
		return nil
	})
	fs.Func("socket", "", func(v string) error {
		f, err := fd(v)
		c.Sockets = append(c.Sockets, f)
		return err
	})
	return report
}

// viewFlags defines the flags that say which of the host's files there are, and how they are seen.
func (c *commandLine) viewFlags(fs *flag.FlagSet, fd func(number string) (int, error)) {
	c.OverlayFD = -1
	fs.Func("overlay", "", func(v string) (err error) {
		if c.Overlay = true; v != wire.OverlayMemory {
			c.OverlayFD, err = fd(v)
		}
		return err
	})
	is := func(p *bool, flag, value string) {
		fs.Func(flag, "", func(v string) error {
			*p = v == value
			return nil
		})
	}
	is(&c.SharedRoot, "file-access", wire.Shared)
	is(&c.ExclusiveMounts, "file-access-mounts", wire.Exclusive)
	is(&c.Fifos, "host-fifo", wire.Open)
	fs.Func("host-uds", "", func(v string) error {
		c.HostSockets = filter.UnixSockets{Connect: v == wire.Open || v == wire.OpenCreate, Bind: v == wire.OnlyCreate || v == wire.OpenCreate}
		return nil
	})
	fs.Func("submount", "", func(v string) error {
		n, path, ok := strings.Cut(v, ":")
		f, err := fd(n)
		if err != nil || !ok {
			return errors.New("want N:PATH")
		}
		c.Files = append(c.Files, rootfs.Tree{FD: f, Below: path})
		return nil
	})
	fs.Func("mount-point", "", func(v string) error {
		c.MountPoints = append(c.MountPoints, v)
		return nil
	})
}

// checkRelease refuses a hull of another release, which theirs names with the version of the protocol.
func checkRelease(theirs, release string) error {
	if theirs != release+" "+wire.Version {
		return fmt.Errorf("hull-sandbox is of release %s, protocol %s; hull of %s", release, wire.Version, theirs)
	}
	return nil
}

// complete has what there is to say go to the log, and reads what the descriptors hold.
func (c *commandLine) complete() error {
	if err := setLog(c.log); err != nil {
		return err
	}
	if c.links >= 0 {
		raw, err := readSealed(c.links, "--links-fd")
		if err == nil {
			err = json.Unmarshal(raw, &c.Links)
		}
		if err == nil {
			err = network.CheckLinks(c.Links)
		}
		if err != nil {
			return err
		}
	}
	return readSpec(&c.Options, c.spec)
}

// order returns all trees in the order of --io-fds.
func order(numbers string, below []rootfs.Tree, fd func(string) (int, error)) (trees []rootfs.Tree, err error) {
	for n := range strings.SplitSeq(numbers, ",") {
		f, err := fd(n)
		if err != nil {
			return nil, fmt.Errorf("--io-fds: %w", err)
		}
		t := rootfs.Tree{FD: f}
		if len(below) > 0 && below[0].FD == f {
			t, below = below[0], below[1:]
		}
		trees = append(trees, t)
	}
	if len(below) > 0 {
		return nil, fmt.Errorf("--submount %d: not in --io-fds", below[0].FD)
	}
	return trees, nil
}

// takeStreams moves the standard streams, which are the container's, away: what the Go runtime and the kernel have to say
// goes to the log. They are not close-on-exec, or they would be so in the container.
func takeStreams() (stdio []int, same [stream.Count]int, err error) {
	stdio = make([]int, stream.Count)
	for i := range stdio {
		if stdio[i], err = unix.FcntlInt(uintptr(i), unix.F_DUPFD, 3); err != nil {
			return nil, same, os.NewSyscallError("fcntl F_DUPFD", err)
		}
	}
	return stdio, stream.Same([stream.Count]int(stdio)), nil
}

// setLog has the kernel log warnings only, and without looking up where they come from. What was at the numbers of standard streams
// before is closed.
func setLog(fd int) error {
	for i := range stream.Count {
		if err := unix.Dup3(fd, i, unix.O_CLOEXEC); err != nil { // as the filter wants it
			return os.NewSyscallError("dup3", err)
		}
	}
	time.Local = time.UTC // or the first time that is printed would be one to look for the host's zone
	logged.w = os.Stderr
	logged.left.Store(maxLog)
	log.SetTarget(&log.GoogleEmitter{Writer: &log.Writer{Next: &logged}})
	log.SetLevel(log.Warning)
	return nil
}

const (
	// maxLog is how much is logged, in bytes: what is behind a warning may be a program of the container's that does so on purpose.
	maxLog = 1 << 20
	// maxAsked is how much is logged from when somebody asks for more than warnings.
	maxAsked = 64 << 20
)

// logged is where the log goes.
var logged bounded

// bounded is a writer that leaves out what comes after so many bytes. It is written to by one at a time.
type bounded struct {
	w    io.Writer
	left atomic.Int64
}

// Write implements io.Writer. What is left out counts as written.
func (b *bounded) Write(p []byte) (int, error) {
	switch left := b.left.Load(); {
	case left < 0:
	case int64(len(p)) > left:
		b.left.Store(-1)
		_, _ = io.WriteString(b.w, "what follows is left out\n")
	default:
		b.left.Add(-int64(len(p)))
		return b.w.Write(p)
	}
	return len(p), nil
}

func readSpec(o *Options, fd int) error {
	raw, err := readSealed(fd, "--spec-fd")
	if err != nil {
		return err
	}
	cfg, err := oci.Parse("config.json", raw)
	if err != nil {
		return err
	}
	o.Spec = cfg.Spec
	return nil
}

// readSealed reads a file that nobody can change any more.
func readSealed(fd int, flag string) ([]byte, error) {
	f := os.NewFile(uintptr(fd), flag)
	defer f.Close()
	seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || seals&unix.F_SEAL_WRITE == 0 {
		return nil, errors.New(flag + ": not sealed")
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, fi.Size())
	_, err = f.ReadAt(raw, 0)
	return raw, err
}
