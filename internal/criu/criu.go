// Package criu speaks with CRIU, the program that saves processes in files and makes them again of those.
//
// It is started as `criu swrk N`, where N is one end of a pair of sockets, and serves what comes by it:
//
//	hull                                        criu
//	version, features              ─────────>
//	                               <─────────   answers
//	dump, or restore, and how      ─────────>
//	                               <─────────   notification: a step it is at
//	                   (goes on)   ─────────>
//	                                  …
//	                               <─────────   success or not; it exits
//	(end of file)                  ─────────>   takes back what it has done, and exits
//
// Whoever calls it starts the program, since that is where a restored container's processes come from: its namespaces, its
// cgroup, its descriptors, its parent. The messages are those of go-criu, whose encoder needs no reflection and so costs a
// command that doesn't use it next to nothing (docs/dependencies.md).
//
// CRIU is trusted, as a part of hull would be. Images are not; but what CRIU makes of them is up to it: who can write an
// image decides what runs in a restored container, and with which rights.
package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"

	"hull/internal/fault"
	"hull/internal/linux"
)

// Name is the program that Find looks for.
const Name = "criu"

// Find returns the absolute path of CRIU: that which is given, or the first in PATH.
func Find(path string) (string, error) {
	if path == "" {
		path = Name
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", &fault.Error{Step: "look for the program " + path, Kind: fault.Unsupported, Err: reason(err),
			Hint: "containers are saved and restored by CRIU: install it, or name the program by --criu"}
	}
	return found, nil
}

func reason(err error) error {
	var e *exec.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Args returns the arguments of a CRIU that serves the socket that is its descriptor fd.
func Args(fd int) []string { return []string{Name, "swrk", fmt.Sprint(fd)} }

// Conn is the connection with a CRIU that runs.
type Conn struct{ socket *os.File }

// NewConn returns the connection by a socket, which it takes over. CRIU takes descriptors that a request names for those of
// the process that has made the pair.
func NewConn(socket *os.File) (*Conn, error) {
	defer socket.Close()
	f, err := linux.Pollable(socket, "criu") // so that it has deadlines
	if err != nil {
		return nil, err
	}
	return &Conn{f}, nil
}

// Close ends the connection. A CRIU that is at work takes back what it has done as soon as it notices.
func (c *Conn) Close() error { return c.socket.Close() }

// Notification is a step that CRIU is at. It goes on when the handler has returned nil, else it gives up.
type Notification struct {
	Step string   // "post-restore"
	Pid  int      // of the restored container's first process, with some steps
	File *os.File // that comes with it, or nil; the handler's to close
}

// Do sends a request and returns the answer, when CRIU is done. Notifications that come before go to notify. An answer that
// is no success is an error.
func (c *Conn) Do(ctx context.Context, req *rpc.CriuReq, notify func(Notification) error) (*rpc.CriuResp, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.send(req); err != nil {
		return nil, err
	}
	for {
		resp, file, err := c.receive()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return nil, err
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			if file != nil {
				file.Close()
			}
			return resp, failure(req, resp)
		}
		if notify == nil || resp.Notify == nil {
			if file != nil {
				file.Close()
			}
			return nil, errMessage
		}
		err = notify(Notification{resp.Notify.GetScript(), int(resp.Notify.GetPid()), file})
		ok := err == nil
		serr := c.send(&rpc.CriuReq{Type: ptr(rpc.CriuReqType_NOTIFY), NotifySuccess: &ok})
		if err == nil {
			err = serr
		}
		if err != nil {
			return nil, err
		}
	}
}

// Failure is an answer of CRIU that something did not work. What it was, its log says.
type Failure struct {
	Errno   unix.Errno // or 0
	Message string     // or ""
}

func (f *Failure) Error() string {
	switch {
	case f.Message != "":
		return f.Message
	case f.Errno != 0:
		return f.Errno.Error()
	}
	return "CRIU gives no reason"
}

func (f *Failure) Unwrap() error {
	if f.Errno != 0 {
		return f.Errno
	}
	return nil
}

func failure(req *rpc.CriuReq, resp *rpc.CriuResp) error {
	if resp.GetSuccess() && resp.GetType() == req.GetType() {
		return nil
	}
	return &Failure{unix.Errno(max(resp.GetCrErrno(), 0)), printable(resp.GetCrErrmsg())}
}

// maxMessage bounds an answer, in bytes. CRIU's own buffer is smaller.
const maxMessage = 64 << 10

var errMessage = errors.New("CRIU answers something that is no answer")

func (c *Conn) send(req *rpc.CriuReq) error {
	b, err := req.MarshalVT()
	if err != nil {
		return err
	}
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return err
	}
	if werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), b, nil, nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN
	}); werr != nil {
		return werr
	}
	if err == unix.EPIPE {
		return io.EOF
	}
	return os.NewSyscallError("sendmsg", err)
}

// receive returns the next message and the file that came with it, or nil. io.EOF is the end of CRIU.
func (c *Conn) receive() (*rpc.CriuResp, *os.File, error) {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	p, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	var n, oobn, flags int
	if rerr := raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, err = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
		return err != unix.EAGAIN && err != unix.EINTR
	}); rerr != nil {
		return nil, nil, rerr
	}
	switch {
	case err == unix.ECONNRESET || err == nil && n == 0:
		return nil, nil, io.EOF
	case err != nil:
		return nil, nil, os.NewSyscallError("recvmsg", err)
	}
	file := passed(oob[:oobn])
	resp := new(rpc.CriuResp)
	err = resp.UnmarshalVT(p[:n])
	if err == nil && (flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || resp.Type == nil) {
		err = errMessage
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, nil, err
	}
	return resp, file, nil
}

// passed takes the descriptor out of a control message.
func passed(oob []byte) *os.File {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(cmsgs) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&cmsgs[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	for _, fd := range fds[1:] {
		unix.Close(fd)
	}
	return os.NewFile(uintptr(fds[0]), "from CRIU")
}

// Version is CRIU's: 40201 is 4.2.1.
type Version int

func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", v/10000, v/100%100)
	if v%100 != 0 {
		s += fmt.Sprintf(".%d", v%100)
	}
	return s
}

// Version asks CRIU for its version. Other requests can follow.
func (c *Conn) Version(ctx context.Context) (Version, error) {
	resp, err := c.Do(ctx, &rpc.CriuReq{Type: ptr(rpc.CriuReqType_VERSION), KeepOpen: ptr(true)}, nil)
	if err != nil {
		return 0, err
	}
	v := resp.GetVersion()
	if v == nil {
		return 0, errMessage
	}
	n := Version(v.GetMajorNumber()*10000 + v.GetMinorNumber()*100 + v.GetSublevel())
	if v.Gitid != nil { // built between releases: as the next one
		n -= n % 100
		n += 100
	}
	return n, nil
}

// Features asks CRIU which of the features that are set in want it has, with this kernel, and returns the names of those
// that are missing. Other requests can follow.
func (c *Conn) Features(ctx context.Context, want *rpc.CriuFeatures) (missing []string, err error) {
	resp, err := c.Do(ctx, &rpc.CriuReq{Type: ptr(rpc.CriuReqType_FEATURE_CHECK), KeepOpen: ptr(true), Features: want}, nil)
	if err != nil {
		return nil, err
	}
	got := resp.GetFeatures()
	if want.GetMemTrack() && !got.GetMemTrack() {
		missing = append(missing, "tracking of changes of memory")
	}
	if want.GetLazyPages() && !got.GetLazyPages() {
		missing = append(missing, "lazy pages (userfaultfd(2))")
	}
	return missing, nil
}

func ptr[T any](v T) *T { return &v }
