package adopt

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// dropIn returns the edit of a file that is hull's alone.
func dropIn(engine string, text func([]Runtime) string) func([]byte, []Runtime) ([]byte, []string, error) {
	head := "# Made by hull install " + engine + "; hull uninstall " + engine + " removes it.\n"
	return func(before []byte, runtimes []Runtime) ([]byte, []string, error) {
		if before != nil && !bytes.HasPrefix(before, []byte("# Made by hull install ")) {
			return nil, nil, errors.New("it is not hull's: it doesn't begin with the line that hull writes there")
		}
		if runtimes == nil {
			if before == nil {
				return nil, nil, nil
			}
			return nil, []string{"the file is removed"}, nil
		}
		after := []byte(head + text(runtimes))
		if bytes.Equal(before, after) {
			return after, nil, nil
		}
		return after, added(runtimes, before != nil), nil
	}
}

// added says what a text of hull's has, which is new, or in the place of another one.
func added(runtimes []Runtime, again bool) (says []string) {
	what := " is added: "
	if again {
		what = " is written anew: "
	}
	for _, r := range runtimes {
		says = append(says, "runtime "+r.Name+what+r.Path)
	}
	return says
}

// podmanText is that of containers.conf(5).
func podmanText(runtimes []Runtime) string {
	var b strings.Builder
	b.WriteString("[engine.runtimes]\n")
	for _, r := range runtimes {
		fmt.Fprintf(&b, "%s = [%s]\n", r.Name, tomlString(r.Path))
	}
	return b.String()
}

// crioText is that of crio.conf(5). The containers of a pod with sandbox isolation join the kernel of its first one, which CRI-O leaves out unless it
// is told not to, of all its runtimes at once, or the runtime's name has kata in it.
func crioText(runtimes []Runtime) string {
	var b strings.Builder
	if slices.ContainsFunc(runtimes, func(r Runtime) bool { return r.Name == Sandbox }) {
		b.WriteString("[crio.runtime]\ndrop_infra_ctr = false\n")
	}
	for _, r := range runtimes {
		fmt.Fprintf(&b, "[crio.runtime.runtimes.%s]\nruntime_path = %s\nruntime_type = \"oci\"\nruntime_root = \"/run/hull\"\n", r.Name, tomlString(r.Path))
	}
	return b.String()
}

// tomlString quotes s. What JSON escapes TOML does, too.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// A block of lines is hull's in the file of containerd: what it imports from other files replaces whole plugins, before
// containerd 2.2, so that it can't stand in one of its own.
const (
	blockBegin = "# Made by hull install containerd; hull uninstall containerd removes it.\n"
	blockEnd   = "# End of what hull install containerd has made.\n"
)

