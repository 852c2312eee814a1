// Package sigaction catches signals by rt_sigaction(2) alone, with a handler that writes their numbers to a pipe.
//
// os/signal hands each signal over to a thread of its own before the next: all 60, which `run` passes on to its
// container, are 200 calls of futex between two threads, and more of the processor's time than the start of the runtime.
//
// The handler is a few instructions (handler_*.s). It calls no Go and uses no more of Go's state than the alternate
// stack that each thread has, as package os/signal demands of handlers that aren't its own. Faults, which the kernel
// reports by signals too, are left to Go's handler, and so is all that isn't caught.
//
// What is caught is process-wide, so this is for commands, not for the library.
package sigaction

import (
	"os"
	"os/signal"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// action is the kernel's struct sigaction (rt_sigaction(2); asm/signal.h and asm-generic/signal.h).
type action struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// What the handler reads, and nobody else. It is set before a signal is caught, and never again.
//
//lint:file-ignore U1000 staticcheck doesn't look into assembly
var (
	goHandler uintptr // Go's own, for faults
	self      int32   // this process: a child that vfork(2) has just made has the handler, too
	pipe      int32   // where it writes
)

func handlerAddress() uintptr // handler_*.s

// open makes the pipe, and returns it and what Go's own handlers have in common.
var open = sync.OnceValues(func() (*os.File, error) {
	var fds [2]int
	// The handler must not block; a signal for which there is no room is one of thousands that nobody has read yet.
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	old, err := set(unix.SIGSEGV, nil)
	if err != nil {
		return nil, err
	}
	goHandler, self, pipe = old.handler, int32(unix.Getpid()), int32(fds[1])
	ours = old
	ours.handler = handlerAddress()
	return os.NewFile(uintptr(fds[0]), "signals"), nil
})

// ours is Go's action for a signal, with the alternate stack and a way to return, but for the handler.
var ours action

// Open returns a file from which the numbers of the signals that are caught can be read, a byte each. It is the same one
// each time.
func Open() (*os.File, error) { return open() }

// Catch begins to catch a signal. One that the program was started to ignore, as by nohup(1), stays ignored.
func Catch(sig unix.Signal) error {
	if _, err := open(); err != nil {
		return err
	}
	if signal.Ignored(sig) {
		return nil
	}
	if sig == unix.SIGPIPE {
		// For os.File, which would otherwise end the program when a write to standard error is answered by EPIPE.
		signal.Ignore(sig)
	}
	_, err := set(sig, &ours)
	return err
}

// set changes what a signal does, unless to is nil, and returns what it did.
func set(sig unix.Signal, to *action) (was action, err error) {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(&was)),
		unsafe.Sizeof(was.mask), 0, 0)
	if errno != 0 {
		return was, os.NewSyscallError("rt_sigaction", errno)
	}
	return was, nil
}
