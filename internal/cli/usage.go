package cli

import "encoding/json"

func usageCommand() *Command {
	var full bool
	return &Command{
		Name:    "usage",
		Summary: "print what a container's memory is used for",
		Usage:   "[options] CONTAINER-ID",
		Long: `Prints as JSON, in bytes: Anonymous, the memory of programs; Mapped and PageCache, of files; Tmpfs, files in memory; System, the kernel's for them; Unknown, none of these; and Total.

In a sandbox it is what its kernel has given to all of its containers. What that kernel itself takes of the host is in hull events.`,
		Examples: `hull usage web1`,
		Own:      true,
		Args:     arity{1, 1},
		Flags: func(fs *optionSet) {
			fs.boolVar(&full, "full", "count all, as is always done; for callers that know runsc")
		},
		Run: func(env *Env, args []string) error {
			c, err := env.container("usage", args[0])
			if err != nil {
				return err
			}
			m, err := c.MemoryUsage()
			if err != nil {
				return err
			}
			return json.NewEncoder(env.Stdout).Encode(m)
		},
	}
}
