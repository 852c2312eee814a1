// Package cli is the command line of hull, a client of package hull.
//
// A command is a value (Command), made by a function in a file of its own; commands lists them. A command returns an
// error; this package alone prints it and chooses the exit status. Nothing here is done before it is needed: `hull
// --version` is as fast as a program can be, and the waiting `hull run` holds no more than it must.
package cli

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hull"
	"hull/internal/typo"
)

// The exit statuses of hull itself, beside the one of the container's program.
const (
	exitFailure        = 1
	exitUsage          = 2   // of commands that other runtimes haven't got; 1 of those they have
	exitUnknownCommand = 3   // as users of other runtimes know it
	exitExecFailure    = 255 // of exec: 1 would be taken for the program's
	exitTimeout        = 124 // of do, as of timeout(1)
	exitNotExecutable  = 126 // of do, as of a shell
	exitNotFound       = 127
	exitSignal         = 128 // and the number of the signal
)

// Env is what a command gets beside its arguments.
type Env struct {
	Name                  string // what hull was called as
	Stdin, Stdout, Stderr *os.File

	globals globals
	log     *logger
}

// Main runs the command line args, of which args[0] is the name hull was called by, and returns the exit status.
func Main(args []string) int {
	env := &Env{Name: "hull", Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if len(args) > 0 {
		// An installation in place of another runtime answers to that one's name.
		env.Name = filepath.Base(args[0])
		args = args[1:]
	}
	env.log = &logger{stderr: env.Stderr, name: env.Name}
	return env.exit(env.run(args))
}

// run does what the whole command line asks for.
func (e *Env) run(args []string) error {
	options := newOptions(e.Name)
	e.globals.register(options)
	words := args
	args, err := options.parse(words, stopAtArgument)
	if err != nil {
		return e.misplaced(e.usage("", err), words)
	}
	if e.globals.help {
		return e.printHelp()
	}
	if e.globals.version {
		return e.printVersion()
	}
	if len(args) == 0 {
		return e.printHelp()
	}
	// Before the command is looked at: what is wrong with it is told in the log, too.
	c := lookup(args[0])
	if err := e.globals.resolve(e.Name); err != nil {
		err = e.usage("", err)
		if c != nil {
			err = c.misused(err)
		}
		return err
	}
	if err := e.log.open(e.globals); err != nil {
		return err
	}
	if c == nil {
		return e.unknownCommand(args[0])
	}
	return e.runCommand(c, args[1:])
}

func (e *Env) runCommand(c *Command, args []string) error {
	options, help := c.options()
	args, err := options.parse(args, c.Parse)
	if err == nil && *help {
		return e.printCommandHelp(c)
	}
	if err == nil {
		err = c.Args.check(len(args))
	}
	if err != nil {
		return c.misused(e.misplaced(e.usage(c.Name, err), nil))
	}
	return c.Run(e, args)
}

// Runtime returns the library, as the global flags have it.
func (e *Env) Runtime() *hull.Runtime {
	r := &hull.Runtime{
		Root:          e.globals.root,
		SystemdCgroup: e.globals.systemdCgroup,
		Rootless:      e.globals.rootless.value,
		Isolation:     hull.Isolation(e.globals.isolation),
		Sandbox:       e.globals.sandbox,
		CRIU:          e.globals.criu,
		Warn:          e.log.warn,
	}
	if e.globals.debug {
		r.Trace = e.log.debug
	}
	return r
}

// statusError is an error with an exit status of its own.
type statusError struct {
	status int
	err    error
}

func (e statusError) Error() string { return e.err.Error() }

// exitStatus is the status of a container's program, which hull makes its own.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exited returns the error that makes status hull's own; nil if it is 0.
func exited(status int) error {
	if status == 0 {
		return nil
	}
	return exitStatus(status)
}

// exit prints err and returns the exit status.
func (e *Env) exit(err error) int {
	var status exitStatus
	if err == nil || errors.As(err, &status) {
		return exitCode(err)
	}
	code := exitCode(err)
	if se, ok := err.(statusError); ok {
		err = se.err
	}
	e.log.fail(e.whichContainers(err))
	return code
}

// whichContainers adds to the error of a container that there isn't what the id may have been meant for, or where there are others.
func (e *Env) whichContainers(err error) error {
	missing, ok := err.(*hull.Error)
	if !ok || missing.ID == "" || !errors.Is(missing, hull.ErrNotExist) || hull.Hint(missing) != "" {
		return err
	}
	ids, lerr := e.Runtime().IDs()
	if lerr != nil && !errors.Is(lerr, fs.ErrNotExist) {
		return err
	}
	said, root := *missing, cmp.Or(e.globals.root, hull.DefaultRoot())
	meant := typo.Nearest(missing.ID, ids)
	switch {
	case len(ids) == 0:
		said.Hint = fmt.Sprintf("there is no container in %s; --root names another directory", root)
	case len(missing.ID) > 2 && meant != "":
		said.Hint = fmt.Sprintf("did you mean %s? %s list shows the containers in %s; --root names another directory", meant, e.Name, root)
	default:
		said.Hint = fmt.Sprintf("%s list shows the containers in %s; --root names another directory", e.Name, root)
	}
	return &said
}

// exitCode returns the exit status that stands for err.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var status exitStatus
	if errors.As(err, &status) {
		return int(status)
	}
	if se, ok := err.(statusError); ok {
		return se.status
	}
	return exitFailure
}

