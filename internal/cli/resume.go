package cli

func resumeCommand() *Command {
	return &Command{
		Name:     "resume",
		Summary:  "let the processes of a paused container go on",
		Usage:    "CONTAINER-ID",
		Long:     `Takes back what hull pause has done.`,
		Examples: `hull resume web1`,
		Args:     arity{1, 1},
		Run: func(env *Env, args []string) error {
			c, err := env.container("resume", args[0])
			if err != nil {
				return err
			}
			return c.Resume()
		},
	}
}
