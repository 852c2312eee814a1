package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hull"
)

// imageFlags are the options that checkpoint and restore have in common.
type imageFlags struct {
	hull.ImageOptions
	emptyNS string
}

func (f *imageFlags) register(fs *optionSet) {
	fs.stringVar(&f.Path, "image-path", "", "`DIR` of the image (default: checkpoint in the working directory)")
	fs.stringVar(&f.WorkPath, "work-path", "", "`DIR` of CRIU's logs and statistics (default: that of the image)")
	fs.boolVar(&f.TCPConnected, "tcp-established", "with open TCP connections")
	fs.boolVar(&f.UnixSockets, "ext-unix-sk", "with Unix sockets whose other end is outside of the container")
	fs.boolVar(&f.ShellJob, "shell-job", "with a terminal that the container shares with processes outside")
	fs.boolVar(&f.FileLocks, "file-locks", "with locks of files")
	fs.boolVar(&f.LazyPages, "lazy-pages", "leave memory where it is until it is needed")
	fs.boolVar(&f.AutoDedup, "auto-dedup", "take what is in a newer image, too, out of an older one")
	fs.stringVar(&f.ManageCgroups, "manage-cgroups-mode", "", "`MODE` for cgroups: soft (default), full, strict or ignore")
	fs.offer("soft", "full", "strict", "ignore")
	fs.stringVar(&f.emptyNS, "empty-ns", "", "make a namespace of that `TYPE`, network, but leave it empty")
}

func (f *imageFlags) options() hull.ImageOptions {
	o := f.ImageOptions
	if f.emptyNS != "" {
		o.EmptyNS = []string{f.emptyNS}
	}
	return o
}

type checkpointFlags struct {
	imageFlags
	hull.CheckpointOptions
	statusFD int
	given    func(option string) bool
}

func (f *checkpointFlags) register(fs *optionSet) {
	f.given = fs.given
	f.imageFlags.register(fs)
	fs.boolVar(&f.LeaveRunning, "leave-running", "let the container go on when it is saved")
	fs.stringVar(&f.ParentPath, "parent-path", "", "`DIR` of an earlier image, relative to that of the image: memory that hasn't changed since is left out")
	fs.boolVar(&f.LinkRemap, "link-remap", "give open files that have no name any more one, until they are restored")
	fs.boolVar(&f.SkipInFlight, "tcp-skip-in-flight", "leave out TCP connections that are not accepted yet")
	fs.boolVar(&f.PreDump, "pre-dump", "save the memory alone, and let the container go on")
	fs.stringVar(&f.PageServer, "page-server", "", "`ADDRESS:PORT` of the page server that gets the memory")
	fs.intVar(&f.statusFD, "status-fd", "write a zero byte to the descriptor `N` when lazy pages can be asked for")
}

func checkpointCommand() *Command {
	var f checkpointFlags
	return &Command{
		Name:    "checkpoint",
		Summary: "save a running container in files",
		Usage:   "[options] CONTAINER-ID",
		Long: `Saves the processes of a container in files, from which hull restore brings them back, as often as one likes, and deletes the container, unless it is to be left running. If something goes wrong, the container goes on.

For native isolation the work is done by CRIU, which is a program of its own; hull --criu names one that is not in PATH. A sandbox is saved by its kernel, and refuses the options of CRIU's that it can't do.`,
		Examples: `hull checkpoint --image-path /srv/saved/web1 web1`,
		Args:     arity{1, 1},
		Flags:    f.register,
		Run: func(env *Env, args []string) error {
			ctx, signals := catchSignals()
			c, err := env.container("checkpoint", args[0])
			if err != nil {
				return err
			}
			o := f.CheckpointOptions
			o.ImageOptions = f.imageFlags.options()
			if f.given("status-fd") {
				if o.StatusFD, err = openDescriptor(f.statusFD); err != nil {
					return inOp("checkpoint", c.ID(), err)
				}
			}
			return signals.explain(ctx, "checkpoint", c.ID(), c.Checkpoint(ctx, o))
		},
	}
}

