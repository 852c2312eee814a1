package engines

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"hull/hulltest"
)

// counts prints numbers. One that goes on where it was doesn't begin again.
const counts = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"

// last waits until a counter has printed a number greater than after, and returns it.
func last(t *testing.T, c client, after int, logs ...string) (n int) {
	t.Helper()
	var out string
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		out = c.ok(t, logs...)
		lines := strings.Fields(out)
		if len(lines) == 0 {
			continue
		}
		var err error
		if n, err = strconv.Atoi(lines[len(lines)-1]); err == nil && n > after {
			if again := strings.Count("\n"+out, "\n0\n"); again > 1 {
				t.Errorf("it has begun %d times", again)
			}
			return n
		}
	}
	t.Fatalf("%v: nothing after %d in:\n%s", logs, after, out)
	return 0
}

// TestPodmanCheckpoint saves a container, and restores it: the same, and another one by an archive.
func TestPodmanCheckpoint(t *testing.T) {
	long(t)
	each(t, func(t *testing.T, c contestant) {
		p := podman(t, c)
		hulltest.Require(t, hulltest.CRIU)
		if c.sandbox() {
			t.Skip("Podman looks for CRIU's files in what the runtime has saved")
		}
		clean(t)
		n := p.name(t, "saved")
		p.ok(t, "run", "-d", "--name", n, "--network=none", imageName, "sh", "-c", counts)
		was := last(t, p, 3, "logs", n)
		p.ok(t, "container", "checkpoint", n)
		p.says(t, "false true", "inspect", "-f", "{{.State.Running}} {{.State.Checkpointed}}", n)
		p.ok(t, "container", "restore", n)
		was = last(t, p, was+3, "logs", n)
		p.says(t, "in it", "exec", n, "echo", "in it")
		archive := "/var/tmp/" + n + ".tar.gz"
		p.ok(t, "container", "checkpoint", "--leave-running", "--export", archive, n)
		last(t, p, was+3, "logs", n)
		p.ok(t, "rm", "-f", "-t0", n)
		other := p.name(t, "restored")
		p.ok(t, "container", "restore", "--import", archive, "--name", other)
		last(t, p, was, "logs", other)
		p.ok(t, "rm", "-f", "-t0", other)
		if err := os.Remove(archive); err != nil {
			t.Error(err)
		}
	})
}

// TestDockerCheckpoint saves a container and starts it where it was saved, twice. Docker has that as an experiment.
func TestDockerCheckpoint(t *testing.T) {
	need(t, "dockerd", "docker", "containerd")
	hulltest.Require(t, hulltest.CRIU)
	long(t)
	d := startDocker(t, "/run/dockerd-saving", "--experimental", "--bridge=none")
	defer d.stop(t)
	// Since 28 it looks for the network namespace of process 0 then, with every runtime.
	starts := !strings.HasPrefix(d.ok(t, "version", "-f", "{{.Server.Version}}"), "28.")
	each(t, func(t *testing.T, c contestant) {
		clean(t)
		n := d.name(t, "saved")
		d.ok(t, runArgs(c, "-d", "--name", n, "--network=none", imageName, "sh", "-c", counts)...)
		was := last(t, d.client, 3, "logs", n)
		for i := range 2 {
			if !starts {
				break
			}
			point := fmt.Sprint("point", i)
			d.ok(t, "checkpoint", "create", n, point)
			d.become(t, "exited", "inspect", "-f", "{{.State.Status}}", n)
			d.ok(t, "start", "--checkpoint", point, n)
			was = last(t, d.client, was+3, "logs", n)
		}
		d.ok(t, "checkpoint", "create", "--leave-running", n, "running")
		last(t, d.client, was+3, "logs", n)
		d.says(t, "in it", "exec", n, "echo", "in it")
		d.ok(t, "rm", "-f", n)
	})
}

// TestContainerdCheckpoint saves a task in an image of containerd's, and restores another container by that.
func TestContainerdCheckpoint(t *testing.T) {
	long(t)
	eachContainerd(t, func(t *testing.T, d *containerd, c contestant) {
		hulltest.Require(t, hulltest.CRIU)
		n, saved := name("saved"), "localhost/"+name("point")+":latest"
		t.Cleanup(func() {
			if t.Failed() { // or all tests after it would find the container
				d.run(t, "task", "rm", "-f", n)
				d.run(t, "container", "rm", n)
			}
		})
		d.ok(t, "run", "-d", c.runtime(), imageName, n, "sh", "-c", strings.Replace(counts, "echo $i", "echo $i >>/n", 1))
		was := last(t, d.client, 3, "task", "exec", "--exec-id=e1", n, "cat", "/n")
		d.ok(t, "container", "checkpoint", "--task", "--rw", "--image", n, saved)
		d.ok(t, "task", "rm", "-f", n)
		d.ok(t, "container", "rm", n)
		d.ok(t, "container", "restore", "--rw", "--live", n, saved)
		last(t, d.client, was+3, "task", "exec", "--exec-id=e2", n, "cat", "/n")
		d.ok(t, "task", "rm", "-f", n)
		d.ok(t, "container", "rm", n)
		d.ok(t, "image", "rm", saved)
	})
}
