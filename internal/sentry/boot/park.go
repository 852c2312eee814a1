package boot

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
	"hull/internal/sentry/fileserver"
	"hull/internal/sentry/filter"
	"hull/internal/sentry/heap"
	"hull/internal/sentry/network"
	"hull/internal/sentry/stream"
)

// mainParked is the program that makes a kernel without a container, and waits for one: by all that takes long it is through then.
// What it reads of a container it reads under the filter, as ever.
func mainParked(args []string, release string) int {
	fs := flag.NewFlagSet(wire.Park, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	theirs := fs.String("release", "", "")
	conn := fs.Int("pool-fd", -1, "")
	log := fs.Int("log-fd", -1, "")
	if err := fs.Parse(args); err != nil {
		return misused(err)
	}
	if fs.NArg() > 0 || *conn < 0 || *log < 0 {
		return misused(errors.New("park: want --release, --pool-fd and --log-fd"))
	}
	pool := os.NewFile(uintptr(*conn), "pool")
	defer pool.Close()
	err := checkRelease(*theirs, release)
	if err == nil {
		err = setLog(*log)
		unix.Close(*log) // the container's will be another
	}
	var s *Sandbox
	if err == nil {
		s, err = newParked()
	}
	if err != nil {
		tell(pool, err)
		return 1
	}
	debug.FreeOSMemory() // it may wait for long
	heap.GiveBack()
	if _, err := pool.WriteString(wire.Ready); err != nil {
		return 1
	}
	words, fds, err := wire.ReceiveContainer(*conn)
	if err != nil {
		return 0 // whoever has started it is gone
	}
	pool.Close() // what is left to say goes by the container's own descriptors
	putOffCollection()
	report, err := s.take(words, fds, release)
	if report == nil {
		return misused(err)
	}
	if err != nil {
		tell(report, err)
		return 1
	}
	return s.runMain(report)
}

// newParked makes a kernel that has no container yet, under the filter of those that have a network of their own.
func newParked() (*Sandbox, error) {
	unix.Umask(0)
	s := &Sandbox{server: fileserver.New(fileserver.Sockets{}), going: make(chan struct{}), parked: true}
	s.Control, s.Start, s.OverlayFD, s.KVM = -1, -1, -1, -1
	s.Spec = &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}}}
	s.root = &container{Sandbox: s, Container: s.Container, lock: logFD}
	if err := s.newKernel(); err != nil {
		return nil, err
	}
	if err := forwardSignals(s.signal); err != nil {
		return nil, err
	}
	if err := s.rehearse(); err != nil {
		return nil, fmt.Errorf("rehearse: %w", err)
	}
	if err := filter.Confine(wire.Nowhere, s.filter); err != nil {
		return nil, err
	}
	s.filter = nil
	return s, nil
}

// take makes the container that the words say, whose descriptors these are: the standard streams, or the one of its terminal, and
// what else they name. The report is nil if they don't say where to report.
func (s *Sandbox) take(words []string, fds []int, release string) (report *os.File, err error) {
	n, err := strconv.Atoi(words[0])
	if err != nil || n < 1 || n > stream.Count || n > len(fds) || n >= len(words) {
		return nil, errors.New("no command line")
	}
	stdio, rest := fds[:n], fds[n:]
	var same [stream.Count]int
	for i := range n {
		if same[i], err = strconv.Atoi(words[1+i]); err != nil {
			return nil, err
		}
	}
	c, err := parseFlags(words[1+n:], release, func(number string) (int, error) {
		i, err := strconv.Atoi(number)
		if err != nil || i < stream.Count || i-stream.Count >= len(rest) {
			return -1, errors.New("no such descriptor: " + number)
		}
		return rest[i-stream.Count], nil
	})
	if err != nil {
		return c.report, err
	}
	c.Streams, c.Same = stdio, same
	if err := c.complete(); err != nil {
		return c.report, err
	}
	switch {
	case c.Image != nil, c.HostSockets.Any(), c.OverlayFD >= 0, c.Throwaway, c.KVM >= 0:
		return c.report, &fault.Error{Kind: fault.Unsupported, Err: errors.New("not of a kernel that was there before")}
	case c.Spec.Process.Terminal != (n == 1):
		return c.report, errors.New("the standard streams are not those of the configuration")
	}
	s.Options = c.Options
	s.root.Container = c.Container
	s.root.kept.Pod = s.Pod
	if err := s.root.group.set(s.Limits); err != nil {
		return c.report, err
	}
	if network.IsHost(s.Spec) {
		return c.report, &fault.Error{Field: "linux.namespaces", Kind: fault.Unsupported, Err: errors.New("the host's network, for a kernel that was there before")}
	}
	names := s.names(s.Spec, s.kernel.RootUserNamespace())
	s.root.uts.RestoreSpecValues(names.HostName(), names.DomainName())
	if err := s.configureFirst(); err != nil {
		return c.report, err
	}
	if s.root.mounts, err = s.root.prepareMounts(); err != nil {
		return c.report, err
	}
	if err := s.root.create(); err != nil {
		return c.report, err
	}
	if s.Control >= 0 {
		go s.serve()
	}
	return c.report, nil
}
