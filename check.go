package hull

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/mnt"
	"hull/internal/oci"
	"hull/internal/rdt"
	"hull/internal/store"
)

// unnamed is in the place of a container's id where there is none: no container can be called that.
const unnamed = "(no id)"

// Check returns the isolation that a container would have, and what keeps it from being made: all that Create looks at before it
// makes anything, and whether the files are there that the configuration names. The error joins one *Error for each mistake. Nothing
// is made, and of o only Bundle, Spec and NoPivot count.
//
// What the kernel says when it is asked to do it, and whether the root file system has the program, is not known before Create.
func (r *Runtime) Check(ctx context.Context, o CreateOptions) (Isolation, error) {
	isolation, err := r.check(ctx, o)
	return isolation, fault.In("check", "", err)
}

func (r *Runtime) check(ctx context.Context, o CreateOptions) (Isolation, error) {
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return "", err
	}
	cfg, err := r.load(bundle, o.Spec)
	if err != nil {
		return "", err
	}
	if err := oci.Startable(cfg); err != nil {
		return "", err
	}
	c, err := r.placed(unnamed, bundle, cfg, making{CreateOptions: o})
	if err != nil {
		return "", err
	}
	c.dir = new(store.Dir) // it has none
	errs := []error{c.engine.Check(c.spec)}
	errs = append(errs, c.planGroups())
	if c.group != nil {
		errs = append(errs, c.engine.Examine(ctx, &engine.CreateRequest{
			Container: c.engineView(), NoPivot: o.NoPivot, Trace: r.Trace, Warn: r.warn,
		}))
	}
	errs = append(errs, missingFiles(bundle, c.spec)...)
	return c.Isolation(), errors.Join(errs...)
}

// planGroups is locate for a container that is not made. A cgroup in use is no mistake of its configuration: it may be running.
func (c *Container) planGroups() error {
	config := c.cgroupConfig()
	config.Resources = nil
	group, err := cgroup.Plan(config)
	if err != nil { // the rest is looked at as if it were where hull puts those that say nothing of it
		config.Path, config.Systemd = "", false
		group, _ = cgroup.Plan(config)
	}
	c.group = group
	var limits error
	if group != nil {
		config.Resources = c.spec.Linux.Resources
		_, limits = cgroup.Plan(config)
	}
	_, rerr := rdt.New(c.ID(), c.spec.Linux.IntelRdt)
	return errors.Join(err, limits, rerr)
}

// missingFiles returns an error for each file of the host that the configuration names and that isn't there.
func missingFiles(bundle string, s *specs.Spec) (errs []error) {
	want := func(field, path string, err error) {
		if err != nil {
			errs = append(errs, &fault.Error{Field: field, Step: fmt.Sprintf("open %q", path), Err: err})
		}
	}
	root := ""
	if s.Root != nil {
		if root = s.Root.Path; !filepath.IsAbs(root) {
			root = filepath.Join(bundle, root)
		}
		want("root.path", root, unix.Access(root+"/", unix.F_OK))
	}
	for i, m := range s.Mounts {
		parsed, err := mnt.Parse(i, m, bundle)
		// What lies in the root may be there only when an earlier mount is.
		if err == nil && parsed.Bind && !parsed.Remount && (root == "" || !below(parsed.Source, filepath.Clean(root))) {
			want(parsed.Field, parsed.Source, unix.Access(parsed.Source, unix.F_OK))
		}
	}
	for i, ns := range s.Linux.Namespaces {
		if ns.Path != "" {
			want(fmt.Sprintf("linux.namespaces[%d].path", i), ns.Path, unix.Access(ns.Path, unix.F_OK))
		}
	}
	return append(errs, missingHooks(s.Hooks)...)
}

// missingHooks returns an error for each hook that can't be executed. Those that are run inside the container are looked for there.
func missingHooks(h *specs.Hooks) (errs []error) {
	if h == nil {
		return nil
	}
	for _, point := range oci.HookPoints(h) {
		if point.Field == "hooks.startContainer" {
			continue
		}
		for i, hook := range point.Hooks {
			err := unix.Access(hook.Path, unix.X_OK)
			if err == nil && unix.Access(hook.Path+"/", unix.F_OK) == nil {
				err = unix.EACCES // a directory, as execve(2) says it
			}
			if err != nil {
				errs = append(errs, &fault.Error{Field: fmt.Sprintf("%s[%d] %q", point.Field, i, hook.Path), Err: err})
			}
		}
	}
	return errs
}
