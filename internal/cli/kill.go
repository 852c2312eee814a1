package cli

import (
	"errors"

	"hull"
	"hull/internal/task"
)

func killCommand() *Command {
	var all bool
	return &Command{
		Name:    "kill",
		Summary: "send a signal to a container",
		Usage:   "[options] CONTAINER-ID [SIGNAL]",
		Long: `Sends a signal to the container's first process. In a container without a pid namespace of its own, KILL goes to all of its processes.

SIGNAL is a name, in any case and with or without SIG, or a number; SIGTERM if there is none. Real-time signals are RTMIN, RTMIN+1 and so on. 0 only looks whether the process is there.`,
		Examples: `hull kill web1
hull kill web1 KILL`,
		Args: arity{1, 2},
		Flags: func(fs *optionSet) {
			fs.boolVar(&all, "all, a", "send it to all processes of the container; that there are none is no mistake then")
		},
		Run: func(env *Env, args []string) error {
			name := "SIGTERM"
			if len(args) == 2 {
				name = args[1]
			}
			sig, err := task.ParseSignal(name)
			if err != nil {
				return inOp("kill", args[0], err)
			}
			c, err := env.container("kill", args[0])
			if err != nil {
				return err
			}
			err = c.Signal(sig, all)
			if all && errors.Is(err, hull.ErrBadState) {
				return nil
			}
			return err
		},
	}
}
