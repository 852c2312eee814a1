package overlay

import (
	"bytes"
	"strconv"

	"hull/internal/linux"
)

// Mounts returns the mount points of the calling process (proc_pid_mountinfo(5)).
func Mounts() ([]string, error) {
	b, err := linux.ReadProc("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(b), nil
}

func parseMounts(mountinfo []byte) (points []string) {
	for line := range bytes.Lines(mountinfo) {
		const point = 4 // of the fields, from 0
		var field []byte
		more := true
		for i := 0; i <= point && more; i++ {
			field, line, more = bytes.Cut(line, []byte{' '})
		}
		if more {
			points = append(points, unescape(field))
		}
	}
	return points
}

// unescape takes back what the kernel does to spaces, tabs, line feeds and backslashes: \ and three octal digits.
func unescape(b []byte) string {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b)
	}
	var s []byte
	for i := 0; i < len(b); i++ {
		if b[i] == '\\' && i+3 < len(b) {
			if n, err := strconv.ParseUint(string(b[i+1:i+4]), 8, 8); err == nil {
				s = append(s, byte(n))
				i += 3
				continue
			}
		}
		s = append(s, b[i])
	}
	return string(s)
}
