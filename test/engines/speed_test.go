package engines

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSpeed times what people do with containers, with RUNTIME and, by turns in the same rounds, the runtimes that are installed. It
// prints a table of Markdown; `make bench-engines` runs it, and each engine is a subtest. HULL_TEST_SPEED says how many rounds, after one that isn't
// counted; 50 pods at once have a tenth of them, all of which count.
func TestSpeed(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("HULL_TEST_SPEED"))
	if err != nil || rounds < 1 {
		t.Skip("HULL_TEST_SPEED has no number of rounds")
	}
	before := loadAverage()
	all := contestants(t)
	peers := peersOf(all)
	runtimes := append(slices.Clone(all), peers...)
	s := &speed{rounds: rounds, columns: append(containerdContestants(t), peers...)}
	t.Run("podman", func(t *testing.T) {
		p := podman(t, all[0])
		release := releaseOf(p, "version", "-f", "{{.Client.Version}}")
		by := func(c contestant) client { return client{argv: []string{"podman", "--runtime", c.path}} }
		s.measure(t, "`podman run --rm --network=none` "+release, rounds, runtimes, func(c contestant) time.Duration {
			return timed(func() { by(c).ok(t, "run", "--rm", "--network=none", imageName, "true") })
		})
		s.execs(t, "`podman exec` "+release, runtimes, func(c contestant) (exec, remove func()) {
			id := by(c).ok(t, "run", "-d", "--network=none", imageName, "sleep", "1000")
			return func() { by(c).ok(t, "exec", id, "true") }, func() { by(c).ok(t, "rm", "-f", "-t0", id) }
		})
	})
	t.Run("docker", func(t *testing.T) {
		var options []string
		for _, c := range peers {
			if c.name != "runc" { // which Docker knows
				options = append(options, "--add-runtime="+c.name+"="+c.path)
			}
		}
		d := startDocker(t, "/run/dockerd-speed", options...)
		defer d.stop(t)
		release := releaseOf(d.client, "version", "-f", "{{.Server.Version}}")
		s.measure(t, "`docker run --rm --network=none` "+release, rounds, runtimes, func(c contestant) time.Duration {
			return timed(func() { d.ok(t, runArgs(c, "--rm", "--network=none", imageName, "true")...) })
		})
		s.execs(t, "`docker exec` "+release, runtimes, func(c contestant) (exec, remove func()) {
			id := d.ok(t, runArgs(c, "-d", "--network=none", imageName, "sleep", "1000")...)
			return func() { d.ok(t, "exec", id, "true") }, func() { d.ok(t, "rm", "-f", id) }
		})
	})
	for _, r := range releases() {
		t.Run("ctr-"+r.name, func(t *testing.T) {
			d := startContainerdWith(t, r, "/run/containerd-speed", s.columns)
			defer d.end(t, os.Interrupt)
			able, release := s.able(t, d, peers), d.release(t)
			s.measure(t, "`ctr run --rm` "+release, rounds, able, func(c contestant) time.Duration {
				return timed(func() { d.ok(t, "run", "--rm", c.runtime(), imageName, name("speed"), "true") })
			})
			s.execs(t, "`ctr task exec` "+release, able, func(c contestant) (exec, remove func()) {
				n := name("speed")
				d.ok(t, "run", "-d", c.runtime(), imageName, n, "sleep", "1000")
				return func() { d.ok(t, "task", "exec", "--exec-id", name("exec"), n, "true") }, func() {
					d.ok(t, "task", "rm", "-f", n)
					d.ok(t, "container", "rm", n)
				}
			})
		})
	}
	cri := func(t *testing.T) (*containerd, client, []contestant) {
		r := newestRelease()
		if !r.pods {
			t.Skip(containerdDir + " names no containerd")
		}
		d := startContainerdWith(t, r, "/run/containerd-speed", s.columns)
		crictl := crictlOf(t, d)
		crictl.argv = append(crictl.argv, "--timeout", patience.String())
		return d, crictl, s.able(t, d, peers)
	}
	t.Run("crictl", func(t *testing.T) {
		d, crictl, able := cri(t)
		defer d.end(t, os.Interrupt)
		start := func(c contestant) (p *pod, container string) {
			p = runPod(t, crictl, c, nil)
			return p, p.start(t, nil, "sleep", "1000")
		}
		s.measure(t, "crictl: a pod and its container, until that runs "+d.release(t), rounds, able, func(c contestant) time.Duration {
			var p *pod
			took := timed(func() { p, _ = start(c) })
			crictl.ok(t, "rmp", "-f", p.id)
			return took
		})
		s.execs(t, "`crictl exec -s` "+d.release(t), able, func(c contestant) (exec, remove func()) {
			p, container := start(c)
			return func() { crictl.ok(t, "exec", "-s", container, "true") }, func() { crictl.ok(t, "rmp", "-f", p.id) }
		})
	})
	t.Run("pods", func(t *testing.T) {
		d, crictl, able := cri(t)
		defer d.end(t, os.Interrupt)
		s.measure(t, "crictl: 50 pods at once, until all of them run "+d.release(t), -(rounds+9)/10, able, func(c contestant) time.Duration {
			took, ids := podsAtOnce(t, crictl, c, 50)
			crictl.ok(t, append([]string{"rmp", "-f"}, ids...)...)
			return took
		})
	})
	fmt.Printf("%d rounds by turns (of 50 pods %d), at a load of %s before and %s after; ms, least / **median**.\n\n%s\n",
		rounds, (rounds+9)/10, before, loadAverage(), s.table())
}

