package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"hull/internal/fault"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// perm is a set of ways to use a device.
type perm uint8

const (
	permRead perm = 1 << iota
	permWrite
	permMknod
	permAll = permRead | permWrite | permMknod
)

func parsePerm(s string) (perm, error) {
	var p perm
	for _, c := range s {
		switch c {
		case 'r':
			p |= permRead
		case 'w':
			p |= permWrite
		case 'm':
			p |= permMknod
		default:
			return 0, errorf("access %q: want some of r, w and m", s)
		}
	}
	if p == 0 {
		return 0, errorf("access %q: want some of r, w and m", s)
	}
	return p, nil
}

func (p perm) String() string {
	var s string
	for i, c := range "rwm" {
		if p&(1<<i) != 0 {
			s += string(c)
		}
	}
	return s
}

const anyNumber = -1

// device is a class of devices: of a type, 'b' or 'c', and with numbers of which each may be any.
type device struct {
	kind         byte
	major, minor int64
}

func (d device) String() string {
	number := func(n int64) string {
		if n == anyNumber {
			return "*"
		}
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%c %s:%s", d.kind, number(d.major), number(d.minor))
}

// rule allows or denies a class of devices; kind 'a' is all devices in every way.
type rule struct {
	device
	perm  perm
	allow bool
}

func (r rule) String() string { return r.device.String() + " " + r.perm.String() }

// ruleOf returns a rule of linux.resources.devices.
func ruleOf(d specs.LinuxDeviceCgroup) (rule, error) {
	r := rule{device: device{kind: 'a', major: anyNumber, minor: anyNumber}, allow: d.Allow}
	switch d.Type {
	case "", "a":
	case "b", "c":
		r.kind = d.Type[0]
	default:
		return r, errorf("type %q: want a, b or c", d.Type)
	}
	for _, n := range []struct {
		from *int64
		to   *int64
	}{{d.Major, &r.major}, {d.Minor, &r.minor}} {
		if n.from == nil {
			continue
		}
		if *n.from < anyNumber || *n.from > math.MaxUint32 {
			return r, errorf("no device is numbered %d", *n.from)
		}
		*n.to = *n.from
	}
	var err error
	r.perm, err = parsePerm(d.Access)
	return r, err
}

// defaultRules are the devices that every container has (config-linux.md, "Default Devices"), with those of its
// terminals, and the right to make nodes of any device, since using them is another matter. The tun device is there
// because engines have come to rely on it.
func defaultRules() []rule {
	c := func(major, minor int64) rule { return rule{device{'c', major, minor}, permAll, true} }
	return []rule{
		{device{'c', anyNumber, anyNumber}, permMknod, true},
		{device{'b', anyNumber, anyNumber}, permMknod, true},
		c(1, 3), c(1, 8), c(1, 7), c(5, 0), c(1, 5), c(1, 9), // null random full tty zero urandom
		c(136, anyNumber), c(5, 2), // /dev/pts/*, ptmx
		c(10, 200), // net/tun
	}
}

// access is the rules of a devices cgroup as the kernel keeps them: either nothing is allowed but the exceptions, or
// everything is.
type access struct {
	allowAll   bool
	exceptions map[device]perm
}

// newAccess returns what rules, in their order, and the default ones after them come to.
func newAccess(rules []specs.LinuxDeviceCgroup) (*access, error) {
	a := &access{exceptions: make(map[device]perm)}
	for i, d := range rules {
		r, err := ruleOf(d)
		if err == nil {
			err = a.add(r)
		}
		if err != nil {
			return nil, fault.Spec(fmt.Sprintf(resources+"devices[%d]", i), err.Error())
		}
	}
	for _, r := range defaultRules() {
		if err := a.add(r); err != nil {
			return nil, fault.Spec(resources+"devices", fmt.Sprintf("the default rule for %v: %v", r, err))
		}
	}
	return a, nil
}

// add applies a rule. One for 'a' starts over.
func (a *access) add(r rule) error {
	if r.kind == 'a' {
		*a = access{allowAll: r.allow, exceptions: make(map[device]perm)}
		return nil
	}
	if r.allow != a.allowAll {
		a.exceptions[r.device] |= r.perm
		return nil
	}
	return a.remove(r)
}

// remove takes r out of the exceptions. It refuses to take one device out of a class that an exception names as a
// whole: a v1 kernel would ignore that without a word, and leave the device usable.
func (a *access) remove(r rule) error {
	for _, wider := range []device{
		{r.kind, anyNumber, r.minor}, {r.kind, r.major, anyNumber}, {r.kind, anyNumber, anyNumber},
	} {
		if wider != r.device && a.exceptions[wider]&r.perm != 0 {
			return errorf("%v can't be taken out of %v, which an earlier rule names as a whole", r, wider)
		}
	}
	if left := a.exceptions[r.device] &^ r.perm; left != 0 {
		a.exceptions[r.device] = left
	} else {
		delete(a.exceptions, r.device)
	}
	return nil
}

// sorted returns the exceptions in an order of their own, as rules.
func (a *access) sorted() []rule {
	rules := make([]rule, 0, len(a.exceptions))
	for d, p := range a.exceptions {
		rules = append(rules, rule{d, p, !a.allowAll})
	}
	slices.SortFunc(rules, func(x, y rule) int {
		return cmp.Or(cmp.Compare(x.major, y.major), cmp.Compare(x.minor, y.minor), cmp.Compare(x.kind, y.kind))
	})
	return rules
}

// from returns the rules that lead from what a cgroup has to a, in an order that never denies a device meanwhile that
// both allow. From a cgroup that allows everything there is no such way: the kernel doesn't list its exceptions.
func (a *access) from(now *access) []rule {
	var rules []rule
	if now.allowAll || now.allowAll != a.allowAll {
		all := rule{device{'a', anyNumber, anyNumber}, permAll, a.allowAll}
		return append([]rule{all}, a.sorted()...)
	}
	for _, r := range now.sorted() {
		if drop := r.perm &^ a.exceptions[r.device]; drop != 0 {
			rules = append(rules, rule{r.device, drop, false})
		}
	}
	for _, r := range a.sorted() {
		if gain := r.perm &^ now.exceptions[r.device]; gain != 0 {
			rules = append(rules, rule{r.device, gain, true})
		}
	}
	return rules
}

// parseAccess parses a devices.list: "a *:* rwm" or a line for each exception.
func parseAccess(list string) (*access, error) {
	a := &access{exceptions: make(map[device]perm)}
	for line := range strings.Lines(list) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "a ") {
			return &access{allowAll: true, exceptions: make(map[device]perm)}, nil
		}
		f := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' })
		if len(f) != 4 || f[0] != "b" && f[0] != "c" {
			return nil, errorf("devices.list has the line %q", line)
		}
		d := device{kind: f[0][0], major: anyNumber, minor: anyNumber}
		for i, n := range []*int64{&d.major, &d.minor} {
			if f[1+i] == "*" {
				continue
			}
			v, err := parseUint(f[1+i])
			if err != nil || v > math.MaxUint32 {
				return nil, errorf("devices.list has the line %q", line)
			}
			*n = int64(v)
		}
		p, err := parsePerm(f[3])
		if err != nil {
			return nil, err
		}
		a.exceptions[d] |= p
	}
	return a, nil
}

