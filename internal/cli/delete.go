package cli

import (
	"hull"
)

func deleteCommand() *Command {
	var force bool
	return &Command{
		Name:    "delete",
		Summary: "take away what is left of a container",
		Usage:   "[options] CONTAINER-ID",
		Long: `Takes away the state, the cgroups and whatever else a stopped container has left on the host. A container that was created but not started is deleted, too. The bundle stays.

With --force it doesn't matter what state the container is in, or whether there is one: when it is gone, all went well. What a hull that was killed has left of a container is also taken away.`,
		Examples: `hull delete web1
hull delete --force web1`,
		Args: arity{1, 1},
		Flags: func(fs *optionSet) {
			fs.boolVar(&force, "force, f", "kill the container first if it isn't stopped")
		},
		Run: func(env *Env, args []string) error {
			ctx, signals := catchSignals()
			err := env.Runtime().Delete(ctx, args[0], hull.DeleteOptions{Force: force})
			return signals.explain(ctx, "delete", args[0], err)
		},
	}
}
