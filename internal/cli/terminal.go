package cli

import (
	"errors"
	"os"

	"hull"
	"hull/internal/tty"
)

var errNoConsoleSocket = errors.New("--console-socket is for a detached process with a terminal")

// checkConsoleSocket tells whether the options go together. hull takes the terminal itself of a process it stays with;
// the library refuses a detached one whose terminal nobody takes.
func checkConsoleSocket(detached bool, socket string) error {
	if !detached && socket != "" {
		return &hull.Error{Kind: hull.ErrBadUsage, Err: errNoConsoleSocket}
	}
	return nil
}

// attachment connects the terminal of a process, if it has one, with the one hull was called from.
type attachment struct {
	env     *Env
	session *tty.Session // nil: no terminal
	closed  bool
}

// connect is the hull.Console of a process that hull stays with.
func (a *attachment) connect(master *os.File) (err error) {
	if a.session, err = tty.Attach(master, a.env.Stdin, a.env.Stdout, a.env.Stderr); err != nil {
		return errors.Join(err, master.Close())
	}
	return nil
}

// close gives the caller its terminal back, when the process has written its last. It may be called again.
func (a *attachment) close() {
	if a.session == nil || a.closed {
		return
	}
	a.closed = true
	if err := a.session.Finish(); err != nil {
		a.env.log.warn("terminal: " + err.Error())
	}
}
