package cli

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// globals are the options before the command.
type globals struct {
	root          string
	log           string
	logFormat     string
	debug         bool
	systemdCgroup bool
	rootless      autoBool
	criu          string
	version, help bool

	rootSet bool // --root was given
	flags   *pflag.FlagSet
}

func (g *globals) register(fs *pflag.FlagSet) {
	g.flags = fs
	fs.StringVar(&g.root, "root", "", "`DIR` of the containers' states; it should be in memory, to be empty after a "+
		"reboot (default /run/hull, or $XDG_RUNTIME_DIR/hull for other users than root)")
	fs.StringVar(&g.log, "log", "", "append what goes wrong to `FILE`, beside telling it on standard error")
	fs.StringVar(&g.logFormat, "log-format", "text", "`FORMAT` of that file, text or json")
	fs.BoolVar(&g.debug, "debug", false, "log each step that is made for a container, with the field of config.json it "+
		"comes from, its result and its time; on standard error without --log")
	fs.BoolVar(&g.systemdCgroup, "systemd-cgroup", false, "have systemd make the cgroups; linux.cgroupsPath is then "+
		"SLICE:PREFIX:NAME, such as system.slice:hull:web1")
	g.rootless.text = "auto"
	fs.Var(&g.rootless, "rootless", "tolerate cgroups that can't be made or limited: true, false, or auto, which is "+
		"true for other users than root")
	fs.StringVar(&g.criu, "criu", "", "")
	must(fs.MarkHidden("criu")) // given by engines that know older runtimes
	fs.BoolVarP(&g.version, "version", "v", false, "print the version and exit")
	fs.BoolVarP(&g.help, "help", "h", false, "show this text and exit")
}

// resolve checks the values and completes them.
func (g *globals) resolve() error {
	if g.logFormat != "text" && g.logFormat != "json" && g.logFormat != "" {
		return fmt.Errorf("--log-format: got %q, want text or json", g.logFormat)
	}
	g.rootSet = g.flags.Changed("root")
	if !g.rootSet {
		return nil
	}
	root, err := filepath.Abs(g.root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	// Also "", "." and "../.." where they lead there. delete would take states away from among the root's directories.
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
func (b *autoBool) Type() string   { return "BOOL" }

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

// parseMode says where options end.
type parseMode int

const (
	optionsAnywhere parseMode = iota // but not after --
	stopAtArgument                   // at the first argument: the others belong to another program
	anyOptions                       // as optionsAnywhere; options there are not are skipped
)

func newFlags(name string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {}
	return fs
}

// parse sets the flags and returns the arguments.
func parse(fs *pflag.FlagSet, args []string, mode parseMode) ([]string, error) {
	fs.SetInterspersed(mode != stopAtArgument)
	fs.ParseErrorsAllowlist.UnknownFlags = mode == anyOptions
	if err := fs.Parse(doubleDashes(fs, args, mode)); err != nil {
		return nil, err
	}
	return fs.Args(), nil
}

// doubleDashes lets long options begin with one dash, as scripts for other runtimes have them: -detach is --detach, not
// -d -e -t…. The arguments that options take are left alone.
func doubleDashes(fs *pflag.FlagSet, args []string, mode parseMode) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" || len(arg) < 2 || arg[0] != '-' {
			if arg == "--" || mode == stopAtArgument {
				return append(out, args[i:]...)
			}
			out = append(out, arg)
			continue
		}
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		f := fs.Lookup(name)
		switch {
		case f == nil && arg[1] != '-':
			f, hasValue = lastShorthand(fs, arg[1:])
		case f != nil && len(name) > 1 && arg[1] != '-':
			arg = "-" + arg
		}
		out = append(out, arg)
		if f != nil && f.NoOptDefVal == "" && !hasValue && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}

// lastShorthand returns the last of the options in a word such as -tu, and whether the word goes on with its value.
func lastShorthand(fs *pflag.FlagSet, word string) (f *pflag.Flag, hasValue bool) {
	for i := range len(word) {
		if f = fs.ShorthandLookup(word[i : i+1]); f == nil {
			return nil, false
		}
		if f.NoOptDefVal == "" {
			return f, i+1 < len(word)
		}
	}
	return f, false
}

func must(err error) {
	if err != nil {
		panic("bug: " + err.Error())
	}
}
