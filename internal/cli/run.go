package cli

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"hull"
)

type runFlags struct {
	createFlags
	detach      bool
	keep        bool
	noSubreaper bool
}

func (f *runFlags) register(fs *optionSet) {
	f.createFlags.register(fs)
	fs.boolVar(&f.detach, "detach, d", "don't wait for the container's program; hull delete cleans up later")
	fs.boolVar(&f.keep, "keep", "don't delete the container when its program has ended")
	fs.boolVar(&f.noSubreaper, "no-subreaper", "don't become the parent of the processes that the container's "+
		"program leaves behind, where it has no pid namespace of its own")
}

func runCommand() *Command {
	var f runFlags
	return &Command{
		Name:    "run",
		Summary: "create a container, start its program and wait for its end",
		Usage:   "[options] CONTAINER-ID",
		Long: `Does what create, start and delete do, and stays with the container in between: the program has hull's standard streams, signals sent to hull are sent to the program, and its exit status is hull's.

With a terminal ("terminal": true in config.json) the program gets one of its own, connected with the one hull was called from, whose size it follows. What is typed goes to the program, ^C and ^Z too.

With --detach hull leaves when the program runs. A terminal then needs --console-socket.

A signal that comes before the program runs takes back what was made of the container.`,
		Exit: `The status of the program, or 128 and the number of the signal that ended it. 1 if the container could not be created or started. With --detach 0 if the program was started.`,
		Examples: `# In the foreground, from the bundle in this directory:
hull run box

# As a service:
hull run --detach --pid-file /run/web1.pid --bundle /srv/web1 web1`,
		Args:  arity{1, 1},
		Flags: f.register,
		Run: func(env *Env, args []string) error {
			id := args[0]
			ctx, signals := catchSignals()
			o, err := f.options(env)
			if err == nil {
				err = checkConsoleSocket(f.detach, f.consoleSocket)
			}
			if err != nil {
				return inOp("run", id, err)
			}
			r := running{op: "run", env: env, signals: signals, terminal: attachment{env: env}}
			if !f.detach {
				signals.catchAll()
				o.Console = r.terminal.connect
			}
			if err := f.start(ctx, &r, id, o); err != nil {
				r.terminal.close()
				return signals.explain(ctx, "run", id, err)
			}
			if f.detach {
				return inOp("run", id, r.notify.handOver(ctx, r.container.Init().Pid))
			}
			return f.stay(ctx, &r)
		},
	}
}

// running is a container that run has made, and what ties hull to it.
type running struct {
	op        string // the command that has made it
	env       *Env
	signals   *signals
	container *hull.Container
	terminal  attachment
	notify    *notifySocket
}

// start makes the container and runs its program: in one step, which is faster than two, unless it is to notify. The
// socket for that has to be there before the program, but can't be before the container.
func (f *runFlags) start(ctx context.Context, r *running, id string, o hull.CreateOptions) (err error) {
	f.becomeSubreaper()
	if !o.Notify {
		r.container, err = r.env.Runtime().Run(ctx, id, o)
		return err
	}
	if r.container, err = r.env.Runtime().Create(ctx, id, o); err != nil {
		return err
	}
	if r.notify, err = listenNotify(r.container); err == nil {
		err = r.container.Start(ctx)
	}
	if err != nil {
		return inOp("run", id, errors.Join(err, f.remove(ctx, r.container)))
	}
	return nil
}

// becomeSubreaper makes hull the parent of processes that the container's program leaves behind.
func (f *runFlags) becomeSubreaper() {
	if !f.detach && !f.noSubreaper {
		// A kernel that can't, can run containers all the same.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
}

// stay waits for the end of the container's program, and deletes the container.
func (f *runFlags) stay(ctx context.Context, r *running) error {
	c := r.container
	stopNotify := r.notify.forward(ctx, r.env)
	stopReaping := func() {}
	if !f.noSubreaper {
		stopReaping = r.signals.adoptOrphans(c.Init().Pid)
	}
	status, err := r.env.wait(c.Init(), &r.terminal, r.signals)
	stopReaping()
	stopNotify()
	if !f.keep {
		if removeErr := f.remove(ctx, c); removeErr != nil {
			r.env.log.warn(removeErr.Error())
		}
	}
	if err != nil {
		return inOp(r.op, c.ID(), err)
	}
	return exited(status)
}

// remove deletes the container, whatever has become of it, and though ctx may be done.
func (f *runFlags) remove(ctx context.Context, c *hull.Container) error {
	return c.Delete(context.WithoutCancel(ctx), hull.DeleteOptions{Force: true})
}
