package hull_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
	"hull/internal/sandbox/wire"
)

// limitedTo returns limits as configurations and updates have them, where pids leaves room for the sandbox's kernel, too.
func limitedTo(memory, quota, pids int64) *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory},
		CPU:    &specs.LinuxCPU{Quota: &quota, Period: ptr(uint64(100_000))},
		Pids:   &specs.LinuxPids{Limit: &pids},
	}
}

// withLimits gives a configuration these limits beside its devices.
func withLimits(memory, quota, pids int64) func(*specs.Spec) {
	return resources(func(r *specs.LinuxResources) {
		l := limitedTo(memory, quota, pids)
		r.Memory, r.CPU, r.Pids = l.Memory, l.CPU, l.Pids
	})
}

// writableCgroup has programs write to what they see of cgroups.
func writableCgroup(s *specs.Spec) {
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	s.Mounts[i].Options = []string{"nosuid", "nodev", "noexec"} // not ro
}

func noCgroupNamespace(s *specs.Spec) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace })
}

// showsLimits looks at where programs look for their limits.
func showsLimits(t *testing.T, c *hull.Container, memory, quota, pids int64) {
	t.Helper()
	const dir = "/sys/fs/cgroup/"
	for file, want := range map[string]string{
		dir + "memory.max": fmt.Sprint(memory), dir + "cpu.max": fmt.Sprint(quota, 100_000), dir + "pids.max": fmt.Sprint(pids),
		"/proc/self/cgroup": "0::/",
	} {
		says(t, exec1(t, c, verb("cat", file)), want)
	}
	for file, most := range map[string]int64{"memory.current": memory, "pids.current": pids} {
		text := strings.TrimSpace(exec1(t, c, verb("cat", dir+file)).Out)
		if n, err := strconv.ParseInt(text, 10, 64); err != nil || n < 1 || n > most {
			t.Errorf("%s: %q", file, text)
		}
	}
	if total := memoryTotal(t, exec1(t, c, verb("cat", "/proc/meminfo"))); total != memory {
		t.Errorf("/proc/meminfo tells of %d bytes, want %d", total, memory)
	}
}

// memoryTotal returns what /proc/meminfo says of all memory.
func memoryTotal(t *testing.T, meminfo outcome) (bytes int64) {
	t.Helper()
	if _, err := fmt.Sscanf(meminfo.Out, "MemTotal: %d kB", &bytes); err != nil {
		t.Fatalf("%+v: %v", meminfo, err)
	}
	return bytes << 10
}

// The first container finds its own limits where programs look for them, whatever its sandbox comes from; they follow an update, and
// programs can't change them.
func TestSandboxCgroup(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	parked := pooled(t, 1)
	for name, tt := range map[string]struct {
		r     *hull.Runtime
		edits []func(*specs.Spec)
	}{
		"own":                    {newRuntime(t), nil},
		"of a pool":              {parked, nil},
		"of a pod":               {newRuntime(t), []func(*specs.Spec){ofPod("sandbox", "box")}},
		"without a namespace":    {newRuntime(t), []func(*specs.Spec){noCgroupNamespace}},
		"writable":               {newRuntime(t), []func(*specs.Spec){writableCgroup}},
		"writable, of a pool":    {parked, []func(*specs.Spec){writableCgroup}},
		"writable, no namespace": {newRuntime(t), []func(*specs.Spec){noCgroupNamespace, writableCgroup}},
	} {
		t.Run(name, func(t *testing.T) {
			edits := append([]func(*specs.Spec){args("sleep", "3600"), withLimits(256<<20, 150_000, 500)}, tt.edits...)
			c, err := tt.r.Run(t.Context(), "box", hull.CreateOptions{Bundle: hulltest.Bundle(t, edits...)})
			if err != nil {
				t.Fatal(errorText(err))
			}
			remove(t, tt.r, c)
			showsLimits(t, c, 256<<20, 150_000, 500)
			if err := c.Update(hull.UpdateOptions{Resources: limitedTo(320<<20, 50_000, 400)}); err != nil {
				t.Fatal(errorText(err))
			}
			showsLimits(t, c, 320<<20, 50_000, 400)
			for _, file := range []string{"memory.max", "pids.max", "cpu.max", "cgroup.max.depth", "cgroup.max.descendants"} {
				got, err := tryExec(t, c, verb("write", "/sys/fs/cgroup/"+file, "max"))
				if err != nil || got.Status == "0" {
					t.Errorf("%s: %+v, %v", file, got, err)
				}
			}
			if err := c.Delete(t.Context(), hull.DeleteOptions{Force: true}); err != nil {
				t.Error(errorText(err))
			}
		})
	}
}

