package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// idle is how many sandboxes are there at once when their memory is looked at.
const idle = 15

// measureSandbox compares containers that have a kernel of their own, in hull and in runsc, and shows newest runc's, which have
// none. The platform and the network, a loopback alone, are the same.
func measureSandbox(ctx context.Context, b *bench) error {
	sandboxes, err := b.findSandboxes()
	if err != nil {
		return err
	}
	nothing, err := b.bundles.bundle(exampleConfig(), "true")
	if err != nil {
		return err
	}
	sleep, err := b.bundles.bundle(exampleConfig(), "sleep", "1d")
	if err != nil {
		return err
	}
	for _, c := range sandboxes {
		if c.stands, err = c.detach(ctx, b.stage.prefix, sleep); err != nil {
			return err
		}
	}
	err = b.alternate(ctx, sandboxes, b.rounds,
		action{
			b.figure(sandboxTable, "`run` of true", milliseconds, budget{runsc, 0.25}, budget{newest, 1}),
			func(ctx context.Context, c *contestant) (time.Duration, error) {
				return c.run(ctx, b.stage.prefix, nothing)
			},
		},
		action{
			b.figure(sandboxTable, "`create`, `start`, the program's end and `delete`", milliseconds, budget{runsc, 0.25}),
			func(ctx context.Context, c *contestant) (time.Duration, error) {
				return c.life(ctx, b.stage.prefix, nothing)
			},
		},
		action{
			b.figure(sandboxTable, "`exec` of true", milliseconds, budget{runsc, 0.4}),
			func(ctx context.Context, c *contestant) (time.Duration, error) {
				return spend(ctx, c.command("exec", c.stands, "true"))
			},
		},
	)
	if err != nil {
		return err
	}
	for _, c := range sandboxes {
		if err := c.remove(ctx, c.stands); err != nil {
			return err
		}
	}
	if err := b.sandboxDo(ctx, sandboxes[:2]); err != nil {
		return err
	}
	share := b.figure(sandboxTable, "memory of each of 15 that sleep, pages counted by share (PSS)", kibibytes, budget{runsc, 0.6})
	for _, c := range sandboxes {
		kib, err := b.idleMemory(ctx, c, sleep)
		if err != nil {
			return err
		}
		share.add(c.role, float64(kib)/idle)
	}
	return sandboxes[1].dropNetns()
}

// dropNetns removes the empty network namespace that runsc keeps for ever, if this one has made it.
func (c *contestant) dropNetns() error {
	if err := unix.Unmount(filepath.Join(c.root, "null-netns"), 0); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return os.NewSyscallError("umount2", err)
	}
	return nil
}

// measurePool compares a run in a sandbox that was started before with one of hull's and of runc's without any. That one is ready
// is not part of it.
func measurePool(ctx context.Context, b *bench) error {
	sandboxes, err := b.findSandboxes()
	if err != nil {
		return err
	}
	boxed, other := sandboxes[0], sandboxes[2]
	bundle, err := b.bundles.bundle(exampleConfig(), "true")
	if err != nil {
		return err
	}
	p, err := prepare(boxed.command("pool", "--size", "1"))
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.start(); err != nil {
		return err
	}
	bare := &contestant{role: native, path: boxed.path}
	err = bare.enter(b.stage.dir)
	if err == nil {
		err = b.alternate(ctx, []*contestant{boxed, bare, other}, b.rounds, action{
			b.figure(poolTable, "`run` of true", milliseconds, budget{native, 1.5}),
			func(ctx context.Context, c *contestant) (time.Duration, error) {
				// For all, or what makes the next one would keep the processors from the others alone.
				if err := awaitPool(ctx, boxed); err != nil {
					return 0, err
				}
				time.Sleep(b.pause)
				return c.run(ctx, b.stage.prefix, bundle)
			},
		})
	}
	return errors.Join(err, p.Signal(unix.SIGTERM), p.wait())
}

// awaitPool waits until a pool of one is full.
func awaitPool(ctx context.Context, c *contestant) error {
	argv := c.command("pool", "--status")
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
		if err == nil && strings.Contains(string(out), `"parked":1`) {
			return nil
		}
		if time.Since(begin) > limit {
			return fmt.Errorf("the pool is not ready: %s, %w", out, err)
		}
	}
}

// sandboxDo measures a command in a sandbox that is thrown away.
func (b *bench) sandboxDo(ctx context.Context, sandboxes []*contestant) error {
	tree := filepath.Join(b.stage.dir, "sandboxed")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	do := func(flags ...string) func(context.Context, *contestant) (time.Duration, error) {
		return func(ctx context.Context, c *contestant) (time.Duration, error) {
			if c.role == hull {
				return spend(ctx, []string{c.path, "do", "--isolation", "sandbox", "--cwd", tree, "true"})
			}
			return spend(ctx, c.command(append(flags, "do", "-cwd=/", "true")...))
		}
	}
	// hull makes a cgroup only where a limit is asked for.
	return b.alternate(ctx, sandboxes, b.rounds,
		action{b.figure(sandboxTable, "`do` of true", milliseconds, budget{runsc, 0.25}), do()},
		action{b.figure(sandboxTable, "the same, runsc with `--ignore-cgroups`", milliseconds), do("--ignore-cgroups")})
}

