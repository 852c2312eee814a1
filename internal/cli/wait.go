package cli

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

func waitCommand() *Command {
	var pid, rootPID int
	var options *optionSet
	return &Command{
		Name:    "wait",
		Own:     true,
		Summary: "wait for the end of a container's program",
		Usage:   "[options] CONTAINER-ID",
		Long: `Waits until the program of a created or running container, or another of its processes, has ended, and prints as JSON with which status: that of its exit, or 128 and the number of the signal that ended it.

Before Linux 6.15 a status that the parent of the program has already taken, as a supervisor does at once, is not known to others: then wait fails when the program has ended.`,
		Examples: `hull wait web1
hull wait --pid 7 web1`,
		Args: arity{1, 1},
		Flags: func(fs *optionSet) {
			options = fs
			fs.intVar(&pid, "pid", "wait for the process with that `PID` in the container")
			fs.intVar(&rootPID, "rootpid", "wait for the process with that `PID` of the whole sandbox, or else of the host")
		},
		Run: func(env *Env, args []string) error {
			switch one, other := options.given("pid"), options.given("rootpid"); {
			case one && other:
				return statusError{exitUsage, env.usage("wait", errors.New("--pid and --rootpid are both given"))}
			case one && pid < 1:
				return statusError{exitUsage, env.usage("wait", fmt.Errorf("--pid \"%d\": want a pid", pid))}
			case other && rootPID < 1:
				return statusError{exitUsage, env.usage("wait", fmt.Errorf("--rootpid \"%d\": want a pid", rootPID))}
			}
			ctx, signals := catchSignals()
			c, err := env.container("wait", args[0])
			if err != nil {
				return err
			}
			var ws unix.WaitStatus
			if pid+rootPID == 0 {
				ws, err = c.Wait(ctx)
			} else {
				ws, err = c.WaitProcess(ctx, pid+rootPID, rootPID != 0)
			}
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
