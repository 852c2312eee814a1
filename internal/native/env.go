package native

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/fault"
	"hull/internal/stub"
	"hull/internal/task"
	"hull/internal/user"
)

// openPasswd sends the container's passwd file to the parent if HOME has to be found there.
func (t *process) openPasswd(b *stub.Batch) {
	if home, ok := task.LookupEnv(t.env, "HOME"); ok && home != "" {
		return
	}
	b.In("process.env")
	fd := b.Openat(stub.CWD, "/etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	none := b.Label()
	b.OnErr(fd.Result(), 0, none)
	b.SendFDs(fd.Arg())
	b.Close(fd)
	b.Mark(none)
	t.asked = true
}

// takeFiles sorts what the stub has sent: the upper directory first, then the terminal's master, then the passwd file.
func (t *process) takeFiles(files []*os.File, p *engine.Process) error {
	if t.upper {
		if len(files) == 0 {
			return &fault.Error{Err: errors.New("no upper directory was sent")}
		}
		p.Upper, files = files[0], files[1:]
	}
	if t.terminal {
		if len(files) == 0 {
			return &fault.Error{Field: "process.terminal", Err: errors.New("no terminal was sent")}
		}
		p.Console, files = files[0], files[1:]
	}
	if !t.asked {
		return nil
	}
	dir := "/"
	if len(files) > 0 {
		defer files[0].Close()
		if d, ok := homeOf(files[0], t.cred.UID); ok {
			dir = d
		}
	}
	t.env = cleanEnv(append(t.env[:len(t.env):len(t.env)], "HOME="+dir))
	return nil
}

func homeOf(passwd *os.File, uid uint32) (string, bool) {
	// A device or fifo of the image would make hull wait.
	if fi, err := passwd.Stat(); err != nil || !fi.Mode().IsRegular() {
		return "", false
	}
	dir, ok, err := user.Home(io.Reader(passwd), uid)
	return dir, ok && err == nil && dir != ""
}

// cleanEnv returns env with one value for each variable, the last: programs differ in which of several they take.
func cleanEnv(env []string) []string {
	clean := make([]string, 0, len(env)+1)
	at := make(map[string]int, len(env))
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if i, ok := at[name]; ok {
			clean[i] = e
			continue
		}
		at[name] = len(clean)
		clean = append(clean, e)
	}
	return clean
}
