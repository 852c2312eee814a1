package stdio

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// loggerPatience bounds the waits for a program that logs: until it is ready, and until it has written what came last.
const loggerPatience = 10 * time.Second

// The schemes of such programs; the second since containerd 2.2.
const (
	schemeLogger   = "binary"
	schemeLoggerV2 = "binary-v2"
)

// logger is a program that takes both outputs of a process (containerd's binary:// URIs): from descriptors 3 and 4. It closes
// descriptor 5 when it is ready; of a binary-v2:// URI it writes a byte to it before, so that one that has failed is told from one
// that is ready. Arguments are the URI's query.
type logger struct {
	out, err *os.File // the process's ends
	ended    chan struct{}
	kill     func()
}

func startLogger(u *url.URL, id, namespace string) (_ *logger, err error) {
	var pipes [3][2]*os.File
	defer func() {
		for _, p := range pipes {
			for _, f := range p {
				if f != nil {
					f.Close()
				}
			}
		}
	}()
	for i := range pipes {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return nil, os.NewSyscallError("pipe2", err)
		}
		if i == 2 { // Go waits for it with a deadline
			if err := unix.SetNonblock(p[0], true); err != nil {
				return nil, err
			}
		}
		pipes[i] = [2]*os.File{os.NewFile(uintptr(p[0]), "log"), os.NewFile(uintptr(p[1]), "log")}
	}
	var args []string
	for k, vs := range u.Query() {
		args = append(args, k, vs[0])
	}
	cmd := exec.Command(u.Path, args...)
	cmd.Env = append(os.Environ(), "CONTAINER_ID="+id, "CONTAINER_NAMESPACE="+namespace)
	cmd.ExtraFiles = []*os.File{pipes[0][0], pipes[1][0], pipes[2][1]}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	l := &logger{out: pipes[0][1], err: pipes[1][1], ended: make(chan struct{}), kill: func() { cmd.Process.Kill() }}
	go func() { cmd.Wait(); close(l.ended) }()
	pipes[2][1].Close()
	ready := pipes[2][0]
	ready.SetReadDeadline(time.Now().Add(loggerPatience))
	switch n, err := ready.Read(make([]byte, 1)); {
	case os.IsTimeout(err):
		l.kill()
		return nil, fmt.Errorf("%s doesn't say that it is ready: it should close descriptor 5", u.Path)
	case n == 0 && u.Scheme == schemeLoggerV2:
		l.kill()
		return nil, fmt.Errorf("%s doesn't say that it is ready: it should write a byte to descriptor 5, and has closed it", u.Path)
	}
	pipes[0][1], pipes[1][1] = nil, nil
	return l, nil
}

// finish waits until the program has written what came last: it reads to the end of file.
func (l *logger) finish() {
	select {
	case <-l.ended:
	case <-time.After(loggerPatience):
		l.kill()
	}
}
