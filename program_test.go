package hull_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull"
	"hull/hulltest"
)

func TestProgramThatCannotBe(t *testing.T) {
	files := func(t *testing.T, rootfs string) {
		write(t, rootfs+"/etc/plain", "x")
		write(t, rootfs+"/etc/script", "#!/nonexistent/interpreter\n")
		write(t, rootfs+"/etc/text", "no magic")
		for _, f := range []string{"script", "text"} {
			if err := os.Chmod(rootfs+"/etc/"+f, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		mkdir(t, rootfs+"/etc/dir", 0o755)
		symlink(t, "/nowhere", rootfs+"/etc/dangling")
	}
	for _, test := range []struct {
		name  string
		edit  func(*specs.Process)
		kind  error
		words []string
	}{
		{"not found", func(p *specs.Process) { p.Args = []string{"nothing"} }, unix.ENOENT,
			[]string{`exec: "nothing": executable file not found in $PATH`, "searched PATH /usr/local/sbin:"}},
		{"not found in that PATH", func(p *specs.Process) { p.Args, p.Env = []string{"testprog"}, []string{"PATH=/a:/b"} }, unix.ENOENT,
			[]string{"executable file not found in $PATH", "searched PATH /a:/b"}},
		{"not found by path", func(p *specs.Process) { p.Args = []string{"/bin/nothing"} }, unix.ENOENT,
			[]string{`exec: "/bin/nothing": stat /bin/nothing: no such file or directory`}},
		{"not executable", func(p *specs.Process) { p.Args = []string{"/etc/plain"} }, unix.EACCES,
			[]string{`exec: "/etc/plain": permission denied`}},
		{"a directory", func(p *specs.Process) { p.Args = []string{"/etc/dir"} }, unix.EACCES, []string{"/etc/dir"}},
		{"a directory in PATH", func(p *specs.Process) { p.Args, p.Env = []string{"dir"}, []string{"PATH=/etc"} }, unix.EACCES,
			[]string{`"dir"`}},
		{"a dangling link", func(p *specs.Process) { p.Args = []string{"/etc/dangling"} }, unix.ENOENT, []string{"/etc/dangling"}},
		{"below a file", func(p *specs.Process) { p.Args = []string{"/etc/plain/x"} }, unix.ENOTDIR,
			[]string{`exec: "/etc/plain/x": stat /etc/plain/x: not a directory`}},
		{"empty", func(p *specs.Process) { p.Args = []string{""} }, nil, []string{"process.args"}},
		{"without its interpreter", func(p *specs.Process) { p.Args = []string{"/etc/script"} }, unix.ENOENT,
			[]string{"interpreter"}},
		{"no program", func(p *specs.Process) { p.Args = []string{"/etc/text"} }, unix.ENOEXEC, []string{"#!"}},
		{"cwd missing", func(p *specs.Process) { p.Cwd = "/nowhere" }, unix.ENOENT, []string{"process.cwd", `"/nowhere"`}},
		{"cwd is a file", func(p *specs.Process) { p.Cwd = "/etc/plain" }, unix.ENOTDIR, []string{"process.cwd", "/etc/plain"}},
		{"more open files than the host lets anyone have", func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 40, Hard: 1 << 40}}
		}, unix.EPERM, []string{`process.rlimits[0] "RLIMIT_NOFILE"`, "sysctl fs.nr_open"}},
		{"rlimit twice", func(p *specs.Process) {
			p.Rlimits = append(p.Rlimits, p.Rlimits[0])
		}, hull.ErrBadSpec, []string{"process.rlimits"}},
		{"user out of range of nothing", func(p *specs.Process) { p.User.UID = 4294967295 }, nil, []string{"process.user"}},
		{"oom score out of range", func(p *specs.Process) { p.OOMScoreAdj = ptr(1001) }, hull.ErrBadSpec, []string{"process.oomScoreAdj"}},
		{"no such scheduler", func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: "X"} }, hull.ErrBadSpec, []string{"process.scheduler"}},
		{"scheduler out of range", func(p *specs.Process) {
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 1000}
		}, nil, []string{"process.scheduler"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Run("run", func(t *testing.T) {
				bundle := hulltest.Bundle(t, func(s *specs.Spec) { test.edit(s.Process) })
				files(t, filepath.Join(bundle, "rootfs"))
				_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
				refused(t, err, test.kind, append([]string{"run box"}, test.words...)...)
			})
			t.Run("exec", func(t *testing.T) {
				r := newRuntime(t)
				bundle := hulltest.Bundle(t, args("sleep", "3600"))
				files(t, filepath.Join(bundle, "rootfs"))
				c, err := r.Run(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
				if err != nil {
					t.Fatal(err)
				}
				remove(t, r, c)
				_, err = tryExec(t, c, test.edit)
				refused(t, err, test.kind, append([]string{"exec box"}, test.words...)...)
				eventually(t, "the process of exec is gone", func() bool {
					pids, err := c.Processes()
					return err == nil && slices.Equal(pids, []int{c.Init().Pid})
				})
			})
		})
	}
}

// The user's rights decide over a directory that neither root nor the user can enter.
func TestCwdForNoOne(t *testing.T) {
	bundle := hulltest.Bundle(t, func(s *specs.Spec) {
		s.Process.Cwd, s.Process.User.UID, s.Process.User.GID = "/closed", 1000, 1000
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	})
	mkdir(t, filepath.Join(bundle, "rootfs/closed"), 0o700) // of an owner that the user namespace doesn't map
	_, err := tryRunWith(t, newRuntime(t), hull.CreateOptions{Bundle: bundle})
	refused(t, err, unix.EACCES, "process.cwd", `"/closed"`)
}

// A program that create can't find is create's failure; one that the kernel refuses to execute is start's, with the
// reason, and the container is stopped.
func TestStartReportsWhyNot(t *testing.T) {
	r := newRuntime(t)
	bundle := hulltest.Bundle(t, func(s *specs.Spec) { s.Process.Args = []string{"/bin/script"} })
	script := filepath.Join(bundle, "rootfs/bin/script")
	write(t, script, "#!/nonexistent\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := r.Create(t.Context(), "box", hull.CreateOptions{Bundle: bundle})
	if err != nil {
		t.Fatal(err)
	}
	remove(t, r, c)
	refused(t, c.Start(t.Context()), unix.ENOENT, "start box", "process.args[0]", "execve", "interpreter")
	wait(t, c.Init())
	wantStatus(t, c, hull.Stopped)
}

// Without an entry PATH is the default one.
func TestNoPath(t *testing.T) {
	says(t, run(t, func(s *specs.Spec) { s.Process.Args, s.Process.Env = []string{"testprog", "echo", "found"}, nil }), "found")
}
