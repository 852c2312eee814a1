// Command load does one thing many times in a container, and prints how many milliseconds it took: load getpid N, or
// load open N FILE, which opens, reads and closes a file.
package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

func main() {
	took, err := load(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
	fmt.Println(took.Seconds() * 1000)
}

func load(args []string) (time.Duration, error) {
	if len(args) < 2 {
		return 0, errors.New("which, and how often?")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	switch args[0] {
	case "getpid":
		for range n {
			syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
		}
	case "open":
		if len(args) != 3 {
			return 0, errors.New("which file?")
		}
		err = readOften(n, args[2])
	default:
		err = fmt.Errorf("unknown load %q", args[0])
	}
	return time.Since(begin), err
}

func readOften(n int, name string) error {
	var buf [4096]byte
	for range n {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: name, Err: err}
		}
		_, err = syscall.Read(fd, buf[:])
		syscall.Close(fd)
		if err != nil {
			return &os.PathError{Op: "read", Path: name, Err: err}
		}
	}
	return nil
}