// release is what a containerd says of itself, in parentheses.
func (c *containerd) release(t testing.TB) string {
	version := strings.Fields(c.ok(t, "--version"))
	release, _, _ := strings.Cut(strings.TrimPrefix(version[len(version)-1], "v"), "+")
	return "(" + release + ")"
}

// able are the columns but for peers that can't run what this containerd asks for: Debian 12's crun takes no configuration of a new one.
func (s *speed) able(t testing.TB, d *containerd, peers []contestant) []contestant {
	return slices.DeleteFunc(slices.Clone(s.columns), func(c contestant) bool {
		return slices.Contains(peers, c) && d.run(t, "run", "--rm", c.runtime(), imageName, name("speed"), "true").code != 0
	})
}

// execs adds a row of commands in containers that run: start makes one.
func (s *speed) execs(t *testing.T, what string, all []contestant, start func(c contestant) (exec, remove func())) {
	t.Helper()
	execs := make(map[string]func())
	for _, c := range all {
		exec, remove := start(c)
		defer remove()
		execs[c.name] = exec
	}
	s.measure(t, what, s.rounds, all, func(c contestant) time.Duration { return timed(execs[c.name]) })
}

// peersOf are the runtimes that are installed, beside those that are tested.
func peersOf(all []contestant) (peers []contestant) {
	for _, name := range []string{"runc", "crun"} {
		if path, err := exec.LookPath(name); err == nil && all[0].name != name {
			peers = append(peers, contestant{name, path})
		}
	}
	return peers
}

// releaseOf is what an engine says of its release, in parentheses.
func releaseOf(c client, args ...string) string {
	out, _ := exec.Command(c.argv[0], append(slices.Clone(c.argv[1:]), args...)...).Output()
	release, _, _ := strings.Cut(strings.TrimSpace(string(out)), "+") // without what Debian has made of it
	return "(" + release + ")"
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

func timed(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

// speed is a table of times.
type speed struct {
	rounds  int
	columns []contestant
	rows    []string
}

// measure adds a row: the times of those, in rounds after one that isn't counted. Fewer than none are rounds that are all counted.
func (s *speed) measure(t *testing.T, what string, rounds int, all []contestant, run func(c contestant) time.Duration) {
	t.Helper()
	took := make(map[string][]time.Duration)
	first := 1
	if rounds < 0 {
		rounds, first = -rounds, 0
	}
	for round := range first + rounds {
		for _, c := range all {
			if d := run(c); round >= first {
				took[c.name] = append(took[c.name], d)
			}
		}
	}
	s.add(what, took)
	t.Log(s.rows[len(s.rows)-1])
}

func (s *speed) add(what string, took map[string][]time.Duration) {
	row := "| " + what + " |"
	for _, c := range s.columns {
		times := slices.Sorted(slices.Values(took[c.name]))
		if len(times) == 0 {
			row += " – |"
			continue
		}
		row += fmt.Sprintf(" %d / **%d** |", times[0].Milliseconds(), times[len(times)/2].Milliseconds())
	}
	s.rows = append(s.rows, row)
}

func (s *speed) table() string {
	head, rule := "|  |", "| --- |"
	for _, c := range s.columns {
		title := map[string]string{"hull-s": "hull, sandbox", "shim": "hull's shim", "shim-sandbox": "hull's shim, sandbox"}[c.name]
		if title == "" {
			title = c.name
			if out, err := exec.Command(c.path, "--version").Output(); err == nil && c.name != "hull" {
				if _, version, ok := strings.Cut(strings.SplitN(string(out), "\n", 2)[0], "version "); ok {
					version, _, _ = strings.Cut(version, "+")
					title = c.name + " " + version
				}
			}
		}
		head, rule = head+" "+title+" |", rule+" --- |"
	}
	return head + "\n" + rule + "\n" + strings.Join(s.rows, "\n")
}

func TestSpeedTable(t *testing.T) {
	s := &speed{columns: []contestant{{"hull", "/no/hull"}, {"shim", "io.containerd.hull.v1"}}}
	s.add("`x`", map[string][]time.Duration{"hull": {30 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond}})
	const want = "|  | hull | hull's shim |\n| --- | --- | --- |\n| `x` | 10 / **20** | – |"
	if got := s.table(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
