package engines

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"
)

// TestSpeed times a whole container, as people start it, with RUNTIME and, in the same rounds, the runtimes that are installed. It
// is run by hand: HULL_TEST_SPEED says how many rounds, after one that isn't counted.
func TestSpeed(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("HULL_TEST_SPEED"))
	if err != nil {
		t.Skip("HULL_TEST_SPEED has no number of rounds")
	}
	all := contestants(t)
	for _, name := range []string{"runc", "crun"} {
		if path, err := exec.LookPath(name); err == nil && all[0].name != name {
			all = append(all, contestant{name, path})
		}
	}
	p := podman(t, all[0])
	var options []string
	for _, c := range all[len(contestants(t)):] {
		if c.name != "runc" {
			options = append(options, "--add-runtime="+c.name+"="+c.path)
		}
	}
	d := startDocker(t, "/run/dockerd-speed", options...)
	defer d.stop(t)
	ctrd := startContainerd(t, releases()[0], "/run/containerd-speed")
	defer ctrd.end(t, os.Interrupt)
	for _, how := range []struct {
		name string
		run  func(c contestant)
	}{
		{"podman run --rm --network=none", func(c contestant) {
			p.argv = []string{"podman", "--runtime", c.path}
			p.ok(t, "run", "--rm", "--network=none", imageName, "true")
		}},
		{"docker run --rm --network=none", func(c contestant) { d.ok(t, runArgs(c, "--rm", "--network=none", imageName, "true")...) }},
		{"ctr run --rm", func(c contestant) { ctrd.ok(t, "run", "--rm", c.runtime(), imageName, name("speed"), "true") }},
	} {
		took := make([][]time.Duration, len(all))
		for round := range rounds + 1 {
			for i, c := range all {
				begin := time.Now()
				how.run(c)
				if round > 0 {
					took[i] = append(took[i], time.Since(begin))
				}
			}
		}
		for i, c := range all {
			slices.Sort(took[i])
			t.Logf("%s: %s: least %d, median %d ms", how.name, c.name, took[i][0].Milliseconds(), took[i][rounds/2].Milliseconds())
		}
	}
}
