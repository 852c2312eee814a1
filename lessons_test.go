package hull_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

// What went wrong elsewhere, each under the number it got there: the attack is played.

// canary is what an attacker looks for: a secret of the calling program, in its memory and environment.
const canary = "hull-test-canary-9f2c41d7"

// The attacker is root of a container with CAP_SYS_PTRACE. Until the file /shared/stop appears it looks at every process
// that appears in its pid namespace: it attaches to it, and reads its memory, environment, command line, program and
// descriptors. What it shouldn't find is written to /shared/found.
func init() {
	roles["attacker"] = func([]string) error {
		runtime.LockOSThread() // tracing belongs to a thread
		found, err := os.OpenFile(sharedDir+"/found", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		seen := 0
		for {
			if _, err := os.Stat(sharedDir + "/stop"); err == nil {
				fmt.Fprintln(found, "seen", seen)
				return found.Close()
			}
			pids, _ := filepath.Glob("/proc/[0-9]*")
			for _, proc := range pids {
				pid, _ := strconv.Atoi(filepath.Base(proc))
				if pid == os.Getpid() {
					continue
				}
				if spy(found, pid) {
					seen++
				}
			}
		}
	}
}

// spy tells whether the process was there to be looked at.
func spy(found *os.File, pid int) bool {
	proc := fmt.Sprintf("/proc/%d", pid)
	attached := unix.PtraceSeize(pid) == nil
	defer func() {
		if !attached {
			return
		}
		// Only a stopped process can be let go; one that has ended is its parent's once its tracer knows.
		var ws unix.WaitStatus
		_ = unix.PtraceInterrupt(pid)
		if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err == nil && ws.Stopped() {
			_ = unix.PtraceDetach(pid)
		}
	}()
	for _, file := range []string{"cmdline", "environ"} {
		if b, err := os.ReadFile(proc + "/" + file); err == nil && bytes.Contains(b, []byte(canary)) {
			fmt.Fprintf(found, "%d: canary in %s\n", pid, file)
		}
	}
	if exe, err := os.Readlink(proc + "/exe"); err == nil && !strings.Contains(exe, "hull-stub") && exe != hulltest.ProgPath {
		fmt.Fprintf(found, "%d: exe %s\n", pid, exe)
	}
	fds, _ := filepath.Glob(proc + "/fd/*")
	for _, fd := range fds {
		if n := filepath.Base(fd); n == "0" || n == "1" || n == "2" {
			continue // its standard streams are its own
		}
		if dest := wayOut(fd); dest != "" {
			fmt.Fprintf(found, "%d: descriptor %s of %s\n", pid, filepath.Base(fd), dest)
		}
	}
	maps, err := os.ReadFile(proc + "/maps")
	if err != nil {
		return attached
	}
	mem, err := os.Open(proc + "/mem")
	if err != nil {
		return attached
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil || strings.Contains(line, "[v") || to-from > 64<<20 {
			continue
		}
		if strings.Contains(line, hulltest.ProgPath) {
			continue
		}
		p := make([]byte, min(to-from, 1<<20))
		if n, _ := mem.ReadAt(p, from); bytes.Contains(p[:n], []byte(canary)) {
			fmt.Fprintf(found, "%d: canary in memory: %s", pid, line)
		}
	}
	return true
}

// wayOut returns the name of what a descriptor in /proc/PID/fd is of, if that is a directory, or a regular file, that the
// container hasn't. What it has, the program may have opened itself: Go's runtime reads /sys/kernel/mm and the cgroup's
// limits when it starts.
func wayOut(fd string) string {
	// Held, so that the name and the file are of the same descriptor, whatever its owner does.
	f, err := os.OpenFile(fd, unix.O_PATH, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.IsDir() && !fi.Mode().IsRegular() {
		return ""
	}
	dest, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil || strings.Contains(dest, "memfd:") || strings.HasPrefix(dest, "/proc") {
		return ""
	}
	if own, err := os.Stat(dest); err == nil && os.SameFile(own, fi) {
		return ""
	}
	return dest
}

// Rules 5 and 7 of the stub: nothing of the caller is in the memory, the environment, the command line or the table of
// a process on its way into a container.
func TestCVE_2016_9962(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CANARY", canary)
	all := []string{"CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_KILL"}
	c := running(t, withActor(t, dir), playing("attacker"), func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Permitted: all, Effective: all}
	})
	n := 20
	if testing.Short() {
		n = 8
	}
	for range n {
		got := exec1(t, c, verb("true"), func(p *specs.Process) {
			p.Env = []string{"HOME=/"}
			p.Capabilities = &specs.LinuxCapabilities{}
		})
		if got.Status != "0" && got.Status != "signal SIGKILL" {
			t.Fatalf("%+v", got)
		}
	}
	write(t, filepath.Join(dir, "stop"), "")
	wait(t, c.Init())
	report := readFile(t, filepath.Join(dir, "found"))
	last := report[strings.LastIndexByte(report, '\n')+1:]
	var seen int
	if _, err := fmt.Sscanf(last, "seen %d", &seen); err != nil || seen == 0 {
		t.Errorf("the attacker has seen nothing: %q, %v", last, err)
	}
	if strings.Contains(report, "\n") {
		t.Errorf("the attacker has found\n%s", report)
	}
}

