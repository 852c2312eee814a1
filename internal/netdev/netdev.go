// Package netdev moves network devices of the host into a container's network namespace (config-linux.md, "Network
// Devices").
//
// A device that is moved keeps its hardware address, its MTU and its other link attributes; the kernel drops its
// addresses and routes and takes it down. The permanent addresses of global scope come back, the device is up again
// afterwards; routes are for whoever configures the network.
//
// Nobody takes a device out of the namespace again when the container is deleted: the kernel does, when the namespace
// ends with its last process. It returns physical devices to the initial network namespace, with the name they had in
// the container, and removes virtual ones (veth, macvlan, dummy): network_namespaces(7). That also is what happens when
// hull is killed while it creates the container. Only a creation that fails returns the devices, by Return.
//
// Move needs CAP_NET_ADMIN and CAP_SYS_ADMIN over both namespaces. A stub opens the sockets in them, so that no thread of
// the program has to enter a namespace. The few messages of rtnetlink(7) are written here: the libraries for it depend
// on package net, whose initialization every start of hull would pay for.
package netdev

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/stub"
)

// Moved are the devices that Move has moved. Nil has none.
type Moved struct {
	host, container *namespace
	devices         []*device
}

// device is on its way, or has arrived.
type device struct {
	name      string // on the host
	target    string // in the container; may have a %d for the kernel to number
	link      link   // as it was on the host
	addresses []address
	index     int32 // in the container
}

func (d *device) field() string { return "linux.netDevices[" + d.name + "]" }

func (d *device) fault(field, step string, err error) error {
	return &fault.Error{Field: d.field() + field, Step: step, Err: err}
}

// Move moves devices, which are named by the keys, from one network namespace to the other, renames them as their
// values say, gives them their addresses back and brings them up. The order is that of their names.
//
// When it fails, the devices are on the host again, as far as the kernel allows. The caller of a Move that succeeds
// must Close what it returns. Moved keeps the target's namespace alive until then. trace may be nil.
func Move(host, container *os.File, devices map[string]specs.LinuxNetDevice, trace func(stub.Call)) (*Moved, error) {
	if err := distinct(host, container); err != nil {
		return nil, err
	}
	conns, err := dial(trace, host, container)
	if err != nil {
		return nil, &fault.Error{Field: "linux.netDevices", Err: err}
	}
	m := &Moved{host: &namespace{host, conns[0]}, container: &namespace{container, conns[1]}}
	if err := m.moveAll(devices); err != nil {
		return nil, errors.Join(err, m.Return())
	}
	return m, nil
}

// distinct refuses a namespace that was joined by path and is the host's own: hull would take down and rename the
// host's devices.
func distinct(host, container *os.File) error {
	h, err := host.Stat()
	if err != nil {
		return err
	}
	c, err := container.Stat()
	if err != nil {
		return err
	}
	if os.SameFile(h, c) {
		return fault.Spec("linux.netDevices", "the container's network namespace is the host's")
	}
	return nil
}

// moveAll looks at all devices before it moves the first: most mistakes then leave the host's network alone.
func (m *Moved) moveAll(devices map[string]specs.LinuxNetDevice) error {
	var found []*device
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		d := &device{name: name, target: devices[name].Name}
		if d.target == "" {
			d.target = name
		}
		if err := m.inspect(d); err != nil {
			errs = append(errs, err)
		}
		found = append(found, d)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, d := range found {
		if err := m.move(d); err != nil {
			return err
		}
	}
	return nil
}

// inspect finds out whether the device exists and can have its name in the container, and notes what moving it loses.
func (m *Moved) inspect(d *device) (err error) {
	if d.link, err = m.host.linkByName(d.name); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return &fault.Error{Field: d.field(), Err: err, Hint: "the keys of linux.netDevices are names of the host's network devices"}
		}
		return d.fault("", "look for it", err)
	}
	if !template(d.target) {
		taken, err := m.container.has(d.target)
		if err != nil {
			return d.fault(".name", "look for "+d.target+" in the container", err)
		}
		if taken {
			return d.conflict(unix.EEXIST)
		}
	}
	if d.addresses, err = m.host.addresses(d.link.index); err != nil {
		return d.fault("", "list its addresses", err)
	}
	return nil
}

