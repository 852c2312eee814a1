package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// fill makes as many containers as make a crowd; they sleep.
func (b *bench) fill(ctx context.Context, r *contestant) error {
	sleep, err := b.bundles.bundle(exampleConfig(), "sleep", "1d")
	if err != nil {
		return err
	}
	errs := make([]error, b.crowd)
	each(len(errs), 2, func(i int) { _, errs[i] = r.detach(ctx, b.stage.prefix, sleep) })
	return errors.Join(errs...)
}

// empty removes them all.
func (b *bench) empty(ctx context.Context, r *contestant) error {
	ids := slices.Clone(r.live)
	errs := make([]error, len(ids))
	each(len(ids), 2, func(i int) { errs[i] = r.remove(ctx, ids[i]) })
	return errors.Join(errs...)
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
	run := func(ctx context.Context, r *contestant) (time.Duration, error) {
		return r.run(ctx, b.stage.prefix, nothing)
	}
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
	rounds := min(b.rounds, manyRounds)
	what := fmt.Sprintf("%d × `create`, %d at a time", manyContainers, manyAtATime)
	took := b.figure(exampleTable, what, milliseconds)
	failed := b.figure(otherTable, fmt.Sprintf("containers that failed of %d × %s", rounds, what), number, budget{nobody, 0})
	left := b.figure(otherTable, "what these left behind after `delete`", number, budget{nobody, 0})
	for range rounds {
		for _, r := range b.shuffled(runtimes) {
			duration, failures, err := b.crowdIn(ctx, r)
			if err != nil {
				return err
			}
			remains, err := b.afterwards(ctx, r)
			if err != nil {
				return err
			}
			took.add(r.role, duration.Seconds()*1000)
			failed.add(r.role, float64(len(failures)))
			left.add(r.role, float64(len(remains)))
			if len(failures) > 0 {
				b.note("%s, %s: %v", r.version, what, failures[0])
			}
			if len(remains) > 0 {
				b.note("%s left %s", r.version, remains[0])
			}
		}
	}
	return nil
}

// crowdIn creates many containers at the same time.
func (b *bench) crowdIn(ctx context.Context, r *contestant) (took time.Duration, failures []error, err error) {
	nothing, err := b.bundles.bundle(exampleConfig(), "true")
	if err != nil {
		return 0, nil, err
	}
	failures = make([]error, manyContainers)
	begin := time.Now()
	each(manyContainers, manyAtATime, func(i int) {
		_, _, failures[i] = r.create(ctx, b.stage.prefix, nothing)
	})
	took = time.Since(begin)
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	return took, failures, ctx.Err()
}

// afterwards removes all containers of a runtime and returns what it left.
func (b *bench) afterwards(ctx context.Context, r *contestant) ([]string, error) {
	// One that failed may have left a state directory, which counts as left if delete doesn't remove it.
	ids := slices.DeleteFunc(slices.Clone(r.live), func(id string) bool { return !r.has(id) })
	each(len(ids), manyAtATime, func(i int) { _ = r.remove(ctx, ids[i]) })
	r.live = slices.DeleteFunc(r.live, func(id string) bool { return !r.has(id) })
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return b.stage.left(r.root)
}
