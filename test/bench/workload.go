package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/spec"
)

// A workload is something that people have a container do. It is a script that prints a number at its end: how many
// milliseconds it took, or, if rate is set, how many it did in a second; then the figure is the time of rate thousand.
type workload struct {
	name   string
	script string
	rate   float64
}

// workloads run in a container that stays, over one root file system: Debian's with the programs of workloadPackages. What is
// written to the root is kept in the sandbox's memory, /data is a directory of the host's file system. They don't use /tmp, where
// runsc mounts a file system of its own.
var workloads = []workload{
	{"20,000 × getpid", `/bench/load getpid 20000`, 0},
	{"3,000 × open, read, close of a file of the root", `/bench/load open 3000 /etc/passwd`, 0},
	{"3,000 × open, read, close of a file of a bind mount", `echo text >/data/file; /bench/load open 3000 /data/file`, 0},
	{"build of 6 small programs, `make -j2`, on the root", build("/srv/build"), 0},
	{"build of 6 small programs, `make -j2`, on a bind mount", build("/data/build"), 0},
	{"5 × start of python3", timed(`for i in 1 2 3 4 5; do python3 -c 'import re, os, sys'; done`), 0},
	{"3 × find over the 1,200 files of Python's library, by size", timed(`for i in 1 2 3; do find /usr/lib/python3* -size +900k >/dev/null; done`), 0},
	{"unpack these from a tar file, on a bind mount", `[ -e /srv/library.tar ] || tar cf /srv/library.tar -C /usr/lib python3.11; rm -rf /data/library; mkdir /data/library
` + timed(`tar xf /srv/library.tar -C /data/library`), 0},
	{"redis-benchmark, 1,000 × set and get", `pgrep redis-server >/dev/null || redis-server --daemonize yes --save "" --dir /tmp >/dev/null
while ! redis-cli ping >/dev/null 2>&1; do sleep 0.1; done
redis-benchmark --csv -n 2000 -t set,get | awk -F'"' '$2 == "SET" || $2 == "GET" { s += 1 / $4; n++ } END { print n / s }'`, 1},
	{"wrk on nginx, 1,000 requests of 8 connections", `pgrep nginx >/dev/null || { sed -i 's/tcp_nopush on/tcp_nopush off/' /etc/nginx/nginx.conf; echo hello >/var/www/html/index.html; nginx; }
wrk -t1 -c8 -d1s http://127.0.0.1:80/ | awk '/^Requests\/sec/ { print $2 }'`, 1},
	{"fio, 4 KiB random reads and writes on the root, 10,000", fio("/srv"), 10},
	{"fio, 4 KiB random reads and writes on a bind mount, 10,000", fio("/data"), 10},
}

// workloadPackages are what Debian's root needs beside what it has, for test/debian/root.
const workloadPackages = "nginx-light redis-server redis-tools python3-minimal gcc libc6-dev make wrk fio iperf3 procps"

// timed is a script that does what another does, and says how many milliseconds that took.
func timed(script string) string {
	return `b=$(date +%s%N); ` + script + ` || exit; echo $((($(date +%s%N) - b) / 1000000))`
}

func build(dir string) string {
	return `rm -rf ` + dir + `; mkdir ` + dir + `; cd ` + dir + `; echo all: >Makefile
for i in $(seq 6); do printf '#include <stdio.h>\nint main(void) { printf("%%d\\n", %d); }\n' $i >p$i.c; printf 'all: p%d\n' $i >>Makefile; done
` + timed("make -s -j2")
}

func fio(dir string) string {
	return `fio --name=` + dir + ` --directory=` + dir + ` --size=64m --rw=randrw --bs=4k --ioengine=psync --runtime=300ms --time_based --minimal --terse-version=3 |
awk -F';' '{ print $8 + $49 }'`
}

