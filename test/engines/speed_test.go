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

// TestSpeed times a whole container as people start it, with RUNTIME and, by turns in the same rounds, the runtimes that are installed. It
// prints a table of Markdown; `make bench-engines` runs it. HULL_TEST_SPEED says how many rounds, after one that isn't counted; 50 pods at
// once have a tenth of them, all of which count.
func TestSpeed(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("HULL_TEST_SPEED"))
	if err != nil || rounds < 1 {
		t.Skip("HULL_TEST_SPEED has no number of rounds")
	}
	before := loadAverage()
	all := contestants(t)
	peers := peersOf(all)
	var options []string
	for _, c := range peers {
		if c.name != "runc" { // which Docker knows
			options = append(options, "--add-runtime="+c.name+"="+c.path)
		}
	}
	runtimes := append(slices.Clone(all), peers...)
	withShims := append(containerdContestants(t), peers...)
	p := podman(t, all[0])
	d := startDocker(t, "/run/dockerd-speed", options...)
	defer d.stop(t)
	s := &speed{columns: withShims}
	s.measure(t, "`podman run --rm --network=none` "+releaseOf(p, "version", "-f", "{{.Client.Version}}"), rounds, runtimes, func(c contestant) time.Duration {
		p.argv = []string{"podman", "--runtime", c.path}
		return timed(func() { p.ok(t, "run", "--rm", "--network=none", imageName, "true") })
	})
	s.measure(t, "`docker run --rm --network=none` "+releaseOf(d.client, "version", "-f", "{{.Server.Version}}"), rounds, runtimes, func(c contestant) time.Duration {
		return timed(func() { d.ok(t, runArgs(c, "--rm", "--network=none", imageName, "true")...) })
	})
	var able []contestant
	for _, r := range releases() {
		ctrd := startContainerdWith(t, r, "/run/containerd-speed-"+r.name, withShims)
		version := strings.Fields(ctrd.ok(t, "--version"))
		release, _, _ := strings.Cut(strings.TrimPrefix(version[len(version)-1], "v"), "+")
		// Debian 12's crun takes no configuration of a new containerd.
		able = slices.DeleteFunc(slices.Clone(withShims), func(c contestant) bool {
			return slices.Contains(peers, c) && ctrd.run(t, "run", "--rm", c.runtime(), imageName, name("speed"), "true").code != 0
		})
		s.measure(t, "`ctr run --rm` ("+release+")", rounds, able, func(c contestant) time.Duration {
			return timed(func() { ctrd.ok(t, "run", "--rm", c.runtime(), imageName, name("speed"), "true") })
		})
		ctrd.end(t, os.Interrupt)
	}
	if newest := newestRelease(); newest.pods {
		ctrd := startContainerdWith(t, newest, "/run/containerd-speed-pods", withShims)
		defer ctrd.end(t, os.Interrupt)
		crictl := crictlOf(t, ctrd)
		crictl.argv = append(crictl.argv, "--timeout", patience.String())
		s.measure(t, "crictl: a pod and its container, until that runs", rounds, able, func(c contestant) time.Duration {
			var p *pod
			took := timed(func() {
				p = runPod(t, crictl, c, nil)
				p.start(t, nil, "sleep", "1000")
			})
			crictl.ok(t, "rmp", "-f", p.id)
			return took
		})
		s.measure(t, "crictl: 50 pods at once, until all of them run", -(rounds+9)/10, able, func(c contestant) time.Duration {
			took, ids := podsAtOnce(t, crictl, c, 50)
			crictl.ok(t, append([]string{"rmp", "-f"}, ids...)...)
			return took
		})
	}
	fmt.Printf("%d rounds by turns (of 50 pods %d), at a load of %s before and %s after; ms, least / **median**.\n\n%s\n",
		rounds, (rounds+9)/10, before, loadAverage(), s.table())
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
