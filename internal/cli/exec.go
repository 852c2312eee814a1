package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
	"hull/internal/caps"
	"hull/internal/oci"
	"hull/internal/user"
)

type execFlags struct {
	consoleSocket string
	pidfdSocket   string
	pidFile       string
	preserveFDs   int

	process        string
	detach         bool
	cwd            string
	env            []string
	tty            bool
	user           string
	additionalGIDs []string
	processLabel   string
	apparmor       string
	noNewPrivs     bool
	caps           []string
	cgroups        []string
	ignorePaused   bool

	given func(option string) bool
}

func (f *execFlags) register(fs *optionSet) {
	f.given = fs.given
	fs.boolVar(&f.detach, "detach, d", "don't wait for the end of the program")
	fs.boolVar(&f.tty, "tty, t", "give the program a terminal")
	fs.stringVar(&f.cwd, "cwd", "", "working directory `DIR` in the container")
	fs.stringsVar(&f.env, "env, e", "set an environment variable, `NAME=VALUE`; may be given more than once")
	fs.stringVar(&f.user, "user, u", "", "run as `UID[:GID]`, numbers")
	fs.stringsVar(&f.additionalGIDs, "additional-gids, g", "another group, a number `GID`; may be given more than once")
	fs.stringsVar(&f.caps, "cap, c", "give the program a capability `NAME`, such as CAP_NET_RAW; may be given more than once")
	fs.boolVar(&f.noNewPrivs, "no-new-privs", "keep the program from gaining privileges by execve(2)")
	fs.stringVar(&f.apparmor, "apparmor", "", "run with that AppArmor `PROFILE`")
	fs.stringVar(&f.processLabel, "process-label", "", "run with that SELinux `LABEL`")
	fs.stringsVar(&f.cgroups, "cgroup", "run in the cgroup at `PATH` below the container's; with cgroup v1 "+
		"CONTROLLER[,CONTROLLER...]:PATH, which may be given more than once")
	fs.boolVar(&f.ignorePaused, "ignore-paused", "start the program in a paused container; it runs when that is resumed")
	fs.stringVar(&f.process, "process, p", "", "take all of this from a `FILE` with a process in JSON, as in config.json")
	ioFlags(fs, &f.consoleSocket, &f.pidfdSocket, &f.pidFile, &f.preserveFDs)
}

func execCommand() *Command {
	var f execFlags
	return &Command{
		Name:    "exec",
		Summary: "run another program in a container",
		Usage:   "[options] CONTAINER-ID COMMAND [ARGUMENT...]",
		Long: `Runs a program in a running container, as config.json has it for the container's own program, but for what the options change. hull waits for its end, as hull run does for that of the container.

Options end at the container's id: what follows belongs to the program. With --process there is no COMMAND, and the other options about the program have no effect.`,
		Exit: `The status of the program, or 128 and the number of the signal that ended it. 255 if it could not be started.`,
		Examples: `hull exec web1 ps
hull exec --tty --env TERM=$TERM web1 sh
hull exec --user 1000:1000 --cwd /srv web1 ls -l`,
		Args:  arity{1, anyNumber},
		Parse: stopAtArgument,
		Flags: f.register,
		Run: func(env *Env, args []string) error {
			status, err := f.exec(env, args)
			if err != nil {
				return statusError{exitExecFailure, env.explainCommand(inOp("exec", args[0], err), args)}
			}
			return exited(status)
		},
	}
}

// explainCommand has the error of a command that isn't found say that its name is that of an option, in the wrong place.
func (e *Env) explainCommand(err error, args []string) error {
	var missing *hull.Error
	if len(args) > 1 && strings.HasPrefix(args[1], "-") && errors.As(err, &missing) && missing.Field == hull.CommandField {
		missing.Hint = fmt.Sprintf("options go before the container's id: %s exec %s %s …", e.Name, args[1], args[0])
	}
	return err
}

func (f *execFlags) exec(env *Env, args []string) (status int, err error) {
	ctx, signals := catchSignals()
	c, err := env.container("exec", args[0])
	if err != nil {
		return 0, err
	}
	o, err := f.options(env, c, args[1:])
	if err != nil {
		return 0, err
	}
	terminal := attachment{env: env}
	if !f.detach {
		signals.catchAll()
		o.Console = terminal.connect
	}
	p, err := c.Exec(ctx, o)
	if err != nil {
		terminal.close()
		return 0, signals.cause(ctx, err)
	}
	if f.detach {
		return 0, nil
	}
	return env.wait(p, &terminal, signals)
}

