package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/sandbox/wire"
)

// A sandbox that ends without a word about its program is explained, unless somebody has killed it.
func TestEndIsExplained(t *testing.T) {
	const exited2, sigsys, sigkill = unix.WaitStatus(2 << 8), unix.WaitStatus(unix.SIGSYS), unix.WaitStatus(unix.SIGKILL)
	for _, test := range []struct {
		report, log string
		ws, want    unix.WaitStatus
		warning     string
	}{
		{report: "256", ws: exited2, want: 256},
		{report: "9", ws: exited2, want: sigkill},
		{log: "W1 some warning\npanic: it is full\n\ngoroutine 1 [running]:\n", ws: exited2, want: exited2, warning: ": panic: it is full"},
		{ws: exited2, want: exited2, warning: ": exit status 2"},
		{ws: sigsys, want: sigsys, warning: "a system call that its jail forbids"},
		{ws: sigkill, want: sigkill},
		{report: "nonsense", ws: sigkill, want: sigkill},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString(test.report)
		w.Close()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, wire.Log), []byte(test.log), 0o600); err != nil {
			t.Fatal(err)
		}
		warned := ""
		request := &engine.CreateRequest{Container: engine.Container{Dir: dir}, Warn: func(line string) { warned += line }}
		c := &creation{CreateRequest: request, report: r}
		if got := c.ended()(test.ws); got != test.want {
			t.Errorf("%+v: status %#x", test, got)
		}
		if test.warning == "" && warned != "" || !strings.Contains(warned, test.warning) {
			t.Errorf("%+v: warning %q", test, warned)
		}
	}
}
