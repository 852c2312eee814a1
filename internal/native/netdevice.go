package native

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"hull/internal/fault"
	"hull/internal/netdev"
	"hull/internal/proc"
	"hull/internal/stub"
)

// checkNetDevices refuses devices from a caller who is not root: they belong to a namespace that isn't the caller's.
func (c *creation) checkNetDevices() error {
	if len(c.Spec.Linux.NetDevices) == 0 || c.privileged {
		return nil
	}
	return &fault.Error{Field: "linux.netDevices", Kind: fault.Unsupported,
		Err: errors.New("only root can take network devices from the host")}
}

// moveNetDevices moves the host's devices to the network namespace of the init. A creation that fails later gives them
// back, by c.devices.Return.
func (c *creation) moveNetDevices() error {
	devices := c.Spec.Linux.NetDevices
	if len(devices) == 0 {
		return nil
	}
	// Of this thread: the program's first one, which /proc/self is, may be in another namespace.
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	c.keep(host)
	container, err := os.Open(proc.File(c.init.Pid, "ns/net"))
	if err != nil {
		return err
	}
	c.keep(container)
	if c.devices, err = netdev.Move(host, container, devices, stub.TraceLines(c.Trace)); err != nil {
		return err
	}
	if c.Trace != nil {
		for _, name := range slices.Sorted(maps.Keys(devices)) {
			c.Trace(fmt.Sprintf("linux.netDevices[%s]: moved to network namespace of %d, as %q", name, c.init.Pid, cmp.Or(devices[name].Name, name)))
		}
	}
	return nil
}
