package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"hull/internal/cgroup/device"
	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// require returns an error for each limit that r sets on a controller that the host doesn't have.
func (g *Group) require(r *specs.LinuxResources) error {
	p, err := g.plan(r, nil)
	if err != nil || len(p) == 0 {
		return err
	}
	have, err := g.controllers()
	if err != nil {
		return err
	}
	var errs []error
	for i, w := range p {
		if have(w.controller) || w.optional || i > 0 && w.field == p[i-1].field {
			continue
		}
		errs = append(errs, &fault.Error{Field: w.field, Kind: fault.Unsupported,
			Err: fmt.Errorf("the %s controller is not available on this host", w.controller)})
	}
	return errors.Join(errs...)
}

// controllers returns a function that tells which controllers the host has.
func (g *Group) controllers() (func(string) bool, error) {
	if g.mode != V2 {
		return func(c string) bool { return g.paths[c] != "" }, nil
	}
	s, err := readFile(mountRoot, "cgroup.controllers")
	if err != nil {
		return nil, &fault.Error{Step: "list the controllers", Err: err}
	}
	all := append(strings.Fields(s), "cgroup") // cgroup.* files are there always
	return func(c string) bool { return slices.Contains(all, c) }, nil
}

// plan returns r's writes for g's mode.
func (g *Group) plan(r *specs.LinuxResources, current func(string) (string, error)) (plan, error) {
	if r == nil {
		return nil, nil
	}
	if g.mode == V2 {
		return planV2(r, current)
	}
	return planV1(r), nil
}

// set applies r, which has passed check.
func (g *Group) set(ctx context.Context, r *specs.LinuxResources, devices bool) error {
	if err := g.checkUsage(r); err != nil {
		return err
	}
	if g.unit != nil {
		r = g.roundQuota(r)
	}
	p, err := g.plan(r, func(file string) (string, error) { return readFile(g.paths[unified], file) })
	if err != nil {
		return err
	}
	if g.unit != nil {
		if err := g.setUnit(ctx, r, devices); err != nil {
			return err
		}
	}
	if err := g.apply(p); err != nil {
		return err
	}
	if !devices {
		return nil
	}
	return g.limitDevices(r.Devices)
}

// limitDevices applies device rules and the default ones. A rootless container has to do without where the kernel wants
// more rights: in its user namespace no device node can be made. Rules that were asked for are warned of.
func (g *Group) limitDevices(rules []specs.LinuxDeviceCgroup) error {
	if len(g.paths) == 0 {
		return nil
	}
	err := g.setDevices(rules)
	if err == nil || !g.rootless {
		return err
	}
	if len(rules) > 0 {
		g.warn(resources + "devices: not applied: " + err.Error())
	}
	return nil
}

// apply makes the writes of p, controller by controller in the order they have in it.
func (g *Group) apply(p plan) error {
	for len(p) > 0 {
		n := 1
		for n < len(p) && p[n].controller == p[0].controller {
			n++
		}
		if err := g.applyTo(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// applyTo makes the writes to one controller; those that have to wait for others go last.
func (g *Group) applyTo(p plan) error {
	var later plan
	for _, w := range p {
		err := g.write(w)
		if w.later && errors.Is(err, unix.EINVAL) {
			later = append(later, w)
			continue
		}
		if err != nil {
			return err
		}
	}
	for _, w := range later {
		if err := g.write(w); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) write(w write) error {
	path := g.paths[w.controller]
	if g.mode == V2 {
		path = g.paths[unified]
	}
	if path == "" {
		if w.optional {
			return nil
		}
		e := &fault.Error{Field: w.field, Kind: fault.Unsupported,
			Err: fmt.Errorf("the container has no %s cgroup", w.controller)}
		if g.rootless {
			e.Hint = "without root, limits need a cgroup that was delegated to the user"
		}
		return e
	}
	file := w.file
	if strings.HasPrefix(file, "cpuset.") && g.mode != V2 {
		file = cpusetFile(path, strings.TrimPrefix(file, "cpuset."))
	}
	err := writeFile(path, file, w.value)
	if errors.Is(err, fs.ErrNotExist) && w.otherFile != "" {
		err = writeFile(path, w.otherFile, w.otherValue)
	}
	switch {
	case err == nil, w.optional && errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && exists(path):
		return &fault.Error{Field: w.field, Kind: fault.Unsupported, Err: err,
			Hint: g.absentHint(w, path)}
	case errors.Is(err, unix.EBUSY) && w.controller == "memory":
		return &fault.Error{Field: w.field, Err: err, Hint: "the container uses more than that now"}
	case w.controller == "cpuset":
		return &fault.Error{Field: w.field, Err: err, Hint: g.cpusetHint(path, file)}
	}
	return &fault.Error{Field: w.field, Err: err}
}

// cpusetHint says what a container can be given of the processors or memory nodes, in file.
func (g *Group) cpusetHint(path, file string) string {
	if g.mode == V2 {
		file += ".effective"
	}
	has, err := readFile(filepath.Dir(path), file)
	if has = strings.TrimSpace(has); err != nil || has == "" {
		return ""
	}
	return "the cgroup above has " + has
}

// absentHint explains a file that isn't there.
func (g *Group) absentHint(w write, path string) string {
	if g.mode == V2 {
		s, err := readFile(path, "cgroup.controllers")
		if err == nil && w.controller != "cgroup" && !slices.Contains(strings.Fields(s), w.controller) {
			return "the " + w.controller + " controller is not delegated to this cgroup"
		}
	}
	return "this kernel's " + w.controller + " controller has no such file"
}

// checkUsage refuses, if memory.checkBeforeUpdate asks for it, limits that are below what is in use. Lowered all the
// same, they would have the kernel kill the container.
func (g *Group) checkUsage(r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil || !value(m.CheckBeforeUpdate) {
		return nil
	}
	path, file := g.paths["memory"], "memory.usage_in_bytes"
	if g.mode == V2 {
		path, file = g.paths[unified], "memory.current"
	}
	usage, err := readUint(path, file)
	if err != nil {
		return nil // not made yet: nothing is in use
	}
	for _, l := range []struct {
		name  string
		limit int64
	}{{"limit", value(m.Limit)}, {"swap", value(m.Swap)}} {
		if l.limit > 0 && uint64(l.limit) <= usage {
			return fault.Spec(resources+"memory."+l.name,
				fmt.Sprintf("%d: the container uses %d bytes now", l.limit, usage))
		}
	}
	return nil
}

// setDevices applies rules and the default ones.
func (g *Group) setDevices(rules []specs.LinuxDeviceCgroup) error {
	a, err := device.New(rules)
	if err != nil {
		return err
	}
	switch path := g.paths["devices"]; {
	case g.mode == V2:
		err = a.SetV2(g.paths[unified])
	case path == "":
		err = errNotMounted
	default:
		err = a.SetV1(path)
	}
	if err != nil {
		return &fault.Error{Field: device.Field, Err: err}
	}
	return nil
}
