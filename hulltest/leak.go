package hulltest

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// settle is how long after the tests something may still be going away, such as a cgroup whose last process was reaped
// by the init of the machine.
var settle = 3 * time.Second

// NoLeaks runs a package's tests and returns the status to exit with: 1 also if they leave something behind. It looks for
// open descriptors, processes, mounts, files, cgroups and named network
// namespaces. (One without a name lives by a descriptor, a process or a mount, all of which it sees.)
//
// Other packages' tests, and whatever else the machine does, run at the same time. So NoLeaks gives the tests a directory
// of their own for temporary files, and of what all can see it counts only what is below this directory, or has the name
// that Token returns in its own.
func NoLeaks(m *testing.M) int {
	dir, err := makeWorkDir()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hulltest:", err)
		return 1
	}
	w := watch{dir: dir, fds: openFDs()}
	status := m.Run()
	for _, p := range []*program{&testprog, &hull, &hullNet, &sandbox, &shim} { // the programs that were built in dir
		_ = os.Remove(filepath.Join(dir, p.name))
	}
	leaks := w.await()
	for _, leak := range leaks {
		fmt.Fprintln(os.Stderr, "hulltest: leaked:", leak)
	}
	if err := removeAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, "hulltest:", err)
	}
	if len(leaks) > 0 && status == 0 {
		return 1
	}
	return status
}

// watch knows what was there before the tests.
type watch struct {
	dir string
	fds map[string]int // what is open, and how often
}

// token returns the name that belongs to this process alone.
func (w watch) token() string { return filepath.Base(w.dir) }