// Rule 6: no way from a container to the host's program, not by a script that names /proc/self/exe as its interpreter.
func TestCVE_2019_5736(t *testing.T) {
	for _, exe := range []string{"/proc/self/exe", "/proc/thread-self/exe"} {
		script := func(t *testing.T, bundle string) {
			file := filepath.Join(bundle, "rootfs/bin/script")
			write(t, file, "#!"+exe+"\n")
			if err := os.Chmod(file, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		before := hashOf(t, testBinary(t))
		bundle := hulltest.Bundle(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/script"} })
		script(t, bundle)
		// The interpreter is the stub itself, which has nothing to do without its socket and ends.
		if got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle}); err == nil && (got.Status == "0" || got.Out != "") {
			t.Errorf("%s was run: %+v", exe, got)
		}
		r := newRuntime(t)
		bundle = hulltest.Bundle(t, args("sleep", "3600"))
		script(t, bundle)
		c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
		if err != nil {
			t.Fatal(err)
		}
		remove(t, r, c)
		if got, err := tryExec(t, c, func(p *specs.Process) { p.Args = []string{"/bin/script"} }); err == nil && (got.Status == "0" || got.Out != "") {
			t.Errorf("exec has run %s: %+v", exe, got)
		}
		expect(t, before, hashOf(t, testBinary(t)))
	}
	// The program itself by that name: what it gets is no file of the host's.
	got, err := tryRun(t, newRuntime(t), func(s *specs.Spec) { s.Process.Args = []string{"/proc/self/exe", "-test.list", "."} })
	if err == nil && (got.Status == "0" || got.Out != "") {
		t.Errorf("/proc/self/exe was run: %+v", got)
	}
}

func hashOf(t testing.TB, file string) string {
	t.Helper()
	fi, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(fi.Size(), fi.ModTime())
}

// /proc of the image is a fake: labels and kernel parameters must not be written to it.
func TestCVE_2019_16884(t *testing.T) { fakeProc(t) }
func TestCVE_2025_62596(t *testing.T) { fakeProc(t) }

func fakeProc(t *testing.T) {
	bundle := hulltest.Bundle(t, args("true"), func(s *specs.Spec) {
		s.Mounts = s.Mounts[1:] // no procfs: the image's own directory stays
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "12345"}
		s.Process.OOMScoreAdj = ptr(77)
	})
	proc := filepath.Join(bundle, "rootfs/proc")
	for _, dir := range []string{"self", "self/attr", "sys", "sys/kernel"} {
		mkdir(t, filepath.Join(proc, dir), 0o777)
	}
	fakes := []string{"self/attr/exec", "self/oom_score_adj", "sys/kernel/shmmax"}
	for _, f := range fakes {
		write(t, filepath.Join(proc, f), "")
	}
	if _, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle}); err != nil {
		t.Fatal(errorText(err))
	}
	for _, f := range fakes {
		expect(t, "", readFile(t, filepath.Join(proc, f)))
	}
}

// As above, with a volume over /proc.
func TestCVE_2025_52881(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "sys"), 0o777)
	mkdir(t, filepath.Join(dir, "sys/kernel"), 0o777)
	write(t, filepath.Join(dir, "sys/kernel/shmmax"), "")
	symlink(t, "/proc/sysrq-trigger", filepath.Join(dir, "sys/kernel/shmmni"))
	_, err := tryRun(t, newRuntime(t), mounting(specs.Mount{Destination: "/proc", Source: dir, Options: []string{"bind"}}), func(s *specs.Spec) {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		s.Linux.Sysctl = map[string]string{"kernel.shmmax": "12345", "kernel.shmmni": "77"}
	})
	if err != nil {
		t.Log(errorText(err)) // refused is as good
	}
	expect(t, "", readFile(t, filepath.Join(dir, "sys/kernel/shmmax")))
}

