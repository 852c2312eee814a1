package native

import (
	"context"
	"strings"
	"testing"

	"hull/hulltest"
)

// What the kernel says of file systems that it has not, or not for a user namespace, tells them apart from one that it has.
func TestAbsent(t *testing.T) {
	hulltest.Require(t, hulltest.UserNS, hulltest.Overlay, hulltest.Kernel(5, 11))
	for name, want := range map[string]string{
		"overlay":  "",
		"ramfs":    "",
		"devtmpfs": "other users than root can't mount",
		"hullfs":   "this kernel has no file system hullfs",
	} {
		err := absent(context.Background(), name, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	if !overlayListed() {
		t.Error("overlay is not listed in /proc/filesystems, though it was mounted")
	}
}
