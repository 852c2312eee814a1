package hull

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/linux"
	"hull/internal/native"
	"hull/internal/oci"
	"hull/internal/stub"
)

// throwaway is a container that has no state: it lives and ends with the program that has made it. Whatever it consists
// of belongs to its first process, which the kernel ends when this program does.
type throwaway struct {
	supervisor *stub.Supervisor
	group      *cgroup.Group
	scratch    *scratch // or nil
}

// startThrowaway starts c in a container over the host's files.
func (c *Cmd) startThrowaway() error {
	userNS := os.Geteuid() != 0 || inUserNamespace()
	id, err := findIdentity(c.User, userNS)
	if err != nil {
		return err
	}
	v, err := newView(&c.Host, c.Dir, userNS)
	if err != nil {
		return err
	}
	v.user = id.otherHome()
	if w := v.warning(); w != "" {
		c.Runtime.warn(w)
	}
	s, err := c.hostSpec(id, v)
	if err != nil {
		return err
	}
	warnings, err := oci.Check(s)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		c.Runtime.warn(w)
	}
	stdio, err := c.streams()
	defer c.closeChild()
	if err != nil {
		return err
	}
	io := engine.IO{Stdio: [3]*os.File{stdio.In, stdio.Out, stdio.Err}}
	begun, err := native.Engine{}.Begin(s, io, c.Runtime.Trace)
	if err != nil {
		return err
	}
	if begun != nil {
		defer begun.Abandon()
	}
	plan, err := v.plan()
	if err != nil {
		return err
	}
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, v.masks()...)
	changes, err := c.prepareChanges(plan, s)
	if err != nil {
		return err
	}
	t := &throwaway{group: cgroup.None()}
	if userNS && plan.Upper == "" && !tmpfsHasUserXattr() {
		if t.scratch, err = newScratch(); err != nil {
			return err
		}
		plan.Upper, plan.Volatile = t.scratch.dir, true
		if plan.Size != "" {
			c.Runtime.warn("the size of what is written is not bounded: this kernel's tmpfs has no user.* attributes (Linux 6.6), so that it goes to a disk")
		}
	}
	p, err := native.Engine{}.Create(c.ctx, &engine.CreateRequest{
		Container: engine.Container{ID: "do", Bundle: "/", Spec: s, Cgroup: t.group, Rootless: userNS},
		IO:        io,
		Overlay:   plan,
		Supervise: true,
		Begun:     begun,
		Prepared: func(p *engine.Process) error {
			changes.awaitTick()
			return handover{console: c.Console}.make(p)
		},
		Trace: c.Runtime.Trace,
		Warn:  c.Runtime.warn,
	})
	if err != nil {
		changes.started(nil)
		return joinOne([]error{v.explainMissing(err, c.Args[0]), t.scratch.remove()})
	}
	changes.started(p.Upper)
	if c.Changes = changes; changes != nil {
		changes.scratch, t.scratch = t.scratch, nil
	}
	t.supervisor = p.Supervisor
	c.throwaway = t
	c.Process = &Process{Pid: p.Pid, pidfd: p.Supervisor.Program}
	return nil
}

// inUserNamespace tells whether this program is in a user namespace that isn't the initial one: its root is one of an
// ordinary user's.
func inUserNamespace() bool {
	b, err := linux.ReadFile("/proc/self/uid_map", nil)
	fields := strings.Fields(string(b))
	return err == nil && !slices.Equal(fields, []string{"0", "0", "4294967295"})
}

// end waits for the program and takes the container away.
func (t *throwaway) end(ctx context.Context) (stub.Ended, error) {
	ended, err := t.supervisor.Wait(nil)
	return ended, errors.Join(err, t.group.Destroy(ctx), t.scratch.remove())
}