// A mount target of the image is a link to a directory of the host's.
func TestCVE_2019_18837(t *testing.T) { mountTargetLink(t, "/target") }
func TestCVE_2021_30465(t *testing.T) { mountTargetLink(t, "/a/target") }

func mountTargetLink(t *testing.T, target string) {
	hulltest.Require(t, hulltest.Root)
	host := t.TempDir()
	for _, link := range []string{host, "/.." + host, "../../../../../../../.." + host} {
		bundle := hulltest.Bundle(t, args("true"),
			mounting(specs.Mount{Destination: target + "/new", Type: "tmpfs", Source: "tmpfs"}))
		at := filepath.Join(bundle, "rootfs", target)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		symlink(t, link, at)
		if _, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle}); err != nil {
			t.Log(errorText(err))
		}
		if entries, err := os.ReadDir(host); len(entries) > 0 || err != nil {
			t.Errorf("%s was made on the host: %v, %v", target, entries, err)
		}
	}
}

// The link comes and goes while the container is made.
func TestCVE_2024_45310(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	host := t.TempDir()
	bundle := hulltest.Bundle(t, args("true"),
		mounting(specs.Mount{Destination: "/race/dir", Type: "tmpfs", Source: "tmpfs"}))
	rootfs := filepath.Join(bundle, "rootfs")
	mkdir(t, rootfs+"/race", 0o755)
	symlink(t, host, rootfs+"/link")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, rootfs+"/race", unix.AT_FDCWD, rootfs+"/link", unix.RENAME_EXCHANGE)
			}
		}
	}()
	for range 30 {
		_, _ = tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	}
	close(stop)
	<-done
	if entries, err := os.ReadDir(host); len(entries) > 0 || err != nil {
		t.Errorf("made on the host: %v, %v", entries, err)
	}
}

// /proc of the image is a link: procfs goes on a real directory, or nowhere.
func TestCVE_2019_19921(t *testing.T) { procLink(t, "/proc", "/tmp/elsewhere") }
func TestCVE_2023_27561(t *testing.T) { procLink(t, "/proc", "tmp") }
func TestCVE_2023_28642(t *testing.T) { procLink(t, "/sys", "/tmp") }
func TestCVE_2025_54867(t *testing.T) { procLink(t, "/sys", "proc") }

func procLink(t *testing.T, path, to string) {
	bundle := hulltest.Bundle(t, args("true"))
	symlink(t, to, filepath.Join(bundle, "rootfs", path))
	_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	refused(t, err, nil, "mounts[", path)
}

// Inheritable capabilities are what config.json says, also of exec.
func TestCVE_2022_29162(t *testing.T) {
	says(t, run(t, args("status", "CapInh", "CapAmb")), "CapInh "+noCaps, "CapAmb "+noCaps)
	says(t, exec1(t, running(t), verb("status", "CapInh", "CapAmb")), "CapInh "+noCaps, "CapAmb "+noCaps)
}
func TestCVE_2022_24769(t *testing.T) { noInheritable(t, 1000) }
func TestCVE_2022_27650(t *testing.T) { noInheritable(t, 0) }
func TestCVE_2025_27612(t *testing.T) { noInheritable(t, 65534) }

func noInheritable(t *testing.T, uid uint32) {
	c := running(t)
	says(t, exec1(t, c, verb("status", "CapInh", "CapAmb"), func(p *specs.Process) {
		p.User.UID = uid
		p.Capabilities.Bounding = append(p.Capabilities.Bounding, "CAP_NET_RAW") // as exec --cap does
		p.Capabilities.Permitted = append(p.Capabilities.Permitted, "CAP_NET_RAW")
		p.Capabilities.Effective = append(p.Capabilities.Effective, "CAP_NET_RAW")
	}), "CapInh "+noCaps, "CapAmb "+noCaps)
}

