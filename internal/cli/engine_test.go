package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"hull/hulltest"
)

// Engines are told by words what went wrong. What they look for stands here as it does in them (docs/engines.md), so that a change of
// the words that one of them would take for something else fails here.

// dockerStatus is what `docker run` ends with when a container can't be started, by what containerd's shim has read in the log:
// setExitCodeFromError of 29, and the table of its command line. 20.10 differs in that the last that matches counts.
func dockerStatus(message string) int {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(strings.ToLower(message), w) })
	}
	switch {
	case has("permission denied", "is a directory"):
		return 126
	case has("not a directory", "executable file not found", "no such file or directory"):
		return 127
	}
	return 125
}

// podmanStatus is what `podman run` ends with, by what conmon has read of the runtime's standard error: getOCIRuntimeError, and
// DetermineExecErrorExitCode.
func podmanStatus(message string) int {
	switch {
	case regexp.MustCompile("(?i).*permission denied.*|.*operation not permitted.*").MatchString(message):
		return 126
	case regexp.MustCompile("(?i).*executable file not found in.*|.*no such file or directory.*|.*open executable.*").MatchString(message):
		return 127
	}
	return 126
}

// lastError is what runc's shim reads in the log: the message of the last line of the level error. Each line has to be JSON with a
// time, else it says that it can't tell.
func lastError(t *testing.T, log string) (message string) {
	t.Helper()
	f, err := os.Open(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for dec := json.NewDecoder(f); ; {
		var line struct {
			Level, Msg string
			Time       time.Time
		}
		if err := dec.Decode(&line); err == io.EOF {
			return message
		} else if err != nil {
			t.Fatalf("%s: %v", log, err)
		}
		if line.Level == "error" {
			message = line.Msg
		}
	}
}

// isolated runs a test in both isolations.
func isolated(t *testing.T, test func(t *testing.T, h host)) {
	t.Run("native", func(t *testing.T) { test(t, newHost(t)) })
	t.Run("sandbox", func(t *testing.T) {
		hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
		link := sandboxLink(t)
		if err := os.Symlink(hulltest.SandboxBinary(t), link); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(link) })
		t.Setenv("HULL_ISOLATION", "sandbox")
		test(t, newHost(t))
	})
}

// failed runs hull as runc's shim does, which must fail. It returns what that reads in the log, and standard error.
func (h host) failed(args ...string) (message, stderr string) {
	h.t.Helper()
	log := filepath.Join(h.t.TempDir(), "log.json")
	cmd := h.hull(append([]string{"--log", log, "--log-format", "json"}, args...)...)
	errs, err := os.CreateTemp(h.t.TempDir(), "stderr") // no pipe: a container that is made after all would keep it
	if err != nil {
		h.t.Fatal(err)
	}
	defer errs.Close()
	cmd.Stderr = errs
	if exit := (*exec.ExitError)(nil); !errors.As(cmd.Run(), &exit) {
		h.t.Fatalf("hull %q: no failure", args)
	}
	b, err := os.ReadFile(errs.Name())
	if err != nil {
		h.t.Fatal(err)
	}
	return lastError(h.t, log), string(b)
}

// badPrograms are those that can't be run, with runc's words for each and the statuses that Docker and Podman have to make of them.
// "" is a matter of execve: start says it, in a sandbox create.
var badPrograms = []struct {
	args           string
	words          string
	docker, podman int
}{
	{"nothing", `exec: "nothing": executable file not found in $PATH`, 127, 127},
	{"/bin/nothing", `exec: "/bin/nothing": stat /bin/nothing: no such file or directory`, 127, 127},
	{"bin/nothing", `exec: "bin/nothing": stat bin/nothing: no such file or directory`, 127, 127},
	{"/etc/plain", `exec: "/etc/plain": permission denied`, 126, 126},
	{"plain", `exec: "plain": permission denied`, 126, 126}, // in PATH; hull's words are a shell's here, and not runc's
	{"/etc", `exec: "/etc": permission denied`, 126, 126},
	{"/etc/plain/x", `exec: "/etc/plain/x": stat /etc/plain/x: not a directory`, 127, 126},
	{"/etc/script", `no such file or directory`, 127, 127},
	{"/etc/text", `exec format error`, 125, 126},
}

