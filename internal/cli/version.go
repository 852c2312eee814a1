package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"hull"
)

// printVersion prints lines that engines show, and some of them parse.
func (e *Env) printVersion() error {
	_, err := fmt.Fprintf(e.Stdout, "%s version %s\ncommit: %s\nspec: %s\ngo: %s\n",
		e.Name, hull.Version, commit(), specs.Version, runtime.Version())
	return err
}

// commit returns the revision that the program was built from, with a mark if the sources had been changed.
func commit() string {
	revision, mark := "unknown", ""
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return revision
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				mark = "-dirty"
			}
		}
	}
	return revision + mark
}