// A descriptor of the caller's, by way of the working directory.
func TestCVE_2024_21626(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	dir, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// As bad as it gets: the descriptor isn't close-on-exec.
	leaked, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaked)
	c := running(t)
	for fd := 3; fd < 20; fd++ {
		for _, cwd := range []string{fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/self/fd/%d/../..", fd), fmt.Sprintf("/proc/1/fd/%d", fd)} {
			got, err := tryExec(t, c, verb("ls", "."), func(p *specs.Process) { p.Cwd = cwd })
			if err == nil && strings.Contains(got.Out, "home\n") {
				t.Errorf("exec with cwd %s lists the host's root:\n%s", cwd, got.Out)
			}
		}
		got, err := tryRun(t, newRuntime(t), args("ls", "."), func(s *specs.Spec) { s.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", fd) })
		if err == nil && strings.Contains(got.Out, "home\n") {
			t.Errorf("cwd /proc/self/fd/%d lists the host's root:\n%s", fd, got.Out)
		}
	}
	says(t, run(t, args("ls", "/proc/self/fdinfo")), "0", "1", "2", "3")
	says(t, exec1(t, c, verb("ls", "/proc/self/fdinfo")), "0", "1", "2", "3")
}

// maskedPaths are covered by the null device, whatever the image calls /dev/null.
func TestCVE_2025_31133(t *testing.T) { nullDevice(t, "/etc/secret") }
func TestCVE_2025_62161(t *testing.T) { nullDevice(t, "/proc/version") }

func nullDevice(t *testing.T, path string) {
	bundle := hulltest.Bundle(t, args("stat", path), func(s *specs.Spec) {
		var rest []specs.Mount
		for _, m := range s.Mounts {
			if !strings.HasPrefix(m.Destination, "/dev") {
				rest = append(rest, m)
			}
		}
		s.Mounts = rest // /dev is the image's
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = []string{path}, nil
	})
	rootfs := filepath.Join(bundle, "rootfs")
	write(t, rootfs+"/etc/secret", "a secret")
	symlink(t, "/proc/sys/kernel/core_pattern", rootfs+"/dev/null")
	got, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Log(errorText(err)) // refused is as good
		return
	}
	if got.Status == "0" && !strings.Contains(got.Out, " char ") || strings.Contains(got.Out, " file 0644 0 0 8") {
		t.Errorf("%s is not masked by a null device: %+v", path, got)
	}
}

// /dev/console of the image is a link.
func TestCVE_2025_52565(t *testing.T) {
	host := filepath.Join(t.TempDir(), "victim")
	write(t, host, "unchanged")
	for _, to := range []string{host, "/proc/version", "/dev/null"} {
		r := newRuntime(t)
		bundle := hulltest.Bundle(t, withTerminal, args("stat", "/proc/version"), func(s *specs.Spec) {
			var rest []specs.Mount
			for _, m := range s.Mounts {
				if m.Destination != "/dev" {
					rest = append(rest, m)
				}
			}
			s.Mounts = rest
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		})
		symlink(t, to, filepath.Join(bundle, "rootfs/dev/console"))
		var master console
		c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Console: master.take})
		if err != nil {
			if text := errorText(err); !strings.Contains(text, "panic") {
				t.Log(text)
			} else {
				t.Error(text)
			}
			continue
		}
		remove(t, r, c)
		if said := typed(t, master.File); !strings.Contains(said, "/proc/version file 0444") {
			t.Errorf("console -> %s: %s", to, said)
		}
		wait(t, c.Init())
	}
	expect(t, "unchanged", readFile(t, host))
}

// /dev of the image is a link to the host's, or its files are.
func TestCVE_2026_41579(t *testing.T) { devLink(t, false) }
func TestCVE_2026_47766(t *testing.T) { devLink(t, true) }

func devLink(t *testing.T, terminal bool) {
	hulltest.Require(t, hulltest.Root)
	host := t.TempDir()
	for _, name := range []string{"null", "zero", "ptmx", "console", "fd", "stdin"} {
		write(t, filepath.Join(host, name), name)
	}
	bundle := hulltest.Bundle(t, args("true"), func(s *specs.Spec) {
		s.Mounts = s.Mounts[:1]
		s.Process.Terminal = terminal
	})
	symlink(t, host, filepath.Join(bundle, "rootfs/dev"))
	r := newRuntime(t)
	var master console
	if c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle, Console: master.take}); err == nil {
		remove(t, r, c)
		wait(t, c.Init())
	} else {
		t.Log(errorText(err))
	}
	master.Close()
	for _, name := range []string{"null", "zero", "ptmx", "console", "fd", "stdin"} {
		expect(t, name, readFile(t, filepath.Join(host, name)))
	}
	if entries, _ := os.ReadDir(host); len(entries) != 6 {
		t.Errorf("files were made on the host: %v", entries)
	}
}

