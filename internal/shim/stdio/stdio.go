// Package stdio has the standard streams of a process as containerd names them: FIFOs, a file, or a program that logs.
package stdio

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hull"
	"hull/internal/containerd"
	"hull/internal/linux"
)

// Streams are the standard streams of one process, without a terminal or with one.
//
//	without   stdin   FIFO ── shim ── pipe ──> process     CloseIO ends it
//	          stdout  FIFO <────────────────── process     also stderr
//	with      stdin   FIFO ── shim ──> master of the terminal
//	          stdout  FIFO <── shim ── master
//
// A FIFO that the process writes to itself costs the shim neither memory nor time. The shim has both ends of each open: so a restart of containerd means neither SIGPIPE nor an end of file to the process.
type Streams struct {
	Process hull.Stdio // what the process gets; closed once it has it
	held    []*os.File // FIFOs that stay open while it runs
	logger  *logger    // or nil

	in    *os.File // FIFO that is copied from; or nil
	inEnd *os.File // the shim's own writer of it: while that is open, there is no end of file
	inTo  *os.File // pipe or master that it is copied to
	out   *os.File // FIFO that the master is copied to; or nil
	close sync.Once
	shown sync.WaitGroup // for the copying of the terminal's output
	over  atomic.Bool    // the process has ended
}

