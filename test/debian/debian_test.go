// Package debian runs what people run in containers, from Debian's packages and with a load of its own: each program in both
// kinds of isolation. What it prints is looked at, and is to be the same in both.
package debian

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
	"hull/spec"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// envRoot names the directory that the script root has made.
const envRoot = "HULL_TEST_DEBIAN"

var needDebian = hulltest.Need{Name: "debian", Check: func() error {
	if os.Getenv(envRoot) == "" {
		return errors.New(envRoot + " is not set; make test-debian does")
	}
	return nil
}}

// limit ends a program that hangs. None takes more than some seconds.
const limit = 3 * time.Minute

var programs = []struct{ name, script, want string }{
	{"pipeline", `seq 100000 | sort -rn | head -n 2; find /usr/bin -type l | wc -l | grep -c .`, "100000\n99999\n1\n"},
	{"python3", `python3 -c '
import multiprocessing, socket, sqlite3, ssl, subprocess, sys, threading
print(sum(multiprocessing.Pool(3).map(abs, range(10))))
seen = []
threads = [threading.Thread(target=seen.append, args=(i,)) for i in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sorted(seen))
print(subprocess.run([sys.executable, "-c", "import sys; sys.exit(7)"]).returncode)
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname())
server.accept()[0].sendall(b"by a socket"); print(client.recv(100).decode())
db = sqlite3.connect("/tmp/db"); db.execute("pragma journal_mode=wal"); db.execute("create table t(a)")
db.executemany("insert into t values (?)", [(i,) for i in range(2000)]); db.commit()
print(db.execute("select sum(a) from t").fetchone()[0])'`, "45\n[0, 1, 2, 3, 4, 5, 6, 7]\n7\nby a socket\n1999000\n"},
	{"node", `node -e '
const http = require("http"), fs = require("fs"), { execFileSync } = require("child_process");
console.log(execFileSync("echo", ["a child"]).toString().trim());
fs.writeFileSync("/tmp/file", "x".repeat(1 << 20)); console.log(fs.statSync("/tmp/file").size);
const server = http.createServer((request, response) => response.end("hello " + request.url)).listen(0, "127.0.0.1", async () => {
  const get = i => new Promise(done => http.get({ port: server.address().port, host: "127.0.0.1", path: "/" + i }, r => {
    let body = ""; r.on("data", d => body += d).on("end", () => done(body));
  }));
  const all = await Promise.all([...Array(200).keys()].map(get));
  console.log(all.length, all[199]); server.close();
})'`, "a child\n1048576\n200 hello /199\n"},
	// A package is packed, installed from its archive with the program in it, and built with by that program; nothing is fetched.
	{"npm", `export npm_config_offline=true npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false npm_config_loglevel=error
mkdir -p /tmp/twice /tmp/app && cd /tmp/twice && npm init -y >/dev/null && npm pkg set bin.twice=index.js
printf '#!/usr/bin/env node\nconst twice = n => 2 * n;\nmodule.exports = twice;\nif (require.main === module) console.log("module.exports = " + twice(process.argv[2]));\n' >index.js
npm pack; cd /tmp/app && npm init -y >/dev/null && npm pkg set scripts.build='twice 21 >built.js' scripts.test='node -p "require(\"./built.js\") === require(\"twice\")(21)"'
npm install --silent ../twice/twice-1.0.0.tgz; npm run --silent build && npm test --silent
rm -r node_modules && npm ci --silent && readlink node_modules/.bin/twice; npm ls --parseable`, "twice-1.0.0.tgz\ntrue\n../twice/index.js\n/tmp/app\n/tmp/app/node_modules/twice\n"},
	{"nginx", `nginx && while ! ab -q -n 1 http://127.0.0.1/ >/dev/null 2>&1; do sleep 0.1; done
ab -q -n 2000 -c 8 http://127.0.0.1/ | grep -E '^(Complete|Failed)'; ab -q -k -n 2000 -c 8 http://127.0.0.1/ | grep -E '^(Complete|Failed)'
nginx -s quit 2>/dev/null; while pgrep nginx >/dev/null; do sleep 0.1; done; echo gone`,
		"Complete requests:      2000\nFailed requests:        0\nComplete requests:      2000\nFailed requests:        0\ngone\n"},
	{"redis", `cd /tmp; redis-server --daemonize yes --dir /tmp >/dev/null; while ! redis-cli ping >/dev/null 2>&1; do sleep 0.1; done
redis-cli set key value; redis-benchmark -q -n 5000 -t set,get,incr,lpush >/dev/null && echo loaded
redis-cli save; redis-cli shutdown nosave; redis-server --daemonize yes --dir /tmp >/dev/null
while [ "$(redis-cli ping 2>/dev/null)" != PONG ]; do sleep 0.1; done; redis-cli get key; redis-cli shutdown nosave`, "OK\nloaded\nOK\nvalue\n"},
	{"postgresql", `PATH=$PATH:/usr/lib/postgresql/15/bin; install -d -o postgres /tmp/pg
exec setpriv --reuid postgres --regid postgres --clear-groups sh -ec '
initdb -D /tmp/pg/data >/dev/null 2>&1; start="pg_ctl -s -w -D /tmp/pg/data -l /tmp/pg/log start -o -k/tmp"
$start; psql -qAt -h /tmp postgres -c "select 41 + 1"; pgbench -iq -h /tmp postgres >/dev/null 2>&1
pgbench -h /tmp -c 4 -j 2 -t 100 postgres 2>/dev/null | grep -E "processed|failed"
pg_ctl -s -D /tmp/pg/data -m immediate stop; $start 2>/dev/null
psql -qAt -h 127.0.0.1 postgres -c "select count(*) from pgbench_history"; pg_ctl -s -D /tmp/pg/data -m fast stop'`,
		"42\nnumber of transactions actually processed: 400/400\nnumber of failed transactions: 0 (0.000%)\n400\n"},
	{"git", `export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; cd /tmp
git init -q -b main origin; cd origin; for i in $(seq 10); do echo $i >file$i; git add .; git commit -q -m "number $i"; done; cd ..
git clone -q origin copy; cd copy; echo more >>file1; git commit -qam more; git push -q origin HEAD:topic
git -C ../origin log --format=%s -n 2 topic; git -C ../origin fsck --strict; git -C ../origin gc -q; git status --short | wc -l`, "more\nnumber 10\n0\n"},
	{"c", `cd /tmp; echo 'all:' >Makefile; for i in $(seq 12); do
printf '#include <stdio.h>\nint main(void) { printf("%%d\\n", %d * %d); }\n' $i $i >p$i.c; printf 'all: p%d\n' $i >>Makefile; done
make -s -j4 CFLAGS=-O2 && ./p12`, "144\n"},
	{"go", `mkdir -p /tmp/m && cd /tmp/m && printf 'module m\n\ngo 1.19\n' >go.mod
printf 'package main\n\nimport "fmt"\n\nfunc sum(n ...int) (s int) {\n\tfor _, i := range n {\n\t\ts += i\n\t}\n\treturn\n}\n\nfunc main() { fmt.Println(sum(20, 22)) }\n' >main.go
printf 'package main\n\nimport "testing"\n\nfunc TestSum(t *testing.T) {\n\tif sum(1, 2) != 3 {\n\t\tt.Fatal()\n\t}\n}\n' >main_test.go
export GOFLAGS=-mod=mod GOPROXY=off; go build -o m . && ./m && go test . >/dev/null && echo tested`, "42\ntested\n"},
	{"gdb", `cd /tmp; printf 'int f(int a) { return 2 * a; }\nint main(void) { return f(21); }\n' >d.c; gcc -g -o d d.c
gdb -batch -ex 'break f' -ex run -ex 'print a' -ex continue ./d 2>/dev/null | grep -oE '^\$1 = 21|exited with code 052'`, "$1 = 21\nexited with code 052\n"},
	{"strace", `echo text >/tmp/file; strace -f -e trace=openat,exit_group -o /tmp/trace sh -c 'cat /tmp/file'
grep -c '/tmp/file", O_RDONLY' /tmp/trace; grep -c 'exit_group(0)' /tmp/trace`, "text\n1\n2\n"},
	{"apt", `apt-get install -y /var/cache/apt/archives/hello_*.deb >/tmp/log 2>&1 || cat /tmp/log; hello; dpkg --verify hello; apt-get -qq purge -y hello >/dev/null 2>&1; hash -r
command -v hello || apt-get check -qq && echo consistent`, "Hello, world!\nconsistent\n"},
}

