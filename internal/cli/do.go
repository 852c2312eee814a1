package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/oci"
)

type doFlags struct {
	root      string
	cwd       string
	all       bool
	home      bool
	bind      []string
	rw        []string
	hide      []string
	tmpfsSize string

	user     string
	caps     []string
	seccomp  string
	env      []string
	envHost  bool
	hostname string

	bounds    limitFlags
	isolation string
	quiet     bool
	json      string
	options   *optionSet
	net       networkFlags

	keep   string
	diff   bool
	format string
	apply  bool
}

func (f *doFlags) register(fs *optionSet) {
	fs.stringVar(&f.root, "root", "", "show the files below `DIR` instead of the host's")
	fs.stringVar(&f.cwd, "cwd", "", "working `DIR`ectory; the current one if it is not given")
	fs.stringsVar(&f.bind, "bind", "show a file or directory as it is, at another place and perhaps only for reading: `SRC:DST[:ro]`")
	fs.stringsVar(&f.rw, "rw", "let what is written to the file or directory `PATH` be written")
	fs.stringsVar(&f.hide, "hide", "cover the file or directory `PATH`")
	fs.boolVar(&f.home, "home", "show the home directory, without known secrets in it")
	fs.boolVar(&f.all, "all", "show all of the host: private places and secrets, too")
	fs.stringVar(&f.tmpfsSize, "tmpfs-size", "", "bound what can be written to `SIZE`, such as 512m or 10%; half of the memory if it is not given")
	fs.stringVar(&f.user, "user, u", "", "run as `USER[:GROUP]`, names of the host or numbers; for other users than root: as oneself, or as root of the container")
	fs.stringsVar(&f.caps, "cap", "let the command have the capability `NAME`")
	fs.stringVar(&f.seccomp, "seccomp", "", "which system calls are allowed: as in `FILE`, in the form of linux.seccomp in config.json, or off for all; docs/do.md has the default ones")
	fs.stringsVar(&f.env, "env, e", "set a variable, or pass that of the caller: `NAME[=VALUE]`")
	fs.boolVar(&f.envHost, "env-host", "pass all variables of the caller, not only those that are no secrets, such as PATH and LANG")
	fs.stringVar(&f.hostname, "hostname", "", "host`NAME` of the container; the host's if it is not given")
	f.net.register(fs)
	fs.stringVar(&f.keep, "keep", "", "keep what the command writes in `DIR`/upper: an upper directory for overlayfs; DIR must be empty, or not exist")
	fs.boolVar(&f.diff, "diff", "list afterwards what the command has added (A), modified (M) and deleted (D)")
	fs.stringVar(&f.format, "format", "table", "list that as `FORMAT`: table, or json")
	fs.offer("table", "json")
	f.bounds.register(fs)
	f.options = fs
	fs.stringVar(&f.isolation, "isolation", "", "what keeps the command apart: `KIND` native, the host's kernel; or sandbox, a kernel of its own (default: that of the global option)")
	fs.offer(string(hull.Native), string(hull.Sandbox))
	fs.boolVar(&f.quiet, "quiet, q", "tell nothing but why the command could not be started")
	fs.stringVar(&f.json, "json", "", "write how the command has ended, and what it has used and changed, as JSON to `FILE`; or to the descriptor of that number")
	fs.boolVar(&f.apply, "apply", "if the command succeeds, put what it has changed onto the host: all of it, or nothing if any of that has changed on the host meanwhile")
}

// command returns what the flags say.
func (f *doFlags) command(ctx context.Context, args []string) (*hull.Cmd, error) {
	cmd := hull.CommandContext(ctx, args[0], args[1:]...)
	cmd.Host = hull.HostFiles{Root: f.root, All: f.all, Home: f.home, Hide: f.hide, TmpfsSize: f.tmpfsSize,
		Keep: f.keep, Watch: f.diff || f.apply}
	for _, s := range f.bind {
		b, err := parseBind(s)
		if err != nil {
			return nil, err
		}
		cmd.Host.Bind = append(cmd.Host.Bind, b)
	}
	for _, path := range f.rw {
		cmd.Host.Bind = append(cmd.Host.Bind, hull.HostBind{Source: path})
	}
	cmd.Dir = f.cwd
	cmd.User, cmd.Capabilities, cmd.Hostname, cmd.ExtraEnv = f.user, f.caps, f.hostname, f.env
	if f.envHost {
		cmd.Env = os.Environ()
	}
	for _, v := range f.env {
		if strings.HasPrefix(v, "=") || v == "" {
			return nil, fmt.Errorf("--env %q: a variable has a name", v)
		}
	}
	cmd.Isolation = hull.Isolation(f.isolation)
	f.net.apply(cmd)
	var err error
	if cmd.Limits, err = f.bounds.limits(); err != nil {
		return nil, err
	}
	cmd.Seccomp, err = readSeccomp(f.seccomp)
	return cmd, err
}

