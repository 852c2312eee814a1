package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memoryRounds is how often memory is read, which varies less than time.
const memoryRounds = 7

// rest is how long a runtime has to give memory back before it is looked at.
const rest = 300 * time.Millisecond

func measureMemory(ctx context.Context, b *bench) error {
	runtimes, err := b.fit(ctx, exampleConfig())
	if err != nil {
		return err
	}
	waiting := b.figure(otherTable, "resident memory of a `run` that waits", kibibytes, budget{newest, 0.5})
	share := b.figure(otherTable, "the same, pages counted by share (PSS)", kibibytes)
	parked := b.figure(otherTable, "resident memory of the init of a created container", kibibytes, budget{nobody, 4 * 1024})
	for range min(b.rounds, memoryRounds) {
		for _, r := range b.shuffled(runtimes) {
			m, err := b.waiting(ctx, r)
			if err != nil {
				return err
			}
			waiting.add(r.role, float64(m.resident))
			share.add(r.role, float64(m.share))
			if m, err = b.parked(ctx, r); err != nil {
				return err
			}
			parked.add(r.role, float64(m.resident))
		}
	}
	return nil
}

// waiting returns the memory of a runtime whose container runs: all its processes but those in the container.
func (b *bench) waiting(ctx context.Context, r *contestant) (m memory, err error) {
	bundle, err := b.bundles.bundle(exampleConfig(), "sh", "-c", "echo; exec sleep 1d")
	if err != nil {
		return m, err
	}
	id := r.name(b.stage.prefix)
	p, err := prepare(r.command("run", "--bundle", bundle, "--pid-file", r.pidFile(id), id))
	if err != nil {
		return m, err
	}
	defer p.close()
	begun, out, err := os.Pipe()
	if err != nil {
		return m, err
	}
	defer begun.Close()
	p.out = out
	err = p.start()
	out.Close()
	if err != nil {
		return m, err
	}
	if _, err = begun.Read(make([]byte, 1)); err == nil {
		time.Sleep(rest)
		m, err = r.memoryBeside(p.Pid, id)
	}
	_, killed := spend(ctx, r.command("kill", id, "KILL"))
	_ = p.wait() // its status is that of the signal
	r.forget(id)
	return m, errors.Join(err, killed)
}

// memoryBeside adds up the memory of a process and its descendants, without the init of a container and its.
func (c *contestant) memoryBeside(pid int, id string) (memory, error) {
	init, err := c.pid(id)
	if err != nil {
		return memory{}, err
	}
	return memoryOfTree(pid, init)
}

func memoryOfTree(pid, except int) (memory, error) {
	sum, err := memoryOf(pid)
	if err != nil {
		return memory{}, err
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return memory{}, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return memory{}, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return memory{}, fmt.Errorf("%s: %w", file, err)
			}
			if child == except {
				continue
			}
			m, err := memoryOfTree(child, except)
			if err != nil {
				return memory{}, err
			}
			sum.resident += m.resident
			sum.share += m.share
		}
	}
	return sum, nil
}

// parked returns the memory of the init of a container that was created and not started.
func (b *bench) parked(ctx context.Context, r *contestant) (memory, error) {
	bundle, err := b.bundles.bundle(exampleConfig(), "true")
	if err != nil {
		return memory{}, err
	}
	id, _, err := r.create(ctx, b.stage.prefix, bundle)
	if err != nil {
		return memory{}, err
	}
	time.Sleep(rest)
	pid, err := r.pid(id)
	if err != nil {
		return memory{}, err
	}
	m, err := memoryOf(pid)
	return m, errors.Join(err, r.remove(ctx, id))
}

// memory is what a process uses, in KiB.
type memory struct {
	resident int
	share    int // resident pages, each divided by the number of processes that have it
}

// memoryOf reads smaps_rollup, which walks the page tables. VmRSS of status comes from counters that the kernel keeps for
// each processor and that may be tens of pages behind: proc_pid_status(5).
func memoryOf(pid int) (memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return memory{}, err
	}
	return parseRollup(string(text))
}

func parseRollup(text string) (m memory, err error) {
	fields := map[string]*int{"Rss:": &m.resident, "Pss:": &m.share}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 3 || fields[words[0]] == nil {
			continue
		}
		if *fields[words[0]], err = strconv.Atoi(words[1]); err != nil {
			return m, fmt.Errorf("smaps_rollup: %w", err)
		}
		delete(fields, words[0])
	}
	if len(fields) > 0 {
		return m, fmt.Errorf("smaps_rollup has no Rss or no Pss: %q", text)
	}
	return m, nil
}

// The limits of memory that measureFloor tries, and how often a container must run with one.
const (
	leastMemory = 64 << 10
	mostMemory  = 64 << 20
	floorTries  = 3
)

// measureFloor looks for the least memory that linux.resources.memory.limit may leave a container that runs true.
func measureFloor(ctx context.Context, b *bench) error {
	floor := b.figure(otherTable, "least memory limit with which `run` of true works", kibibytes, budget{nobody, 1024})
	for _, r := range b.runtimes {
		bytes, err := b.floor(ctx, r)
		if err != nil {
			return err
		}
		if bytes > 0 {
			floor.add(r.role, float64(bytes>>10))
		}
	}
	return nil
}

// floor returns 0 if none of the limits will do.
func (b *bench) floor(ctx context.Context, r *contestant) (int64, error) {
	for limit := int64(leastMemory); limit <= mostMemory; limit *= 2 {
		bundle, err := b.bundles.bundle(memoryLimit(limit), "true")
		if err != nil {
			return 0, err
		}
		works := true
		for range floorTries {
			if _, err := r.run(ctx, b.stage.prefix, bundle); err != nil {
				works = false
				break
			}
		}
		left, err := b.afterwards(ctx, r)
		if err != nil {
			return 0, err
		}
		if len(left) > 0 {
			b.note("%s, limited to %d KiB, left %s", r.version, limit>>10, left[0])
		}
		if works {
			return limit, nil
		}
	}
	return 0, nil
}
