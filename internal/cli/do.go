package cli

import (
	"errors"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/tty"
)

type doFlags struct {
	root      string
	cwd       string
	all       bool
	tmpfsSize string
}

func (f *doFlags) register(fs *optionSet) {
	fs.stringVar(&f.root, "root", "", "show the files below `DIR` instead of all of the host's")
	fs.stringVar(&f.cwd, "cwd", "", "working `DIR`ectory; the current one if it is not given")
	fs.boolVar(&f.all, "all", "show private places, too")
	fs.stringVar(&f.tmpfsSize, "tmpfs-size", "", "bound what can be written to `SIZE`, such as 512m or 10%; half of the memory if it is not given")
}

func doCommand() *Command {
	var f doFlags
	return &Command{
		Name:    "do",
		Own:     true,
		Summary: "run a command over the host's files, which it can't change",
		Usage:   "[options] [--] COMMAND [ARGUMENT...]",
		Long: `Shows the command the programs and libraries of the host and the working tree: the git repository it is called in, or else the directory. What the command writes goes to memory, and with it. /home, /root, /run, /tmp and other places where users keep their things are empty.

The command is the caller's user without any capability and can't gain privileges. It has no network but a loopback: what can read files of the host should not be able to send them away. Its processes end with it, and with hull, however that ends.

With a terminal as standard input the command gets one of its own; otherwise hull's streams.`,
		Exit: `The status of the command, or 128 and the number of the signal that ended it. 127 if it was not found, 126 if it can't be executed, 2 if the options can't be understood, 1 for anything else that hull could not do.`,
		Examples: `# Does it build and pass its tests?
hull do -- make test

# Look at what a program writes, without having it:
hull do -- sh -c './configure; ls'`,
		Args:  arity{1, anyNumber},
		Parse: stopAtArgument,
		Flags: f.register,
		Run: func(env *Env, args []string) error {
			return f.do(env, args)
		},
	}
}

// notStarted gives the error of a command that could not be executed the status that shells give it.
func notStarted(err error) error {
	var e *hull.Error
	for cause := err; e == nil || e.Field != hull.CommandField; cause = e.Err {
		if !errors.As(cause, &e) {
			return err
		}
	}
	e.Field = "" // of a configuration that the caller hasn't seen
	if errors.Is(err, unix.ENOENT) {
		return statusError{exitNotFound, err}
	}
	return statusError{exitNotExecutable, err}
}

func (f *doFlags) do(env *Env, args []string) error {
	ctx, signals := catchSignals()
	signals.catchAll()
	terminal := attachment{env: env}
	cmd := hull.CommandContext(ctx, args[0], args[1:]...)
	cmd.Host = hull.HostFiles{Root: f.root, All: f.all, TmpfsSize: f.tmpfsSize}
	cmd.Dir = f.cwd
	cmd.Stdin, cmd.Stdout, cmd.Stderr = env.Stdin, env.Stdout, env.Stderr
	cmd.Runtime = env.Runtime()
	if tty.Is(env.Stdin) {
		cmd.Console = terminal.connect
	}
	if err := cmd.Start(); err != nil {
		terminal.close()
		return notStarted(signals.explain(ctx, "do", "", err))
	}
	defer terminal.close()
	if terminal.session == nil {
		signals.catchJobControl()
	}
	signals.forward(func(sig unix.Signal) { env.deliver(cmd.Process, &terminal, sig) })
	err := cmd.Wait()
	terminal.close()
	var ended *hull.ExitError
	if errors.As(err, &ended) {
		return exited(waitStatus(ended.WaitStatus))
	}
	return err
}
