package sandbox

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/sandbox/wire"
)

// Systrap and KVM are the platforms, which are the ways to run programs.
const (
	Systrap = "systrap"
	KVM     = "kvm"
)

// kvmDevice is where the host's KVM is, unless somebody says otherwise.
const kvmDevice = "/dev/kvm"

const (
	// trialTime is how long a step of a trial of KVM may take. All of them take some milliseconds; what hangs does so for ever.
	trialTime = 5 * time.Second
	// startFactor is how many times as long hull-sandbox may take to begin: that is not KVM's, and a busy machine may be that slow.
	startFactor = 6
	// killTime is how long a process that was killed may take to end.
	killTime = 500 * time.Millisecond
)

// checkPlatform refuses a platform that there isn't.
func (o Options) checkPlatform() error {
	switch o.Platform {
	case "", Systrap:
		if o.PlatformDevice != "" {
			return &fault.Error{Step: "platform-device " + strconv.Quote(o.PlatformDevice), Kind: fault.BadUsage,
				Err: errors.New("the platform systrap has no device; kvm has one")}
		}
		return nil
	case KVM:
		if o.PlatformDevice != "" && !filepath.IsAbs(o.PlatformDevice) {
			return &fault.Error{Step: "platform-device " + strconv.Quote(o.PlatformDevice), Kind: fault.BadUsage,
				Err: errors.New("want an absolute path")}
		}
		if runtime.GOARCH != "amd64" {
			return &fault.Error{Step: "platform kvm", Kind: fault.Unsupported, Err: errors.New("on amd64 only; systrap is possible")}
		}
		return nil
	case "ptrace":
		return &fault.Error{Step: "platform ptrace", Kind: fault.Unsupported,
			Err: errors.New("the platform before systrap, slower in all it does; " +
				"the jail's filter allows what systrap needs and no more of ptrace(2); systrap is possible")}
	}
	return oneOf("platform", o.Platform, Systrap, KVM)
}

// givePlatform passes the host's KVM, if programs run by it, once it has shown that it works.
func (c *creation) givePlatform(e Engine) error {
	if e.Platform != KVM {
		return nil
	}
	f, err := e.ProbeKVM()
	if err != nil {
		return err
	}
	c.give("kvm-fd", f)
	return nil
}

// ProbeKVM returns the host's device of that name, open, if a virtual machine runs by it.
//
// No process but one of its own opens the device: on some virtual machines it is there, and hangs whoever uses it in the kernel,
// where no signal ends that. Such a process is left to its fate.
func (e Engine) ProbeKVM() (*os.File, error) {
	device := cmp.Or(e.PlatformDevice, kvmDevice)
	program, err := e.open()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "trial")
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that it has deadlines
		unix.Close(fds[0])
		theirs.Close()
		return nil, os.NewSyscallError("fcntl F_SETFL", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "trial")
	defer ours.Close()
	cmd := exec.Command("/proc/self/fd/"+strconv.Itoa(int(program.Fd())), wire.ProbeKVM, device)
	cmd.Args[0] = "hull-sandbox"
	cmd.Env, cmd.Dir, cmd.ExtraFiles = []string{}, "/", []*os.File{theirs}
	words := new(bytes.Buffer)
	cmd.Stderr = words
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, &fault.Error{Step: "start hull-sandbox", Err: err}
	}
	gone := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
	f, step, err := followTrial(ours, device, e.patience())
	if err == nil {
		return f, nil
	}
	// To no avail where the kernel has it.
	_ = cmd.Process.Kill()
	left := false
	select {
	case <-gone:
	case <-time.After(killTime):
		left = true
	}
	var reported *fault.Error
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, e.hung(device, step, cmd.Process.Pid, left)
	case errors.Is(err, wire.ErrEnd) && !left:
		return nil, &fault.Error{Step: "platform kvm",
			Err: fmt.Errorf("hull-sandbox %s: %v: %s", wire.ProbeKVM, cmd.ProcessState, wire.Printable(strings.TrimSpace(words.String())))}
	case errors.As(err, &reported):
		reported.Step = "platform kvm: " + reported.Step
	}
	return nil, err
}

// stands tells whether a thread of a process is where in the kernel no signal ends it: state D of proc(5).
func stands(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return slices.ContainsFunc(tasks, func(task string) bool {
		stat, _ := os.ReadFile(task)
		return strings.HasPrefix(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " D ")
	})
}

// followTrial returns the device at the end of a trial, or the step at which it stood at its failure: os.ErrDeadlineExceeded, if the
// time of that step is over.
func followTrial(conn *os.File, device string, patience time.Duration) (f *os.File, step string, err error) {
	deadline := time.Now().Add(startFactor * patience)
	for {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return nil, step, err
		}
		var t wire.Trial
		var fds []int
		err := wire.Await(conn, func(fd int) (err error) {
			fds, err = wire.Receive(fd, &t, 1)
			return err
		})
		switch {
		case err != nil:
			return nil, step, err
		case t.Failure != nil:
			return nil, step, t.Failure.Err()
		case len(fds) == 1 && t.Step == "":
			return os.NewFile(uintptr(fds[0]), device), "", nil
		case t.Step == "" || len(fds) > 0:
			return nil, step, errors.New("hull-sandbox has tried KVM and doesn't say what came of it")
		}
		step = wire.Printable(t.Step)
		deadline = time.Now().Add(patience)
	}
}

func (e Engine) patience() time.Duration { return cmp.Or(e.trialTime, trialTime) }

// hung is the error of a trial that did not end.
func (e Engine) hung(device, step string, pid int, left bool) error {
	what := fmt.Sprintf("%s %s has not come back within %v", step, strconv.Quote(device), e.patience())
	if step == "" {
		what = fmt.Sprintf("hull-sandbox has not begun to try %s within %v", strconv.Quote(device), startFactor*e.patience())
	}
	switch {
	case left && stands(pid):
		what += fmt.Sprintf("; process %d hangs in it, and can't be killed", pid)
	case left:
		what += fmt.Sprintf("; process %d was killed, and has not ended yet", pid)
	}
	return &fault.Error{Step: "platform kvm", Kind: fault.Unsupported, Err: errors.New(what),
		Hint: "leave --platform kvm out: systrap, the default, needs no KVM. If this machine is a virtual one itself, its " +
			"hypervisor may offer nested virtualization that doesn't work"}
}
