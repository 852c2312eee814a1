package cli

import (
	"errors"

	"hull"
)

func debugCommand() *Command {
	var stacks, memory, files bool
	var level string
	return &Command{
		Name:    "debug",
		Summary: "show what a sandbox's kernel does",
		Usage:   "[options] CONTAINER-ID",
		Long: `Shows one thing that the kernel of a container in a sandbox knows about itself, or sets what it logs. It goes on meanwhile.

The log is sandbox.log in the container's state directory, and ends after 1 MiB.`,
		Examples: `hull debug --stacks web1
hull debug --log-level debug web1`,
		Own:  true,
		Args: arity{1, 1},
		Flags: func(fs *optionSet) {
			fs.boolVar(&stacks, "stacks", "print what each of the kernel's goroutines does")
			fs.boolVar(&memory, "memory", "print what the memory is used for, in bytes, as JSON")
			fs.boolVar(&files, "files", "print the open files of the processes: pid, descriptor and path")
			fs.stringVar(&level, "log-level", "", "log from now on what is a warning, info or debug: `LEVEL`")
		},
		Run: func(env *Env, args []string) error {
			var show hull.DebugReport
			chosen := 0
			for report, given := range map[hull.DebugReport]bool{hull.DebugStacks: stacks, hull.DebugMemory: memory, hull.DebugFiles: files} {
				if given {
					show = report
					chosen++
				}
			}
			switch {
			case chosen > 1:
				return statusError{exitUsage, errors.New("debug: more than one of --stacks, --memory and --files")}
			case chosen == 0 && level == "":
				return statusError{exitUsage, errors.New("debug: want --stacks, --memory, --files or --log-level")}
			case level != "" && level != "warning" && level != "info" && level != "debug":
				return statusError{exitUsage, errors.New(`debug: --log-level: want warning, info or debug`)}
			}
			c, err := env.container("debug", args[0])
			if err != nil {
				return err
			}
			return c.Debug(env.Stdout, show, level)
		},
	}
}
