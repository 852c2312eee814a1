package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull"
)

// result is what --json tells of a command. docs/do.md has it for users; it is append-only.
type result struct {
	Version    int    `json:"version"`
	ExitStatus int    `json:"exitStatus"`       // hull's
	Error      string `json:"error,omitempty"`  // hull's, as on standard error
	Started    bool   `json:"started"`          // the command was executed
	Exit       *int   `json:"exit,omitempty"`   // the command's status, if it has ended by itself
	Signal     string `json:"signal,omitempty"` // that has ended it
	TimedOut   bool   `json:"timedOut"`
	OOM        bool   `json:"oom"` // a process was killed for want of memory

	WallSeconds   float64 `json:"wallSeconds"`
	UserSeconds   float64 `json:"userSeconds"`
	SystemSeconds float64 `json:"systemSeconds"`
	MaxRSS        int64   `json:"maxRSS"`               // bytes, of the largest process
	PeakMemory    uint64  `json:"peakMemory,omitempty"` // bytes, of all together; with --memory

	NetworkPath string                `json:"networkPath,omitempty"` // with --network nat
	Refused     []hull.NetworkRefusal `json:"refused,omitempty"`     // with --network nat
	RefusedMore int                   `json:"refusedMore,omitempty"`

	Changes []hull.Change `json:"changes,omitempty"` // with --diff, --keep or --apply

	out *resultFile
}

// take fills in what is known of a command that has ended.
func (r *result) take(cmd *hull.Cmd) {
	if r == nil {
		return
	}
	c := &cmd.Result
	r.Started, r.TimedOut, r.OOM = true, c.TimedOut, c.OOMKilled > 0
	if ws := cmd.WaitStatus; ws.Signaled() {
		r.Signal = signalName(ws.Signal())
	} else {
		status := ws.ExitStatus()
		r.Exit = &status
	}
	r.WallSeconds, r.UserSeconds, r.SystemSeconds = c.Wall.Seconds(), c.User.Seconds(), c.System.Seconds()
	r.MaxRSS, r.PeakMemory = c.MaxRSS, c.PeakMemory
	r.NetworkPath = c.NetworkPath
	r.Refused, r.RefusedMore = c.Refused, c.RefusedMore
}

// openResult is the result that is to be written to what --json names, or nil. A file that is there is removed now: if
// hull is killed, what was found there is not to be taken for the result of this command.
func openResult(to string) (*result, error) {
	if to == "" {
		return nil, nil
	}
	out, err := openResultFile(to)
	if err != nil {
		e := &hull.Error{Op: "do", Step: fmt.Sprintf("--json %q", to), Err: err}
		if p := (*fs.PathError)(nil); errors.As(err, &p) {
			e.Err = p.Err
		}
		if errors.As(err, new(badDescriptor)) {
			return nil, statusError{exitUsage, e}
		}
		return nil, e
	}
	return &result{Version: 1, out: out}, nil
}

// badDescriptor is what is wrong with a descriptor that --json names: the command line is.
type badDescriptor string

func (d badDescriptor) Error() string { return string(d) }

// finish writes the result of what has ended with err. It returns err, or if that is nil why the result could not be
// written: hull's status is the command's, if it has one.
func (r *result) finish(env *Env, err error) error {
	if r == nil {
		return err
	}
	r.ExitStatus = exitCode(err)
	if e := exitStatus(0); err != nil && !errors.As(err, &e) {
		r.Error = errorLine(err)
	}
	text, jerr := json.Marshal(r)
	if jerr == nil {
		jerr = r.out.write(append(text, '\n'))
	}
	if jerr != nil {
		jerr = &hull.Error{Op: "do", Step: "--json", Err: jerr}
		if err == nil {
			return jerr
		}
		env.log.fail(jerr)
	}
	return err
}

// errorLine is an error in one line.
func errorLine(err error) string {
	var lines []string
	for _, m := range explain(err) {
		lines = append(lines, m.String())
	}
	return strings.Join(lines, "; ")
}

// resultFile is where a result goes: a descriptor that hull was started with, something that is no regular file, or a
// file that is not there until it is complete.
type resultFile struct {
	file *os.File
	path string // to be made; or "": file is it
}

func openResultFile(to string) (*resultFile, error) {
	// By these names, too, one must not get at the file that is open there, to replace it.
	name := strings.TrimPrefix(strings.TrimPrefix(to, "/dev/fd/"), "/proc/self/fd/")
	switch to {
	case "/dev/stdout":
		name = "1"
	case "/dev/stderr":
		name = "2"
	}
	if fd, err := strconv.Atoi(name); err == nil && fd >= 0 {
		// hull's own descriptors are close-on-exec. Those that others have left to it can't be.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			return nil, badDescriptor(fmt.Sprintf("hull was not started with a descriptor %d", fd))
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
			return nil, badDescriptor(fmt.Sprintf("descriptor %d is not open for writing", fd))
		}
		if fd > 2 {
			unix.CloseOnExec(fd)
		}
		return &resultFile{file: os.NewFile(uintptr(fd), "descriptor "+name)}, nil
	}
	path, err := filepath.Abs(to)
	if err != nil {
		return nil, err
	}
	// A link may lead to what isn't there yet.
	for range 40 {
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	fi, err := os.Lstat(path)
	if err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		return &resultFile{file: f}, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Without a name there is nothing to be left behind (O_TMPFILE, open(2)).
	f, err := os.OpenFile(filepath.Dir(path), unix.O_TMPFILE|os.O_WRONLY, 0o666)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		f, err = nil, nil // this file system can't
	}
	return &resultFile{f, path}, err
}

func (r *resultFile) write(text []byte) error {
	if r.path != "" && r.file == nil {
		return r.replace(text)
	}
	if _, err := r.file.Write(text); err != nil || r.path == "" {
		return errors.Join(err, r.file.Close())
	}
	from := "/proc/self/fd/" + strconv.Itoa(int(r.file.Fd()))
	err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, r.path, unix.AT_SYMLINK_FOLLOW)
	if err == unix.EEXIST {
		// Somebody has made one meanwhile.
		if err = unix.Unlink(r.path); err == nil || err == unix.ENOENT {
			err = unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, r.path, unix.AT_SYMLINK_FOLLOW)
		}
	}
	if err != nil {
		err = &os.LinkError{Op: "link", Old: from, New: r.path, Err: err}
	}
	return errors.Join(err, r.file.Close())
}

// replace writes the file by way of another name.
func (r *resultFile) replace(text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(r.path), ".hull-json-")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), r.path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
