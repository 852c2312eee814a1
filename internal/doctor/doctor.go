// Package doctor looks at the host and says in words what of hull works there for the caller, what doesn't, and what would help.
//
// What can be tried is tried: containers are made and taken away again. Nothing is left on the host, and nothing but files of
// /proc, /sys and /etc is read for the rest.
package doctor

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/fault"
)

// State says how much of something works.
type State string

const (
	OK      State = "ok"
	Limited State = "limited" // not all of it, or not for everybody
	Missing State = "missing"
)

// Finding is what is found of one thing.
type Finding struct {
	Name  string `json:"name"` // one or two words, the same on all hosts
	State State  `json:"state"`
	Text  string `json:"text"`           // what works, or what doesn't
	Cure  string `json:"cure,omitempty"` // what would help, if that is known
}

// Report is what is found of a host.
type Report struct {
	Version  int       `json:"version"` // 1; another one if a member gets another meaning
	Hull     string    `json:"hull"`
	Kernel   string    `json:"kernel"`
	User     int       `json:"user"`
	Native   bool      `json:"native"` // whether the caller can have native containers
	Findings []Finding `json:"findings"`
}

// patience bounds each thing that is tried.
const patience = 20 * time.Second

// Examine looks at the host, at the platform of sandboxes among others that the options name. trace gets a line for each system call of the
// containers that are tried; or it is nil.
func Examine(ctx context.Context, options hull.SandboxOptions, trace func(string)) *Report {
	e := &examination{ctx: ctx, options: options, trace: trace, root: os.Geteuid() == 0}
	r := &Report{Version: 1, Hull: hull.Version, Kernel: release(), User: os.Geteuid()}
	native := e.native()
	r.Native = native.State != Missing
	r.Findings = []Finding{native, e.kernel()}
	for _, look := range []func() Finding{e.users, e.subIDs, e.cgroups, e.overlay, e.do, e.sandbox, e.platforms, e.nat, e.modules} {
		r.Findings = append(r.Findings, look())
	}
	return r
}

// examination is one call of Examine.
type examination struct {
	ctx     context.Context
	options hull.SandboxOptions
	trace   func(string)
	root    bool
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// reason is an error without what was asked for, which is doctor's affair: "do" is no word of who called it.
func reason(err error) string {
	if e, ok := err.(*fault.Error); ok {
		without := *e
		without.Op, without.ID = "", ""
		return without.Error()
	}
	return err.Error()
}

// failed is a finding of something that was tried.
func failed(name, what string, err error) Finding {
	return Finding{Name: name, State: Missing, Text: what + ": " + reason(err), Cure: fault.Hint(err)}
}

// command returns a program over the host's files, to see whether such a one runs. What hull warns of goes to warn.
func (e *examination) command(isolation hull.Isolation, options hull.SandboxOptions, network hull.Network, warn func(string)) error {
	ctx, cancel := context.WithTimeout(e.ctx, patience)
	defer cancel()
	cmd := hull.CommandContext(ctx, "true")
	cmd.Dir, cmd.Isolation, cmd.Network = "/", isolation, network
	cmd.Runtime = &hull.Runtime{Sandbox: options, Warn: warn, Trace: e.trace}
	err := cmd.Run()
	var fe *fault.Error
	for cause := err; errors.As(cause, &fe); cause = fe.Err {
		if fe.Field == hull.CommandField && errors.Is(err, unix.ENOENT) {
			return nil // there is no such program here, which was looked for in the container
		}
	}
	return err
}
