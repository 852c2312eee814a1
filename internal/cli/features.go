package cli

import (
	"strings"

	"hull"
)

func featuresCommand() *Command {
	return &Command{
		Name:    "features",
		Summary: "print what hull can do on this host",
		Long: `Prints, as JSON, which parts of the runtime specification there are, and which of them this host has: the "Features Structure" of the specification. Engines read it.

The platforms of sandboxes are those of which nothing has to be tried: hull --platform kvm features tries the host's KVM, too.`,
		Args: arity{0, 0},
		Run: func(env *Env, _ []string) error {
			f := hull.Features()
			if strings.Contains(f.Annotations["run.hull.isolations"], string(hull.Sandbox)) {
				platforms, err := env.Runtime().Platforms()
				f.Annotations["run.hull.platforms"] = strings.Join(platforms, " ")
				if err != nil {
					env.log.warn(err.Error())
				}
			}
			return env.printJSON(f, "    ")
		},
	}
}
