package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limit ends a process that hangs.
const limit = 30 * time.Second

// environment is the same for all. What an engine or a login adds to it is not measured.
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// spend runs a program to its end and returns the time from before the fork to after the wait. An exit status other than
// 0 is an error with the last line of what the program wrote to standard error.
func spend(ctx context.Context, argv []string) (time.Duration, error) {
	return spendWith(ctx, argv, nil)
}

func spendWith(ctx context.Context, argv []string, sys *syscall.SysProcAttr) (time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	p, err := prepare(argv)
	if err != nil {
		return 0, err
	}
	defer p.close()
	p.sys = sys
	begin := time.Now()
	if err := p.start(); err != nil {
		return 0, err
	}
	err = p.wait()
	return time.Since(begin), err
}

// process is a program with nothing on its standard input and output. Its standard error is a file and not a pipe, which
// would want somebody to read it while the program is measured.
type process struct {
	*os.Process
	argv   []string
	null   *os.File
	out    *os.File // null unless changed
	stderr *os.File
	sys    *syscall.SysProcAttr
}

func prepare(argv []string) (*process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		null.Close()
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	return &process{argv: argv, null: null, out: null, stderr: os.NewFile(uintptr(fd), "stderr")}, nil
}

func (p *process) close() {
	p.null.Close()
	p.stderr.Close()
}

func (p *process) start() (err error) {
	p.Process, err = os.StartProcess(p.argv[0], p.argv, &os.ProcAttr{Env: environment, Files: []*os.File{p.null, p.out, p.stderr}, Sys: p.sys})
	return err
}

func (p *process) wait() error {
	timer := time.AfterFunc(limit, func() { _ = p.Kill() }) // it may just have ended
	state, err := p.Wait()
	timer.Stop()
	if err != nil {
		return err
	}
	if !state.Success() {
		return fmt.Errorf("%s: %v: %s", strings.Join(p.argv, " "), state, p.lastWords())
	}
	return nil
}

func (p *process) lastWords() string {
	text, err := io.ReadAll(io.NewSectionReader(p.stderr, 0, 1<<20))
	if err != nil {
		return err.Error()
	}
	trimmed := strings.TrimSpace(string(text))
	return trimmed[strings.LastIndexByte(trimmed, '\n')+1:]
}

// watched is a process that is nobody's child here, by its pidfd.
type watched int

func watch(pid int) (watched, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return watched(fd), nil
}

// ended waits for the end of the process and closes the pidfd.
func (w watched) ended() error {
	defer unix.Close(int(w))
	fds := []unix.PollFd{{Fd: int32(w), Events: unix.POLLIN}}
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
	return errors.New("the program in the container does not end")
}