// measureWorkloads compares what programs get done in sandboxes of hull and runsc.
func measureWorkloads(ctx context.Context, b *bench) error {
	only, err := regexp.Compile(b.only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if b.debian == "" {
		return errors.New(`-debian wants a root file system: -debian "$(test/debian/root ` + workloadPackages + `)"`)
	}
	veth, err := b.vethPair()
	if err != nil {
		return err
	}
	root, err := b.workloadRoot(b.debian)
	if err != nil {
		return err
	}
	if b.stage.mounts, err = readMounts(); err != nil { // which go with the stage
		return err
	}
	var boxes []*contestant
	for i, c := range []*contestant{
		{role: hull, path: b.runtimes[0].path, flags: []string{"--isolation", "sandbox", "--overlay", "memory"}},
		{role: runsc, flags: []string{"--platform=systrap", "--overlay2=root:memory"}},
	} {
		if c.role == runsc {
			sc, err := b.newestRunsc()
			if err != nil {
				return err
			}
			c.path = sc.path
		}
		if c, err = b.box(c); err != nil {
			return err
		}
		bundle, err := b.workloadBundle(c, root, veth[i].inside)
		if err != nil {
			return err
		}
		if c.stands, err = c.detach(ctx, b.stage.prefix, bundle); err != nil {
			return err
		}
		boxes = append(boxes, c)
	}
	var actions []action
	for _, w := range workloads {
		if !only.MatchString(w.name) {
			continue
		}
		actions = append(actions, action{b.workloadFigure(w.name), func(ctx context.Context, c *contestant) (time.Duration, error) {
			return w.measure(ctx, c.command("exec", c.stands, "sh", "-c", w.script))
		}})
	}
	for _, way := range []struct{ name, flag string }{{"iperf3 into the container, 1 GB", ""}, {"iperf3 out of the container, 1 GB", "-R"}} {
		if !only.MatchString(way.name) {
			continue
		}
		w := workload{rate: 0.008} // a thousandth of 8 Gbit
		actions = append(actions, action{b.workloadFigure(way.name), func(ctx context.Context, c *contestant) (time.Duration, error) {
			v := veth[0]
			if c.role == runsc {
				v = veth[1]
			}
			if _, err := spend(ctx, c.command("exec", c.stands, "sh", "-c", "pgrep iperf3 >/dev/null || { iperf3 -s -D; sleep 0.3; }")); err != nil {
				return 0, err
			}
			script := fmt.Sprintf(`iperf3 -c %s -n 400M -f m %s | awk '/receiver/ { print $7 / 1000 }'`, v.address, way.flag)
			return w.measure(ctx, []string{"/usr/bin/nsenter", "--net=" + v.outside, "chroot", root, "sh", "-c", script})
		}})
	}
	if len(actions) == 0 {
		return fmt.Errorf("-only: %q matches no workload", b.only)
	}
	kept, err := readPairs(b.pairs)
	if err != nil {
		return err
	}
	for _, a := range actions {
		kept.give(a.figure)
	}
	if err := b.untilDecided(ctx, boxes, b.rounds, actions...); err != nil {
		return err
	}
	for _, a := range actions {
		kept.take(a.figure)
	}
	if err := kept.write(b.pairs); err != nil {
		return err
	}
	for _, c := range boxes {
		if err := c.remove(ctx, c.stands); err != nil {
			return err
		}
		if err := c.dropNetns(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) workloadFigure(name string) *figure {
	f := b.figure(workloadTable, name, milliseconds, budget{runsc, 1.053}) // 0.95 of what it gets done
	f.paired = true
	return f
}

// measure runs the workload and returns what it says, as a time.
func (w workload) measure(ctx context.Context, argv []string) (time.Duration, error) {
	out, err := output(ctx, argv)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(out)
	if len(fields) == 0 {
		return 0, fmt.Errorf("%s: no output", strings.Join(argv, " "))
	}
	n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s: printed %q, which ends in no number", strings.Join(argv, " "), out)
	}
	if w.rate > 0 {
		n = w.rate * 1e6 / n
	}
	return time.Duration(n * float64(time.Millisecond)), nil
}

// output runs a program to its end and returns what it prints.
func output(ctx context.Context, argv []string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	p, err := prepare(argv)
	if err != nil {
		return "", err
	}
	defer p.close()
	fd, err := unix.MemfdCreate("stdout", unix.MFD_CLOEXEC)
	if err != nil {
		return "", os.NewSyscallError("memfd_create", err)
	}
	p.out = os.NewFile(uintptr(fd), "stdout")
	defer p.out.Close()
	if err := p.start(); err != nil {
		return "", err
	}
	if err := p.wait(); err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.NewSectionReader(p.out, 0, 1<<20))
	return string(text), err
}

// workloadRoot returns the root of both containers: Debian's, of which nothing is changed, with mount points and the load.
func (b *bench) workloadRoot(debian string) (string, error) {
	dir := filepath.Join(b.stage.dir, "debian")
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	root := filepath.Join(dir, "root")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", debian, dir, dir)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mount overlay of %s: %w", debian, err)
	}
	for _, d := range []string{"bench", "data"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(root, "bench/load"), "./test/bench/load")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("the load: %w\n%s", err, out)
	}
	return root, nil
}

// workloadBundle makes the bundle of a container that does nothing by itself. Both are given the same but for their names.
func (b *bench) workloadBundle(c *contestant, root, netns string) (string, error) {
	dir := filepath.Join(b.stage.dir, fmt.Sprintf("workload-%d", c.role))
	data, err := os.MkdirTemp(b.cache, "workload-") // on a disk, if that is on one
	if err != nil {
		return "", err
	}
	b.litter = append(b.litter, data)
	s := spec.Example(spec.Options{Args: []string{"sleep", "1d"}})
	s.Version = specVersion
	s.Process.Terminal = false
	s.Process.NoNewPrivileges = false
	caps := engineCapabilities
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	s.Process.Env = append(environment, "HOME=/root", "LANG=C.UTF-8")
	s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 4096}}
	s.Root.Path, s.Root.Readonly = root, false
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind", "rw"}})
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			s.Linux.Namespaces[i].Path = netns
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return dir, spec.Write(dir, s)
}

// veth is two network namespaces that are joined: one for a container, and one to reach it from.
type veth struct{ inside, outside, address string }

// vethPair makes one for hull and one for runsc, which are bound to files of the stage, and go with it.
func (b *bench) vethPair() (made [2]veth, err error) {
	for i := range made {
		at := func(name string) string { return filepath.Join(b.stage.dir, fmt.Sprintf("net-%s-%d", name, i)) }
		v := veth{at("inside"), at("outside"), fmt.Sprintf("10.77.%d.2", i)}
		for _, file := range []string{v.inside, v.outside} {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return made, err
			}
			if out, err := exec.Command("unshare", "--net="+file, "true").CombinedOutput(); err != nil {
				return made, fmt.Errorf("unshare --net: %w: %s", err, out)
			}
		}
		for _, step := range []struct{ netns, args string }{
			{v.outside, "link add v0 type veth peer name eth0 netns " + v.inside},
			{v.outside, fmt.Sprintf("addr add 10.77.%d.1/24 dev v0", i)},
			{v.outside, "link set v0 up"},
			{v.outside, "link set lo up"},
			{v.inside, fmt.Sprintf("addr add %s/24 dev eth0", v.address)},
			{v.inside, "link set eth0 up"},
			{v.inside, "link set lo up"},
		} {
			args := append([]string{"--net=" + step.netns, "ip"}, strings.Fields(step.args)...)
			if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
				return made, fmt.Errorf("ip %s: %w: %s", step.args, err, out)
			}
		}
		made[i] = v
	}
	return made, nil
}