// fill puts them into a bundle.
func fill(t *testing.T, bundle string) {
	t.Helper()
	for name, text := range map[string]string{"etc/plain": "x", "bin/plain": "x", "etc/script": "#!/no/interpreter\n", "etc/text": "no magic"} {
		path := filepath.Join(bundle, "rootfs", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o755)
		if filepath.Base(name) == "plain" {
			mode = 0o644
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEnginesTellWhatCannotBeRun: from runc's words for it engines make the statuses 126 and 127, and all of them are read from the
// log as well as from standard error.
func TestEnginesTellWhatCannotBeRun(t *testing.T) {
	isolated(t, func(t *testing.T, h host) {
		running := hulltest.Bundle(t, args("sleep", "100"))
		fill(t, running)
		if err := h.hull("run", "-d", "-b", running, "running").Run(); err != nil {
			t.Fatal(err)
		}
		for i, bad := range badPrograms {
			tell := func(t *testing.T, command ...string) {
				h.t = t
				message, stderr := h.failed(command...)
				for _, told := range []string{message, stderr} {
					if !strings.Contains(told, bad.words) {
						t.Errorf("hull %s says %q, want %q", command[0], told, bad.words)
					}
				}
				if got := dockerStatus(message); got != bad.docker {
					t.Errorf("hull %s: %q makes Docker end with %d, want %d", command[0], message, got, bad.docker)
				}
				if got := podmanStatus(stderr); got != bad.podman {
					t.Errorf("hull %s: %q makes Podman end with %d, want %d", command[0], stderr, got, bad.podman)
				}
			}
			t.Run(bad.args+"/create", func(t *testing.T) {
				b := hulltest.Bundle(t, func(s *specs.Spec) { s.Process.Args = []string{bad.args} })
				fill(t, b)
				id, late := fmt.Sprintf("bad%d", i), strings.HasSuffix(bad.args, "script") || strings.HasSuffix(bad.args, "text")
				if late && os.Getenv("HULL_ISOLATION") == "" {
					if err := h.hull("create", "-b", b, id).Run(); err != nil {
						t.Fatal(err)
					}
					tell(t, "start", id)
					return
				}
				tell(t, "create", "-b", b, "--pid-file", filepath.Join(b, "pid"), id)
				if _, err := os.Stat(filepath.Join(b, "pid")); err == nil {
					t.Error("there is a pid file of what was not made")
				}
			})
			t.Run(bad.args+"/exec", func(t *testing.T) {
				dir := t.TempDir()
				process, err := json.Marshal(specs.Process{Args: []string{bad.args}, Cwd: "/", Env: []string{"PATH=/bin"}})
				if err != nil {
					t.Fatal(err)
				}
				file, pid := filepath.Join(dir, "process"), filepath.Join(dir, "pid")
				if err := os.WriteFile(file, process, 0o600); err != nil {
					t.Fatal(err)
				}
				tell(t, "exec", "--process", file, "--detach", "--pid-file", pid, "running")
				// By a missing pid file conmon tells a runtime that failed from a command that did.
				if _, err := os.Stat(pid); err == nil {
					t.Error("there is a pid file of what was not started")
				}
			})
		}
	})
}

// TestEnginesTellStates: runc's shim and CRI-O know by these words, of standard error, that what they want to stop or remove has
// ended or gone, and Podman that it has gone. With others a container stays for ever in whichever state they believe it is in.
func TestEnginesTellStates(t *testing.T) {
	isolated(t, func(t *testing.T, h host) {
		for _, command := range [][]string{{"state", "x"}, {"kill", "x", "9"}, {"kill", "--all", "x", "9"}, {"delete", "x"}, {"start", "x"}, {"exec", "x", "true"}, {"pause", "x"}} {
			if message, stderr := h.failed(command...); !strings.Contains(message, "does not exist") || !strings.Contains(stderr, "does not exist") {
				t.Errorf("%v: says %q, and in the log %q, want that it does not exist", command, stderr, message)
			}
		}
		h.output("delete", "--force", "x") // no error: it may have been deleted by another
		b := hulltest.Bundle(t, args("sleep", "100"))
		if err := h.hull("run", "-d", "-b", b, "x").Run(); err != nil {
			t.Fatal(err)
		}
		if message, stderr := h.failed("create", "-b", b, "x"); !strings.Contains(message, "already exists") || !strings.Contains(stderr, "already exists") {
			t.Errorf("create: says %q, and in the log %q, want that it already exists", stderr, message)
		}
		h.output("kill", "x", "9")
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if strings.Contains(h.output("state", "x"), `"status": "stopped"`) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("it doesn't end")
			}
		}
		// checkKillError of runc's shim makes "not found" of these; anything else is an unknown error, and no stop succeeds.
		if message, stderr := h.failed("kill", "x", "9"); !strings.Contains(message, "container not running") || !strings.Contains(stderr, "container not running") {
			t.Errorf("kill: says %q, and in the log %q, want that the container is not running", stderr, message)
		}
		h.output("kill", "--all", "x", "9") // killall at the end of a container without a pid namespace
		h.output("delete", "x")             // without force, as runc's shim and Buildah do
	})
}

// TestEnginesReadForms decodes what hull prints into what engines decode it into.
func TestEnginesReadForms(t *testing.T) {
	isolated(t, func(t *testing.T, h host) {
		b := hulltest.Bundle(t, args("sleep", "100"))
		before := time.Now().Add(-time.Minute)
		if err := h.hull("create", "-b", b, "--pid-file", filepath.Join(b, "pid"), "x").Run(); err != nil {
			t.Fatal(err)
		}
		pidFile, err := os.ReadFile(filepath.Join(b, "pid"))
		if err != nil {
			t.Fatal(err)
		}
		decode := func(into any, args ...string) {
			t.Helper()
			if err := json.Unmarshal([]byte(h.output(args...)), into); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
		}
		// go-runc's Container; Podman and Buildah read specs.State, CRI-O that and created.
		type container struct {
			Version     string `json:"ociVersion"`
			ID          string
			Pid         int
			Status      specs.ContainerState
			Bundle      string
			Rootfs      string
			Created     time.Time
			Annotations map[string]string
		}
		check := func(got container, want specs.ContainerState) {
			t.Helper()
			if got.ID != "x" || got.Status != want || got.Bundle != b || got.Rootfs == "" || got.Version == "" {
				t.Errorf("%+v, want x to be %s", got, want)
			}
			if fmt.Sprint(got.Pid) != string(pidFile) {
				t.Errorf("pid %d, and in the pid file %q", got.Pid, pidFile)
			}
			if got.Created.Before(before) || got.Created.After(time.Now()) {
				t.Errorf("created at %v", got.Created)
			}
		}
		var state container
		decode(&state, "state", "x")
		check(state, specs.StateCreated)
		h.output("start", "x")
		decode(&state, "state", "x")
		check(state, specs.StateRunning)
		var list []container
		decode(&list, "list", "--format=json")
		if len(list) != 1 {
			t.Fatalf("list: %+v", list)
		}
		check(list[0], specs.StateRunning)
		h.output("pause", "x")
		decode(&state, "state", "x")
		check(state, "paused")
		h.output("resume", "x")
		var pids []int
		decode(&pids, "ps", "--format", "json", "x")
		if !slices.Contains(pids, state.Pid) {
			t.Errorf("ps: %v, without %d", pids, state.Pid)
		}
		// go-runc's Event, of which it decodes the first.
		var event struct {
			Type, ID string
			Data     struct {
				CPU struct {
					Usage struct {
						Total uint64
					}
				}
				Memory struct {
					Usage struct {
						Limit, Usage uint64
					}
				}
				Pids struct{ Current uint64 }
			}
		}
		decode(&event, "events", "--stats", "x")
		if event.Type != "stats" || event.ID != "x" || event.Data.CPU.Usage.Total == 0 || event.Data.Memory.Usage.Usage == 0 || event.Data.Pids.Current == 0 {
			t.Errorf("events: %+v", event)
		}
		h.output("delete", "--force", "x")
	})
}

// TestEngineIsTheParent: conmon, runc's shim and Buildah wait for a container's first process, and for one of exec, as the parents
// that they become when hull has ended.
func TestEngineIsTheParent(t *testing.T) {
	isolated(t, func(t *testing.T, h host) {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
		dir := t.TempDir()
		b := hulltest.Bundle(t, args("exit", "7"))
		long := hulltest.Bundle(t, args("sleep", "100"))
		for name, commands := range map[string][][]string{
			"create": {{"create", "-b", b, "--pid-file", filepath.Join(dir, "create"), "x"}, {"start", "x"}},
			"exec": {{"run", "-d", "-b", long, "--pid-file", filepath.Join(dir, "init"), "y"},
				{"exec", "--detach", "--pid-file", filepath.Join(dir, "exec"), "y", hulltest.ProgPath, "exit", "7"}},
		} {
			for _, c := range commands {
				if err := h.hull(c...).Run(); err != nil {
					t.Fatalf("%v: %v", c, err)
				}
			}
			text, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(string(text))
			if err != nil {
				t.Fatal(err)
			}
			var ws unix.WaitStatus
			if got, err := unix.Wait4(pid, &ws, 0, nil); got != pid || err != nil || ws.ExitStatus() != 7 {
				t.Errorf("%s: wait4 %d: %d, %v, status %d, want 7", name, pid, got, err, ws.ExitStatus())
			}
		}
		h.output("delete", "x")
		h.output("delete", "--force", "y")
		text, err := os.ReadFile(filepath.Join(dir, "init"))
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = unix.Wait4(pid, nil, 0, nil)
	})
}

// TestEnginesReadFeatures has what CRI-O, containerd and Docker look for. The first reads standard error, too.
func TestEnginesReadFeatures(t *testing.T) {
	out, err := exec.Command("hull", "features").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var f features.Features
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if f.OCIVersionMin == "" || f.OCIVersionMax == "" {
		t.Error("without versions CRI-O takes it for no answer")
	}
	if !slices.Contains(f.MountOptions, "rro") {
		t.Error("without rro Kubernetes has no recursively read-only mounts")
	}
	if m := f.Linux.MountExtensions; m == nil || m.IDMap == nil || m.IDMap.Enabled == nil || !*m.IDMap.Enabled {
		t.Error("without idmapped mounts Kubernetes has no user namespaces")
	}
	if !slices.Contains(f.Hooks, "createRuntime") || f.Linux.Seccomp == nil || len(f.Linux.Seccomp.Actions) == 0 {
		t.Errorf("hooks %v, seccomp %v", f.Hooks, f.Linux.Seccomp)
	}

	// Docker takes the line with the word "version" and the one that begins with "commit:".
	if out, err = exec.Command("hull", "--version").CombinedOutput(); err != nil {
		t.Fatal(err)
	}
	var versions, commits []string
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("version")) {
			versions = append(versions, string(line))
		}
		if bytes.HasPrefix(line, []byte("commit:")) {
			commits = append(commits, string(line))
		}
	}
	if len(versions) != 1 || !strings.HasPrefix(versions[0], "hull version ") || len(commits) != 1 {
		t.Errorf("--version: %s", out)
	}
}

