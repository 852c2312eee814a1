package rootfs

import (
	"os"
	"strings"
)

// revealing returns the mount points of whole proc and sysfs file systems outside root in text, which is in the
// format of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
func revealing(text, root string) (points []string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		sep := 6
		for sep < len(fields) && fields[sep] != "-" {
			sep++
		}
		if sep+1 >= len(fields) {
			continue
		}
		point := unescape(fields[4])
		if kind := fields[sep+1]; fields[3] == "/" && (kind == "proc" || kind == "sysfs") && !below(point, root) {
			points = append(points, point)
		}
	}
	return points
}

// unescape undoes what the kernel does to spaces, tabs, newlines and backslashes in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// hostRevealing returns the mount points of the host, which the stub has copies of.
func (p *Plan) hostRevealing() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // no proc, nothing to hide
	}
	return revealing(string(text), p.root)
}
