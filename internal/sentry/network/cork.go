package network

import (
	"fmt"

	"golang.org/x/sys/unix"

	"gvisor.dev/gvisor/pkg/marshal/primitive"
	"gvisor.dev/gvisor/pkg/sentry/arch"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/socket"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
)

// SendCorkedAtEnd has close(2) and shutdown(2) send what a program has written under TCP_CORK: there can be no more that it could
// wait for. Of itself the stack sends it when it has waited for 200 ms, and what says that the connection ends behind it.
//
// It must come before programs run.
func SendCorkedAtEnd() error {
	for _, table := range kernel.SyscallTables() {
		for name, ends := range map[string]func(*vfs.FileDescription, arch.SyscallArguments) bool{"close": isLast, "shutdown": endsWriting} {
			number, err := table.LookupNo(name)
			if err != nil {
				return fmt.Errorf("system calls: %w", err)
			}
			call := table.Table[number]
			call.Fn = sendingCorked(ends, call.Fn)
			table.Table[number] = call
		}
		table.Init()
	}
	return nil
}

// sendingCorked returns a system call whose first argument is a descriptor. Where that is of a socket, and ends says that nothing is
// written to that any more, nothing is held back from then on.
func sendingCorked(ends func(*vfs.FileDescription, arch.SyscallArguments) bool, call kernel.SyscallFn) kernel.SyscallFn {
	return func(t *kernel.Task, number uintptr, args arch.SyscallArguments) (uintptr, *kernel.SyscallControl, error) {
		if file := t.GetFile(args[0].Int()); file != nil {
			if s, ok := file.Impl().(socket.Socket); ok && isCorked(t, s) && ends(file, args) {
				_ = s.SetSockOpt(t, unix.SOL_TCP, unix.TCP_NODELAY, on) // nor does it wait for what was sent to arrive
				_ = s.SetSockOpt(t, unix.SOL_TCP, unix.TCP_CORK, off)
			}
			file.DecRef(t)
		}
		return call(t, number, args)
	}
}

// Values of an option. The kernel only reads them.
var on, off = []byte{1, 0, 0, 0}, []byte{0, 0, 0, 0}

func isCorked(t *kernel.Task, s socket.Socket) bool {
	if family, kind, _ := s.Type(); kind != unix.SOCK_STREAM || family != unix.AF_INET && family != unix.AF_INET6 {
		return false
	}
	value, err := s.GetSockOpt(t, unix.SOL_TCP, unix.TCP_CORK, 0, len(on))
	corked, ok := value.(*primitive.Int32)
	return err == nil && ok && *corked != 0
}

// isLast tells whether a file has no other descriptor and is in no other call. The one reference beside the descriptor's is the caller's.
func isLast(file *vfs.FileDescription, _ arch.SyscallArguments) bool { return file.ReadRefs() == 2 }

// endsWriting tells whether shutdown(2) is to end more than reading.
func endsWriting(_ *vfs.FileDescription, args arch.SyscallArguments) bool {
	return args[1].Int() == unix.SHUT_WR || args[1].Int() == unix.SHUT_RDWR
}
