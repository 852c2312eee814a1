package cli

import (
	"os"

	"hull"
)

// createFlags are the options of the commands that make containers.
type createFlags struct {
	bundle        string
	consoleSocket string
	pidfdSocket   string
	pidFile       string
	noPivot       bool
	noNewKeyring  bool
	preserveFDs   int
}

func (f *createFlags) register(fs *optionSet) {
	fs.stringVar(&f.bundle, "bundle, b", "", "`DIR` of config.json (default: the working directory)")
	ioFlags(fs, &f.consoleSocket, &f.pidfdSocket, &f.pidFile, &f.preserveFDs)
	fs.boolVar(&f.noPivot, "no-pivot", "change the root by a moving mount and chroot(2), not by pivot_root(2): "+
		"for a root file system in the initial ramdisk, which is less safe")
	fs.boolVar(&f.noNewKeyring, "no-new-keyring", "leave the container the caller's session keyring")
}

// ioFlags are the options about what a process shares with the caller.
func ioFlags(fs *optionSet, consoleSocket, pidfdSocket, pidFile *string, preserveFDs *int) {
	fs.stringVar(consoleSocket, "console-socket", "", "unix socket at `PATH` that gets the master of the process's "+
		"terminal, as a descriptor")
	fs.stringVar(pidfdSocket, "pidfd-socket", "", "unix socket at `PATH` that gets a pidfd of the process")
	fs.stringVar(pidFile, "pid-file", "", "write the pid of the process, as seen by the caller, to `FILE`")
	fs.intVar(preserveFDs, "preserve-fds", "pass on `N` descriptors from 3 on, beside those that a service manager "+
		"passes (LISTEN_FDS)")
}

// options returns what the flags say.
func (f *createFlags) options(env *Env) (hull.CreateOptions, error) {
	activated, vars := activation(os.Getpid(), os.Getenv)
	extra, err := inherited(activated, f.preserveFDs)
	if err != nil {
		return hull.CreateOptions{}, err
	}
	return hull.CreateOptions{
		Bundle:        f.bundle,
		Stdio:         hull.Stdio{In: env.Stdin, Out: env.Stdout, Err: env.Stderr},
		ConsoleSocket: f.consoleSocket,
		PidfdSocket:   f.pidfdSocket,
		PidFile:       f.pidFile,
		NoPivot:       f.noPivot,
		NoNewKeyring:  f.noNewKeyring,
		ExtraFiles:    extra,
		Env:           vars,
		Notify:        os.Getenv("NOTIFY_SOCKET") != "",
	}, nil
}

func createCommand() *Command {
	var f createFlags
	return &Command{
		Name:    "create",
		Summary: "create a container",
		Usage:   "[options] CONTAINER-ID",
		Long: `Makes a container from a bundle, with its namespaces, mounts, cgroup and all, up to the point where only its program is missing. hull start runs that.

The container's program gets the standard streams that create was called with. With a terminal ("terminal": true in config.json) --console-socket is needed: somebody has to hold the other end when hull is gone.`,
		Examples: `hull create --bundle /srv/web1 --pid-file /run/web1.pid web1
hull start web1`,
		Args:  arity{1, 1},
		Flags: f.register,
		Run: func(env *Env, args []string) error {
			ctx, signals := catchSignals()
			o, err := f.options(env)
			if err != nil {
				return inOp("create", args[0], err)
			}
			_, err = env.Runtime().Create(ctx, args[0], o)
			return signals.explain(ctx, "create", args[0], err)
		},
	}
}