// parseBind reads SRC:DST[:ro].
func parseBind(s string) (hull.HostBind, error) {
	parts := strings.Split(s, ":")
	b := hull.HostBind{}
	if len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw") {
		b.ReadOnly = parts[2] == "ro"
		parts = parts[:2]
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return b, fmt.Errorf("--bind %q: want SRC:DST or SRC:DST:ro", s)
	}
	b.Source, b.Dest = parts[0], parts[1]
	return b, nil
}

// readSeccomp reads a profile. It is nil for the default one.
func readSeccomp(file string) (*specs.LinuxSeccomp, error) {
	switch file {
	case "":
		return nil, nil
	case "off":
		return &specs.LinuxSeccomp{}, nil
	}
	fail := func(problem error) error {
		return statusError{exitFailure, &hull.Error{Op: "do", Step: fmt.Sprintf("--seccomp %q", file), Err: problem}}
	}
	b, err := os.ReadFile(file)
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	if err != nil {
		return nil, fail(err)
	}
	p, err := oci.ParseSeccomp(fmt.Sprintf("--seccomp %q", file), b)
	if err != nil {
		return nil, statusError{exitFailure, &hull.Error{Op: "do", Err: err}}
	}
	if p.DefaultAction == "" {
		return nil, fail(errors.New("no defaultAction: a profile is what linux.seccomp has in config.json"))
	}
	return p, nil
}

func doCommand() *Command {
	var f doFlags
	return &Command{
		Name:    "do",
		Own:     true,
		Summary: "run a command over the host's files, which it can't change",
		Usage:   "[options] [--] COMMAND [ARGUMENT...]",
		Long: `Shows the command the programs and libraries of the host and the working tree: the git repository it is called in, or else the directory. What the command writes goes to memory, and is gone with it. All other directories of the root are empty, and so are places in /var that users and services keep their things in; known secrets such as /etc/shadow are covered.

The command is the caller's user without any capability and can't gain privileges. It has no network but a loopback unless it is given one (--network): what can read files of the host should not be able to send them away. Its processes end with it, and with hull, however that ends.

What the command has changed can be looked at (--diff), kept (--keep) and put onto the host (--apply). Never put there are devices, fifos and sockets, files with set-user-ID or set-group-ID bits or with capabilities: then nothing is. What was written to places that were empty for the command, such as /tmp, is listed by --diff and left out, without a word, by --apply.

If standard input and output are both a terminal, the command gets one of its own; otherwise hull's streams.`,
		Exit: `The status of the command, or 128 and the number of the signal that ended it: 137 if it ran out of memory. 124 if its time was over, 127 if it was not found, 126 if it can't be executed, 2 if the options can't be understood, 1 for anything else that hull could not do.`,
		Examples: `# Does it build and pass its tests?
hull do -- make test

# Look at what a program writes, without having it:
hull do --diff -- ./configure

# What somebody else wrote, and not for long:
hull do --memory 512m --cpus 1.5 --pids 100 --timeout 30s -- python3 made.py

# Let it fetch what it needs, and nothing else:
hull do --network nat --allow example.org:443 -- curl -s https://example.org/

# Have it, if it succeeds:
hull do --apply -- make generate`,
		Args:  arity{0, anyNumber},
		Parse: stopAtArgument,
		Flags: f.register,
		Run: func(env *Env, args []string) error {
			if err := f.check(args); err != nil {
				return misused(env, err)
			}
			return f.do(env, args)
		},
	}
}

// notStarted gives the error of a command that could not be executed the status that shells give it.
func notStarted(args []string, err error) error {
	var e *hull.Error
	for cause := err; e == nil || e.Field != hull.CommandField; cause = e.Err {
		if !errors.As(cause, &e) {
			return err
		}
	}
	e.Field = "" // of a configuration that the caller hasn't seen
	if e.Step == "" {
		e.Step = fmt.Sprintf("exec: %q", args[0])
	}
	// A command whose name is empty is a mistake of the configuration; shells say that there is no such file.
	if errors.Is(err, unix.ENOENT) || errors.Is(err, hull.ErrBadSpec) {
		if hint := misspelt(args); hint != "" {
			e.Hint = hint
		}
		return statusError{exitNotFound, err}
	}
	return statusError{exitNotExecutable, err}
}

