// Package device decides which devices the processes of a cgroup may use: rules, what they come to, and both ways the
// kernel has to hear of them, the files of v1's devices controller and, on v2, an eBPF program.
package device

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Field is where rules come from.
const Field = "linux.resources.devices"

// Perm is a set of ways to use a device.
type Perm uint8

// The kinds of access: to open for reading and for writing, and to make a node.
const (
	Read Perm = 1 << iota
	Write
	Mknod
	All = Read | Write | Mknod
)

func parsePerm(s string) (Perm, error) {
	var p Perm
	for _, c := range s {
		switch c {
		case 'r':
			p |= Read
		case 'w':
			p |= Write
		case 'm':
			p |= Mknod
		default:
			return 0, fmt.Errorf("access %q: want some of r, w and m", s)
		}
	}
	if p == 0 {
		return 0, fmt.Errorf("access %q: want some of r, w and m", s)
	}
	return p, nil
}

func (p Perm) String() string {
	var s string
	for i, c := range "rwm" {
		if p&(1<<i) != 0 {
			s += string(c)
		}
	}
	return s
}

// Any stands for every major or minor number.
const Any = -1

// Device is a class of devices: of a type, 'b' or 'c', and with numbers of which each may be any.
type Device struct {
	Kind         byte
	Major, Minor int64
}

