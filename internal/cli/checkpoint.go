package cli

import "hull"

func checkpointCommand() *Command {
	return laterCommand("checkpoint", "save a running container in files", `Will save the processes of a container in files, from which hull restore brings them back.`)
}

func restoreCommand() *Command {
	return laterCommand("restore", "bring back a container that was saved", `Will bring back a container from the files that hull checkpoint has made.`)
}

// laterCommand is a command whose name users know, and which hull doesn't have yet. It takes any options, to say that
// rather than what is wrong with them.
func laterCommand(name, summary, long string) *Command {
	return &Command{
		Name:    name,
		Summary: summary + " (not there yet)",
		Usage:   "[options] CONTAINER-ID",
		Long:    long + " This hull can't do that yet.",
		Exit:    `1.`,
		Args:    arity{0, anyNumber},
		Parse:   anyOptions,
		Run: func(_ *Env, args []string) error {
			return &hull.Error{Op: name, Kind: hull.ErrUnsupported, Hint: "a later release of hull will have it"}
		},
	}
}
