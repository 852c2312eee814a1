package cli

import (
	"errors"
	"fmt"
	"runtime"

	"hull"
)

func poolCommand() *Command {
	var size int
	var status bool
	var options *optionSet
	return &Command{
		Name:    "pool",
		Summary: "keep sandboxes ready, for containers to start in",
		Usage:   "[options]",
		Long: `Starts sandboxes that have no container yet, and gives each to one of the containers that run and create make in --root with --isolation sandbox: most of what a start takes is done by then. Each is used once; another takes its place. It stays until it is ended, and then ends those that nobody has taken, and no others.

A container that can't have one is started as without a pool, and --debug says why: with --pid-file, the host's network or a namespace by its path, a user namespace, limited to certain processors, with cgroups of systemd's, restored, or when none is ready.

Only the same user, of the same release, takes from it.`,
		Examples: `hull pool --size 8 &
hull --isolation sandbox run box
hull pool --status`,
		Own:  true,
		Args: arity{0, 0},
		Flags: func(fs *optionSet) {
			options = fs
			fs.intVar(&size, "size", "keep `N` sandboxes ready (default: 4)")
			fs.boolVar(&status, "status", "print how many there are to be, are ready, and were taken from the pool of --root, as JSON, and exit")
		},
		Run: func(env *Env, _ []string) error {
			r := env.Runtime()
			if status {
				s, err := r.PoolStatus()
				if err != nil {
					return err
				}
				return env.printJSON(s, "")
			}
			if options.given("size") && (size < 1 || size > hull.MaxPoolSize) {
				return statusError{exitUsage, env.usage("pool", fmt.Errorf("--size \"%d\": want 1 to %d", size, hull.MaxPoolSize))}
			}
			ctx, _ := catchSignals()
			// It wakes up whenever a container starts or ends, which wants the processors then: by one thread, not by all that Go
			// would have look for work.
			runtime.GOMAXPROCS(1)
			err := r.Pool(ctx, hull.PoolOptions{Size: size})
			if err == nil && ctx.Err() == nil {
				err = errors.New("bug: the pool has ended")
			}
			return err
		},
	}
}