// Without limits there are none to be seen. That of processes is the container's: its kernel's threads are none of these.
func TestSandboxCgroupWithoutLimits(t *testing.T) {
	c := runningIn(t, newRuntime(t), args("sleep", "3600"))
	for file, want := range map[string]string{"memory.max": "max", "cpu.max": "max 100000", "pids.max": "max"} {
		says(t, exec1(t, c, verb("cat", "/sys/fs/cgroup/"+file)), want)
	}
	out := newSpeaker(t)
	spec := c.ProcessSpec()
	spec.Args = hulltest.Args("spawn", "3")
	p, err := c.Exec(t.Context(), hull.ExecOptions{Process: spec, Stdio: hull.Stdio{Out: out.W}})
	if err != nil {
		t.Fatal(errorText(err))
	}
	out.want("ready")
	// The kernel holds a limit by what it counts, which the host's of the whole sandbox leaves room for.
	setInside(t, c, "pids.max", fmt.Sprint(inside(t, c).Pids+20))
	got, err := tryExec(t, c, verb("spawn", "40"))
	if text := fmt.Sprint(got, err); !strings.Contains(text, "resource temporarily unavailable") && !strings.Contains(text, "errno=11") { // as Go says it of threads
		t.Errorf("40 processes where 20 are allowed: %s", text)
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	wait(t, p)
}

// setInside has a container's kernel set a limit that the host's knows nothing of.
func setInside(t *testing.T, c *hull.Container, file, value string) {
	t.Helper()
	conn, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(conn)
	if err := unix.Connect(conn, &unix.SockaddrUnix{Name: filepath.Join(c.Dir(), wire.Control)}); err != nil {
		t.Fatal(err)
	}
	if err := wire.Send(conn, wire.Request{Op: wire.Update, Container: c.ID(), Limits: map[string]string{file: value}}); err != nil {
		t.Fatal(err)
	}
	var reply wire.Reply
	if _, err := wire.Receive(conn, &reply, 0); err != nil || reply.Failure != nil {
		t.Fatal(reply.Failure, err)
	}
}

// An update that the container's kernel doesn't hear of fails, and says what holds.
func TestSandboxCgroupUpdateUnheard(t *testing.T) {
	c := runningIn(t, newRuntime(t), args("sleep", "3600"), withLimits(256<<20, 150_000, 500))
	socket := filepath.Join(c.Dir(), wire.Control)
	if err := os.Rename(socket, socket+".away"); err != nil {
		t.Fatal(err)
	}
	err := c.Update(hull.UpdateOptions{Resources: limitedTo(320<<20, 150_000, 500)})
	if err == nil || !strings.Contains(errorText(err), "the host's cgroup has the new limits already") {
		t.Errorf("%v", err)
	}
	if s, err := c.Stats(); err == nil && s.Memory.Usage.Limit != 320<<20 {
		t.Errorf("%+v", s.Memory)
	}
	if err := os.Rename(socket+".away", socket); err != nil {
		t.Fatal(err)
	}
	showsLimits(t, c, 256<<20, 150_000, 500)
	if err := c.Update(hull.UpdateOptions{Resources: limitedTo(320<<20, 150_000, 500)}); err != nil {
		t.Fatal(errorText(err))
	}
	showsLimits(t, c, 320<<20, 150_000, 500)
}

// The kernel of a sandbox that the host has frozen is not waited for.
func TestSandboxCgroupUpdateFrozen(t *testing.T) {
	c, freeze, thaw := runningBelow(t)
	freeze()
	began := time.Now()
	err := c.Update(hull.UpdateOptions{Resources: limitedTo(320<<20, 150_000, 500)})
	thaw()
	refused(t, err, hull.ErrBadState, "update box", "in the sandbox's kernel", "frozen")
	if took := time.Since(began); took > hulltest.Patient(5*time.Second) {
		t.Errorf("it takes %v", took)
	}
}

// A container that is restored has the limits of where it is restored, and they follow an update.
func TestSandboxCgroupRestored(t *testing.T) {
	r := newRuntime(t)
	image := filepath.Join(t.TempDir(), "image")
	bundle := func(edit func(*specs.Spec)) string {
		return hulltest.Bundle(t, args("sleep", "3600"), writableCgroup, edit)
	}
	first := bundle(withLimits(256<<20, 150_000, 500))
	c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: first})
	if err != nil {
		t.Fatal(errorText(err))
	}
	remove(t, r, c)
	showsLimits(t, c, 256<<20, 150_000, 500)
	checkpoint(t, c, image, true)
	showsLimits(t, c, 256<<20, 150_000, 500) // it goes on
	checkpoint(t, c, filepath.Join(t.TempDir(), "again"), false)
	c = restore(t, r, "box", hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: first}, ImageOptions: hull.ImageOptions{Path: image}})
	showsLimits(t, c, 256<<20, 150_000, 500)
	if err := c.Update(hull.UpdateOptions{Resources: limitedTo(320<<20, 50_000, 400)}); err != nil {
		t.Fatal(errorText(err))
	}
	showsLimits(t, c, 320<<20, 50_000, 400)
	if got, err := tryExec(t, c, verb("write", "/sys/fs/cgroup/memory.max", "max")); err != nil || got.Status == "0" {
		t.Errorf("%+v, %v", got, err)
	}
	// Saved once more, and restored without limits: those that there were are gone.
	again := filepath.Join(t.TempDir(), "image")
	checkpoint(t, c, again, false)
	c = restore(t, r, "box", hull.RestoreOptions{CreateOptions: hull.CreateOptions{Bundle: bundle(func(*specs.Spec) {})}, ImageOptions: hull.ImageOptions{Path: again}})
	for file, want := range map[string]string{"memory.max": "max", "cpu.max": "max 100000", "pids.max": "max"} {
		says(t, exec1(t, c, verb("cat", "/sys/fs/cgroup/"+file)), want)
	}
}

