package main

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
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
}

func chooseGroups(names []string) ([]group, error) {
	if len(names) == 0 {
		return groups, nil
	}
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

// The tables, by their headings.
const (
	exampleTable = "Time, the configuration of `hull spec`"
	engineTable  = "Time, the configuration of a container engine"
	otherTable   = "Memory and numbers"
)

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
func life(ctx context.Context, b *bench, c config, table string, budgets map[string][]budget) error {
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

// fill makes as many containers as make a crowd; they sleep.
func (b *bench) fill(ctx context.Context, r *contestant) error {
	sleep, err := b.bundles.bundle(exampleConfig(), "sleep", "1d")
	if err != nil {
		return err
	}
	return each(b.crowd, 2, func(int) error {
		_, err := r.detach(ctx, b.stage.prefix, sleep)
		return err
	})
}

// empty removes them all.
func (b *bench) empty(ctx context.Context, r *contestant) error {
	ids := slices.Clone(r.live)
	return each(len(ids), 2, func(i int) error { return r.remove(ctx, ids[i]) })
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

// measureCrowd compares run beside a crowd with run alone, for one runtime after the other: with the crowds of all of
// them it would be measured beside four. Half of the runs alone come before the crowd and half after it.
func measureCrowd(ctx context.Context, b *bench) error {
	runtimes, err := b.fit(ctx, exampleConfig())
	if err != nil {
		return err
	}
	nothing, err := b.bundles.bundle(exampleConfig(), "true")
	if err != nil {
		return err
	}
	ratio := b.figure(otherTable, fmt.Sprintf("`run` beside %d running containers ÷ `run` alone", b.crowd), factor, budget{nobody, 1.2})
	alone, beside := newFigure("run alone", milliseconds), newFigure("run in a crowd", milliseconds)
	run := func(ctx context.Context, r *contestant) (time.Duration, error) { return r.run(ctx, b.stage.prefix, nothing) }
	for _, r := range runtimes {
		only := []*contestant{r}
		for _, step := range []func() error{
			func() error { return b.alternate(ctx, only, (b.rounds+1)/2, action{alone, run}) },
			func() error { return b.fill(ctx, r) },
			func() error { return b.alternate(ctx, only, b.rounds, action{beside, run}) },
			func() error { return b.empty(ctx, r) },
			func() error { return b.alternate(ctx, only, (b.rounds+1)/2, action{alone, run}) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		before, _ := alone.value(r.role)
		after, _ := beside.value(r.role)
		ratio.add(r.role, after/before)
	}
	return nil
}

// What measureMany makes: so many containers, so many at a time, so often.
const (
	manyContainers = 100
	manyAtATime    = 8
	manyRounds     = 5
)

// measureMany creates containers at the same time, removes them and looks for what is left.
func measureMany(ctx context.Context, b *bench) error {
	runtimes, err := b.fit(ctx, exampleConfig())
	if err != nil {
		return err
	}
	nothing, err := b.bundles.bundle(exampleConfig(), "true")
	if err != nil {
		return err
	}
	what := fmt.Sprintf("%d times `create`, %d at a time", manyContainers, manyAtATime)
	took := b.figure(exampleTable, what, milliseconds)
	failed := b.figure(otherTable, fmt.Sprintf("failures in %d × %s", min(b.rounds, manyRounds), what), number, budget{nobody, 0})
	left := b.figure(otherTable, "what is left of these containers after `delete`", number, budget{nobody, 0})
	for range min(b.rounds, manyRounds) {
		for _, r := range b.shuffled(runtimes) {
			failures := make([]error, manyContainers)
			begin := time.Now()
			_ = each(manyContainers, manyAtATime, func(i int) error { // they are counted below
				_, _, failures[i] = r.create(ctx, b.stage.prefix, nothing)
				return nil
			})
			took.add(r.role, time.Since(begin).Seconds()*1000)
			failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
			if err := ctx.Err(); err != nil {
				return err
			}
			if len(failures) > 0 {
				b.notes = append(b.notes, fmt.Sprintf("%s, %s: %v", r.version, what, failures[0]))
			}
			failed.add(r.role, float64(len(failures)))
			found, err := b.afterwards(ctx, r)
			if err != nil {
				return err
			}
			if len(found) > 0 {
				b.notes = append(b.notes, fmt.Sprintf("%s left %s", r.version, found[0]))
			}
			left.add(r.role, float64(len(found)))
		}
	}
	return nil
}

// afterwards removes all containers of a runtime and returns what it left.
func (b *bench) afterwards(ctx context.Context, r *contestant) ([]string, error) {
	ids := slices.DeleteFunc(slices.Clone(r.live), func(id string) bool { return !r.has(id) })
	if err := each(len(ids), manyAtATime, func(i int) error { return r.remove(ctx, ids[i]) }); err != nil {
		return nil, err
	}
	r.live = nil
	return b.stage.left(r.root)
}

// loadAverage is the machine's over the last minute, or "" where it can't be known.
func loadAverage() string {
	out, err := exec.Command("cat", "/proc/loadavg").Output()
	if err != nil {
		return ""
	}
	load, _, _ := strings.Cut(string(out), " ")
	return load
}