// misspelt returns what was meant by a command that is not there, where its form says so; or "".
func misspelt(args []string) string {
	if name, _, ok := strings.Cut(args[0], "="); ok && name != "" && !strings.ContainsAny(name, "/ ") {
		return "a variable is set by --env " + args[0]
	}
	if len(args) == 1 && strings.ContainsAny(strings.TrimSpace(args[0]), " |&;<>") {
		return "a command and its arguments are words of their own: leave out the quotes, or have a shell take them apart: sh -c '" + args[0] + "'"
	}
	return ""
}

// told gives an error of package hull the form of those of the command line.
func (f *doFlags) told(env *Env, err error) error {
	for _, path := range f.rw { // is a bind to the library
		var e *hull.Error
		bind, rw := fmt.Sprintf("bind %q", path), fmt.Sprintf("--rw %q", path)
		switch {
		case !errors.As(err, &e):
		case e.Step == bind:
			e.Step = rw
		case e.Field == bind:
			e.Field = rw
		}
	}
	f.options.name(err)
	var e *hull.Error
	if errors.Is(err, hull.ErrBadUsage) && hull.Hint(err) == "" && errors.As(err, &e) {
		e.Hint = env.whereToRead("do")
	}
	return err
}

// misused is the error of flags that can't be understood, unless it says something else.
func misused(env *Env, err error) error {
	if s := (statusError{}); errors.As(err, &s) {
		return err
	}
	return statusError{exitUsage, env.usage("do", err)}
}

// check refuses what can't be meant. An empty value is that of a variable of a script that isn't set: to do without the
// option would be to forget a limit, or where something was to be kept.
func (f *doFlags) check(args []string) error {
	switch {
	case len(args) == 0:
		return errors.New("no command to run")
	case len(f.options.emptied) > 0:
		return fmt.Errorf("--%s: the value is empty", f.options.emptied[0])
	case f.options.given("format") && !f.diff:
		return errors.New("--format is for --diff")
	}
	return checkFormat(f.format)
}

func (f *doFlags) do(env *Env, args []string) error {
	r, err := openResult(f.json)
	if err != nil {
		return err
	}
	return r.finish(env, f.run(env, args, r))
}

// run runs the command. r is nil unless somebody wants the result.
func (f *doFlags) run(env *Env, args []string, r *result) error {
	ctx, signals := catchSignals()
	signals.catchAll()
	cmd, err := f.command(ctx, args)
	if err != nil {
		return misused(env, err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = env.Stdin, env.Stdout, env.Stderr
	env.log.quiet = f.quiet
	cmd.Runtime = env.Runtime()
	j := &job{env: env, cmd: cmd, terminal: attachment{env: env}}
	j.connect()
	if err := cmd.Start(); err != nil {
		j.terminal.close()
		err = f.told(env, err)
		if errors.Is(err, hull.ErrBadUsage) {
			return statusError{exitUsage, err}
		}
		return notStarted(args, signals.explain(ctx, "do", "", err))
	}
	err = j.wait(signals)
	r.take(cmd)
	env.tellLimits(cmd)
	env.tellRefused(cmd)
	return f.ended(env, err, f.changes(env, cmd.Changes, err == nil, r))
}

// ended returns the error of a command that has ended with err, and whose changes could not be dealt with for cerr.
func (f *doFlags) ended(env *Env, err, cerr error) error {
	var ended *hull.ExitError
	var late *hull.TimeoutError
	var own error
	switch {
	case errors.As(err, &late) && f.quiet:
		own = exited(exitTimeout)
	case errors.As(err, &late):
		own = statusError{exitTimeout, inOp("do", "", err)}
	case errors.As(err, &ended):
		own = exited(waitStatus(ended.WaitStatus))
	default:
		return errors.Join(err, cerr)
	}
	if cerr != nil {
		env.log.warn(cerr.Error())
	}
	return own
}

// changes does with what the command has changed what the flags say.
func (f *doFlags) changes(env *Env, c *hull.Changes, succeeded bool, r *result) (err error) {
	if c == nil {
		return nil
	}
	defer func() { err = inOp("do", "", errors.Join(err, c.Close())) }()
	if f.diff || r != nil {
		list, err := c.List()
		if err != nil {
			return err
		}
		if r != nil {
			r.Changes = list
		}
		if f.diff {
			if err := f.printChanges(env, list); err != nil {
				return err
			}
		}
	}
	if f.apply && succeeded {
		return c.Apply()
	}
	return nil
}

func (f *doFlags) printChanges(env *Env, list []hull.Change) error {
	if f.format == "json" {
		if list == nil {
			list = []hull.Change{}
		}
		return env.printJSON(list, "")
	}
	var s strings.Builder
	for _, c := range list {
		s.WriteString(c.String() + "\n")
	}
	_, err := io.WriteString(env.Stdout, s.String())
	return err
}
