package hull_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"hull/hulltest"
)

const (
	lastCall = 600        // of those that any Linux has
	x32Bit   = 0x40000000 // __X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h
	i386Bit  = 1 << 31    // ours: by the other gate
	low      = 0x40       // MAP_32BIT, arch/x86/include/uapi/asm/mman.h; elsewhere without a meaning
)

// The program in a container that makes all system calls there are, by each interface of the host's kernel, and more. It does so
// in a process that may not live through it, nor come back from each; then another one goes on.
func init() {
	roles["syscalls"] = func([]string) error {
		begins := []uint32{0}
		if runtime.GOARCH == "amd64" {
			begins = append(begins, x32Bit, i386Bit)
		}
		for _, begin := range begins {
			for next := begin; next <= begin+lastCall; {
				last, err := callOnwards(next)
				if err != nil {
					return err
				}
				next = last + 1
			}
		}
		fmt.Println("survived")
		return nil
	}
	roles["syscall"] = func(args []string) error {
		const progress = 3
		runtime.LockOSThread()
		first, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			return err
		}
		pid := uintptr(unix.Getpid())
		garbage := make([]byte, 4096)
		for nr := uint32(first); nr&(x32Bit-1) <= lastCall; nr++ {
			told := binary.LittleEndian.AppendUint32(nil, nr)
			if _, err := unix.Write(progress, told); err != nil {
				return err
			}
			if nr == unix.SYS_PTRACE {
				continue // who asks to be traced by a parent that doesn't know of it stops at each signal
			}
			for _, arg := range []uintptr{0, ^uintptr(0), uintptr(unsafe.Pointer(&garbage[0]))} {
				if nr&i386Bit != 0 {
					interrupt80(nr&^i386Bit, uint32(arg))
				} else {
					unix.RawSyscall6(uintptr(nr), arg, arg, arg, arg, arg, arg)
				}
				if now, _, _ := unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0); now != pid {
					unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0) // a child, which fork(2) has made
				}
			}
		}
		return nil
	}
}

// The program that asks, by one gate, which kernel is behind it.
func init() {
	roles["gate"] = func(args []string) error {
		runtime.LockOSThread()
		// Where a program of 32 bits can name it.
		buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|low)
		if err != nil {
			return err
		}
		at := uintptr(unsafe.Pointer(&buf[0]))
		switch args[0] {
		case "syscall":
			unix.RawSyscall(unix.SYS_UNAME, at, 0, 0)
		case "x32":
			unix.RawSyscall(x32Bit|unix.SYS_UNAME, at, 0, 0)
		case "i386":
			const newUname = 122 // arch/x86/entry/syscalls/syscall_32.tbl
			interrupt80(newUname, uint32(at))
		}
		fmt.Println("release", unix.ByteSliceToString(buf[releaseAt:]))
		return nil
	}
}

const releaseAt = 2 * 65 // behind sysname and nodename in struct new_utsname, include/uapi/linux/utsname.h

// callOnwards has another process make calls from that number on, and returns the last one it got to.
func callOnwards(from uint32) (last uint32, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", strconv.FormatUint(uint64(from), 10))
	cmd.Env = []string{envRole + "=syscall"}
	cmd.ExtraFiles = []*os.File{w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, err
	}
	last = from
	progress := bufio.NewReader(r)
	for patience := 5 * time.Second; ; patience = 150 * time.Millisecond { // it has to start first
		_ = r.SetReadDeadline(time.Now().Add(patience))
		var told [4]byte
		if _, err := progress.Read(told[:]); err != nil {
			break
		}
		last = binary.LittleEndian.Uint32(told[:])
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return last, nil
}

// interrupt80 makes a system call by the gate of 32-bit programs, with one argument.
func interrupt80(nr, arg uint32) {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return
	}
	defer unix.Munmap(code)
	instructions := binary.LittleEndian.AppendUint32([]byte{0x53, 0xb8}, nr)         // push rbx; mov eax, nr
	instructions = binary.LittleEndian.AppendUint32(append(instructions, 0xbb), arg) // mov ebx, arg
	copy(code, append(instructions, 0xcd, 0x80, 0x5b, 0xc3))                         // int 0x80; pop rbx; ret
	entry := &code[0]                                                                // what a function value points to is the code's address
	value := unsafe.Pointer(&entry)
	(*(*func())(unsafe.Pointer(&value)))()
	runtime.KeepAlive(entry)
}

// A program makes every system call of the host's kernel, by all gates: it is the container's kernel that gets them.
func TestSandboxSyscalls(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	dir := t.TempDir()
	c := running(t, withActor(t, dir))
	got := exec1(t, c, func(p *specs.Process) {
		p.Args = []string{actorPath}
		p.User = specs.User{UID: 1000, GID: 1000} // root could make its own programs such that nobody can execute them
		p.Env = append(p.Env, envRole+"=syscalls")
	})
	expect(t, outcome{Status: "0", Out: "survived\n"}, outcome{Status: got.Status, Out: got.Out})
	says(t, exec1(t, c, verb("echo", "heard")), "heard")
}

// By none of the gates does a program come to the host's kernel: that of the container says who it is, or nobody answers.
func TestSandboxGates(t *testing.T) {
	hulltest.Require(t, hulltest.Root, hulltest.MountSetattr)
	dir := t.TempDir()
	c := running(t, withActor(t, dir))
	gates := []string{"syscall"}
	if runtime.GOARCH == "amd64" {
		gates = append(gates, "x32", "i386")
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		t.Fatal(err)
	}
	ours := "release " + unix.ByteSliceToString(host.Release[:])
	for _, gate := range gates {
		got := exec1(t, c, func(p *specs.Process) {
			p.Args = []string{actorPath, gate}
			p.Env = append(p.Env, envRole+"=gate")
		})
		t.Logf("%s: %s, %q", gate, got.Status, got.Out)
		if strings.HasPrefix(got.Out, ours) {
			t.Errorf("by %s the host's kernel answers: %q", gate, got.Out)
		}
		if gate == "syscall" && !strings.Contains(got.Out, "gvisor") {
			t.Errorf("nobody answers: %s, %q, %q", got.Status, got.Out, got.Err)
		}
	}
}
