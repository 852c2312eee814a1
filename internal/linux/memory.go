package linux

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ReleaseMemory gives back what a program that is going to wait for long doesn't need meanwhile: free memory of the heap,
// and the mappings of the program's own file that can be read in again. What of them is in use comes back by itself.
func ReleaseMemory() error {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return err
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	for line := range bytes.Lines(maps) {
		if from, to, ok := unwritten(line, exe); ok {
			// MADV_DONTNEED of a private mapping that was never written to loses nothing (madvise(2)).
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return os.NewSyscallError("madvise", syscall.Errno(errno))
			}
		}
	}
	return nil
}

// unwritten returns the addresses of a line of /proc/self/maps (proc_pid_maps(5)) that maps file and can't be written to.
func unwritten(line []byte, file string) (from, to uintptr, ok bool) {
	fields := bytes.Fields(line)
	if len(fields) != 6 || string(fields[5]) != file || len(fields[1]) != 4 || fields[1][1] != '-' {
		return 0, 0, false
	}
	start, end, found := bytes.Cut(fields[0], []byte("-"))
	a, aerr := strconv.ParseUint(string(start), 16, 64)
	b, berr := strconv.ParseUint(string(end), 16, 64)
	if !found || aerr != nil || berr != nil || a >= b {
		return 0, 0, false
	}
	// A position-independent program, which is high up, has data that was relocated and then made read-only.
	const low = 1 << 32
	return uintptr(a), uintptr(b), fields[1][2] == 'x' || b <= low
}
