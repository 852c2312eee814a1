package cli

import "hull"

func featuresCommand() *Command {
	return &Command{
		Name:    "features",
		Summary: "print what hull can do on this host",
		Long:    `Prints, as JSON, which parts of the runtime specification there are, and which of them this host has: the "Features Structure" of the specification. Engines read it.`,
		Args:    arity{0, 0},
		Run: func(env *Env, _ []string) error {
			return env.printJSON(hull.Features(), "    ")
		},
	}
}