// openDescriptor returns the file that a caller has left open under a number.
func openDescriptor(n int) (*os.File, error) {
	if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); n < 0 || err != nil {
		return nil, &hull.Error{Step: "--status-fd", Kind: hull.ErrBadUsage, Err: fmt.Errorf("%d is no open descriptor", n)}
	}
	unix.CloseOnExec(n)
	return os.NewFile(uintptr(n), "status"), nil
}

type restoreFlags struct {
	imageFlags
	run             runFlags
	lsmProfile      string
	lsmMountContext string
}

func (f *restoreFlags) register(fs *optionSet) {
	f.imageFlags.register(fs)
	r := &f.run
	fs.stringVar(&r.bundle, "bundle, b", "", "`DIR` of config.json (default: the working directory)")
	fs.stringVar(&r.consoleSocket, "console-socket", "", "unix socket at `PATH` that gets the master of the container's terminal, as a descriptor")
	fs.stringVar(&r.pidFile, "pid-file", "", "write the pid of the container's first process, as seen by the caller, to `FILE`")
	fs.boolVar(&r.detach, "detach, d", "don't wait for the container's program; hull delete cleans up later")
	fs.boolVar(&r.noSubreaper, "no-subreaper", "don't become the parent of processes that the container's program leaves behind, where it has no pid namespace of its own")
	fs.boolVar(&r.noPivot, "no-pivot", "change the root by a moving mount and chroot(2), not by pivot_root(2)")
	fs.stringVar(&f.lsmProfile, "lsm-profile", "", "run with that security profile, `TYPE:NAME`")
	fs.stringVar(&f.lsmMountContext, "lsm-mount-context", "", "mount with that security `CONTEXT`")
}

func restoreCommand() *Command {
	var f restoreFlags
	return &Command{
		Name:     "restore",
		Summary:  "bring back a container that was saved",
		Usage:    "[options] CONTAINER-ID",
		Long:     `Makes a container, by the id given, that goes on where one was saved by hull checkpoint, and stays with it as hull run does. The bundle is that of the saved one. Who can write the image decides what runs in the container, and with which rights: restore only what you would run as root.`,
		Examples: `hull restore --image-path /srv/saved/web1 --bundle /srv/web1 --detach web1`,
		Exit:     `The status of the program, or 128 and the number of the signal that ended it. 1 if the container could not be restored. With --detach 0 if it was.`,
		Args:     arity{1, 1},
		Flags:    f.register,
		Run: func(env *Env, args []string) error {
			id := args[0]
			ctx, signals := catchSignals()
			r := running{op: "restore", env: env, signals: signals, terminal: attachment{env: env}}
			if err := f.restore(ctx, &r, id); err != nil {
				r.terminal.close()
				return signals.explain(ctx, "restore", id, err)
			}
			if f.run.detach {
				return nil
			}
			return f.run.stay(ctx, &r)
		},
	}
}

func (f *restoreFlags) restore(ctx context.Context, r *running, id string) error {
	o := hull.RestoreOptions{ImageOptions: f.imageFlags.options(), LSMProfile: f.lsmProfile, LSMMountContext: f.lsmMountContext}
	if err := checkConsoleSocket(f.run.detach, f.run.consoleSocket); err != nil {
		return inOp("restore", id, err)
	}
	o.CreateOptions = hull.CreateOptions{
		Bundle:        f.run.bundle,
		Stdio:         hull.Stdio{In: r.env.Stdin, Out: r.env.Stdout, Err: r.env.Stderr},
		ConsoleSocket: f.run.consoleSocket,
		PidFile:       f.run.pidFile,
		NoPivot:       f.run.noPivot,
	}
	if !f.run.detach {
		r.signals.catchAll()
		o.Console = r.terminal.connect
	}
	f.run.becomeSubreaper()
	var err error
	r.container, err = r.env.Runtime().Restore(ctx, id, o)
	var e *hull.Error
	if _, serr := os.Stat(cmp.Or(o.Path, "checkpoint")); errors.As(err, &e) && e.Hint == "" && errors.Is(serr, os.ErrNotExist) {
		e.Hint = "the image, which hull checkpoint has written, is named by --image-path, or else is checkpoint in the working directory"
	}
	return err
}
