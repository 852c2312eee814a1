package cli

import "encoding/json"

func waitCommand() *Command {
	return &Command{
		Name:    "wait",
		Summary: "wait for the end of a container's program",
		Usage:   "CONTAINER-ID",
		Long: `Waits until the program of a created or running container has ended, and prints as JSON with which status: that of its exit, or 128 and the number of the signal that ended it.

Before Linux 6.15 a status that the parent of the program has already taken, as a supervisor does at once, is not known to others: then wait fails when the program has ended.`,
		Examples: `hull wait web1`,
		Args:     arity{1, 1},
		Run: func(env *Env, args []string) error {
			ctx, signals := catchSignals()
			c, err := env.container("wait", args[0])
			if err != nil {
				return err
			}
			ws, err := c.Wait(ctx)
			if err != nil {
				return signals.explain(ctx, "wait", args[0], err)
			}
			return json.NewEncoder(env.Stdout).Encode(struct {
				ID         string `json:"id"`
				ExitStatus int    `json:"exitStatus"`
			}{args[0], waitStatus(ws)})
		},
	}
}
