package metrics

import (
	"io"
	"strconv"
	"strings"
	"time"

	"hull"
	"hull/internal/sandbox/wire"
)

// patience is how long one container has to answer.
const patience = 5 * time.Second

// sample is what one container says.
type sample struct {
	hull.State
	stats *hull.Stats // or nil: it has not answered, or has stopped
	fails bool        // it should have answered
}

// inside is what a sandbox's kernel counts; or nil.
func (s *sample) inside() *wire.Usage {
	if s.stats == nil {
		return nil
	}
	u, _ := s.stats.Inside.(*wire.Usage)
	return u
}

// family is a metric: of each container those samples that there are.
type family struct {
	name, typ, help string
	of              func(s *sample, put func(value float64, labels ...string))
}

const second = 1e9 // nanoseconds

// unlimited is from where on a limit is none: cgroup v1 has the largest number of pages.
const unlimited = 1 << 62

var families = []family{
	{"hull_container_info", "gauge", "What the container is.", func(s *sample, put func(float64, ...string)) {
		put(1, "isolation", string(s.Isolation))
	}},
	{"hull_container_status", "gauge", "In which state the container is.", func(s *sample, put func(float64, ...string)) {
		put(1, "status", string(s.Status))
	}},
	{"hull_container_created_timestamp_seconds", "gauge", "When the container was created.", func(s *sample, put func(float64, ...string)) {
		put(float64(s.Created.UnixNano()) / second)
	}},
	{"hull_container_answers", "gauge", "Whether it could be told what the container uses; of those that have not stopped.", func(s *sample, put func(float64, ...string)) {
		switch {
		case s.stats != nil:
			put(1)
		case s.fails:
			put(0)
		}
	}},
	{"hull_container_cpu_seconds_total", "counter", "CPU time, with that of a sandbox's kernel.", of(func(s *hull.Stats, put func(float64, ...string)) {
		put(float64(s.CPU.Usage.User)/second, "mode", "user")
		put(float64(s.CPU.Usage.Kernel)/second, "mode", "system")
	})},
	{"hull_container_cpu_throttled_seconds_total", "counter", "Time for which the limit of CPU time has stopped the container.", of(func(s *hull.Stats, put func(float64, ...string)) {
		put(float64(s.CPU.Throttling.ThrottledTime) / second)
	})},
	{"hull_container_memory_bytes", "gauge", "Memory, with that of a sandbox's kernel.", of(func(s *hull.Stats, put func(float64, ...string)) {
		put(float64(s.Memory.Usage.Usage))
	})},
	{"hull_container_memory_limit_bytes", "gauge", "Limit of the memory, if there is one.", of(func(s *hull.Stats, put func(float64, ...string)) {
		if l := s.Memory.Usage.Limit; l != 0 && l < unlimited {
			put(float64(l))
		}
	})},
	{"hull_container_pids", "gauge", "Processes and threads on the host.", of(func(s *hull.Stats, put func(float64, ...string)) {
		put(float64(s.Pids.Current))
	})},
	{"hull_container_pids_limit", "gauge", "Limit of the processes and threads on the host, if there is one.", of(func(s *hull.Stats, put func(float64, ...string)) {
		if s.Pids.Limit != 0 {
			put(float64(s.Pids.Limit))
		}
	})},
	{"hull_sandbox_cpu_seconds_total", "counter", "CPU time of the programs in a sandbox, as its kernel counts it.", inside(func(u *wire.Usage, put func(float64, ...string)) {
		put(float64(u.CPU.User)/second, "mode", "user")
		put(float64(u.CPU.Kernel)/second, "mode", "system")
	})},
	{"hull_sandbox_memory_bytes", "gauge", "Memory of the programs in a sandbox, as its kernel counts it.", inside(func(u *wire.Usage, put func(float64, ...string)) {
		put(float64(u.Memory))
	})},
	{"hull_sandbox_pids", "gauge", "Processes and threads in a sandbox.", inside(func(u *wire.Usage, put func(float64, ...string)) {
		put(float64(u.Pids))
	})},
}

func of(f func(*hull.Stats, func(float64, ...string))) func(*sample, func(float64, ...string)) {
	return func(s *sample, put func(float64, ...string)) {
		if s.stats != nil {
			f(s.stats, put)
		}
	}
}

func inside(f func(*wire.Usage, func(float64, ...string))) func(*sample, func(float64, ...string)) {
	return func(s *sample, put func(float64, ...string)) {
		if u := s.inside(); u != nil {
			f(u, put)
		}
	}
}

// write writes the text form of Prometheus (exposition format 0.0.4).
func (h *handler) write(w io.Writer) error {
	samples, err := h.collect()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, f := range families {
		b.WriteString("# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " " + f.typ + "\n")
		for _, s := range samples {
			f.of(s, func(value float64, labels ...string) {
				b.WriteString(f.name + `{id="` + quoted(s.ID) + `"`)
				for i := 0; i < len(labels); i += 2 {
					b.WriteString("," + labels[i] + `="` + quoted(labels[i+1]) + `"`)
				}
				b.WriteString("} " + strconv.FormatFloat(value, 'g', -1, 64) + "\n")
			})
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

var quotation = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

func quoted(s string) string { return quotation.Replace(s) }

// collect asks all containers at once. One that doesn't answer in time is left alone until it has.
func (h *handler) collect() ([]*sample, error) {
	h.turn.Lock()
	defer h.turn.Unlock()
	states, err := h.runtime.List()
	if err != nil {
		return nil, err
	}
	type answer struct {
		at    int
		stats *hull.Stats
		err   error
	}
	answers := make(chan answer, len(states))
	samples := make([]*sample, len(states))
	waiting := 0
	h.mu.Lock()
	if h.busy == nil {
		h.busy = make(map[string]bool)
	}
	for i, s := range states {
		samples[i] = &sample{State: s, fails: s.Status != hull.Stopped && s.Status != hull.Creating}
		if !samples[i].fails || h.busy[s.ID] {
			continue
		}
		h.busy[s.ID] = true
		waiting++
		go func() {
			c, err := h.runtime.Container(s.ID)
			var stats *hull.Stats
			if err == nil {
				stats, err = c.Stats()
			}
			h.mu.Lock()
			delete(h.busy, s.ID)
			h.mu.Unlock()
			answers <- answer{i, stats, err}
		}()
	}
	h.mu.Unlock()
	for timeout := time.After(patience); waiting > 0; waiting-- {
		select {
		case a := <-answers:
			if a.err != nil {
				h.complain(a.err.Error())
				continue
			}
			samples[a.at].stats = a.stats
		case <-timeout:
			return samples, nil
		}
	}
	return samples, nil
}
