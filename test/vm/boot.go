package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// The guest's lines between these two are the tests' output; the second ends with the exit status.
const (
	markBegin = "HULL-VM-BEGIN"
	markExit  = "HULL-VM-EXIT "
)

// bootTimeout is how long the machine may take to begin with the tests: twenty times what it needs on an idle host.
const bootTimeout = 10 * time.Minute

var errNoBegin = fmt.Errorf("the machine has not begun with the tests after %v", bootTimeout)

// boot is what qemu is started with.
type boot struct {
	arch *arch

	kernel, initrd, disk, payload string
}

// run boots the machine and copies the tests' output to w. The kernel's messages and systemd's go to the file console;
// when there is no exit status, w gets the end of them.
//
// The tests have a serial line of their own. On the console's they would lose their output at the moment when systemd
// starts a getty there, which hangs the terminal up (vhangup(2)), and every write after it fails.
func (b *boot) run(w io.Writer, console string, timeout time.Duration) error {
	return b.boot(w, console, timeout, commandLine(),
		// The first disk stays as it is, for the next run.
		"-drive", "file="+b.disk+",if=virtio,format=raw,snapshot=on", "-drive", "file="+b.payload+",if=virtio,format=raw")
}

// install boots the machine for what is left to be done on its disk.
func (b *boot) install(w io.Writer, console string, timeout time.Duration) error {
	fmt.Fprintln(w, "the machine installs itself")
	return b.boot(w, console, timeout, commandLine()+" hull.install",
		"-drive", "file="+b.disk+",if=virtio,format=raw,cache=unsafe")
}

func (b *boot) boot(w io.Writer, console string, timeout time.Duration, parameters string, drives ...string) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), timeout, fmt.Errorf("no end after %v", timeout))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	late := time.AfterFunc(bootTimeout, func() { stop(errNoBegin) })
	defer late.Stop()
	args := append(b.arch.qemu[1:len(b.arch.qemu):len(b.arch.qemu)],
		"-accel", "tcg,thread=multi", "-m", "4096", "-smp", "2", "-no-reboot", "-nic", "none",
		"-display", "none", "-monitor", "none", "-kernel", b.kernel, "-initrd", b.initrd,
		"-append", parameters+" "+b.arch.parameters)
	for i, to := range []string{"file,id=console,path=" + console, "stdio,id=tests"} {
		args = append(args, "-chardev", to)
		args = append(args, b.arch.serial[i]...)
	}
	cmd := exec.CommandContext(ctx, b.arch.qemu[0], append(args, drives...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = w
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	status, err := follow(w, out, func() { late.Stop() })
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		fmt.Fprintf(w, "the console's last lines:\n%s", lastLines(console, 40))
	}
	fmt.Fprintf(w, "the machine ran %.0fs; its console is in %s\n", time.Since(begin).Seconds(), console)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d in the machine", status)
	}
	return err
}

// commandLine is the kernel's. It keeps away what takes time to start, which under load is minutes: apparmor.service
// compiles profiles of programs that are not there, and podman-auto-update.service, which is started at each boot, looks for images.
func commandLine() string {
	line := "loglevel=5 panic=-1 rw mitigations=off init_on_alloc=0 tsc=reliable systemd.unified_cgroup_hierarchy=1" +
		" systemd.show_status=1 systemd.getty_auto=0"
	for _, unit := range []string{
		"apparmor.service", "e2scrub_reap.service", "getty@tty1.service", "podman-auto-update.service", "systemd-update-utmp.service", "timers.target",
	} {
		line += " systemd.mask=" + unit
	}
	return line
}

// lastLines returns the last n lines of a file, or why it can't.
func lastLines(file string, n int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error() + "\n"
	}
	lines := strings.SplitAfter(strings.ReplaceAll(string(data), "\r", ""), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}

// follow copies the tests' lines from the serial line and returns the exit status that ends them; begun is called at the
// first one. qemu's own status says nothing about the guest's.
func follow(w io.Writer, line io.Reader, begun func()) (status int, err error) {
	status = -1
	inside := false
	sc := bufio.NewScanner(line)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		switch rest, ok := strings.CutPrefix(line, markExit); {
		case strings.HasSuffix(line, markBegin): // something of the firmware's may stand before it
			inside = true
			begun()
		case ok:
			inside = false
			if status, err = strconv.Atoi(rest); err != nil {
				return -1, fmt.Errorf("the machine's last line: %w", err)
			}
		case inside:
			fmt.Fprintln(w, line)
		}
	}
	if status < 0 && sc.Err() == nil {
		return -1, errors.New("the machine ended without an exit status")
	}
	return status, sc.Err()
}