func (d *device) conflict(err error) error {
	return &fault.Error{Field: d.field() + ".name", Step: "the container's namespace has a device " + strconv.Quote(d.target), Err: err,
		Hint: "linux.netDevices[" + d.name + "].name can give it another name; with %d in it, the kernel finds a number that is free"}
}

func template(name string) bool { return strings.Contains(name, "%d") }

// move moves one device. Moving and renaming are two requests: one that asks for both may do the first, fail at the
// second, and leave the device at the other side under a name that nobody expects.
func (m *Moved) move(d *device) error {
	via, err := m.passage(d)
	if err != nil {
		return d.fault("", "look for a free name", err)
	}
	if err := m.host.moveLink(d.link.index, via, m.container); err != nil {
		e := &fault.Error{Field: d.field(), Step: "move to the container's namespace", Err: err}
		if errors.Is(err, unix.EINVAL) {
			e.Hint = "devices such as lo, bridges and tunnels of some kinds can't leave their network namespace"
		}
		return e
	}
	// From here on Return takes it back.
	m.devices = append(m.devices, d)
	inside, err := m.container.linkByName(via)
	if err != nil {
		return d.fault("", "find it in the container's namespace", err)
	}
	d.index = inside.index
	if via != d.target {
		err := m.container.rename(d.index, d.target)
		if errors.Is(err, unix.EEXIST) {
			return d.conflict(err) // since inspect has looked
		}
		if err != nil {
			return d.fault(".name", "rename to "+d.target, err)
		}
	}
	return m.configure(d)
}

// passage returns the name under which the device arrives: its own, if that is free in the container. One that the
// kernel will number arrives under another name: its own may be what the number makes.
func (m *Moved) passage(d *device) (string, error) {
	var candidates []string
	if !template(d.target) {
		candidates = append(candidates, d.name, d.target)
	}
	for i := range 16 {
		candidates = append(candidates, "hull"+strconv.Itoa(i))
	}
	for _, name := range candidates {
		if taken, err := m.container.has(name); err != nil || !taken {
			return name, err
		}
	}
	return "", unix.EEXIST
}

// configure gives the device its addresses back and brings it up.
func (m *Moved) configure(d *device) error {
	for _, a := range d.addresses {
		if !a.global() {
			continue
		}
		if err := m.container.addAddress(d.index, a); err != nil {
			return d.fault("", "add address "+a.String(), err)
		}
	}
	if err := m.container.up(d.index); err != nil {
		return d.fault("", "bring it up", err)
	}
	return nil
}

// Return gives the devices back to the host, with the names, addresses and state that they had there, and closes m. It
// tries all of them, whatever fails.
func (m *Moved) Return() error {
	if m == nil {
		return nil
	}
	defer m.Close()
	var errs []error
	for _, d := range slices.Backward(m.devices) {
		if err := m.giveBack(d); err != nil {
			errs = append(errs, d.fault("", "return it to the host", err))
		}
	}
	m.devices = nil
	return errors.Join(errs...)
}

func (m *Moved) giveBack(d *device) error {
	if d.index == 0 {
		return unix.ENODEV
	}
	if err := m.container.moveLink(d.index, d.name, m.host); err != nil {
		return err
	}
	back, err := m.host.linkByName(d.name)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range d.addresses {
		if err := m.host.addAddress(back.index, a); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, err)
		}
	}
	if d.link.up() {
		errs = append(errs, m.host.up(back.index))
	}
	return errors.Join(errs...)
}

// Close lets go of the namespaces. The devices stay where they are.
func (m *Moved) Close() {
	if m == nil {
		return
	}
	m.host.close()
	m.container.close()
}