// containerdPlugin is CRI's, in each version of the configuration that has runtimes by their names. Version 4 is what containerd writes
// from 2.3 on: other plugins are different in it.
var containerdPlugin = map[int64]string{2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime", 4: "io.containerd.cri.v1.runtime"}

// editContainerd edits config.toml of one of these versions.
func editContainerd(before []byte, runtimes []Runtime) (after []byte, says []string, err error) {
	rest, had, err := cutBlock(string(before))
	if err != nil {
		return nil, nil, err
	}
	if runtimes == nil {
		switch {
		case !had:
			return before, nil, nil
		case rest == newContainerd:
			return nil, []string{"the file is removed: nothing else is in it"}, nil
		}
		if root, err := parseTOML(rest); err == nil {
			for _, plugin := range containerdPlugin {
				if name, _ := root.walk("plugins", plugin, "containerd", "default_runtime_name").(string); name == Hull || name == Sandbox {
					return nil, nil, stillDefault("default_runtime_name", name)
				}
			}
		}
		return []byte(rest), []string{"the runtimes " + Hull + " and " + Sandbox + " are removed"}, nil
	}
	if strings.TrimSpace(rest) == "" {
		rest = newContainerd
	}
	root, err := parseTOML(rest)
	if err != nil {
		return nil, nil, err
	}
	version, ok := root.values["version"].(int64)
	if !ok {
		return nil, nil, errors.New("it has no version of its form: that has to be 2, 3 or 4 (containerd config migrate)")
	}
	plugin := containerdPlugin[version]
	if plugin == "" {
		return nil, nil, fmt.Errorf("version %d of the configuration is none that hull knows: it has to be 2, 3 or 4 (containerd config migrate)", version)
	}
	at := []string{"plugins", plugin, "containerd", "runtimes"}
	if err := root.open(at...); err != nil {
		return nil, nil, err
	}
	for _, r := range runtimes {
		if root.walk(append(at, r.Name)...) != nil {
			return nil, nil, fmt.Errorf("it has a runtime %s that hull install has not made", r.Name)
		}
	}
	runtimes, note := shims(version, runtimes)
	systemd, _ := root.walk(append(at, "runc", "options", "SystemdCgroup")...).(bool)
	named, _ := root.walk(at...).(*table)
	runc := version == 2 && (named == nil || len(named.values) == 0)
	block := containerdText(plugin, runc, systemd, runtimes)
	if rest != "" && !strings.HasSuffix(rest, "\n") {
		rest += "\n"
	}
	text := rest + block
	if err := onlyRuntimesAdded(root, text, at, runtimes); err != nil {
		return nil, nil, err
	}
	if text == string(before) {
		return before, nil, nil
	}
	for _, r := range runtimes {
		says = append(says, added([]Runtime{{Name: r.Name, Path: r.program()}}, had)...)
	}
	if runc {
		says = append(says, "runtime runc is added, too: containerd 1 has it by itself only where no other is named")
	}
	if note != "" {
		says = append(says, note)
	}
	if disabled, _ := root.values["disabled_plugins"].([]any); len(disabled) > 0 {
		says = append(says, "note: disabled_plugins has "+strings.TrimSpace(strings.ReplaceAll(fmt.Sprintln(disabled...), " ", ", "))+"; with cri among them Kubernetes can't use this containerd")
	}
	return []byte(text), says, nil
}

// shims returns the runtimes without hull's own shim where containerd may be one that doesn't tell it its options, and a note that says
// so. Version 3, and later ones, are of containerd 2; version 2 is read by all.
func shims(version int64, runtimes []Runtime) (all []Runtime, note string) {
	if version >= 3 {
		return runtimes, ""
	}
	for _, r := range runtimes {
		if r.Shim != "" && !r.Told {
			note = "note: runc's shim runs them; hull's own takes containerd 1.7 or newer, and none such is in PATH, or a configuration of version 3 or newer (containerd config migrate)"
			r.Shim = ""
		}
		all = append(all, r)
	}
	return all, note
}

// newContainerd is the configuration where there is none.
const newContainerd = "version = 2\n"

// containerdText is hull's block. runc has it name that runtime, too: what a file of version 2 has of runtimes takes the place of what
// containerd 1 would have without, which is runc, its default; and without its default it has no CRI.
func containerdText(plugin string, runc, systemd bool, runtimes []Runtime) string {
	var b strings.Builder
	b.WriteString(blockBegin)
	if runc {
		fmt.Fprintf(&b, "[plugins.%q.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n", plugin)
	}
	for _, r := range runtimes {
		table := fmt.Sprintf("plugins.%q.containerd.runtimes.%s", plugin, r.Name)
		if r.Shim != "" {
			isolation := "native"
			if r.Name == Sandbox {
				isolation = "sandbox"
			}
			// The path is the type: with the type's name and runtime_path containerd 2 looks in PATH for the shim of all containers of
			// a pod but the first, when it is started again, and then gives them up.
			fmt.Fprintf(&b, "[%s]\n  runtime_type = %s\n[%s.options]\n  isolation = %q\n", table, tomlString(r.Shim), table, isolation)
		} else {
			fmt.Fprintf(&b, "[%s]\n  runtime_type = \"io.containerd.runc.v2\"\n[%s.options]\n  BinaryName = %s\n", table, table, tomlString(r.Path))
		}
		if systemd {
			b.WriteString("  SystemdCgroup = true\n")
		}
	}
	b.WriteString(blockEnd)
	return b.String()
}

// cutBlock returns text without hull's block.
func cutBlock(text string) (rest string, had bool, err error) {
	head, after, found := strings.Cut(text, blockBegin)
	if !found {
		return text, false, nil
	}
	_, tail, found := strings.Cut(after, blockEnd)
	if !found || strings.Contains(tail, blockBegin) {
		return "", false, errors.New("the lines that hull has made there have no end, or are there twice: remove them by hand")
	}
	return head + tail, true, nil
}

// onlyRuntimesAdded makes sure that text says what was said before, and hull's runtimes.
func onlyRuntimesAdded(before *table, text string, at []string, runtimes []Runtime) error {
	after, err := parseTOML(text)
	if err != nil {
		return fmt.Errorf("tables can't be added at its end: %w", err)
	}
	known, _ := after.walk(at...).(*table)
	for _, r := range runtimes {
		if known.walk(r.Name, "options", "BinaryName") != r.Path && known.walk(r.Name, "runtime_type") != r.Shim {
			return errors.New("tables can't be added at its end")
		}
		delete(known.values, r.Name)
	}
	if before.walk(append(at, "runc")...) == nil {
		delete(known.values, "runc")
	}
	if !reflect.DeepEqual(plain(before), plain(after)) {
		return errors.New("it can't be edited without changing something else")
	}
	return nil
}

// plain returns the values of a table as nothing but values, without empty tables, which say nothing.
func plain(t *table) map[string]any {
	m := map[string]any{}
	for name, v := range t.values {
		if t, ok := v.(*table); ok {
			if inner := plain(t); len(inner) > 0 {
				m[name] = inner
			}
			continue
		}
		m[name] = v
	}
	return m
}
