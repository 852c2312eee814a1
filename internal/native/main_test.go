package native_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hull/hulltest"
)

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

// hull returns a command line of hull's, with a state directory of the test's own. If ns is not nil, it runs in that
// network namespace.
func hull(t *testing.T, ns *os.File, args ...string) *exec.Cmd {
	t.Helper()
	argv := append([]string{hulltest.HullBinary(t), "--root", filepath.Join(t.TempDir(), "state")}, args...)
	if ns == nil {
		return exec.Command(argv[0], argv[1:]...)
	}
	cmd := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3"}, argv...)...)
	cmd.ExtraFiles = []*os.File{ns}
	return cmd
}

// output runs the command and returns what it says and its exit status.
func output(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// as has the command run with ids of the host's.
func as(cmd *exec.Cmd, c syscall.Credential) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &c}
	return cmd
}

// contains reports what of want the text lacks, and what of not it has.
func contains(t *testing.T, text string, want, not []string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in:\n%s", w, text)
		}
	}
	for _, n := range not {
		if strings.Contains(text, n) {
			t.Errorf("%q should not be in:\n%s", n, text)
		}
	}
}