func (f *execFlags) options(env *Env, c *hull.Container, args []string) (hull.ExecOptions, error) {
	var o hull.ExecOptions
	p, err := f.processSpec(env, c, args)
	if err != nil {
		return o, err
	}
	if err := checkConsoleSocket(f.detach, f.consoleSocket); err != nil {
		return o, err
	}
	extra, err := inherited(0, f.preserveFDs)
	if err != nil {
		return o, err
	}
	return hull.ExecOptions{
		Process:       p,
		Stdio:         hull.Stdio{In: env.Stdin, Out: env.Stdout, Err: env.Stderr},
		ConsoleSocket: f.consoleSocket,
		PidfdSocket:   f.pidfdSocket,
		PidFile:       f.pidFile,
		ExtraFiles:    extra,
		IgnorePaused:  f.ignorePaused,
		Attached:      !f.detach,
		Cgroups:       f.cgroups,
	}, nil
}

func (f *execFlags) processSpec(env *Env, c *hull.Container, args []string) (*specs.Process, error) {
	if f.process != "" {
		return readProcess(env, f.process)
	}
	p := c.ProcessSpec()
	if p == nil {
		p = &specs.Process{Cwd: "/"}
	}
	if len(args) == 0 {
		return nil, &hull.Error{Kind: hull.ErrBadUsage, Err: errors.New("no command"), Hint: "give one behind the container's id, or --process"}
	}
	p.Args = args
	return p, f.change(p)
}

func readProcess(env *Env, file string) (*specs.Process, error) {
	// Not by size: it may be a pipe of the shell's, <(…).
	r, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	p, warnings, err := oci.ParseProcess("--process "+file, data)
	for _, w := range warnings {
		env.log.warn(w)
	}
	return p, err
}

// change makes of the container's own process the one that the flags ask for.
func (f *execFlags) change(p *specs.Process) error {
	p.Terminal = f.tty
	p.Env = append(p.Env, f.env...)
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.processLabel != "" {
		p.SelinuxLabel = f.processLabel
	}
	if f.given("no-new-privs") {
		p.NoNewPrivileges = f.noNewPrivs
	}
	names, err := capabilities(f.caps)
	if err != nil {
		return err
	}
	addCapabilities(p, names)
	return f.changeIDs(p)
}

// capabilities returns the names of --cap as a configuration has them. People leave out CAP_, as capsh(1) and other engines do; a
// name that is none would have the program run without what it needs.
func capabilities(given []string) ([]string, error) {
	var names []string
	for _, name := range given {
		full := strings.ToUpper(name)
		if !strings.HasPrefix(full, "CAP_") {
			full = "CAP_" + full
		}
		if _, ok := caps.Number(full); !ok {
			return nil, &hull.Error{Step: fmt.Sprintf("--cap %q", name), Kind: hull.ErrBadUsage, Err: errors.New("there is none of this name"), Hint: caps.Hint(name)}
		}
		names = append(names, full)
	}
	return names, nil
}

// addCapabilities leaves the inheritable set as it is (CVE-2022-29162: it is not for exec to fill). The ambient set can't
// have what that doesn't have.
func addCapabilities(p *specs.Process, names []string) {
	if len(names) == 0 {
		return
	}
	if p.Capabilities == nil {
		p.Capabilities = &specs.LinuxCapabilities{}
	}
	c := p.Capabilities
	c.Bounding = append(c.Bounding, names...)
	c.Effective = append(c.Effective, names...)
	c.Permitted = append(c.Permitted, names...)
	if c.Inheritable != nil {
		c.Ambient = append(c.Ambient, names...)
	}
}

func (f *execFlags) changeIDs(p *specs.Process) error {
	if f.user != "" {
		id, err := user.Parse(f.user)
		if err != nil {
			return err
		}
		p.User.UID = id.UID
		if id.HasGID {
			p.User.GID = id.GID
		}
	}
	for _, s := range f.additionalGIDs {
		gid, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return &hull.Error{Step: fmt.Sprintf("--additional-gids %q", s), Kind: hull.ErrBadUsage, Err: errors.New("want a gid")}
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	return nil
}