// A user id out of range is an error, never a name and never root.
func TestCVE_2024_40635(t *testing.T) { userOutOfRange(t, `4294967296`) }
func TestCVE_2026_30892(t *testing.T) { userOutOfRange(t, `-1`) }
func TestCVE_2026_46680(t *testing.T) { userOutOfRange(t, `"1000"`) }

func userOutOfRange(t *testing.T, uid string) {
	bundle := hulltest.Bundle(t, args("id"), func(s *specs.Spec) { s.Process.User.UID = 987654 })
	config := filepath.Join(bundle, "config.json")
	if err := os.WriteFile(config, []byte(strings.Replace(readFile(t, config), "987654", uid, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	refused(t, err, hull.ErrBadSpec, "process.user.uid")
}

// What is longer than 16 bits can count arrives whole, or is refused; its rest is never taken for something else.
func TestCVE_2021_43784(t *testing.T) {
	r := newRuntime(t)
	long := strings.Repeat("x", 1<<16+8)
	out, err := tryRun(t, r, args("echo", long))
	if err != nil {
		t.Fatal(errorText(err))
	}
	if out.Out != long+"\n" {
		t.Errorf("an argument of %d bytes: %d arrived", len(long), len(out.Out)-1)
	}
	for field, edit := range map[string]func(*specs.Spec){
		"linux.namespaces": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UTSNamespace, Path: "/" + long})
		},
		"linux.uidMappings": func(s *specs.Spec) {
			s.Linux.UIDMappings = make([]specs.LinuxIDMapping, 1<<16+1)
			for i := range s.Linux.UIDMappings {
				s.Linux.UIDMappings[i] = specs.LinuxIDMapping{ContainerID: uint32(i), HostID: uint32(i), Size: 1}
			}
		},
	} {
		_, err := tryRun(t, r, noNamespace(specs.UTSNamespace), func(s *specs.Spec) { s.Hostname = "" }, edit)
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %.200v", field, err)
		}
	}
}

// A saved container's image is a directory that anybody may have written: a link in it leads nowhere, and what the
// container has and may do is said by its configuration.
func TestSandboxCVE_2026_53489(t *testing.T) {
	image, bundle, r := savedImage(t)
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, canary)
	pages := filepath.Join(image, "sandbox.pages")
	if err := os.Remove(pages); err != nil {
		t.Fatal(err)
	}
	symlink(t, secret, pages)
	_, err := r.Restore(t.Context(), "box", restoreOptions(bundle, image, newDialogue(t)))
	if !errors.Is(err, unix.ELOOP) || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v", err)
	}
}

// As above: the image is of a container that had more than this configuration gives it.
func TestSandboxCVE_2026_53492(t *testing.T) {
	host := t.TempDir()
	image, _, r := savedImage(t, mounting(specs.Mount{Destination: "/host", Source: host, Options: []string{"bind"}}))
	_, err := r.Restore(t.Context(), "box", restoreOptions(savedBundle(t), image, newDialogue(t)))
	if err == nil || !strings.Contains(err.Error(), "mounts") {
		t.Errorf("got %v", err)
	}
}

// savedImage returns the image of a container in a sandbox that has ended, and the bundle it was made from.
func savedImage(t *testing.T, edit ...func(*specs.Spec)) (image, bundle string, r *hull.Runtime) {
	t.Helper()
	r = newRuntime(t)
	bundle, image = savedBundle(t, edit...), filepath.Join(t.TempDir(), "image")
	c, d := runSaved(t, r, bundle)
	d.step(1)
	checkpoint(t, c, image, false)
	return image, bundle, r
}

// The state is the caller's alone.
func TestCVE_2021_41103(t *testing.T) { privateState(t) }
func TestCVE_2024_25621(t *testing.T) { privateState(t) }

