package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hull"
)

// globals are the options before the command.
type globals struct {
	root          string
	log           string
	logFormat     string
	debug         bool
	systemdCgroup bool
	rootless      autoBool
	isolation     string
	criu          string
	sandbox       hull.SandboxOptions
	version, help bool

	rootSet bool // --root was given
	options *optionSet
}

func (g *globals) register(fs *optionSet) {
	g.options = fs
	fs.stringVar(&g.root, "root", "", "the state of each container is kept in `DIR`; a command knows those of its own alone. It should be on a tmpfs: none "+
		"of them is left after a reboot (default /run/hull, or $XDG_RUNTIME_DIR/hull for other users than root, /run/user/UID/hull if that is not set and there is a /run/user/UID)")
	fs.stringVar(&g.log, "log", "", "append what goes wrong to `FILE`, beside telling it on standard error; warnings are told there only if it is a terminal then")
	fs.stringVar(&g.logFormat, "log-format", "text", "`FORMAT` of that file, text or json")
	fs.offer("text", "json")
	fs.boolVar(&g.debug, "debug", "log each step that is made for a container, with the field of config.json it "+
		"comes from, its result and its time; on standard error without --log")
	fs.boolVar(&g.systemdCgroup, "systemd-cgroup", "have systemd make the cgroups; linux.cgroupsPath is then "+
		"SLICE:PREFIX:NAME, such as system.slice:hull:web1")
	g.rootless.text = "auto"
	fs.valueVar(&g.rootless, "rootless", "tolerate cgroups that can't be made or limited: true, false, or auto, which is "+
		"true for other users than root, and for root of a user namespace")
	fs.stringVar(&g.isolation, "isolation", "", "what isolates the containers that are made: `KIND` is native, the host's "+
		"kernel, or sandbox, a kernel of its own (default: $HULL_ISOLATION, else sandbox if hull is called by the name "+
		"hull-s, else the annotation run.hull.isolation of config.json, else native)")
	fs.offer(string(hull.Native), string(hull.Sandbox))
	fs.stringVar(&g.sandbox.Overlay, "overlay", "", "in a sandbox, keep what is written to the root elsewhere, and let it be gone with "+
		"the container: `WHERE` is none, memory, or dir=DIR for a file there")
	fs.offer("none", "memory", "dir=")
	fs.stringVar(&g.sandbox.FileAccess, "file-access", "", "in a sandbox, take the root to be changed by the container alone, exclusive, "+
		"or by others, too, shared: `WHO` (default exclusive)")
	fs.offer("exclusive", "shared")
	fs.stringVar(&g.sandbox.FileAccessMounts, "file-access-mounts", "", "the same of what is mounted into it: `WHO` (default shared)")
	fs.offer("exclusive", "shared")
	fs.stringVar(&g.sandbox.HostFifo, "host-fifo", "", "in a sandbox, let programs open FIFOs together with those of the host: `WHICH` is "+
		"none, or open (default none)")
	fs.offer("none", "open")
	fs.stringVar(&g.sandbox.HostUDS, "host-uds", "", "in a sandbox, let programs connect with unix sockets of the host's in mounts, open, make "+
		"such, create, or both, all: `WHICH` is none, open, create or all (default none)")
	fs.offer("none", "open", "create", "all")
	fs.stringVar(&g.sandbox.Platform, "platform", "", "in a sandbox, run programs by `PLATFORM`: systrap, or kvm, the host's KVM, which is tried first (default systrap)")
	fs.offer("systrap", "kvm")
	fs.stringVar(&g.sandbox.PlatformDevice, "platform-device", "", "the device of --platform kvm is at `PATH` (default /dev/kvm)")
	fs.stringVar(&g.criu, "criu", "", "the program that checkpoint and restore use is at `PATH` (default: criu in $PATH)")
	fs.boolVar(&g.version, "version, v", "print the version and exit")
	fs.boolVar(&g.help, "help, h", "show this text and exit")
}

// sandboxName is the name that hull is called by when it makes sandboxes: an engine has a path for each runtime, and no options.
const sandboxName = "hull-s"

// resolve checks the values and completes them, for a program that was called by that name.
func (g *globals) resolve(name string) error {
	if g.logFormat != "text" && g.logFormat != "json" && g.logFormat != "" {
		return fmt.Errorf("--log-format %q: want text or json", g.logFormat)
	}
	from := "--isolation"
	if !g.options.given("isolation") {
		from = "HULL_ISOLATION"
		g.isolation = os.Getenv(from)
	}
	if g.isolation == "" && name == sandboxName {
		g.isolation = string(hull.Sandbox)
	}
	if g.isolation != "" && !hull.Isolation(g.isolation).Known() {
		return fmt.Errorf("%s %q: want native or sandbox", from, g.isolation)
	}
	if err := g.sandbox.Check(); err != nil {
		return g.options.name(err)
	}
	g.rootSet = g.options.given("root")
	if !g.rootSet {
		return nil
	}
	if g.root == "" { // a script's unset variable: it would be the working directory
		return errors.New(`--root "": want a directory`)
	}
	root, err := filepath.Abs(g.root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	// Also "." and "../.." where they lead there. delete would take states away from among the root's directories.
	if root == "/" {
		return errors.New("--root: must not be /")
	}
	g.root = root
	return nil
}

// autoBool is a flag that is true, false or neither.
type autoBool struct {
	text  string
	value *bool // nil: auto
}

func (b *autoBool) String() string { return b.text }
func (b *autoBool) unit() string   { return "BOOL" }

func (b *autoBool) Set(s string) error {
	if s == "" || strings.EqualFold(s, "auto") {
		b.text, b.value = "auto", nil
		return nil
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("want true, false or auto")
	}
	b.text, b.value = s, &v
	return nil
}

func must(err error) {
	if err != nil {
		panic("bug: " + err.Error())
	}
}
