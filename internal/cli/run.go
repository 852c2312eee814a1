package cli

import (
	"context"
	"errors"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"hull"
)

type runFlags struct {
	createFlags
	detach      bool
	keep        bool
	noSubreaper bool
}

func (f *runFlags) register(fs *pflag.FlagSet) {
	f.createFlags.register(fs)
	fs.BoolVarP(&f.detach, "detach", "d", false, "don't wait for the container's program; hull delete cleans up later")
	fs.BoolVar(&f.keep, "keep", false, "don't delete the container when its program has ended")
	fs.BoolVar(&f.noSubreaper, "no-subreaper", false, "don't become the parent of the processes that the container's "+
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
			ctx, signals := catchSignals()
			o, err := f.options(env, f.detach)
			if err != nil {
				return inOp("run", args[0], err)
			}
			c, socket, err := f.start(ctx, env, args[0], o)
			if err != nil {
				return signals.explain(ctx, "run", args[0], err)
			}
			if f.detach {
				return socket.handOver(ctx, c.Init().Pid)
			}
			return f.stay(ctx, env, c, socket, signals)
		},
	}
}

// start makes the container and runs its program. With a service manager to be notified there is a socket, which must
// be there before the program, but can't be before the container.
func (f *runFlags) start(ctx context.Context, env *Env, id string, o hull.CreateOptions) (*hull.Container, *notifySocket, error) {
	if !f.detach && !f.noSubreaper {
		// A kernel that can't, can run containers all the same.
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	}
	r := env.Runtime()
	if os.Getenv("NOTIFY_SOCKET") == "" {
		c, err := r.Run(ctx, id, o)
		return c, nil, err
	}
	c, err := r.Create(ctx, id, o)
	if err != nil {
		return nil, nil, err
	}
	socket, err := env.listenNotify(id)
	if err == nil {
		err = c.Start(ctx)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.remove(ctx, c))
	}
	return c, socket, nil
}

// stay waits for the end of the container's program, and deletes the container.
func (f *runFlags) stay(ctx context.Context, env *Env, c *hull.Container, socket *notifySocket, s *signals) error {
	stopNotify := socket.forward(ctx, env)
	stopReaping := func() {}
	if !f.noSubreaper {
		stopReaping = adoptOrphans(c.Init().Pid)
	}
	status, err := env.attach(c.Init(), s)
	stopReaping()
	stopNotify()
	if !f.keep {
		if removeErr := f.remove(ctx, c); removeErr != nil {
			env.log.warn(removeErr.Error())
		}
	}
	if err != nil {
		return &hull.Error{Op: "run", ID: c.ID(), Err: err}
	}
	return exited(status)
}

// remove deletes the container, whatever has become of it, and though ctx may be done.
func (f *runFlags) remove(ctx context.Context, c *hull.Container) error {
	return c.Delete(context.WithoutCancel(ctx), hull.DeleteOptions{Force: true})
}