func privateState(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	r := newRuntime(t)
	create(t, r, hull.CreateOptions{})
	err := filepath.WalkDir(r.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// No abstract socket is open while a container runs.
func TestCVE_2020_15257(t *testing.T) {
	hulltest.Require(t, hulltest.Root)
	abstract := func() int { return strings.Count(readFile(t, "/proc/net/unix"), " @hull") }
	before := abstract()
	c := running(t, noNamespace(specs.NetworkNamespace), func(s *specs.Spec) { s.Hostname = "x" })
	expect(t, before, abstract())
	says(t, exec1(t, c, verb("true")))
}

// Without a cgroup namespace /sys/fs/cgroup is read-only.
func TestCVE_2023_25809(t *testing.T) {
	dir := "/sys/fs/cgroup"
	if hulltest.CgroupV2.Check() != nil {
		dir += "/pids"
	}
	got := run(t, args("write", dir+"/cgroup.procs", "1"), noNamespace(specs.CgroupNamespace))
	if !strings.Contains(got.Err, "read-only file system") {
		t.Errorf("%+v", got)
	}
}

// The rules of the stub that the rows above don't show.

// Rule 1, seen from outside: while it waits a container has all signals blocked, and they are not lost on the way; but
// those that are to end it.
func TestStubBlocksSignals(t *testing.T) {
	may := uint64(0)
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGKILL, unix.SIGSTOP} {
		may |= 1 << (sig - 1)
	}
	c := create(t, newRuntime(t), hull.CreateOptions{}, args("status", "SigBlk"))
	_, rest, ok := strings.Cut(readFile(t, procPath(c.Init().Pid, "status")), "SigBlk:")
	blocked, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(blocked), 16, 64)
	if !ok || err != nil || ^mask&^may != 0 {
		t.Errorf("a parked container blocks %s, %v", blocked, err)
	}
}

// Rule 2: a stub that is frozen or killed is no reason to wait for ever.
func TestStubThatIsKilled(t *testing.T) {
	r := newRuntime(t)
	began := time.Now()
	killed := false
	r.Trace = func(line string) {
		if _, rest, ok := strings.Cut(line, "clone"); ok && !killed {
			if _, result, ok := strings.Cut(rest, ") = "); ok {
				var pid int
				if _, err := fmt.Sscan(result, &pid); err == nil && pid > 1 {
					killed = true
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}
	_, err := tryRun(t, r)
	if !killed {
		t.Fatal("no clone was seen")
	}
	if err == nil {
		t.Error("the container runs though its stub was killed")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it takes %v", took)
	}
}

// Rule 4: a parked container can't be looked into by others of its user.
func TestStubIsNotDumpable(t *testing.T) {
	c := create(t, newRuntime(t), hull.CreateOptions{}, userNamespace)
	var st unix.Stat_t
	if err := unix.Stat(procPath(c.Init().Pid, "environ"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 0 {
		t.Errorf("the files of the parked process belong to %d: it is dumpable", st.Uid)
	}
}

// Rule 7: a process that waits shows nothing of its caller.
func TestStubShowsNothing(t *testing.T) {
	t.Setenv("CANARY", canary)
	c := create(t, newRuntime(t), hull.CreateOptions{})
	pid := c.Init().Pid
	for _, file := range []string{"environ", "cmdline"} {
		if b, err := os.ReadFile(procPath(pid, file)); err != nil || bytes.Contains(b, []byte(canary)) || len(b) > 40 {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	exe, err := os.Readlink(procPath(pid, "exe"))
	if err != nil || !strings.Contains(exe, "memfd:") {
		t.Errorf("exe is %s, %v", exe, err)
	}
	// It can't be written to, by no one.
	if f, err := os.OpenFile(procPath(pid, "exe"), os.O_WRONLY, 0); err == nil {
		f.Close()
		t.Error("the stub's program can be written to")
	} else if !errors.Is(err, unix.ETXTBSY) && !errors.Is(err, unix.EPERM) {
		t.Log(err)
	}
	// Its last steps it takes alone: create doesn't wait for them. Its socket has no other end any more.
	eventually(t, "a parked container has its fifo and socket alone open", func() bool { return len(strangers(t, pid)) == 0 })
}

// strangers returns what a parked process has open beside its standard streams and its fifo.
func strangers(t *testing.T, pid int) []string {
	t.Helper()
	fds, err := os.ReadDir(procPath(pid, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, fd := range fds {
		dest, err := os.Readlink(procPath(pid, "fd/"+fd.Name()))
		if err == nil && fd.Name() != "3" && dest != "/dev/null" && !strings.HasSuffix(dest, ".fifo") {
			open = append(open, dest)
		}
	}
	return open
}
