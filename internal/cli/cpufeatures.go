package cli

import (
	"fmt"
	"strings"
)

func cpuFeaturesCommand() *Command {
	return &Command{
		Name:    "cpu-features",
		Summary: "print the processor's features that sandboxes are shown",
		Long:    `Prints them with commas between, by the names of /proc/cpuinfo. A container that was saved is restored only where there are all those that it was started with.`,
		Own:     true,
		Args:    arity{0, 0},
		Run: func(env *Env, _ []string) error {
			features, err := env.Runtime().CPUFeatures()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(env.Stdout, strings.Join(features, ","))
			return err
		},
	}
}
