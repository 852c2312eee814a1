package systemd

import (
	"context"
	"fmt"
	"strconv"
)

// replace is the mode of a job that takes the place of one that conflicts with it (systemctl(1), --job-mode).
const replace = "replace"

// Start starts a transient unit and waits until it is active. A unit of that name that failed, and that nobody has
// reset, is reset first.
func (c *Conn) Start(ctx context.Context, unit string, props []Property) error {
	if err := c.subscribe(ctx); err != nil {
		return err
	}
	d, err := c.call(ctx, "StartTransientUnit", unit, replace, props, aux{})
	if IsCall(err, "UnitExists") {
		if _, rerr := c.call(ctx, "ResetFailedUnit", unit); rerr == nil {
			d, err = c.call(ctx, "StartTransientUnit", unit, replace, props, aux{})
		}
	}
	if err != nil {
		return err
	}
	return c.finish(ctx, unit, d)
}

// Stop stops a unit and waits until that is done. One that isn't there is no error.
func (c *Conn) Stop(ctx context.Context, unit string) error {
	if err := c.subscribe(ctx); err != nil {
		return err
	}
	d, err := c.call(ctx, "StopUnit", unit, replace)
	if err == nil {
		err = c.finish(ctx, unit, d)
	}
	// A unit that failed stays until it is reset.
	_, _ = c.call(ctx, "ResetFailedUnit", unit)
	if IsCall(err, "NoSuchUnit") {
		return nil
	}
	return err
}

// finish waits for the job that d is the path of.
func (c *Conn) finish(ctx context.Context, unit string, d *decoder) error {
	job := ObjectPath(d.string())
	if d.err != nil {
		return d.err
	}
	result, err := c.wait(ctx, job)
	if err != nil {
		return fmt.Errorf("wait for the job of %s: %w", unit, err)
	}
	if result != "done" {
		_, _ = c.call(ctx, "ResetFailedUnit", unit)
		return fmt.Errorf("the job of %s: %s", unit, result)
	}
	return nil
}

// Set sets properties of a unit, until it stops.
func (c *Conn) Set(ctx context.Context, unit string, props []Property) error {
	_, err := c.call(ctx, "SetUnitProperties", unit, true, props)
	return err
}

// Attach moves processes into a unit's cgroup, or into the one sub below it, "" or "/sub" (Linux has to have v2).
func (c *Conn) Attach(ctx context.Context, unit, sub string, pids ...uint32) error {
	if sub == "" {
		sub = "/"
	}
	_, err := c.call(ctx, "AttachProcessesToUnit", unit, sub, pids)
	return err
}

// ManagerProperty returns a property of the manager that is a string.
func (c *Conn) ManagerProperty(ctx context.Context, name string) (string, error) {
	d, err := c.callTo(ctx, c.to, managerPath, "org.freedesktop.DBus.Properties", "Get", managerIface, name)
	if err != nil {
		return "", err
	}
	s, ok := d.variant().(string)
	if d.err == nil && !ok {
		return "", fmt.Errorf("%s of the manager is not a string", name)
	}
	return s, d.err
}

// Version returns the manager's version, 252 for "252.39-1~deb12u1".
func (c *Conn) Version(ctx context.Context) (int, error) {
	s, err := c.ManagerProperty(ctx, "Version")
	if err != nil {
		return 0, err
	}
	return parseVersion(s)
}

func parseVersion(s string) (int, error) {
	start := 0
	for start < len(s) && (s[start] == 'v' || s[start] == '"') {
		start++
	}
	end := start
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, err := strconv.Atoi(s[start:end])
	if err != nil {
		return 0, fmt.Errorf("version %q of the manager", s)
	}
	return n, nil
}

// Restart restarts a unit and waits until that is done.
func (c *Conn) Restart(ctx context.Context, unit string) error {
	if err := c.subscribe(ctx); err != nil {
		return err
	}
	d, err := c.call(ctx, "RestartUnit", unit, replace)
	if err != nil {
		return err
	}
	return c.finish(ctx, unit, d)
}

// UnitProperty returns a property of a unit, as a string, an integer of the property's size, or what else it is. A unit that
// isn't loaded is an error by the name NoSuchUnit.
func (c *Conn) UnitProperty(ctx context.Context, unit, name string) (any, error) {
	d, err := c.call(ctx, "GetUnit", unit)
	if err != nil {
		return nil, err
	}
	path := d.string()
	if d.err != nil {
		return nil, d.err
	}
	d, err = c.callTo(ctx, c.to, path, "org.freedesktop.DBus.Properties", "Get", managerName+".Unit", name)
	if err != nil {
		return nil, err
	}
	v := d.variant()
	return v, d.err
}
