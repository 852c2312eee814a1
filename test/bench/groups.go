package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// group is a set of figures that are measured together.
type group struct {
	name    string
	measure func(context.Context, *bench) error
}

var groups = []group{
	{"life", measureLife},
	{"engine", measureEngine},
	{"version", measureVersion},
	{"list", measureList},
	{"crowd", measureCrowd},
	{"many", measureMany},
	{"memory", measureMemory},
	{"floor", measureFloor},
	{"do", measureDo},
	{"sandbox", measureSandbox},
	{"pool", measurePool},
}

// asked are groups that want more of the machine than others: they are measured when they are named.
var asked = []group{
	{"hundred", measureHundred},
	{"workloads", measureWorkloads},
}

func chooseGroups(names []string) ([]group, error) {
	if len(names) == 0 {
		return groups, nil
	}
	groups := slices.Concat(groups, asked)
	var chosen []group
	for _, name := range names {
		i := slices.IndexFunc(groups, func(g group) bool { return g.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no group %q", name)
		}
		chosen = append(chosen, groups[i])
	}
	return chosen, nil
}

func measureLife(ctx context.Context, b *bench) error {
	run := []budget{{crun, 0.7}, {newest, 0.25}}
	atMostCrun := []budget{{crun, 1}}
	return life(ctx, b, exampleConfig(), exampleTable, map[string][]budget{
		"run": run, "exec": {{crun, 0.7}}, "create": atMostCrun, "start": atMostCrun, "delete": atMostCrun, "state": atMostCrun,
	})
}

// measureEngine has no budgets of its own: it shows that those of measureLife aren't kept by a lucky configuration.
func measureEngine(ctx context.Context, b *bench) error {
	return life(ctx, b, b.engine, engineTable, nil)
}

// life measures the commands that take a container through its life, exec in a container that stands by, and its state.
func life(ctx context.Context, b *bench, c config, table *table, budgets map[string][]budget) error {
	runtimes, err := b.fit(ctx, c)
	if err != nil {
		return err
	}
	nothing, err := b.bundles.bundle(c, "true")
	if err != nil {
		return err
	}
	sleep, err := b.bundles.bundle(c, "sleep", "1d")
	if err != nil {
		return err
	}
	for _, r := range runtimes {
		if r.stands, err = r.detach(ctx, b.stage.prefix, sleep); err != nil {
			return err
		}
	}
	figure := func(name, what string) *figure { return b.figure(table, what, milliseconds, budgets[name]...) }
	err = b.alternate(ctx, runtimes, b.rounds,
		action{figure("run", "`run` of true"), func(ctx context.Context, r *contestant) (time.Duration, error) {
			return r.run(ctx, b.stage.prefix, nothing)
		}},
		action{figure("exec", "`exec` of true"), func(ctx context.Context, r *contestant) (time.Duration, error) {
			return spend(ctx, r.command("exec", r.stands, "true"))
		}},
		action{figure("state", "`state`"), func(ctx context.Context, r *contestant) (time.Duration, error) {
			return spend(ctx, r.command("state", r.stands))
		}},
		action{figure("create", "`create`"), func(ctx context.Context, r *contestant) (took time.Duration, err error) {
			r.made, took, err = r.create(ctx, b.stage.prefix, nothing)
			return took, err
		}},
		action{figure("start", "`start`"), startMade},
		action{figure("delete", "`delete`"), deleteMade},
	)
	if err != nil {
		return err
	}
	for _, r := range runtimes {
		if err := r.remove(ctx, r.stands); err != nil {
			return err
		}
	}
	return nil
}

// startMade starts the container that was made last, and waits for the end of its program, which is not measured.
func startMade(ctx context.Context, r *contestant) (time.Duration, error) {
	pid, err := r.pid(r.made)
	if err != nil {
		return 0, err
	}
	init, err := watch(pid)
	if err != nil {
		return 0, err
	}
	took, err := spend(ctx, r.command("start", r.made))
	return took, cmp.Or(err, init.ended())
}

// deleteMade deletes the container that was made last and has ended.
func deleteMade(ctx context.Context, r *contestant) (time.Duration, error) {
	took, err := spend(ctx, r.command("delete", r.made))
	if err == nil {
		r.forget(r.made)
	}
	return took, err
}

// measureVersion compares what hull costs before it does anything with what Go costs.
func measureVersion(ctx context.Context, b *bench) error {
	nothing, err := buildEmpty(b.stage.dir)
	if err != nil {
		return err
	}
	all := append(slices.Clone(b.runtimes), &contestant{role: empty, path: nothing})
	return b.alternate(ctx, all, b.rounds, action{
		b.figure(exampleTable, "`--version`", milliseconds, budget{empty, 1.3}),
		func(ctx context.Context, r *contestant) (time.Duration, error) {
			if r.role == empty {
				return spend(ctx, []string{r.path})
			}
			return spend(ctx, []string{r.path, "--version"})
		},
	})
}

func measureList(ctx context.Context, b *bench) error {
	runtimes, err := b.fit(ctx, exampleConfig())
	if err != nil {
		return err
	}
	for _, r := range runtimes {
		if err := b.fill(ctx, r); err != nil {
			return err
		}
	}
	err = b.alternate(ctx, runtimes, b.rounds, action{
		b.figure(exampleTable, fmt.Sprintf("`list` of %d containers", b.crowd), milliseconds, budget{crun, 1}),
		func(ctx context.Context, r *contestant) (time.Duration, error) { return spend(ctx, r.command("list")) },
	})
	if err != nil {
		return err
	}
	for _, r := range runtimes {
		if err := b.empty(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
