package cli

func pauseCommand() *Command {
	return &Command{
		Name:    "pause",
		Summary: "stop all processes of a container for a while",
		Usage:   "CONTAINER-ID",
		Long: `Freezes the container's cgroup: its processes do nothing until hull resume, and don't notice. Those of a sandbox are
stopped by its kernel.`,
		Examples: `hull pause web1`,
		Args:     arity{1, 1},
		Run: func(env *Env, args []string) error {
			c, err := env.container("pause", args[0])
			if err != nil {
				return err
			}
			return c.Pause()
		},
	}
}
