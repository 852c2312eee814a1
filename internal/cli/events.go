package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hull"
)

// event is a line that hull events prints.
type event struct {
	Type string `json:"type"` // stats, oom
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func eventsCommand() *Command {
	var interval time.Duration
	var once bool
	return &Command{
		Name:    "events",
		Summary: "print what a container uses, and when it runs out of memory",
		Usage:   "[options] CONTAINER-ID",
		Long:    `Prints lines of JSON as long as the container has processes: {"type":"stats","id":…,"data":…} with the use of CPU, memory, disks and so on, again and again, and {"type":"oom","id":…} each time the kernel has killed a process for want of memory.`,
		Examples: `hull events --stats web1
hull events --interval 1s web1`,
		Args: arity{1, 1},
		Flags: func(fs *optionSet) {
			fs.durationVar(&interval, "interval", 5*time.Second, "`TIME` between statistics, such as 500ms or 1m")
			fs.boolVar(&once, "stats", "print the statistics once, now")
		},
		Run: func(env *Env, args []string) error {
			if interval <= 0 {
				return &hull.Error{Step: fmt.Sprintf("--interval %q", interval), Kind: hull.ErrBadUsage, Err: errors.New("want more than 0")}
			}
			c, err := env.container("events", args[0])
			if err != nil {
				return err
			}
			state, err := c.State()
			if err != nil {
				return inOp("events", args[0], err)
			}
			if state.Status == hull.Stopped {
				return inOp("events", args[0], &hull.Error{Kind: hull.ErrBadState, Err: errors.New("container is not running")})
			}
			if once {
				return env.printStats(c)
			}
			return env.watch(c, interval)
		},
	}
}

func (e *Env) printStats(c *hull.Container) error {
	stats, err := c.Stats()
	if err != nil {
		return inOp("events", c.ID(), err)
	}
	return json.NewEncoder(e.Stdout).Encode(event{"stats", c.ID(), stats})
}

// oomLate is how long after a container's end the kernel may still tell that it ran out of memory.
const oomLate = 50 * time.Millisecond

// watch prints events until the container has stopped.
func (e *Env) watch(c *hull.Container, interval time.Duration) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ooms, err := c.OOMEvents(ctx)
	if err != nil {
		return inOp("events", c.ID(), err)
	}
	go func() { // with cgroup v1 the kernel tells of the cgroup's end alone, which comes with delete
		_, _ = c.Wait(ctx) // or it has ended already; how doesn't matter
		// Without a pid namespace of its own others may go on, of which there is to tell, too.
		for others := true; others && ctx.Err() == nil; {
			time.Sleep(oomLate)
			pids, err := c.Processes()
			others = err == nil && len(pids) > 0
		}
		cancel()
	}()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	enc := json.NewEncoder(e.Stdout)
	for {
		select {
		case _, ok := <-ooms:
			if !ok {
				return nil
			}
			if err := enc.Encode(event{Type: "oom", ID: c.ID()}); err != nil {
				return err
			}
		case <-tick.C:
			stats, err := c.Stats()
			if err != nil {
				// It may just have ended: ooms tells. If not, the next time may go better.
				e.log.warn(inOp("events", c.ID(), err).Error())
				continue
			}
			if err := enc.Encode(event{"stats", c.ID(), stats}); err != nil {
				return err
			}
		}
	}
}
