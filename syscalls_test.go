package hull_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"strconv"
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
					interrupt80(nr &^ i386Bit)
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

// interrupt80 makes a system call by the gate of 32-bit programs.
func interrupt80(nr uint32) {
	code, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return
	}
	defer unix.Munmap(code)
	instructions := binary.LittleEndian.AppendUint32([]byte{0xb8}, nr) // mov eax, nr
	copy(code, append(instructions, 0xcd, 0x80, 0xc3))                 // int 0x80; ret
	entry := &code[0]                                                  // what a function value points to is the code's address
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
