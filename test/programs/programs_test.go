// Package programs runs what people run with `hull do`: each program as root and as an ordinary user, in a working tree of
// the user's. What it prints is looked at, and that the tree is as before.
package programs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// searchPath is where programs are that hull do shows; one in somebody's home directory is not meant.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// nobody is the ordinary user when the tests are root's.
const nobody = 65534

// TestMain's process has the search path that the programs have, so that a need is looked for where it is used.
func init() {
	os.Setenv("PATH", searchPath+":"+filepath.Join(runtime.GOROOT(), "bin")+":"+os.Getenv("PATH"))
}

// A user is who hull do is called by.
type user struct {
	name string
	id   int
}

// users are root and an ordinary user, or whoever runs the tests.
func users() []user {
	if id := os.Geteuid(); id != 0 {
		return []user{{"user", id}}
	}
	return []user{{"root", 0}, {"user", nobody}}
}

// A tree is a working tree of a user's.
type tree struct {
	t    *testing.T
	user user
	dir  string
	hull string
}

func newTree(t *testing.T, u user, files map[string]string) *tree {
	t.Helper()
	// Not t.TempDir, which an ordinary user can't pass through when root makes it.
	top, err := os.MkdirTemp("", "tree")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(top)) })
	check(t, os.Chmod(top, 0o755))
	w := &tree{t: t, user: u, dir: filepath.Join(top, "work"), hull: hulltest.HullBinary(t)}
	check(t, os.Mkdir(w.dir, 0o755))
	for name, content := range files {
		path := filepath.Join(w.dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(content), 0o644))
	}
	check(t, filepath.WalkDir(w.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.id, u.id)
	}))
	return w
}

// command returns a command that the user calls in the tree.
func (w *tree) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = w.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(w.dir), "TERM=xterm", "LC_ALL=C.UTF-8", "SHELL=/bin/sh"}
	if w.user.id != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(w.user.id), Gid: uint32(w.user.id)}}
	}
	return cmd
}

