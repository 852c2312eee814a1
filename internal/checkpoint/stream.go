package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/criu"
	"hull/internal/engine"
	"hull/internal/mountinfo"
	"hull/internal/proc"
)

// DescribeStreams returns what is recorded of a container's standard streams, by which a checkpoint knows them again when it
// finds them: "pipe:[INODE]" or "file:[DEVICE:INODE]", which a pipe with a name is, too; or "" for what needs no replacement at a
// restoration.
func DescribeStreams(stdio [3]*os.File) (names [3]string) {
	for i, f := range stdio {
		var st unix.Stat_t
		if f == nil || unix.Fstat(int(f.Fd()), &st) != nil {
			continue
		}
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFIFO && isUnnamed(f):
			names[i] = "pipe:[" + strconv.FormatUint(st.Ino, 10) + "]"
		case kind == unix.S_IFREG || kind == unix.S_IFIFO:
			names[i] = "file:[" + strconv.FormatUint(st.Dev, 10) + ":" + strconv.FormatUint(st.Ino, 10) + "]"
		}
	}
	return names
}

// isUnnamed tells whether a pipe was made by pipe(2). CRIU takes one with a name, as engines make them, for a file.
func isUnnamed(f *os.File) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &fs) == nil && fs.Type == unix.PIPEFS_MAGIC
}

// outsideStreams returns the standard streams that a container was given, with the names that CRIU has for them.
func outsideStreams(c *engine.Container, mounts []mountinfo.Mount) (criu.Streams, error) {
	streams := criu.Streams(c.Streams)
	for i, s := range streams {
		if !strings.HasPrefix(s, "file:[") {
			continue
		}
		file, err := outsideFile(c, mounts, s)
		if err != nil {
			return streams, err
		}
		streams[i] = file
	}
	return streams, nil
}

// outsideFile returns CRIU's name of a file that a process of the container has open and that is in no mount of the
// container's, or "" if none has.
func outsideFile(c *engine.Container, mounts []mountinfo.Mount, name string) (string, error) {
	pids, err := c.Cgroup.Pids(true)
	if err != nil {
		return "", err
	}
	for _, pid := range pids {
		fds, err := os.ReadDir(proc.File(pid, "fd"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, fd := range fds {
			var st unix.Stat_t
			if unix.Stat(proc.File(pid, "fd/"+fd.Name()), &st) != nil || name != fmt.Sprintf("file:[%d:%d]", st.Dev, st.Ino) {
				continue
			}
			if id, ok := mountOf(proc.File(pid, "fdinfo/"+fd.Name())); ok && !inMounts(mounts, id) {
				return fmt.Sprintf("file[%x:%x]", id, st.Ino), nil
			}
		}
	}
	return "", nil
}

func inMounts(mounts []mountinfo.Mount, id int) bool {
	return slices.ContainsFunc(mounts, func(m mountinfo.Mount) bool { return m.ID() == strconv.Itoa(id) })
}

// mountOf returns the mount of a descriptor, of which the file in /proc/PID/fdinfo is given.
func mountOf(fdinfo string) (id int, ok bool) {
	b, err := os.ReadFile(fdinfo)
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(b) {
		if rest, found := bytes.CutPrefix(line, []byte("mnt_id:")); found {
			id, err = strconv.Atoi(string(bytes.TrimSpace(rest)))
			return id, err == nil
		}
	}
	return 0, false
}
