package wire

import (
	"cmp"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Await calls receive until something has come by a connection that doesn't block, or its deadline is over: os.ErrDeadlineExceeded.
// It waits as Go waits for files: in a system call it would keep a processor from others, for as long as 10 ms.
func Await(conn *os.File, receive func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	late := raw.Read(func(fd uintptr) bool {
		err = receive(int(fd))
		return !errors.Is(err, unix.EAGAIN)
	})
	return cmp.Or(late, err)
}