// The first container of a pod has a cgroup of its own beside those of the others, which it neither sees nor reaches, also by what
// it mounts itself.
func TestSandboxPodCgroups(t *testing.T) {
	r, pod := newPod(t, writableCgroup, withLimits(512<<20, 200_000, 1000), func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/again", Type: "cgroup2", Source: "cgroup2"})
	})
	c := runningMember(t, r, pod, "a", withLimits(64<<20, 150_000, 50))
	for _, dir := range []string{"/sys/fs/cgroup", "/again"} {
		if names := exec1(t, pod, verb("ls", dir)).Out; strings.Contains(names, "container-") || !strings.Contains(names, "memory.max") {
			t.Errorf("%s: %q", dir, names)
		}
	}
	if got, err := tryExec(t, pod, verb("write", "/sys/fs/cgroup/cgroup.subtree_control", "-memory")); err != nil || got.Status != "0" {
		t.Errorf("%+v, %v", got, err) // what is below its own
	}
	for _, of := range []struct {
		c            *hull.Container
		memory, pids string
	}{{pod, "536870912", "1000"}, {c, "67108864", "50"}} {
		says(t, exec1(t, of.c, verb("cat", "/sys/fs/cgroup/memory.max")), of.memory)
		says(t, exec1(t, of.c, verb("cat", "/sys/fs/cgroup/pids.max")), of.pids)
	}
	got, err := tryExec(t, c, verb("hold", "200000000"))
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, "signal SIGKILL", got.Status)
	wantStatus(t, pod, hull.Running)
}

// A command's limit of memory is what its programs are told that there is.
func TestSandboxCgroupOfACommand(t *testing.T) {
	hulltest.Require(t, hulltest.Command("cat"))
	cmd := hull.CommandContext(t.Context(), "cat", "/proc/meminfo")
	cmd.Runtime, cmd.Dir, cmd.Limits.Memory = newRuntime(t), "/", 256<<20
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(errorText(err))
	}
	expect(t, 256<<20, memoryTotal(t, outcome{Out: string(out)}))
}
