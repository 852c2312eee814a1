package shim

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/containerd"
	"hull/internal/ttrpc"
)

// maxConfig is what a file of options may have.
const maxConfig = 1 << 20

// options are those of a container.
type options struct {
	runtime               hull.Runtime
	noPivot, noNewKeyring bool
	workPath              string
}

// options reads what containerd's configuration or a client gives to the runtime: the options of runc's shim, as `ctr run
// --runc-root …` sends them to any. The runtime's own are text, see parseConfig.
func (s *service) options(a *containerd.Any) (*options, error) {
	o := &options{runtime: hull.Runtime{Root: rootOf("", s.namespace), Warn: s.log.warn}}
	if s.debug {
		o.runtime.Trace = s.log.debug
	}
	if s.sandbox {
		o.runtime.Isolation = hull.Sandbox
	}
	switch typeName(a) {
	case "":
	case containerd.RuncOptions:
		var r containerd.Options
		if err := containerd.Unmarshal(a.Value, &r); err != nil {
			return nil, err
		}
		o.runtime.Root, o.runtime.SystemdCgroup = rootOf(r.Root, s.namespace), r.SystemdCgroup
		o.noPivot, o.noNewKeyring, o.workPath = r.NoPivotRoot, r.NoNewKeyring, r.WorkPath
		if filepath.Base(r.BinaryName) == "hull-s" {
			o.runtime.Isolation = hull.Sandbox
		}
	case containerd.GenericOptions:
		var g containerd.Generic
		if err := containerd.Unmarshal(a.Value, &g); err != nil {
			return nil, err
		}
		text, err := configFile(g.ConfigPath)
		if err != nil {
			return nil, err
		}
		if err := o.parseConfig(text+"\n"+string(g.ConfigBody), s.namespace); err != nil {
			return nil, err
		}
	default:
		return nil, &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "options of type " + a.TypeURL + " are none of hull's"}
	}
	return o, nil
}

// configFile returns what is in the file that options are said to be in, as `ctr run --runtime-config-path` says it, and a
// containerd that passes no text on: before 1.7. No path is no text.
func configFile(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	bad := func(why string) error {
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "file of options " + path + ": " + why}
	}
	if !filepath.IsAbs(path) {
		return "", bad("want an absolute path")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // without waiting, should it be a FIFO
	if err != nil {
		return "", bad(err.Error())
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxConfig) {
		return "", bad("want a regular file of at most 1 MiB")
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(io.LimitReader(f, maxConfig))
	}
	if err != nil {
		return "", bad(err.Error())
	}
	return string(text), nil
}

// typeName returns the name of a message's type, which newer clients put a host before.
func typeName(a *containerd.Any) string { return a.TypeURL[strings.LastIndexByte(a.TypeURL, '/')+1:] }

// parseConfig reads the options of this runtime in containerd's configuration, which it passes on as TOML: one per line.
//
//	isolation = "sandbox"      # or "native"
//	root = "/run/containerd/hull"
//	systemd_cgroup = true      # also SystemdCgroup, as runc's shim spells it
//	no_pivot_root = true
//	no_new_keyring = true
func (o *options) parseConfig(text, namespace string) error {
	bad := func(line, want string) error {
		return &ttrpc.Error{Code: ttrpc.InvalidArgument, Message: "option " + strings.TrimSpace(line) + ": want " + want}
	}
	for line := range strings.Lines(text) {
		code, _, _ := strings.Cut(line, "#")
		key, value, ok := strings.Cut(code, "=")
		if !ok {
			if strings.TrimSpace(code) == "" {
				continue
			}
			return bad(line, "NAME = VALUE")
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		word := strings.Trim(value, `"'`)
		yes := value == "true"
		switch key {
		case "isolation":
			o.runtime.Isolation = hull.Isolation(word)
			if !o.runtime.Isolation.Known() {
				return bad(line, `"native" or "sandbox"`)
			}
			continue
		case "root":
			if !filepath.IsAbs(word) {
				return bad(line, "an absolute path")
			}
			o.runtime.Root = rootOf(word, namespace)
			continue
		case "systemd_cgroup", "SystemdCgroup":
			o.runtime.SystemdCgroup = yes
		case "no_pivot_root", "NoPivotRoot":
			o.noPivot = yes
		case "no_new_keyring", "NoNewKeyring":
			o.noNewKeyring = yes
		default:
			return bad(line, "isolation, root, systemd_cgroup, no_pivot_root or no_new_keyring")
		}
		if !yes && value != "false" {
			return bad(line, "true or false")
		}
	}
	return nil
}