func (d Device) String() string {
	number := func(n int64) string {
		if n == Any {
			return "*"
		}
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%c %s:%s", d.Kind, number(d.Major), number(d.Minor))
}

// Rule allows or denies a class of devices; kind 'a' is all devices in every way.
type Rule struct {
	Device
	Perm  Perm
	Allow bool
}

func (r Rule) String() string { return r.Device.String() + " " + r.Perm.String() }

// RuleOf returns a rule of linux.resources.devices.
func RuleOf(d specs.LinuxDeviceCgroup) (Rule, error) {
	r := Rule{Device: Device{Kind: 'a', Major: Any, Minor: Any}, Allow: d.Allow}
	switch d.Type {
	case "", "a":
	case "b", "c":
		r.Kind = d.Type[0]
	default:
		return r, fmt.Errorf("type %q: want a, b or c", d.Type)
	}
	for _, n := range []struct {
		from *int64
		to   *int64
	}{{d.Major, &r.Major}, {d.Minor, &r.Minor}} {
		if n.from == nil {
			continue
		}
		if *n.from < Any || *n.from > math.MaxUint32 {
			return r, fmt.Errorf("no device is numbered %d", *n.from)
		}
		*n.to = *n.from
	}
	var err error
	r.Perm, err = parsePerm(strings.ReplaceAll(d.Access, "a", "")) // package oci has warned of it
	return r, err
}

// Defaults are the devices that every container has (config-linux.md, "Default Devices"), with those of its
// terminals, and the right to make nodes of any device, since using them is another matter. The tun device is there
// because engines have come to rely on it.
func Defaults() []Rule {
	c := func(major, minor int64) Rule { return Rule{Device{'c', major, minor}, All, true} }
	return []Rule{
		{Device{'c', Any, Any}, Mknod, true},
		{Device{'b', Any, Any}, Mknod, true},
		c(1, 3), c(1, 8), c(1, 7), c(5, 0), c(1, 5), c(1, 9), // null random full tty zero urandom
		c(136, Any), c(5, 2), // /dev/pts/*, ptmx
		c(10, 200), // net/tun
	}
}

// Access is the rules of a devices cgroup as the kernel keeps them: either nothing is allowed but the exceptions, or
// everything is.
type Access struct {
	AllowAll   bool
	exceptions map[Device]Perm
	order      []Device // of exceptions, as the rules came: what a devices.list shows can be compared with the configuration
}

// New returns what rules, in their order, and the default ones after them come to.
func New(rules []specs.LinuxDeviceCgroup) (*Access, error) {
	a := &Access{exceptions: make(map[Device]Perm)}
	for i, d := range rules {
		r, err := RuleOf(d)
		if err == nil {
			err = a.add(r)
		}
		if err != nil {
			return nil, fault.Spec(fmt.Sprintf("%s[%d]", Field, i), err.Error())
		}
	}
	for _, r := range Defaults() {
		if err := a.add(r); err != nil {
			return nil, fault.Spec(Field, fmt.Sprintf("the default rule for %v: %v", r, err))
		}
	}
	return a, nil
}

// add applies a rule. One for 'a' starts over.
func (a *Access) add(r Rule) error {
	if r.Kind == 'a' {
		*a = Access{AllowAll: r.Allow, exceptions: make(map[Device]Perm)}
		return nil
	}
	if r.Allow != a.AllowAll {
		a.except(r.Device, r.Perm)
		return nil
	}
	return a.remove(r)
}

func (a *Access) except(d Device, p Perm) {
	if _, ok := a.exceptions[d]; !ok {
		a.order = append(a.order, d)
	}
	a.exceptions[d] |= p
}

// remove takes r out of the exceptions. It refuses to take one device out of a class that an exception names as a
// whole: a v1 kernel would ignore that without a word, and leave the device usable.
func (a *Access) remove(r Rule) error {
	for _, wider := range []Device{
		{r.Kind, Any, r.Minor}, {r.Kind, r.Major, Any}, {r.Kind, Any, Any},
	} {
		if wider != r.Device && a.exceptions[wider]&r.Perm != 0 {
			return fmt.Errorf("%v can't be taken out of %v, which an earlier rule names as a whole", r, wider)
		}
	}
	have, ok := a.exceptions[r.Device]
	if !ok {
		return nil
	}
	if left := have &^ r.Perm; left != 0 {
		a.exceptions[r.Device] = left
		return nil
	}
	delete(a.exceptions, r.Device)
	a.order = slices.DeleteFunc(a.order, func(d Device) bool { return d == r.Device })
	return nil
}

// Allows tells whether a device may be used in all of the ways of p.
func (a *Access) Allows(d Device, p Perm) bool {
	var excepted Perm
	for e, perm := range a.exceptions {
		if e.Kind == d.Kind && (e.Major == Any || e.Major == d.Major) && (e.Minor == Any || e.Minor == d.Minor) {
			excepted |= perm
		}
	}
	if a.AllowAll {
		return excepted&p == 0
	}
	return excepted&p == p
}

// Exceptions returns the exceptions as rules, in the order in which they came.
func (a *Access) Exceptions() []Rule {
	rules := make([]Rule, 0, len(a.order))
	for _, d := range a.order {
		rules = append(rules, Rule{d, a.exceptions[d], !a.AllowAll})
	}
	return rules
}

// from returns the rules that lead from what a cgroup has to a, in an order that never denies a device meanwhile that
// both allow. From a cgroup that allows everything there is no such way: the kernel doesn't list its exceptions.
func (a *Access) from(now *Access) []Rule {
	var rules []Rule
	if now.AllowAll || now.AllowAll != a.AllowAll {
		all := Rule{Device{'a', Any, Any}, All, a.AllowAll}
		return append([]Rule{all}, a.Exceptions()...)
	}
	for _, r := range now.Exceptions() {
		if drop := r.Perm &^ a.exceptions[r.Device]; drop != 0 {
			rules = append(rules, Rule{r.Device, drop, false})
		}
	}
	for _, r := range a.Exceptions() {
		if gain := r.Perm &^ now.exceptions[r.Device]; gain != 0 {
			rules = append(rules, Rule{r.Device, gain, true})
		}
	}
	return rules
}

// parseAccess parses a devices.list: "a *:* rwm" or a line for each exception.
func parseAccess(list string) (*Access, error) {
	a := &Access{exceptions: make(map[Device]Perm)}
	for line := range strings.Lines(list) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "a ") {
			return &Access{AllowAll: true, exceptions: make(map[Device]Perm)}, nil
		}
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' })
		if len(f) != 4 || f[0] != "b" && f[0] != "c" {
			return nil, fmt.Errorf("devices.list has the line %q", line)
		}
		d := Device{Kind: f[0][0], Major: Any, Minor: Any}
		for i, n := range []*int64{&d.Major, &d.Minor} {
			if f[1+i] == "*" {
				continue
			}
			v, err := strconv.ParseUint(f[1+i], 10, 32)
			if err != nil {
				return nil, fmt.Errorf("devices.list has the line %q", line)
			}
			*n = int64(v)
		}
		p, err := parsePerm(f[3])
		if err != nil {
			return nil, err
		}
		a.except(d, p)
	}
	return a, nil
}
