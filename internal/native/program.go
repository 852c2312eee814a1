package native

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/stub"
	"hull/internal/task"
)

func quote(s string) string { return strconv.Quote(s) }

// A candidate is a path that may be the program.
type candidate struct {
	path  string
	stat  stub.Result
	mode  stub.Result
	isReg stub.Result
	exec  stub.Result
}

// findProgram emits the search for the program, which the user of the process must be able to execute. It uses no
// descriptor: the limits may allow none.
func (t *process) findProgram(b *stub.Batch) []candidate {
	b.In("process.args[0]")
	var found []candidate
	done := b.Label()
	for _, path := range task.Candidates(t.Args[0], t.env) {
		next := b.Label()
		c := candidate{path: path}
		name := b.String(path).Arg()
		st := b.Out(256)
		c.stat = b.Call(unix.SYS_STATX, stub.Int(unix.AT_FDCWD), name, stub.Int(0), stub.Int(unix.STATX_TYPE), st.Arg())
		b.OnErr(c.stat, 0, next)
		c.mode = b.Load(st, stub.StatxMode)
		c.isReg = b.Assert(c.mode.Arg(), unix.S_IFMT, unix.S_IFREG, unix.EACCES, "regular file")
		b.OnErr(c.isReg, 0, next)
		c.exec = access(b, name)
		b.OnErr(c.exec, 0, next)
		b.OnOK(c.exec, done)
		b.Mark(next)
		found = append(found, c)
	}
	b.Call(unix.SYS_GETPID) // the end of a list that may be empty
	b.Mark(done)
	return found
}

// access asks whether the effective user may execute the file (faccessat2(2), Linux 5.8). faccessat(2), before, ignores
// capabilities.
func access(b *stub.Batch, name stub.Arg) stub.Result {
	if !linux.HaveFaccessat2() {
		return b.Call(unix.SYS_FACCESSAT, stub.Int(unix.AT_FDCWD), name, stub.Int(unix.X_OK))
	}
	return b.Call(unix.SYS_FACCESSAT2, stub.Int(unix.AT_FDCWD), name, stub.Int(unix.X_OK), stub.Int(unix.AT_EACCESS))
}

// choose takes the result of the search.
func (t *process) choose(b *stub.Batch) error {
	var tried []task.Tried
	for _, c := range t.found {
		errno := b.Errno(c.stat)
		if errno == 0 {
			errno = b.Errno(c.isReg)
		}
		if errno == 0 {
			errno = b.Errno(c.exec)
		}
		if errno == 0 {
			t.path = c.path
			return nil
		}
		if b.Errno(c.stat) == 0 && b.Value(c.mode)&unix.S_IFMT == unix.S_IFDIR {
			errno = unix.EISDIR
		}
		tried = append(tried, task.Tried{File: c.path, Err: errno})
	}
	return task.NotFound(t.Args[0], t.env, tried)
}

// explainExec adds a hint to an error of execve itself.
func explainExec(err error) error {
	var e *fault.Error
	if errors.As(err, &e) && strings.HasPrefix(e.Step, "execve") {
		switch {
		case errors.Is(err, unix.ENOENT):
			e.Hint = "the program is there, so its interpreter (the first line of a script, or the dynamic loader) is missing"
		case errors.Is(err, unix.ENOEXEC):
			e.Hint = "no program of this machine's architecture, or a script without #! in its first line"
		}
	}
	return err
}
