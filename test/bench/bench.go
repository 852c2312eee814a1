package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// warmup is how many rounds aren't counted: programs come into the page cache in them.
const warmup = 3

// bench is one run of this program.
type bench struct {
	options
	stage    *stage
	bundles  bundles
	engine   config
	runtimes []*contestant
	doers    []*contestant // who runs a command without a bundle
	sc       *contestant   // runsc, if it was found
	// sandboxes are hull and runsc, whose containers have a kernel of their own.
	sandboxes []*contestant
	random    *rand.Rand
	figures   []*figure
	notes     []string
	load      string // of the machine, before the start
	litter    []string
}

func newBench(o options) (b *bench, err error) {
	b = &bench{options: o, random: rand.New(rand.NewPCG(1, 2)), load: loadAverage()}
	if b.engine, err = engineConfig(); err != nil {
		return nil, err
	}
	if b.stage, err = openStage(); err != nil {
		return nil, err
	}
	if b.bundles, err = newBundles(b.stage.dir); err == nil {
		b.runtimes, err = contestants(o, b.stage.dir)
	}
	if err != nil {
		return nil, errors.Join(err, b.stage.close())
	}
	return b, nil
}

// close removes what is still there, which is something only after an error.
func (b *bench) close() error {
	var errs []error
	for _, c := range slices.Concat(b.runtimes, b.sandboxes) {
		errs = append(errs, c.clear())
		left, err := b.stage.left(c.root)
		if len(left) > 0 {
			err = fmt.Errorf("%v left %d things: %s", c.role, len(left), strings.Join(left[:min(3, len(left))], ", "))
		}
		errs = append(errs, err)
	}
	errs = append(errs, b.stage.close())
	for _, dir := range b.litter {
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// figure adds a row to the tables.
func (b *bench) figure(t *table, name string, u unit, budgets ...budget) *figure {
	f := &figure{table: t, name: name, unit: u, budgets: budgets, samples: map[role][]float64{}}
	b.figures = append(b.figures, f)
	return f
}

// note adds a line below the tables.
func (b *bench) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	fmt.Fprintln(os.Stderr, "bench:", line)
	b.notes = append(b.notes, line)
}

// fit returns the runtimes that can run a configuration. That hull can't is an error; of a peer it is noted.
func (b *bench) fit(ctx context.Context, c config) (fit []*contestant, err error) {
	bundle, err := b.bundles.bundle(c, "true")
	if err != nil {
		return nil, err
	}
	for _, r := range b.runtimes {
		_, err := r.run(ctx, b.stage.prefix, bundle)
		if err != nil && (r.role == hull || ctx.Err() != nil) {
			return nil, err
		}
		if err != nil {
			b.note("%s doesn't run the %s configuration here: %v", r.version, c.name, err)
			continue
		}
		fit = append(fit, r)
	}
	return fit, nil
}

// action is something to measure, and the figure it is for.
type action struct {
	figure *figure
	do     func(context.Context, *contestant) (time.Duration, error)
}

// alternate has every contestant do each action once a round, so that what the machine does beside meets all of them.
// Their order changes from round to round: the kernel clears up after a container when its runtime has exited, and a
// contestant that always came after the same other one would pay for that.
func (b *bench) alternate(ctx context.Context, cs []*contestant, rounds int, actions ...action) error {
	for i := range warmup + rounds {
		for _, a := range actions {
			if err := b.turns(ctx, cs, a, i >= warmup); err != nil {
				return err
			}
		}
	}
	return nil
}

// untilDecided is alternate for paired figures: an action is repeated until its budgets are kept or missed for certain, for as many
// rounds as there may be, and for as long.
func (b *bench) untilDecided(ctx context.Context, cs []*contestant, rounds int, actions ...action) error {
	actions = slices.Clone(actions) // the caller's stay
	until := time.Now().Add(b.most)
	for i := 0; i < warmup+rounds && len(actions) > 0 && time.Now().Before(until); i++ {
		for _, a := range actions {
			if err := b.turns(ctx, cs, a, i >= warmup); err != nil {
				return err
			}
		}
		actions = slices.DeleteFunc(actions, func(a action) bool { return a.figure.decided() })
	}
	return nil
}

// turns has every contestant do the action once.
func (b *bench) turns(ctx context.Context, cs []*contestant, a action, counts bool) error {
	for _, c := range b.shuffled(cs) {
		time.Sleep(b.pause)
		took, err := a.do(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", a.figure.name, err)
		}
		if counts {
			a.figure.add(c.role, took.Seconds()*1000)
		}
	}
	return nil
}

func (b *bench) shuffled(cs []*contestant) []*contestant {
	cs = slices.Clone(cs)
	b.random.Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
	return cs
}

// each calls f for the numbers below n, several at a time.
func each(n, workers int, f func(i int)) {
	numbers := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range numbers {
				f(i)
			}
		})
	}
	for i := range n {
		numbers <- i
	}
	close(numbers)
	wg.Wait()
}

// missed returns a line for each budget that wasn't kept or wasn't measured.
func (b *bench) missed() (lines []string) {
	for _, f := range b.figures {
		for _, budget := range f.budgets {
			if v := f.judge(budget); !v.kept {
				lines = append(lines, f.name+": "+v.text)
			}
		}
	}
	return lines
}
