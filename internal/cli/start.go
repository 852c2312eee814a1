package cli

func startCommand() *Command {
	return &Command{
		Name:    "start",
		Summary: "run the program of a created container",
		Usage:   "CONTAINER-ID",
		Long: `Lets the program run that hull create has prepared everything for. hull start doesn't wait for its end.

If NOTIFY_SOCKET is set, as it was for hull create, hull start waits until the program says that it is ready, and tells the service manager.`,
		Args: arity{1, 1},
		Run: func(env *Env, args []string) error {
			ctx, signals := catchSignals()
			c, err := env.container("start", args[0])
			if err != nil {
				return err
			}
			// Before the program, which may notify at once.
			socket, err := listenNotify(c)
			if err != nil {
				return inOp("start", c.ID(), err)
			}
			if err := c.Start(ctx); err != nil {
				return signals.explain(ctx, "start", c.ID(), err)
			}
			return inOp("start", c.ID(), socket.handOver(ctx, c.Init().Pid))
		},
	}
}
