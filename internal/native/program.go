package native

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
	"hull/internal/stub"
)

// defaultPath is searched when the environment has no PATH, as crun does.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func quote(s string) string { return strconv.Quote(s) }

// A candidate is a path that may be the program.
type candidate struct {
	path  string
	stat  stub.Result
	mode  stub.Result
	isReg stub.Result
	exec  stub.Result
}

// candidates returns where the program may be: its own path if that has a slash, else below each directory of PATH.
func (t *process) candidates() []string {
	name := t.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	if name == "" {
		return nil
	}
	path, ok := lookupEnv(t.env, "PATH")
	if !ok {
		path = defaultPath
	}
	var found []string
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		found = append(found, dir+"/"+name)
	}
	return found
}

// findProgram emits the search for the program, which the user of the process must be able to execute. It uses no
// descriptor: the limits may allow none.
func (t *process) findProgram(b *stub.Batch) []candidate {
	b.In("process.args[0]")
	var found []candidate
	done := b.Label()
	for _, path := range t.candidates() {
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
	name := t.Args[0]
	worst, hint := unix.ENOENT, ""
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
		if errno != unix.ENOENT && errno != unix.ENOTDIR {
			worst = errno
		}
		if b.Errno(c.stat) == 0 && b.Value(c.mode)&unix.S_IFMT == unix.S_IFDIR {
			hint = c.path + " is a directory"
		}
	}
	e := &fault.Error{Field: "process.args[0]", Step: fmt.Sprintf("exec: %q", name), Err: worst, Hint: hint}
	if worst == unix.ENOENT && !strings.Contains(name, "/") {
		e.Err = fault.NotInPath
		path, ok := lookupEnv(t.env, "PATH")
		switch {
		case !ok:
			e.Hint = "process.env has no PATH; searched " + defaultPath
		default:
			e.Hint = "searched PATH " + path
		}
	}
	return e
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
