//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Testprog is what runs inside the containers of hull's tests: one static program with a verb for each thing a test
// wants to see or do there.
//
//	testprog VERB [ARGUMENT…]
//	testprog do VERB [ARGUMENT…] , VERB [ARGUMENT…] …
//
// Called by another name, as through a symbolic link, that name is the verb. Answers are lines on standard output, made to
// be compared by tests. A verb that fails says why on standard error, and the exit status is 1; it is 2 for a verb that
// doesn't exist or arguments that it doesn't take.
//
// It is a Go program, and the runtime does some things before main. It installs signal handlers, so what sigstatus says
// about ignored signals is true for SIGHUP and SIGINT only; the mask of blocked signals is the inherited one. It raises
// the soft limit of open files to the hard one. It would keep files of its cgroup open, but for the directives above.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// A verb is one thing that the program does.
type verb struct {
	name string
	args string // its arguments, for people
	min  int    // how many there must be
	max  int    // how many there may be; -1: any number
	run  func(args []string) error
}

// verbs returns the table; a variable would refer to itself through do and help.
func verbs() []verb {
	return []verb{
		{"aio", "BYTES", 1, 1, aio},
		{"caps", "", 0, 0, caps},
		{"cat", "FILE…", 0, -1, cat},
		{"chmod", "MODE FILE", 2, 2, chmod},
		{"connect", "unix PATH | tcp ADDRESS:PORT", 2, 2, connect},
		{"cwd", "", 0, 0, cwd},
		{"do", "VERB [ARGUMENT…] , …", 1, -1, do},
		{"echo", "WORD…", 0, -1, echo},
		{"env", "[NAME]", 0, 1, env},
		{"exit", "STATUS", 1, 1, exit},
		{"false", "", 0, -1, func([]string) error { return status(1) }},
		{"fds", "", 0, 0, fds},
		{"grow", "FILE", 1, 1, grow},
		{"help", "", 0, 0, help},
		{"hold", "BYTES", 1, 1, hold},
		{"hostname", "", 0, 0, hostname},
		{"id", "", 0, 0, id},
		{"interface", "NAME", 1, 1, iface},
		{"limits", "", 0, 0, limits},
		{"listen", "PATH", 1, 1, listen},
		{"ls", "DIR", 1, 1, ls},
		{"mkdir", "DIR", 1, 1, mkdir},
		{"mmap", "FILE", 1, 1, mmap},
		{"mounts", "[POINT]", 0, 1, mounts},
		{"namespaces", "", 0, 0, namespaces},
		{"nest", "DIR N", 2, 2, nest},
		{"readlink", "PATH", 1, 1, readlink},
		{"resolve", "udp|tcp NAME", 2, 2, resolve},
		{"sched", "", 0, 0, sched},
		{"serve", "PATH | ADDRESS:PORT", 1, 1, serve},
		{"sigstatus", "", 0, 0, sigstatus},
		{"sleep", "SECONDS", 1, 1, sleep},
		{"spawn", "N", 1, 1, spawn},
		{"spin", "SECONDS", 1, 1, spin},
		{"stat", "PATH…", 1, -1, stat},
		{"status", "FIELD…", 1, -1, procStatus},
		{"sysctl", "NAME", 1, 1, sysctl},
		{"trap", "SIGNAL…", 1, -1, trap},
		{"true", "", 0, -1, func([]string) error { return nil }},
		{"tty", "", 0, 0, tty},
		{"umask", "", 0, 0, umask},
		{"uname", "", 0, 0, uname},
		{"write", "FILE TEXT", 2, 2, write},
		{"zombie", "", 0, 0, zombie},
	}
}

// status is the error of a verb that wants the program to end with that exit status and say nothing.
type status int

func (s status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// errUsage is the error of wrong arguments.
var errUsage = errors.New("wrong arguments")

func main() {
	args := command(os.Args)
	err := perform(args)
	var s status
	switch {
	case err == nil:
	case errors.As(err, &s):
		os.Exit(int(s))
	default:
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// command returns the verb and its arguments.
func command(argv []string) []string {
	if len(argv) > 0 {
		if name := filepath.Base(argv[0]); known(name) {
			return append([]string{name}, argv[1:]...)
		}
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return []string{"help"}
	}
	return argv
}

// perform runs one verb.
func perform(args []string) error {
	v, ok := find(args[0])
	if !ok {
		return fmt.Errorf("%w: no such verb", errUsage)
	}
	n := len(args) - 1
	if n < v.min || v.max >= 0 && n > v.max {
		return fmt.Errorf("%w: want %s %s", errUsage, v.name, v.args)
	}
	return v.run(args[1:])
}

func find(name string) (verb, bool) {
	all := verbs()
	i := slices.IndexFunc(all, func(v verb) bool { return v.name == name })
	if i < 0 {
		return verb{}, false
	}
	return all[i], true
}

func known(name string) bool {
	_, ok := find(name)
	return ok
}

// do runs verbs separated by commas, until one fails.
func do(args []string) error {
	for len(args) > 0 {
		n := slices.Index(args, ",")
		if n < 0 {
			n = len(args)
		}
		if n == 0 {
			return fmt.Errorf("%w: a verb is missing", errUsage)
		}
		if err := perform(args[:n]); err != nil {
			if _, ok := err.(status); ok {
				return err
			}
			return fmt.Errorf("%s: %w", args[0], err)
		}
		args = args[min(n+1, len(args)):]
	}
	return nil
}

func help([]string) error {
	for _, v := range verbs() {
		fmt.Printf("%s %s\n", v.name, v.args)
	}
	return nil
}
