package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aio has the kernel fill so many bytes of memory while it waits for that (io_submit(2)), and prints how many they became.
func aio(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	memory, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	zero, err := os.Open("/dev/zero")
	if err != nil {
		return err
	}
	defer zero.Close()
	var queue uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&queue)), 0); errno != 0 {
		return os.NewSyscallError("io_setup", errno)
	}
	request := &struct { // struct iocb of linux/aio_abi.h: IOCB_CMD_PREAD
		data       uint64
		key, flags uint32
		op         uint16
		priority   int16
		fd         uint32
		buf        uintptr
		n          uint64
		offset     int64
		_          uint64
		_, _       uint32
	}{fd: uint32(zero.Fd()), buf: uintptr(unsafe.Pointer(&memory[0])), n: uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, queue, 1, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return os.NewSyscallError("io_submit", errno)
	}
	var event struct{ data, request, got, more uint64 }
	_, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, queue, 1, 1, uintptr(unsafe.Pointer(&event)), 0, 0)
	runtime.KeepAlive(request)
	if errno != 0 {
		return os.NewSyscallError("io_getevents", errno)
	}
	fmt.Println(event.got)
	return nil
}
