package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hull"
	"hull/internal/adopt"
)

type installFlags struct {
	dryRun bool
	config string
}

func (f *installFlags) register(fs *optionSet) {
	fs.boolVar(&f.dryRun, "dry-run, n", "say what would be changed, and change nothing")
	fs.stringVar(&f.config, "config", "", "the engine's configuration is `FILE`, not where the engine looks for it; of podman and crio the further file that hull has there")
}

const installExit = `0 if the engine's configuration is as it should be, 1 if not, 2 if the options or the engine can't be understood.`

func installCommand() *Command {
	var f installFlags
	return &Command{
		Name:    "install",
		Own:     true,
		Summary: "have a container engine know hull",
		Usage:   "[options] ENGINE",
		Long: `Adds to the configuration of docker, podman, containerd or crio the runtime hull, and hull-s, which makes sandboxes: that one if hull is installed by this name, too, with hull-sandbox. They don't become the default. It says what it changes; doing it again changes nothing.

containerd gets hull's own shim, containerd-shim-hull-v1, where that is installed beside hull and either the configuration is of version 3 or newer or the containerd in PATH is 1.7 or newer; else runc's shim runs hull. podman and crio read a file of hull's own. In docker's daemon.json and containerd's config.toml (of version 2, 3 or 4) all else stays as it is, comments too, and a copy is made before the first change: FILE.before-hull. An engine has to be told to read its configuration again, which is not done here.

Other users than root have podman and docker know it for themselves.`,
		Exit: installExit,
		Examples: `hull install --dry-run docker
hull install docker && systemctl reload docker
docker run --rm --runtime hull busybox echo hello`,
		Args:  arity{1, 1},
		Flags: f.register,
		Run: func(env *Env, args []string) error {
			runtimes, notes, err := ownRuntimes()
			if err != nil {
				return inOp("install", "", err)
			}
			if args[0] == "containerd" {
				told := containerdTells()
				for i := range runtimes {
					runtimes[i].Told = told
				}
			}
			c, err := adopt.Install(args[0], f.config, runtimes)
			return f.finish(env, "install", c, notes, err)
		},
	}
}

func uninstallCommand() *Command {
	var f installFlags
	return &Command{
		Name:    "uninstall",
		Own:     true,
		Summary: "have a container engine forget hull",
		Usage:   "[options] ENGINE",
		Long:    `Takes back what hull install has added to the configuration of docker, podman, containerd or crio. What else was changed there since stays; the copy that was made before the first change, too. Containers that run go on, but the engine doesn't know their runtime any more.`,
		Exit:    installExit,
		Args:    arity{1, 1},
		Flags:   f.register,
		Run: func(env *Env, args []string) error {
			c, err := adopt.Uninstall(args[0], f.config)
			return f.finish(env, "uninstall", c, nil, err)
		},
	}
}

// ownRuntimes returns hull by its names, and what is to be said of those that are missing.
func ownRuntimes() (runtimes []adopt.Runtime, notes []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	runtimes = []adopt.Runtime{{Name: adopt.Hull, Path: filepath.Join(filepath.Dir(self), "hull")}}
	if shim := filepath.Join(filepath.Dir(self), "containerd-shim-hull-v1"); exists(shim) {
		runtimes[0].Shim = shim
	}
	if _, err := os.Stat(runtimes[0].Path); err != nil {
		runtimes[0].Path = self // by another name
	}
	link := filepath.Join(filepath.Dir(self), sandboxName)
	_, err = os.Stat(link)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return runtimes, []string{fmt.Sprintf("note: without sandboxes: there is no %s; ln -s %s %s makes it", link, filepath.Base(runtimes[0].Path), link)}, nil
	case err != nil:
		return nil, nil, err
	}
	if !strings.Contains(hull.Features().Annotations["run.hull.isolations"], string(hull.Sandbox)) {
		return runtimes, []string{"note: without sandboxes: hull-sandbox can't be used here, hull doctor says why"}, nil
	}
	return append(runtimes, adopt.Runtime{Name: adopt.Sandbox, Path: link, Shim: runtimes[0].Shim}), nil, nil
}

// containerdTells asks the containerd in PATH for its release, and tells whether that hands options to any shim: 1.7 and newer.
func containerdTells() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "containerd", "--version").Output()
	f := strings.Fields(string(out)) // containerd github.com/containerd/containerd/v2 v2.1.4 …
	if err != nil || len(f) < 3 {
		return false
	}
	var major, minor int
	_, err = fmt.Sscanf(strings.TrimPrefix(f[2], "v"), "%d.%d", &major, &minor)
	return err == nil && (major > 1 || minor >= 7)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// finish makes a change that was planned, and says so.
func (f *installFlags) finish(env *Env, op string, c *adopt.Change, notes []string, err error) error {
	switch {
	case errors.Is(err, hull.ErrBadUsage):
		return misusedBy(op, env, err)
	case err != nil:
		return inOp(op, "", err)
	}
	var b strings.Builder
	say := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	if c.Nothing() {
		say("%s: nothing to change", c.File)
		for _, line := range notes {
			say("   %s", line)
		}
		return env.write(b.String())
	}
	backup := ""
	if !f.dryRun {
		if backup, err = c.Do(); err != nil {
			return inOp(op, "", err)
		}
	}
	if f.dryRun {
		say("%s would be changed:", c.File)
	} else {
		say("%s is changed:", c.File)
	}
	for _, line := range append(c.Says, notes...) {
		say("   %s", line)
	}
	if f.dryRun {
		b.WriteString(difference(c.Before, c.After))
		return env.write(b.String())
	}
	if backup != "" {
		say("   as it was before hull: %s", backup)
	}
	if c.Next != "" {
		say("next: %s", c.Next)
	}
	return env.write(b.String())
}

// difference shows the lines that differ, as a block: what is taken away with -, what is put there with +.
func difference(before, after []byte) string {
	a, b := bytes.SplitAfter(before, []byte("\n")), bytes.SplitAfter(after, []byte("\n"))
	for len(a) > 0 && len(b) > 0 && bytes.Equal(a[0], b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && bytes.Equal(a[len(a)-1], b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var s strings.Builder
	for _, side := range []struct {
		sign  string
		lines [][]byte
	}{{"-", a}, {"+", b}} {
		for _, line := range side.lines {
			if len(line) > 0 {
				s.WriteString(side.sign + strings.TrimSuffix(string(line), "\n") + "\n")
			}
		}
	}
	return s.String()
}
