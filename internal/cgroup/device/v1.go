package device

import (
	"errors"
	"os"
)

var errNotApplied = errors.New("the kernel didn't take all rules")

// SetV1 brings the devices cgroup at path from the rules it has to a.
func (a *Access) SetV1(path string) error {
	now, err := readAccess(path)
	if err != nil {
		return err
	}
	rules := a.from(now)
	if len(rules) == 0 {
		return nil
	}
	for len(rules) > 0 {
		n := 1
		for n < len(rules) && rules[n].Allow == rules[0].Allow {
			n++
		}
		if err := writeRules(path, rules[:n]); err != nil {
			return err
		}
		rules = rules[n:]
	}
	return a.verifyV1(path)
}

// writeRules writes rules that all allow or all deny, each in a write of its own.
func writeRules(path string, rules []Rule) error {
	file := path + "/devices.deny"
	if rules[0].Allow {
		file = path + "/devices.allow"
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, r := range rules {
		if _, err := f.WriteString(r.String()); err != nil {
			return err
		}
	}
	return nil
}

// verifyV1 reads the rules back. The exceptions of a cgroup that allows everything can't be read.
func (a *Access) verifyV1(path string) error {
	got, err := readAccess(path)
	if err != nil {
		return err
	}
	if got.AllowAll != a.AllowAll {
		return errNotApplied
	}
	if a.AllowAll {
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

func readAccess(path string) (*Access, error) {
	list, err := os.ReadFile(path + "/devices.list")
	if err != nil {
		return nil, err
	}
	return parseAccess(string(list))
}