// do runs hull do in the tree and returns what it prints. Nothing in the tree may be another afterwards.
func (w *tree) do(args ...string) string {
	w.t.Helper()
	before := w.files()
	cmd := w.command(append([]string{w.hull, "do"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("%v: %v\n%s%s", cmd.Args, err, out, stderr.Bytes())
	}
	if diff := cmp.Diff(before, w.files()); diff != "" {
		w.t.Errorf("the tree has changed:\n%s", diff)
	}
	return string(out)
}

// files returns the tree's files with their contents.
func (w *tree) files() map[string]string {
	w.t.Helper()
	all := map[string]string{}
	check(w.t, fs.WalkDir(os.DirFS(w.dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(w.dir, path))
		all[path] = string(content)
		return err
	}))
	return all
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPrograms runs programs that need no terminal and no network.
func TestPrograms(t *testing.T) {
	goRoot, goCache := runtime.GOROOT(), goCache(t)
	for _, p := range []struct {
		name  string
		needs []string
		files map[string]string
		args  []string
		want  string // all that is printed
	}{
		{
			name:  "pipeline",
			needs: []string{"sh", "sort", "seq"},
			args:  []string{"sh", "-c", "seq 200000 | sort -rn | head -n 2; seq 100000 | tee copy | wc -l; cmp copy copy && ls"},
			want:  "200000\n199999\n100000\ncopy\n",
		}, {
			name:  "git",
			needs: []string{"sh", "git"},
			args: []string{"sh", "-ec", `
				export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
				git init -q -b main origin
				cd origin; echo one >file; git add file; git commit -q -m first; cd ..
				git clone -q origin copy
				cd copy; echo two >>file; git commit -q -a -m second; git push -q origin HEAD:topic; cd ..
				git -C origin log --format=%s topic; git -C origin fsck --strict`},
			want: "second\nfirst\n",
		}, {
			name:  "python3",
			needs: []string{"python3"},
			files: map[string]string{"generated.py": pythonProgram},
			args:  []string{"python3", "generated.py"},
			want:  "squares 285\nthreads 8\nsqlite 2\nchild 7\nhello from a socket\n",
		}, {
			name:  "make",
			needs: []string{"make", "gcc"},
			files: cProject(12),
			args:  []string{"sh", "-c", "make -s -j4 && ./sum && ls *.o | wc -l"},
			want:  "78\n13\n",
		}, {
			name:  "go",
			needs: []string{"go"},
			files: map[string]string{
				"go.mod":      "module example\n\ngo 1.21\n",
				"sum.go":      "package example\n\nfunc Sum(n ...int) (s int) {\n\tfor _, i := range n {\n\t\ts += i\n\t}\n\treturn\n}\n",
				"sum_test.go": "package example\n\nimport \"testing\"\n\nfunc TestSum(t *testing.T) {\n\tif Sum(1, 2) != 3 {\n\t\tt.Fatal()\n\t}\n}\n",
				"cmd/main.go": "package main\n\nimport \"example\"\n\nfunc main() { println(example.Sum(20, 22)) }\n",
			},
			args: []string{
				"--bind", goRoot + ":" + goRoot + ":ro", "--rw", goCache, "--env", "GOCACHE=" + goCache, "--env", "GOFLAGS=-mod=mod",
				"--env", "GOTOOLCHAIN=local", "--env", "CGO_ENABLED=0", "--tmpfs-size", "1g",
				"sh", "-ec", "go build -o main ./cmd; ./main 2>&1; go test . >/dev/null && echo tested",
			},
			want: "42\ntested\n",
		},
	} {
		for _, u := range users() {
			t.Run(p.name+"/"+u.name, func(t *testing.T) {
				var needs []hulltest.Need
				if u.id != 0 {
					needs = append(needs, hulltest.UserNS)
				}
				for _, name := range p.needs {
					needs = append(needs, hulltest.Command(name))
				}
				hulltest.Require(t, needs...)
				if diff := cmp.Diff(p.want, newTree(t, u, p.files).do(p.args...)); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
			})
		}
	}
}

// goCache makes a place for what the go command has compiled, which both users write to: the second needn't compile all of
// it again.
func goCache(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cache")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	for i := range 256 { // as the go command makes them, but for all
		sub := filepath.Join(dir, fmt.Sprintf("%02x", i))
		check(t, os.Mkdir(sub, 0o755))
		check(t, os.Chmod(sub, 0o777))
	}
	check(t, os.Chmod(dir, 0o777))
	return dir
}

// pythonProgram asks for what interpreters need: processes, threads, semaphores in shared memory, a database with locks.
const pythonProgram = `
import multiprocessing, os, socket, sqlite3, subprocess, sys, threading

def square(n):
    return n * n

if __name__ == "__main__":
    with multiprocessing.Pool(3) as pool:
        print("squares", sum(pool.map(square, range(10))))
    seen = []
    threads = [threading.Thread(target=lambda i=i: seen.append(i)) for i in range(8)]
    [t.start() for t in threads]; [t.join() for t in threads]
    print("threads", len(seen))
    db = sqlite3.connect("db")
    db.execute("create table t(a)"); db.executemany("insert into t values (?)", [(1,), (2,)]); db.commit()
    print("sqlite", db.execute("select count(*) from t").fetchone()[0])
    print("child", subprocess.run([sys.executable, "-c", "import sys; sys.exit(7)"]).returncode)
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    server.accept()[0].sendall(b"hello from a socket")
    print(client.recv(100).decode())
`

// cProject is a program of n files and their Makefile: it prints 1 + 2 + … + n.
func cProject(n int) map[string]string {
	files := map[string]string{}
	var objects, prototypes, calls strings.Builder
	for i := 1; i <= n; i++ {
		files[fmt.Sprintf("f%d.c", i)] = fmt.Sprintf("int f%d(void) { return %d; }\n", i, i)
		fmt.Fprintf(&objects, " f%d.o", i)
		fmt.Fprintf(&prototypes, "int f%d(void);\n", i)
		fmt.Fprintf(&calls, " + f%d()", i)
	}
	files["main.c"] = "#include <stdio.h>\n" + prototypes.String() +
		"int main(void) { printf(\"%d\\n\", 0" + calls.String() + "); return 0; }\n"
	files["Makefile"] = "sum: main.o" + objects.String() + "\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n"
	return files
}

// TestEditor edits a file in a terminal, twice: the change is gone, and with --apply it stays.
func TestEditor(t *testing.T) {
	for _, u := range users() {
		t.Run(u.name, func(t *testing.T) {
			needs := []hulltest.Need{hulltest.Command("tmux"), hulltest.Command("vi")}
			if u.id != 0 {
				needs = append(needs, hulltest.UserNS)
			}
			hulltest.Require(t, needs...)
			w := newTree(t, u, map[string]string{"letter": "Dear reader,\n"})
			w.edit("do")
			if got := w.files(); !cmp.Equal(got, map[string]string{"letter": "Dear reader,\n"}) {
				t.Errorf("after do: %q", got)
			}
			w.edit("do", "--apply")
			if got := w.files(); !cmp.Equal(got, map[string]string{"letter": "Hello\nDear reader,\n"}) {
				t.Errorf("after do --apply: %q", got)
			}
		})
	}
}

// edit has an editor in a terminal of tmux write a line into a file.
func (w *tree) edit(args ...string) {
	w.t.Helper()
	socket := filepath.Join(filepath.Dir(w.dir), fmt.Sprint("tmux", len(args)))
	check(w.t, os.Chown(filepath.Dir(socket), w.user.id, w.user.id))
	tmux := func(args ...string) string {
		w.t.Helper()
		cmd := w.command(slices.Concat([]string{"tmux", "-f", "/dev/null", "-S", socket}, args)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			w.t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		return string(out)
	}
	tmux("new-session", "-d", "-x", "80", "-y", "24", "sh")
	defer tmux("kill-server")
	wait := func(what string) {
		w.t.Helper()
		var screen string
		for range 500 {
			if screen = tmux("capture-pane", "-p"); strings.Contains(screen, what) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		w.t.Fatalf("no %q on the screen:\n%s", what, screen)
	}
	tmux("send-keys", w.hull+" "+strings.Join(args, " ")+" -- vi letter; echo status=$?", "Enter")
	wait("Dear reader,\n~")
	tmux("send-keys", "O", "Hello", "Escape")
	wait("Hello\nDear reader,\n~")
	tmux("resize-window", "-x", "60", "-y", "10")
	tmux("send-keys", ":wq", "Enter")
	wait("status=0")
}
