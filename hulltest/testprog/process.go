package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func echo(words []string) error {
	fmt.Println(strings.Join(words, " "))
	return nil
}

func exit(args []string) error {
	n, err := strconv.ParseUint(args[0], 10, 8)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return status(n)
}

// sleep sleeps for so many seconds, which may have a fraction.
func sleep(args []string) error {
	s, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	time.Sleep(time.Duration(s * float64(time.Second)))
	return nil
}

// env prints the environment in its order, or the value of one variable.
func env(args []string) error {
	if len(args) == 0 {
		for _, kv := range os.Environ() {
			fmt.Println(kv)
		}
		return nil
	}
	value, ok := os.LookupEnv(args[0])
	if !ok {
		return fmt.Errorf("%s is not set", args[0])
	}
	fmt.Println(value)
	return nil
}

func cwd([]string) error {
	dir, err := os.Getwd()
	if err == nil {
		fmt.Println(dir)
	}
	return err
}

// id prints the ids of this process.
func id([]string) error {
	ruid, euid, suid := unix.Getresuid()
	rgid, egid, sgid := unix.Getresgid()
	groups, err := unix.Getgroups()
	if err != nil {
		return os.NewSyscallError("getgroups", err)
	}
	slices.Sort(groups)
	fmt.Println("uid", ruid, euid, suid)
	fmt.Println("gid", rgid, egid, sgid)
	fmt.Println(strings.TrimSpace("groups " + strings.Trim(fmt.Sprint(groups), "[]")))
	return nil
}

func umask([]string) error {
	fmt.Printf("%04o\n", unix.Umask(0))
	return nil
}

// fds prints the open descriptors and what they are: N TARGET.
func fds([]string) error {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	var open []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n != int(d.Fd()) {
			open = append(open, n)
		}
	}
	slices.Sort(open)
	for _, n := range open {
		dest, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", n))
		if err != nil || dest == "anon_inode:[eventpoll]" || dest == "anon_inode:[eventfd]" {
			continue // the Go runtime's own
		}
		fmt.Println(n, dest)
	}
	return nil
}

// limits prints the resource limits, as in /proc/self/limits.
func limits([]string) error { return cat([]string{"/proc/self/limits"}) }

// procStatus prints lines of /proc/self/status by their names.
func procStatus(fields []string) error {
	content, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for _, field := range fields {
		found := false
		for line := range strings.Lines(string(content)) {
			if name, value, _ := strings.Cut(line, ":"); name == field {
				fmt.Println(field, strings.Join(strings.Fields(value), " "))
				found = true
			}
		}
		if !found {
			return fmt.Errorf("no field %s in /proc/self/status", field)
		}
	}
	return nil
}

func caps([]string) error {
	return procStatus([]string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
}

func sigstatus([]string) error {
	return procStatus([]string{"SigBlk", "SigIgn", "SigCgt"})
}

// namespaces prints the namespaces of this process: NAME INODE.
func namespaces([]string) error {
	entries, err := os.ReadDir("/proc/self/ns")
	if err != nil {
		return err
	}
	for _, e := range entries {
		dest, err := os.Readlink("/proc/self/ns/" + e.Name())
		if err != nil {
			return err
		}
		fmt.Println(e.Name(), dest)
	}
	return nil
}

// sched prints the scheduling attributes, the I/O priority and the affinity.
func sched([]string) error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return os.NewSyscallError("sched_getattr", err)
	}
	fmt.Printf("policy %d flags %#x nice %d priority %d runtime %d deadline %d period %d\n",
		attr.Policy, attr.Flags, attr.Nice, attr.Priority, attr.Runtime, attr.Deadline, attr.Period)
	const whoProcess = 1 // IOPRIO_WHO_PROCESS
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("ioprio_get", errno)
	}
	fmt.Printf("ioprio class %d level %d\n", prio>>13, prio&7)
	return procStatus([]string{"Cpus_allowed_list"})
}

func hostname([]string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	fmt.Println(unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Domainname[:]))
	return nil
}

// uname prints the machine, which the personality changes.
func uname([]string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return os.NewSyscallError("uname", err)
	}
	fmt.Println(unix.ByteSliceToString(u.Machine[:]))
	return nil
}

// tty prints, for each of the three standard streams: N ROWSxCOLUMNS TERMINAL, or: N no.
func tty([]string) error {
	for fd := range 3 {
		size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(fd, "no")
			continue
		}
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			return err
		}
		fmt.Printf("%d %dx%d %s\n", fd, size.Row, size.Col, name)
	}
	return nil
}

// trap prints "ready", waits for one of the signals and prints its name.
func trap(names []string) error {
	var signals []os.Signal
	for _, name := range names {
		sig := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG"))
		if n, err := strconv.Atoi(name); err == nil && n > 0 {
			sig = unix.Signal(n) // those of real time have no names
		}
		if sig == 0 {
			return fmt.Errorf("%w: no signal %s", errUsage, name)
		}
		signals = append(signals, sig)
	}
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, signals...)
	fmt.Println("ready")
	sig := (<-caught).(unix.Signal)
	fmt.Println(cmp.Or(unix.SignalName(sig), strconv.Itoa(int(sig))))
	return nil
}

// spawn starts n children that sleep, prints "ready" and waits for a signal that ends it; the children stay.
func spawn(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	for range n {
		child := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"sleep", "3600"}}
		if err := child.Start(); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return nil
}

// zombie starts a child that ends at once, and that nobody waits for.
func zombie([]string) error {
	return (&exec.Cmd{Path: "/proc/self/exe", Args: []string{"true"}}).Start()
}

// spin keeps a processor busy for so many seconds, which may have a fraction.
func spin(args []string) error {
	s, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	for end := time.Now().Add(time.Duration(s * float64(time.Second))); time.Now().Before(end); {
	}
	return nil
}

// hold takes so many bytes of memory, prints "ready" and keeps them until a signal ends it.
func hold(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	for i := 0; i < n; i += 4096 {
		memory[i] = 1
	}
	fmt.Println("ready")
	time.Sleep(time.Hour)
	return nil
}
