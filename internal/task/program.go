package task

import (
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// defaultPath is searched when the environment has no PATH, as crun does.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// LookupEnv returns what an environment has for a name: the last of several, as a shell takes it.
func LookupEnv(env []string, name string) (string, bool) {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// Candidates returns where a program may be, absolute or relative to the working directory: its own path if that has a slash, else
// below each directory of PATH.
func Candidates(name string, env []string) (files []string) {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	if name == "" {
		return nil
	}
	path, ok := LookupEnv(env, "PATH")
	if !ok {
		path = defaultPath
	}
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		files = append(files, dir+"/"+name)
	}
	return files
}

// Tried is a candidate that can't be executed, and why: EISDIR of a directory.
type Tried struct {
	File string
	Err  unix.Errno
}

// NotFound is the error of a program that is at none of its candidates.
//
// The words are runc's, to the letter (docs/engines.md): from them Docker and Podman make the statuses 126 and 127. A directory is
// told as what may not be executed, which Docker before 29 and Podman know.
func NotFound(name string, env []string, tried []Tried) error {
	e := &fault.Error{Field: "process.args[0]", Step: "exec: " + strconv.Quote(name)}
	byPath := strings.Contains(name, "/")
	for _, t := range tried {
		switch {
		case t.Err == unix.EISDIR:
			e.Err, e.Hint = unix.EACCES, t.File+" is a directory"
		case t.Err != unix.ENOENT && t.Err != unix.ENOTDIR:
			e.Err = t.Err
		case byPath:
			e.Err = &fs.PathError{Op: "stat", Path: name, Err: t.Err}
		}
	}
	if e.Err != nil {
		return e
	}
	e.Err = fault.NotInPath
	if path, ok := LookupEnv(env, "PATH"); ok {
		e.Hint = "searched PATH " + path
	} else {
		e.Hint = "process.env has no PATH; searched " + defaultPath
	}
	return e
}