// findSandboxes returns hull, runsc and newest runc, in this order.
func (b *bench) findSandboxes() ([]*contestant, error) {
	sc, err := b.newestRunsc()
	if err != nil {
		return nil, err
	}
	var boxed, other *contestant
	for _, c := range b.runtimes {
		switch c.role {
		case hull:
			boxed = &contestant{role: hull, path: c.path, flags: []string{"--isolation", "sandbox"}}
		case newest:
			other = c
		}
	}
	if boxed, err = b.box(boxed); err != nil {
		return nil, err
	}
	if !slices.Contains(b.sandboxes, sc) {
		b.sandboxes = append(b.sandboxes, sc)
	}
	return []*contestant{boxed, sc, other}, nil
}

// box returns the runtime with these flags, of which there is one.
func (b *bench) box(c *contestant) (*contestant, error) {
	for _, o := range b.sandboxes {
		if o.role == c.role && slices.Equal(o.flags, c.flags) {
			return o, nil
		}
	}
	if err := c.enter(b.stage.dir); err != nil {
		return nil, err
	}
	b.sandboxes = append(b.sandboxes, c)
	return c, nil
}

// measureHundred has as many sandboxes as a large machine may: all start, answer and go, and nothing of them stays.
func measureHundred(ctx context.Context, b *bench) error {
	c, err := b.box(&contestant{role: hull, path: b.runtimes[0].path, flags: []string{"--isolation", "sandbox"}})
	if err != nil {
		return err
	}
	sleep, err := b.bundles.bundle(exampleConfig(), "sleep", "1d")
	if err != nil {
		return err
	}
	figure := func(what string, u unit, budgets ...budget) *figure {
		return b.figure(sandboxTable, what, u, budgets...)
	}
	at := fmt.Sprintf("%d at a time", manyAtATime)
	start, answer := figure(fmt.Sprintf("start of %d sandboxes, %s", b.boxes, at), milliseconds), figure("`exec` of true in each of them, "+at, milliseconds)
	memory := figure("memory of each of them, pages counted by share (PSS)", kibibytes)
	failed := figure("starts and answers that failed", number, budget{nobody, 0})
	left := figure("what they left behind after `delete`", number, budget{nobody, 0})
	ids, errs := make([]string, b.boxes), make([]error, 2*b.boxes)
	begin := time.Now()
	each(b.boxes, manyAtATime, func(i int) { ids[i], errs[i] = c.detach(ctx, b.stage.prefix, sleep) })
	start.add(hull, time.Since(begin).Seconds()*1000)
	begin = time.Now()
	each(b.boxes, manyAtATime, func(i int) {
		if errs[i] == nil {
			_, errs[b.boxes+i] = spend(ctx, c.command("exec", ids[i], "true"))
		}
	})
	answer.add(hull, time.Since(begin).Seconds()*1000)
	all, err := memoryOfTree(os.Getppid(), os.Getpid())
	if err != nil {
		return err
	}
	itself, err := memoryOf(os.Getppid())
	if err != nil {
		return err
	}
	memory.add(hull, float64(all.share-itself.share)/float64(b.boxes))
	remains, err := b.afterwards(ctx, c)
	if err != nil {
		return err
	}
	failures := slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	failed.add(hull, float64(len(failures)))
	left.add(hull, float64(len(remains)))
	if len(failures) > 0 {
		b.note("of %d sandboxes: %v", b.boxes, failures[0])
	}
	if len(remains) > 0 {
		b.note("%d sandboxes left %s", b.boxes, remains[0])
	}
	return nil
}

// newestRunsc returns runsc, which it builds unless it is there.
func (b *bench) newestRunsc() (_ *contestant, err error) {
	if b.options.runsc == "" {
		if b.options.runsc, err = newestRunsc.build(b.cache); err != nil {
			return nil, err
		}
	}
	if b.sc == nil {
		b.sc = &contestant{role: runsc, path: b.options.runsc, flags: []string{"--platform=systrap", "--network=none"}}
		err = b.sc.enter(b.stage.dir)
	}
	return b.sc, err
}

// life takes a container from create to delete.
func (c *contestant) life(ctx context.Context, prefix, bundle string) (time.Duration, error) {
	id, created, err := c.create(ctx, prefix, bundle)
	if err != nil {
		return 0, err
	}
	c.made = id
	pid, err := c.pid(id)
	if err != nil {
		return 0, err
	}
	init, err := watch(pid)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := spend(ctx, c.command("start", id)); err != nil {
		return 0, err
	}
	if err := init.ended(); err != nil {
		return 0, err
	}
	_, err = deleteMade(ctx, c)
	return created + time.Since(begin), err
}

// idleMemory returns what that many containers use which do nothing, with all that runs for them, in KiB.
func (b *bench) idleMemory(ctx context.Context, c *contestant, bundle string) (int, error) {
	var ids []string
	for range idle {
		id, err := c.detach(ctx, b.stage.prefix, bundle)
		if err != nil {
			return 0, err
		}
		ids = append(ids, id)
	}
	time.Sleep(rest)
	// What has nobody else is the child of the process that this one is the child of. See again.
	all, err := memoryOfTree(os.Getppid(), os.Getpid())
	if err != nil {
		return 0, err
	}
	itself, err := memoryOf(os.Getppid())
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		if err := c.remove(ctx, id); err != nil {
			return 0, err
		}
	}
	return all.share - itself.share, nil
}