// Open opens what paths and URIs name: FIFOs, file:///PATH to append to, binary:///PROGRAM?arg=value and binary-v2: for a
// program that reads both outputs.
func Open(s containerd.Streams, id, namespace string) (_ *Streams, err error) {
	st := new(Streams)
	defer func() {
		if err != nil {
			st.CloseProcess()
			st.Finish()
		}
	}()
	u, isURI := uri(s.Out)
	switch {
	case !isURI || u.Scheme == "fifo":
		err = st.openOut(s)
	case s.Terminal:
		err = fmt.Errorf("stdout %q: a terminal's output needs a FIFO", s.Out)
	default:
		err = st.openLog(u, id, namespace)
	}
	if err != nil {
		return nil, err
	}
	if s.In == "" {
		return st, nil
	}
	if st.in, err = openFIFO(s.In, unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	if st.inEnd, err = openFIFO(s.In, unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	if s.Terminal {
		return st, nil
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	st.Process.In = os.NewFile(uintptr(p[0]), "stdin")
	if err := unix.SetNonblock(p[1], true); err != nil {
		return nil, err
	}
	st.inTo = os.NewFile(uintptr(p[1]), "stdin")
	return st, nil
}

func (st *Streams) openOut(s containerd.Streams) (err error) {
	if s.Terminal {
		if s.Out != "" {
			st.out, err = openRead(s.Out)
		}
		return err
	}
	for _, o := range []struct {
		path string
		file **os.File
	}{{s.Out, &st.Process.Out}, {s.Err, &st.Process.Err}} {
		if o.path == "" {
			continue
		}
		held, err := openRead(o.path)
		if err != nil {
			return err
		}
		st.held = append(st.held, held)
		// Doesn't wait, since held is a reader.
		if *o.file, err = openFIFO(o.path, unix.O_WRONLY); err != nil {
			return err
		}
	}
	return nil
}

// openLog opens what both outputs go to that is no FIFO.
func (st *Streams) openLog(u *url.URL, id, namespace string) (err error) {
	switch u.Scheme {
	case "file":
		if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(u.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		st.Process.Out, st.Process.Err = f, f
		return nil
	case schemeLogger, schemeLoggerV2:
		st.logger, err = startLogger(u, id, namespace)
		if err == nil {
			st.Process.Out, st.Process.Err = st.logger.out, st.logger.err
		}
		return err
	}
	return fmt.Errorf("stdout %q: want a FIFO, file://, binary:// or binary-v2://", u)
}

// uri returns what stands for an output, and whether it is a URI and no path.
func uri(s string) (*url.URL, bool) {
	u, err := url.Parse(s)
	return u, err == nil && u.Scheme != ""
}

// openFIFO opens a FIFO by path or fifo:// URI. Anything else is refused: what containerd names was made by it.
func openFIFO(path string, flags int) (*os.File, error) {
	if u, isURI := uri(path); isURI && u.Scheme == "fifo" {
		path = u.Path
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.Join(errors.New("is no FIFO"), err)}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readerPatience is how long a FIFO's reader may take to come.
const readerPatience = 5 * time.Second

// openRead opens a FIFO for reading and writing once somebody else has it open for reading, or is about to: what a process writes
// that ends at once would be gone with it else, before containerd has come to open the FIFO.
func openRead(path string) (*os.File, error) {
	for deadline := time.Now().Add(readerPatience); ; time.Sleep(time.Millisecond) {
		f, err := openFIFO(path, unix.O_WRONLY|unix.O_NONBLOCK)
		if errors.Is(err, unix.ENXIO) && time.Now().Before(deadline) { // nobody reads (fifo(7))
			continue
		}
		if err == nil {
			defer f.Close()
		} else if !errors.Is(err, unix.ENXIO) {
			return nil, err
		}
		return openFIFO(path, unix.O_RDWR|unix.O_NONBLOCK)
	}
}

// CloseProcess closes the process's ends, which it has, or won't have.
func (st *Streams) CloseProcess() {
	for _, f := range []*os.File{st.Process.In, st.Process.Out, st.Process.Err} {
		if f != nil {
			f.Close() // twice, if both outputs are one file
		}
	}
	st.Process = hull.Stdio{}
}

// Run copies what has to be copied. With a terminal, master is its master, which the streams own from then on.
func (st *Streams) Run(master *os.File) error {
	st.CloseProcess()
	if master != nil {
		console, err := linux.Pollable(master, master.Name())
		master.Close()
		if err != nil {
			return err
		}
		st.inTo = console
		st.shown.Go(func() { st.show(console) })
	}
	if st.in != nil && st.inTo != nil {
		go st.copyIn(master != nil)
	}
	return nil
}

// copyIn copies standard input to its end.
func (st *Streams) copyIn(terminal bool) {
	buf := make([]byte, 4096)
	for {
		n, err := st.in.Read(buf)
		if err != nil {
			break
		}
		if _, err := st.inTo.Write(buf[:n]); err != nil {
			break
		}
	}
	if !terminal {
		st.closeIn()
	}
}

// EndIn has standard input of a process without a terminal end, once what is in the FIFO is copied and no other has it open for
// writing.
func (st *Streams) EndIn() {
	if st.inEnd != nil {
		st.inEnd.Close()
	}
}

// closeIn closes what standard input is copied between, wherever the copying is.
func (st *Streams) closeIn() {
	st.close.Do(func() {
		for _, f := range []*os.File{st.in, st.inEnd, st.inTo} {
			if f != nil {
				f.Close()
			}
		}
	})
}

const (
	// hangup is how long a terminal that no process has open is left alone: one may open it again, or for the first time.
	hangup = 50 * time.Millisecond
	// lastWords is how long output is still read that comes after the end of the process, from those that it left behind.
	lastWords = 200 * time.Millisecond
	// patience is how long a reader that doesn't read can keep the last output of a terminal.
	patience = 10 * time.Second
)

// show copies what the terminal shows, until the process has ended and nothing more comes.
func (st *Streams) show(console *os.File) {
	buf := make([]byte, 16<<10)
	for {
		n, err := console.Read(buf)
		if n > 0 && st.out != nil {
			if _, err := st.out.Write(buf[:n]); err != nil {
				return
			}
		}
		switch {
		case errors.Is(err, unix.EIO) && !st.over.Load(): // no process has it open (pty(7))
			time.Sleep(hangup)
		case err != nil:
			return
		}
	}
}

// Resize gives the terminal its size.
func (st *Streams) Resize(width, height uint32) error {
	conn, err := st.inTo.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
	})
	return errors.Join(cerr, err)
}

// Finish closes all that is open, once the process has ended and its terminal's last output is copied.
func (st *Streams) Finish() {
	st.over.Store(true)
	if st.out != nil {
		st.out.SetWriteDeadline(time.Now().Add(patience))
	}
	if st.inTo != nil {
		st.inTo.SetReadDeadline(time.Now().Add(lastWords))
	}
	st.shown.Wait()
	st.closeIn()
	if st.out != nil {
		st.out.Close()
	}
	for _, f := range st.held {
		f.Close()
	}
	if st.logger != nil {
		st.logger.finish()
	}
}
