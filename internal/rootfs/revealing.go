package rootfs

import (
	"os"

	"hull/internal/mountinfo"
)

// revealing returns the mount points of whole proc and sysfs file systems outside root in text, which is
// a mountinfo.
func revealing(text []byte, root string) (points []string) {
	for m := range mountinfo.Parse(text) {
		kind := m.Type()
		if point := m.Point(); m.Root() == "/" && (kind == "proc" || kind == "sysfs") && !below(point, root) {
			points = append(points, point)
		}
	}
	return points
}

// hostRevealing returns the mount points of the host, which the stub has copies of.
func (p *Plan) hostRevealing() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // no proc, nothing to hide
	}
	return revealing(text, p.root)
}
