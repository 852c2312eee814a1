package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"hull"
)

func psCommand() *Command {
	var format string
	return &Command{
		Name:    "ps",
		Summary: "list the processes in a container",
		Usage:   "[options] CONTAINER-ID [ps options]",
		Long: `Prints what ps(1), of the host, prints of the container's processes: with the options given, or -ef. Whatever the options, there must be a column PID.

With --format json the pids are printed, as the caller sees them, and nothing else; ps(1) isn't needed.

In a sandbox the processes are those of its kernel, with the pids that they have there, and there are no ps options; the pids of --format json are those of the host's processes that the sandbox consists of.`,
		Examples: `hull ps web1
hull ps web1 -o pid,rss,args
hull ps --format json web1`,
		Args:  arity{1, anyNumber},
		Parse: stopAtArgument,
		Flags: func(fs *optionSet) {
			fs.stringVar(&format, "format, f", "table", "print a `FORMAT`: table, or json")
			fs.offer("table", "json")
		},
		Run: func(env *Env, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			c, err := env.container("ps", args[0])
			if err != nil {
				return err
			}
			if c.Isolation() == hull.Sandbox && format != "json" {
				return env.printInside(c, args[1:])
			}
			pids, err := c.Processes()
			if err != nil {
				return inOp("ps", args[0], err)
			}
			if format == "json" {
				return env.printJSON(pids, "")
			}
			table, err := runPS(args[1:])
			if err == nil {
				table, err = selectRows(table, pids)
			}
			if err != nil {
				return inOp("ps", args[0], err)
			}
			_, err = env.Stdout.Write(table)
			return err
		},
	}
}

// printInside prints the processes of a sandbox.
func (e *Env) printInside(c *hull.Container, options []string) error {
	if len(options) > 0 {
		return inOp("ps", c.ID(), &hull.Error{Kind: hull.ErrUnsupported, Err: errors.New("not possible in sandbox isolation: options of ps(1), which knows nothing of its processes")})
	}
	list, err := c.Inside()
	if err != nil {
		return err
	}
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 5, 1, 2, ' ', 0)
	fmt.Fprint(w, "UID\tPID\tPPID\tC\tSTIME\tTTY\tTIME\tCMD\n")
	for _, p := range list {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", p.UID, p.PID, p.PPID, p.CPU, p.STime, p.TTY, p.Time, p.Command)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err = table.WriteTo(e.Stdout)
	return err
}

func runPS(args []string) ([]byte, error) {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	cmd := exec.Command("ps", args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		why, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n")) // the rest is how ps is used
		return nil, &hull.Error{Step: strings.Join(cmd.Args, " "), Err: fmt.Errorf("%w: %s", err, why)}
	}
	return out, nil
}

// selectRows keeps of a table that ps(1) has printed the title and the rows of those processes.
func selectRows(table []byte, pids []int) ([]byte, error) {
	title, rows, _ := bytes.Cut(table, []byte("\n"))
	column := slices.Index(strings.Fields(string(title)), "PID")
	if column < 0 {
		return nil, &hull.Error{Step: "output of ps", Err: errors.New("no column PID")}
	}
	out := append(slices.Clone(title), '\n')
	for row := range bytes.Lines(rows) {
		fields := bytes.Fields(row)
		if len(fields) == 0 {
			continue
		}
		if len(fields) <= column {
			return nil, &hull.Error{Step: "output of ps", Err: fmt.Errorf("no PID in %q", row)}
		}
		pid, err := strconv.Atoi(string(fields[column]))
		if err != nil {
			return nil, &hull.Error{Step: "output of ps", Err: fmt.Errorf("no PID in %q", row)}
		}
		if slices.Contains(pids, pid) {
			out = append(out, row...)
		}
	}
	return out, nil
}
