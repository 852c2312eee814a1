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

// boot is what qemu is started with.
type boot struct {
	kernel, initrd, disk, payload string
}

// run boots the machine, copies the tests' output to w and everything to the file console.
func (b *boot) run(w io.Writer, console string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-m", "2048", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", b.kernel, "-initrd", b.initrd,
		// The first disk stays as it is, for the next run.
		"-drive", "file="+b.disk+",if=virtio,format=raw,snapshot=on", "-drive", "file="+b.payload+",if=virtio,format=raw",
		"-append", "console=ttyS0 quiet loglevel=1 panic=-1 rw systemd.show_status=0 systemd.unified_cgroup_hierarchy=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	log, err := os.Create(console)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stderr = log
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	status, err := follow(w, io.TeeReader(out, log))
	if werr := cmd.Wait(); err == nil {
		err = werr
	}
	fmt.Fprintf(w, "the machine ran %.0fs; its console is in %s\n", time.Since(begin).Seconds(), console)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("ended after %v", timeout)
	case err != nil:
		return err
	case status != 0:
		return fmt.Errorf("exit status %d in the machine", status)
	}
	return nil
}

// follow copies the tests' lines from the console and returns the exit status that ends them. qemu's own says nothing
// about the guest's.
func follow(w io.Writer, console io.Reader) (status int, err error) {
	status = -1
	inside := false
	sc := bufio.NewScanner(console)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := strings.TrimRight(sc.Text(), "\r")
		switch rest, ok := strings.CutPrefix(line, markExit); {
		case strings.HasSuffix(line, markBegin): // something of systemd's may stand before it
			inside = true
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
