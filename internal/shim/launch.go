package shim

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/cgroup"
	"hull/internal/containerd"
)

const (
	// maxInput bounds what is read of containerd at the start.
	maxInput = 10 << 20
	// socketDir is where the sockets of shims are, unless containerd names another place.
	socketDir = "/run/containerd/s"
	// dialTimeout bounds the look for a shim that is there: one that is stopped still takes some connections.
	dialTimeout = 10 * time.Second
	// maxVersionEnv is set by a containerd that takes the answer to start as JSON, from 1.7 on.
	maxVersionEnv = "MAX_SHIM_VERSION"
)

// groupAnnotations name what a container shares a shim by: its pod.
var groupAnnotations = []string{"io.containerd.hull.v1.group", "io.kubernetes.cri.sandbox-id"}

// launch starts the shim of a container, unless its pod has one, and returns its address in the form that the containerd at
// hand reads.
func (c *command) launch(stdin io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return nil, err
	}
	var p containerd.BootstrapParams
	if containerd.Unmarshal(raw, &p) != nil || p.ID != c.id {
		// Older ones write options here, or nothing.
		p = containerd.BootstrapParams{}
		if err := containerd.Unmarshal(raw, &p.Options); err != nil {
			p.Options = containerd.Any{}
		}
	}
	group, err := c.group()
	if errors.Is(err, os.ErrNotExist) { // a pod that the shim is to make, of which nobody has written a specification
		group, err = c.id, nil
	}
	if err == nil && group == c.id {
		// It may be a pod. The options of a container come with it again.
		err = keepPodOptions(&p.Options)
	}
	if err != nil {
		return nil, err
	}
	dir := p.SocketDir
	if dir == "" {
		dir = socketDir
	}
	path := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(c.address, c.namespace, group)))))
	place, err := shimCgroup(&p.Options)
	if err != nil {
		return nil, err
	}
	if err := c.background(path, place); err != nil {
		return nil, err
	}
	address := "unix://" + path
	if err := os.WriteFile("address", []byte(address), 0o600); err != nil {
		return nil, err
	}
	switch {
	case p.ID != "":
		return containerd.Marshal(&containerd.BootstrapResult{Version: 3, Address: address, Protocol: "ttrpc"}), nil
	case os.Getenv(maxVersionEnv) != "":
		return json.Marshal(map[string]any{"version": 2, "address": address, "protocol": "ttrpc"})
	}
	return []byte(address), nil
}

// group returns the pod that the container is of, by its configuration's word, or its own id.
func (c *command) group() (string, error) {
	raw, err := os.ReadFile("config.json")
	if err != nil {
		return "", err
	}
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		return "", fmt.Errorf("config.json: %w", err)
	}
	for _, a := range groupAnnotations {
		if g := spec.Annotations[a]; g != "" {
			return g, nil
		}
	}
	return c.id, nil
}

// shimCgroup returns the cgroup that the options of runc's shim name for the shim itself, or nil.
func shimCgroup(a *containerd.Any) (*cgroup.Group, error) {
	var o containerd.Options
	if typeName(a) != containerd.RuncOptions {
		return nil, nil
	}
	if err := containerd.Unmarshal(a.Value, &o); err != nil || o.ShimCgroup == "" {
		return nil, err
	}
	g, err := cgroup.Existing(o.ShimCgroup)
	if err != nil {
		return nil, fmt.Errorf("option ShimCgroup: %w", err)
	}
	return g, nil
}

// background starts the shim at the socket, and in the cgroup if there is one, unless one answers there.
func (c *command) background(path string, place *cgroup.Group) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	l, err := listen(path)
	if l == nil || err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			os.Remove(path)
		}
	}()
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"-namespace", c.namespace, "-id", c.id, "-address", c.address, "-serve"}
	if c.debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = lessPrecious(cmd.Process.Pid)
	if err == nil && place != nil {
		err = place.Add(context.Background(), cmd.Process.Pid)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return err
	}
	return cmd.Process.Release()
}

// listen makes the socket. It returns nil if a shim answers there.
//
// containerd starts shims of one pod at once. The lock of the directory has them look one after the other: else two find what a
// shim that was killed has left, and the second takes away what the first has put there instead; or one finds a socket that is not
// listened to yet.
func listen(path string) (*net.UnixListener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close() // and with it the lock
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		return nil, &os.PathError{Op: "flock", Path: dir.Name(), Err: err}
	}
	for {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			if err := os.Chmod(path, 0o600); err != nil {
				l.Close()
				return nil, err
			}
			return l, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
		conn, err := net.DialTimeout("unix", path, dialTimeout)
		if err == nil {
			conn.Close()
			return nil, nil
		}
		if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
		// Nobody listens: a shim that was killed has left it.
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// lessPrecious has the kernel kill the shim before containerd, when memory runs out, and after containers.
func lessPrecious(pid int) error {
	const file = "oom_score_adj" // proc(5): -1000 to 1000
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(os.Getppid()), file))
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), file), []byte(strconv.Itoa(min(score+1, 1000))), 0)
}
