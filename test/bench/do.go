package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ordinary is the user who isn't root.
const ordinary = 65534

// measureDo compares `hull do` with what else runs a command over the host's files, in the same namespaces: hull shows what
// it does by default, in an empty working tree, the others show everything; runsc has a kernel of its own.
func measureDo(ctx context.Context, b *bench) error {
	if err := b.findDoers(); err != nil {
		return err
	}
	tree := filepath.Join(b.stage.dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	here := []string{"--root=" + filepath.Join(b.stage.dir, "runsc"), "--ignore-cgroups", "--platform=systrap", "--network=none"}
	command := func(c *contestant, user bool) []string {
		switch c.role {
		case hull:
			return []string{c.path, "do", "--cwd", tree, "true"}
		case bubblewrap:
			args := []string{c.path, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup",
				"--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--die-with-parent", "--chdir", "/"}
			if user {
				args = append(args, "--unshare-user")
			}
			return append(args, "true")
		default:
			return append(append([]string{c.path}, here...), "do", "-cwd=/", "true")
		}
	}
	root := action{
		b.figure(doTable, "`do` of true, as root", milliseconds, budget{bubblewrap, 1.5}, budget{runsc, 0.25}),
		func(ctx context.Context, c *contestant) (time.Duration, error) {
			return spend(ctx, command(c, false))
		},
	}
	if err := b.alternate(ctx, b.doers, b.rounds, root); err != nil {
		return err
	}
	var rootless []*contestant
	for _, c := range b.doers {
		if c.role != runsc { // its do wants root for its network and its cgroups
			rootless = append(rootless, c)
		}
	}
	return b.alternate(ctx, rootless, b.rounds, action{
		b.figure(doTable, "`do` of true, as an ordinary user", milliseconds, budget{bubblewrap, 1.5}),
		func(ctx context.Context, c *contestant) (time.Duration, error) {
			return spendAs(ctx, ordinary, command(c, true))
		},
	})
}

// findDoers finds or makes who runs commands. A peer that isn't installed is left out.
func (b *bench) findDoers() error {
	for _, c := range b.runtimes {
		if c.role == hull {
			b.doers = append(b.doers, c)
		}
	}
	path, err := exec.LookPath("bwrap")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		fmt.Fprintln(os.Stderr, "bench: no bwrap here")
	case err != nil:
		return err
	default:
		out, err := exec.Command(path, "--version").Output()
		if err != nil {
			return fmt.Errorf("%s --version: %w", path, err)
		}
		line, _, _ := strings.Cut(string(out), "\n") // "bubblewrap 0.8.0"
		b.doers = append(b.doers, &contestant{role: bubblewrap, path: path, version: line})
	}
	sc, err := b.newestRunsc()
	if err != nil {
		return err
	}
	b.doers = append(b.doers, sc)
	return nil
}

// spendAs is spend by another user.
func spendAs(ctx context.Context, id uint32, argv []string) (time.Duration, error) {
	return spendWith(ctx, argv, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}})
}