// await returns what is leaked, once that is nothing or has had time to go away.
func (w watch) await() []string {
	deadline := time.Now().Add(settle)
	for {
		leaks := w.leaks()
		if len(leaks) == 0 || time.Now().After(deadline) {
			return leaks
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// leaks returns what is there now and wasn't before.
func (w watch) leaks() []string {
	var all []string
	for _, find := range []func() ([]string, error){
		w.leakedFDs, w.leakedProcesses, w.leakedMounts, w.leakedFiles, w.leakedCgroups, w.leakedNetNS,
	} {
		leaks, err := find()
		if err != nil {
			leaks = append(leaks, fmt.Sprintf("unknown: %v", err))
		}
		all = append(all, leaks...)
	}
	return all
}

// openFDs returns what this process has open, and how often. The Go runtime's poller isn't counted: it comes with the
// first use and stays.
func openFDs() map[string]int {
	open := make(map[string]int)
	links, _ := filepath.Glob("/proc/self/fd/*") // no error: the pattern is good
	for _, link := range links {
		dest, err := os.Readlink(link)
		if err != nil { // Glob's own
			continue
		}
		if dest != "anon_inode:[eventpoll]" && dest != "anon_inode:[eventfd]" {
			open[dest]++
		}
	}
	return open
}

func (w watch) leakedFDs() ([]string, error) {
	var leaks []string
	now := openFDs()
	for _, dest := range slices.Sorted(maps.Keys(now)) {
		if more := now[dest] - w.fds[dest]; more > 0 {
			leaks = append(leaks, fmt.Sprintf("descriptor of %s (%d)", dest, more))
		}
	}
	return leaks, nil
}

// describe returns a process's id and command line, and more of one that has none: a stub, or one that is dead.
func describe(pid string) string {
	content, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	if len(content) == 0 {
		stat, _ := os.ReadFile("/proc/" + pid + "/stat")
		where, _ := os.ReadFile("/proc/" + pid + "/syscall")
		groups, _ := os.ReadFile("/proc/" + pid + "/cgroup")
		last, _, _ := bytes.Cut(groups, []byte("\n"))
		return fmt.Sprintf("process %.60s… at %.60s… in %s", bytes.TrimSpace(stat), bytes.TrimSpace(where), last)
	}
	args := strings.Split(strings.TrimRight(string(content), "\x00"), "\x00")
	return fmt.Sprintf("process %s %q", pid, args)
}

// leakedProcesses looks for children of this process, dead ones too, and for processes that use what is ours: a detached
// container's are nobody's children any more.
func (w watch) leakedProcesses() ([]string, error) {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	self := strconv.Itoa(os.Getpid())
	var leaks []string
	for _, proc := range procs {
		pid := filepath.Base(proc)
		state, ppid := parent(proc)
		// One that has ended is the init's of the machine to reap, which may take longer than settle where that has much to do.
		ended := state == "Z" && ppid == "1"
		if pid != self && !ended && (ppid == self || w.uses(proc)) {
			leaks = append(leaks, describe(pid))
		}
	}
	return leaks, nil
}

// parent returns a process's state and the id of its parent, or "" if it has been reaped.
func parent(proc string) (state, ppid string) {
	content, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return "", ""
	}
	// PID (NAME) STATE PPID …, where the name may have anything in it.
	end := bytes.LastIndexByte(content, ')')
	if fields := strings.Fields(string(content[end+1:])); end >= 0 && len(fields) > 1 {
		return fields[0], fields[1]
	}
	return "", ""
}

// uses tells whether the process's program, directory or root is below w.dir, or its cgroup has the token in its name.
func (w watch) uses(proc string) bool {
	for _, link := range []string{"exe", "cwd", "root"} {
		if dest, err := os.Readlink(filepath.Join(proc, link)); err == nil && within(dest, w.dir) {
			return true
		}
	}
	if content, err := os.ReadFile(filepath.Join(proc, "cgroup")); err == nil && bytes.Contains(content, []byte(w.token())) {
		return true
	}
	// In a mount namespace of its own those links are relative to its root; where that came from is in its mounts.
	content, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil {
		return false // it has ended, or isn't ours to see
	}
	return slices.ContainsFunc(parseMounts(string(content)), func(m mount) bool {
		return m.point == "/" && slices.Contains(strings.Split(m.root, "/"), w.token())
	})
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

func (w watch) leakedMounts() ([]string, error) {
	below, err := mountsBelow(w.dir)
	var leaks []string
	for _, m := range below {
		leaks = append(leaks, fmt.Sprintf("mount of %s at %s", m.fstype, m.point))
	}
	return leaks, err
}

// mountsBelow returns the mounts on dir or below it.
func mountsBelow(dir string) ([]mount, error) {
	all, err := readMounts()
	return slices.DeleteFunc(all, func(m mount) bool { return !within(m.point, dir) }), err
}

// removeAll removes a directory with what is in it, but nothing while something is mounted there: a bind mount that a
// test forgot may be of the machine's own files.
func removeAll(dir string) error {
	below, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(below) > 0 {
		return fmt.Errorf("%s is kept: %s is mounted at %s", dir, below[0].fstype, below[0].point)
	}
	return os.RemoveAll(dir)
}

// leakedFiles looks for files in w.dir. Package testing has removed its own by now, and so has Bundle.
func (w watch) leakedFiles() ([]string, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, err
	}
	var leaks []string
	for _, e := range entries {
		leaks = append(leaks, "file "+filepath.Join(w.dir, e.Name()))
	}
	return leaks, nil
}

// leakedCgroups looks for cgroups with the token in their names, in all hierarchies.
func (w watch) leakedCgroups() ([]string, error) {
	var leaks []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil: // gone in between, or not ours to see; or there are no cgroups at all
			return nil
		case !d.IsDir():
			return nil
		case strings.Contains(d.Name(), w.token()):
			leaks = append(leaks, "cgroup "+path)
			return fs.SkipDir
		}
		return nil
	})
	return leaks, err
}

// leakedNetNS looks for network namespaces that have the token in their names, where ip-netns(8) keeps them.
func (w watch) leakedNetNS() ([]string, error) {
	named, err := filepath.Glob("/run/netns/*" + w.token() + "*")
	var leaks []string
	for _, path := range named {
		leaks = append(leaks, "network namespace "+path)
	}
	return leaks, err
}

// mount is a line of mountinfo.
type mount struct {
	root, point, fstype string
}

// readMounts returns the mounts that this process sees.
func readMounts() ([]mount, error) {
	// Not of self, which is the first thread: one that a test has locked and sent to another mount namespace may be it.
	content, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(content)), nil
}

// parseMounts reads mountinfo (proc_pid_mountinfo(5)): ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS.
func parseMounts(content string) []mount {
	var all []mount
	for line := range strings.Lines(content) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 1 {
			continue
		}
		all = append(all, mount{unescape(l[3]), unescape(l[4]), r[0]})
	}
	return all
}

// unescape gives back the characters that mountinfo writes as \ooo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