// TestOptionsOfRunc: every option of runc's is taken, whether or not an engine is known to give it.
func TestOptionsOfRunc(t *testing.T) {
	for command, names := range map[string]string{
		"checkpoint": "image-path work-path parent-path leave-running tcp-established tcp-skip-in-flight link-remap ext-unix-sk shell-job lazy-pages status-fd page-server file-locks pre-dump manage-cgroups-mode empty-ns auto-dedup",
		"create":     "bundle b console-socket pidfd-socket pid-file no-pivot no-new-keyring preserve-fds",
		"delete":     "force f",
		"events":     "interval stats",
		"exec":       "console-socket pidfd-socket cwd env e tty t user u additional-gids g process p detach d pid-file process-label apparmor no-new-privs cap c preserve-fds cgroup ignore-paused",
		"kill":       "all a",
		"list":       "format f quiet q",
		"ps":         "format f",
		"restore":    "console-socket image-path work-path tcp-established ext-unix-sk shell-job file-locks manage-cgroups-mode bundle b detach d pid-file no-subreaper no-pivot empty-ns auto-dedup lazy-pages lsm-profile lsm-mount-context",
		"run":        "bundle b console-socket pidfd-socket detach d keep pid-file no-subreaper no-pivot no-new-keyring preserve-fds",
		"spec":       "bundle b rootless",
		"update":     "resources r blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime cpuset-cpus cpuset-mems kernel-memory kernel-memory-tcp memory memory-reservation memory-swap pids-limit l3-cache-schema mem-bw-schema cpu-idle",
	} {
		i := slices.IndexFunc(commands(), func(c *Command) bool { return c.Name == command })
		if i < 0 {
			t.Errorf("there is no command %s", command)
			continue
		}
		fs := newOptions(command)
		commands()[i].Flags(fs)
		for name := range strings.FieldsSeq(names) {
			if !slices.ContainsFunc(fs.list, func(o *option) bool { return o.Name == name || o.letter == name }) {
				t.Errorf("%s has no option %s", command, name)
			}
		}
	}
}