func TestPrograms(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.Overlay, hulltest.MountSetattr, needDebian)
	hulltest.SandboxBinary(t) // hull finds it beside itself
	for _, p := range programs {
		for _, isolation := range []string{"native", "sandbox"} {
			t.Run(p.name+"/"+isolation, func(t *testing.T) {
				began := time.Now()
				if diff := cmp.Diff(p.want, run(t, isolation, p.script)); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
				t.Log(time.Since(began).Round(time.Millisecond))
			})
		}
	}
}

// run runs a script in a container whose root is a copy of Debian's, and returns what it prints on both streams.
func run(t *testing.T, isolation, script string) string {
	t.Helper()
	dir := t.TempDir()
	root := overlay(t, os.Getenv(envRoot), dir)
	s := spec.Example(spec.Options{Args: []string{"sh", "-c", script}})
	s.Process.Terminal = false
	s.Root = &specs.Root{Path: root}
	s.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	// What container engines give.
	caps := []string{"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
		"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Process.NoNewPrivileges = false
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}
	s.Linux.CgroupsPath = "/" + hulltest.Token(t) + "-debian"
	check(t, spec.Write(dir, s))

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	hull, state := hulltest.HullBinary(t), filepath.Join(dir, "state")
	cmd := exec.CommandContext(ctx, hull, "--root", state, "--isolation", isolation, "run", "--bundle", dir, "debian")
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	defer func() { _ = exec.Command(hull, "--root", state, "delete", "--force", "debian").Run() }()
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %v", cmd.Args, err)
	}
	return out.String()
}

// overlay mounts a directory so that it can be changed and stays as it is.
func overlay(t *testing.T, lower, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "root")
	for _, sub := range []string{"root", "upper", "work"} {
		check(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
	}
	options := "lowerdir=" + lower + ",upperdir=" + filepath.Join(dir, "upper") + ",workdir=" + filepath.Join(dir, "work")
	check(t, unix.Mount("overlay", root, "overlay", 0, options))
	t.Cleanup(func() { check(t, unix.Unmount(root, unix.MNT_DETACH)) })
	return root
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
