package cli

import (
	"context"
	"fmt"
	"io"

	"hull/internal/doctor"
)

func doctorCommand() *Command {
	var format string
	return &Command{
		Name:    "doctor",
		Own:     true,
		Summary: "say what of hull works on this host, and what would help",
		Usage:   "[options]",
		Long: `Tries what hull does for the caller, as root or as an ordinary user: containers, hull do, sandboxes, a network, cgroups. It says in words what works, what doesn't and what would help. Nothing is left of it.

The host's KVM is tried on demand: hull --platform kvm doctor. Where KVM hangs whoever uses it, a process that can't be killed stays behind.

ok means that all of it works, limited that something is missing or that others can't have it, missing that it doesn't work.`,
		Exit: `0 if the caller can have native containers, whatever else is missing; 1 if not; 2 if the options can't be understood.`,
		Examples: `hull doctor
hull doctor --format json
hull --platform kvm doctor`,
		Args: arity{0, 0},
		Flags: func(fs *optionSet) {
			fs.stringVar(&format, "format, f", "table", "print a `FORMAT`: table, or json")
			fs.offer("table", "json")
		},
		Run: func(env *Env, _ []string) error {
			if err := checkFormat(format); err != nil {
				return misusedBy("doctor", env, err)
			}
			var trace func(string)
			if env.globals.debug {
				trace = env.log.debug
			}
			r := doctor.Examine(context.Background(), env.globals.sandbox, trace)
			if err := env.printReport(r, format); err != nil {
				return err
			}
			if !r.Native {
				return exited(exitFailure)
			}
			return nil
		},
	}
}

// misusedBy is the error of a mistake on the command line of a command of hull's own.
func misusedBy(command string, env *Env, err error) error {
	return statusError{exitUsage, env.usage(command, err)}
}

func (e *Env) printReport(r *doctor.Report, format string) error {
	if format == "json" {
		return e.printJSON(r, "    ")
	}
	p := printer{}
	caller := "root"
	if r.User != 0 {
		caller = fmt.Sprintf("user %d", r.User)
	}
	p.b.WriteString(fmt.Sprintf("hull %s on Linux %s, as %s\n", r.Hull, r.Kernel, caller))
	for _, f := range r.Findings {
		p.b.WriteByte('\n')
		head := fmt.Sprintf("%-8s %s", f.State, f.Name)
		p.b.WriteString(head + "\n")
		p.filled(9, f.Text)
		if f.Cure != "" {
			p.filled(9, "cure: "+f.Cure)
		}
	}
	_, err := io.WriteString(e.Stdout, p.b.String())
	return err
}