// setDevices applies rules and the default ones.
func (g *Group) setDevices(rules []specs.LinuxDeviceCgroup) error {
	a, err := newAccess(rules)
	if err != nil {
		return err
	}
	if g.mode == V2 {
		err = a.attach(g.paths[unified])
	} else {
		err = a.writeV1(g.paths["devices"])
	}
	if err != nil {
		return &fault.Error{Field: resources + "devices", Err: err}
	}
	return nil
}

var errNotApplied = errors.New("the kernel didn't take all rules")

// writeV1 brings the devices cgroup at path from the rules it has to a.
func (a *access) writeV1(path string) error {
	if path == "" {
		return errNotMounted
	}
	list, err := readFile(path, "devices.list")
	if err != nil {
		return err
	}
	now, err := parseAccess(list)
	if err != nil {
		return err
	}
	rules := a.from(now)
	if len(rules) == 0 {
		return nil
	}
	for _, r := range rules {
		file, v := "devices.deny", r.String()
		if r.allow {
			file = "devices.allow"
		}
		if err := writeFile(path, file, v); err != nil {
			return err
		}
	}
	return a.verifyV1(path)
}

// verifyV1 reads the rules back. The exceptions of a cgroup that allows everything can't be read.
func (a *access) verifyV1(path string) error {
	list, err := readFile(path, "devices.list")
	if err != nil {
		return err
	}
	got, err := parseAccess(list)
	if err != nil {
		return err
	}
	if got.allowAll != a.allowAll {
		return errNotApplied
	}
	if a.allowAll {
		return nil
	}
	for d, p := range a.exceptions {
		if got.exceptions[d] != p {
			return errNotApplied
		}
	}
	if len(got.exceptions) != len(a.exceptions) {
		return errNotApplied
	}
	return nil
}
