package hull

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/linux"
)

// handover is what a caller gets of a process before its program runs.
type handover struct {
	console       Console
	consoleSocket string
	pidfdSocket   string
	pidFile       string
	written       bool // the pid file
}

func (o *CreateOptions) handover() *handover {
	return &handover{console: o.Console, consoleSocket: o.ConsoleSocket, pidfdSocket: o.PidfdSocket, pidFile: o.PidFile}
}

// check tells whether somebody takes the terminal of a process, if it has one: its program would get a hangup at once.
func (h *handover) check(p *specs.Process) error {
	terminal := p != nil && p.Terminal
	switch {
	case terminal && h.console == nil && h.consoleSocket == "":
		return &fault.Error{Field: "process.terminal", Kind: fault.BadUsage,
			Err:  errors.New("a detached process with a terminal needs a console socket"),
			Hint: `leave the terminal out ("terminal" in config.json, or --tty of exec), or name a socket where a program waits for it (--console-socket)`}
	case !terminal && h.consoleSocket != "":
		return &fault.Error{Kind: fault.BadUsage, Err: errors.New("a console socket is for a process with a terminal")}
	}
	return nil
}

// make hands out the terminal and the pidfd, and writes the pid file.
func (h *handover) make(p *engine.Process) error {
	if err := h.giveConsole(p); err != nil {
		return err
	}
	if h.pidfdSocket != "" {
		if err := linux.SendFile(h.pidfdSocket, []byte("pidfd"), p.PidFD); err != nil {
			return &fault.Error{Step: "pidfd socket", Err: err}
		}
	}
	if h.pidFile != "" {
		if err := writePidFile(h.pidFile, p.Pid); err != nil {
			return &fault.Error{Step: "pid file", Err: err}
		}
		h.written = true
	}
	return nil
}

// takeBack removes the pid file if the process has come to nothing: by it conmon tells a command that has failed from one that could
// not be started.
func (h *handover) takeBack(err *error) {
	if *err != nil && h.written {
		if rerr := os.Remove(h.pidFile); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			*err = errors.Join(*err, rerr)
		}
	}
}

func (h *handover) giveConsole(p *engine.Process) error {
	master := p.Console
	if master == nil {
		return nil
	}
	p.Console = nil
	if h.consoleSocket == "" {
		if err := h.console(master); err != nil {
			return &fault.Error{Step: "terminal", Err: err}
		}
		return nil
	}
	defer master.Close()
	if err := linux.SendFile(h.consoleSocket, []byte("/dev/ptmx"), master); err != nil {
		return &fault.Error{Step: "console socket", Err: err}
	}
	return nil
}

// writePidFile replaces the file at once: whoever waits for it must not read half a number.
func writePidFile(path string, pid int) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	open := func() (*os.File, error) {
		f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_CLOEXEC, 0o666)
		return f, named(err, path)
	}
	f, err := open()
	if errors.Is(err, os.ErrExist) && os.Remove(tmp) == nil {
		f, err = open() // one that was killed here has left it
	}
	if err != nil {
		return err
	}
	_, werr := fmt.Fprint(f, pid)
	err = errors.Join(werr, f.Close())
	if err == nil {
		err = named(os.Rename(tmp, path), path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// named has an error name the file that was asked for instead of the one that becomes it.
func named(err error, path string) error {
	var p *fs.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return &fs.PathError{Op: p.Op, Path: path, Err: p.Err}
	case errors.As(err, &l):
		return &fs.PathError{Op: l.Op, Path: path, Err: l.Err}
	}
	return err
}
