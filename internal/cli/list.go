package cli

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"hull"
)

func listCommand() *Command {
	var format string
	var quiet bool
	return &Command{
		Name:    "list",
		Summary: "list the containers",
		Usage:   "[options]",
		Long:    `Lists the containers whose state is below the directory of the global option --root, in the order of their ids.`,
		Examples: `hull list
hull --root /run/user/1000/hull list --format json`,
		Args: arity{0, 0},
		Flags: func(fs *optionSet) {
			fs.stringVar(&format, "format, f", "table", "print a `FORMAT`: table, or json")
			fs.offer("table", "json")
			fs.boolVar(&quiet, "quiet, q", "print the ids only")
		},
		Run: func(env *Env, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			states, err := env.Runtime().List()
			// Without a container there need not be a directory; one that the user names must be there.
			if errors.Is(err, fs.ErrNotExist) && !env.globals.rootSet {
				err = nil
			}
			if err != nil {
				return err
			}
			switch {
			case quiet:
				return printIDs(env.Stdout, states)
			case format == "json":
				return env.printJSON(states, "")
			}
			return printTable(env.Stdout, states)
		},
	}
}

func printIDs(w io.Writer, states []hull.State) error {
	var b strings.Builder
	for _, s := range states {
		b.WriteString(s.ID + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printTable prints with one write: tabwriter makes one for each cell.
func printTable(out io.Writer, states []hull.State) error {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 12, 1, 3, ' ', 0)
	io.WriteString(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\tISOLATION\n")
	for _, s := range states {
		line := strings.Join([]string{s.ID, strconv.Itoa(s.Pid), string(s.Status), s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner, string(s.Isolation)}, "\t")
		io.WriteString(w, line+"\n")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := table.WriteTo(out)
	return err
}