// usage adds to a mistake on the command line where to read how it is done right.
func (e *Env) usage(command string, err error) *hull.Error {
	return &hull.Error{Op: command, Kind: hull.ErrBadUsage, Err: err, Hint: e.whereToRead(command)}
}

// elsewhere are the names that commands have in engines. The version is told by an option here.
var elsewhere = map[string]string{
	"inspect": "state", "ls": "list", "rm": "delete", "stats": "events", "stop": "kill", "top": "ps", "unpause": "resume",
	"version": "--version",
}

func (e *Env) unknownCommand(name string) error {
	mistake := e.usage("", fmt.Errorf("unknown command %q", name))
	meant := elsewhere[name]
	if meant == "" {
		var names []string
		for _, c := range commands() {
			if !c.Hidden {
				names = append(names, c.Name)
			}
		}
		meant = typo.Nearest(name, names)
	}
	if meant != "" {
		mistake.Hint = "did you mean " + meant + "? " + mistake.Hint
	}
	return statusError{exitUnknownCommand, mistake}
}

// misplaced has the mistake of an option that there isn't say where it belongs, if that is the other side of the command, or
// which may be meant. words are the command line if it is left of the command.
func (e *Env) misplaced(mistake *hull.Error, words []string) error {
	unknown, ok := mistake.Err.(unknownOption)
	if !ok {
		return mistake
	}
	if mistake.Op != "" {
		options := newOptions(e.Name)
		new(globals).register(options)
		if f := options.lookup(string(unknown)); f != nil {
			mistake.Hint = fmt.Sprintf("it goes before the command: %s %s %s", e.Name, asTyped(unknown, f), mistake.Op)
		} else if hint := habit(mistake.Op, string(unknown)); hint != "" {
			mistake.Hint = hint
		} else {
			own, _ := lookup(mistake.Op).options()
			e.guess(mistake, unknown, own)
		}
		return mistake
	}
	for _, word := range words {
		c := lookup(word)
		if c == nil {
			continue
		}
		options, _ := c.options()
		if f := options.lookup(string(unknown)); f != nil {
			mistake.Hint = fmt.Sprintf("it goes after the command: %s %s %s", e.Name, c.Name, asTyped(unknown, f))
			return mistake
		}
		break
	}
	e.guess(mistake, unknown, e.globals.options)
	return mistake
}

// guess says which of the options may be meant by one that there isn't.
func (e *Env) guess(mistake *hull.Error, unknown unknownOption, options *optionSet) {
	var names []string
	for _, o := range options.list {
		if !o.hidden {
			names = append(names, o.Name)
		}
	}
	word := strings.TrimLeft(string(unknown), "-")
	if len(word) < 3 { // letters, and what another program may have by them
		return
	}
	if meant := typo.Nearest(word, names); meant != "" {
		mistake.Hint = "did you mean --" + meant + "? " + mistake.Hint
	}
}

// habit says how a command of hull's does what its like in docker(1) or kill(1) does by that option, or "".
func habit(command, option string) string {
	switch {
	case command == "exec" && slices.Contains([]string{"-i", "-it", "-ti", "--interactive"}, option):
		return "the input is always passed on; a terminal takes --tty alone"
	case command == "kill" && option != "" && !strings.HasPrefix(option, "--"):
		return "the signal goes behind the container's id, without a dash: kill web1 KILL"
	}
	return ""
}

// asTyped returns an option as help has it, with what stands for its value.
func asTyped(option unknownOption, f *flag.Flag) string {
	if isBool(f) {
		return string(option)
	}
	value, _ := flag.UnquoteUsage(f)
	return string(option) + " " + value
}

func (e *Env) whereToRead(command string) string {
	if command != "" {
		command += " "
	}
	return e.Name + " " + command + "--help shows what can be given"
}
