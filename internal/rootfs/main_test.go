package rootfs

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

const envOwnMounts = "ROOTFS_TEST_OWN_MOUNTS"

// TestMain runs root's tests in a mount namespace of their own: they look for what has changed in it, and other programs'
// mounts would be found. All of its mounts are shared, as systemd makes a machine's, so that one that escaped from a
// container would show.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	if os.Getenv(envOwnMounts) == "" {
		runtime.LockOSThread() // the child dies with it
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), envOwnMounts+"=yes")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		// No other mounts come in: with this flag package syscall makes all private.
		cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
		err := cmd.Run()
		if err != nil && cmd.ProcessState == nil {
			fmt.Fprintln(os.Stderr, "the tests in a mount namespace of their own:", err)
			os.Exit(1)
		}
		os.Exit(cmd.ProcessState.ExitCode())
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		fmt.Fprintln(os.Stderr, "mount --make-rshared /:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
