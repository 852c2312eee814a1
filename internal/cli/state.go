package cli

import "encoding/json"

func stateCommand() *Command {
	return &Command{
		Name:    "state",
		Summary: "print the state of a container",
		Usage:   "CONTAINER-ID",
		Long: `Prints the container's state as JSON, as the runtime specification has it, with the directory of the root file system, the time of creation and the owner of the state. The pid of a stopped container is 0.

The status is creating, created, running, paused or stopped.`,
		Examples: `hull state web1`,
		Args:     arity{1, 1},
		Run: func(env *Env, args []string) error {
			c, err := env.container("state", args[0])
			if err != nil {
				return err
			}
			state, err := c.State()
			if err != nil {
				return inOp("state", args[0], err)
			}
			b, err := json.MarshalIndent(state, "", "  ")
			if err != nil {
				return err
			}
			_, err = env.Stdout.Write(b) // no newline: it is read by programs, to the last byte
			return err
		},
	}
}
