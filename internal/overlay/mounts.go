package overlay

import (
	"hull/internal/linux"
	"hull/internal/mountinfo"
)

// Mounts returns the mount points of the calling process (proc_pid_mountinfo(5)).
func Mounts() ([]string, error) {
	b, err := linux.ReadProc("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(b), nil
}

func parseMounts(text []byte) (points []string) {
	for m := range mountinfo.Parse(text) {
		points = append(points, m.Point())
	}
	return points
}
