package hulltest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// envCRIU names the CRIU of the tests; without it, it is criu in PATH.
const envCRIU = "HULL_TEST_CRIU"

// CRIU is the need of a CRIU that works with this kernel: it has been asked to look.
var CRIU = Need{"criu", sync.OnceValue(haveCRIU)}

// CRIUMemory is the need of a kernel that tells CRIU what memory has changed.
var CRIUMemory = Need{"criu-mem-dirty-track", sync.OnceValue(func() error {
	out, err := exec.Command(criuName(), "check", "--feature", "mem_dirty_track").CombinedOutput()
	if err != nil {
		return fmt.Errorf("criu check: %s", bytes.TrimSpace(out))
	}
	return nil
})}

// CRIULazy is the need of a kernel, and of a root, that CRIU can restore memory with when it is asked for.
var CRIULazy = Need{"criu-lazy-pages", sync.OnceValue(func() error {
	out, err := exec.Command(criuName(), "check", "--feature", "uffd").CombinedOutput()
	if err != nil {
		return fmt.Errorf("criu check: %s", bytes.TrimSpace(out))
	}
	return largePipes()
})}

// CRIUShellJob is the need of a CRIU that finds the terminal of a shell job which is in no mount of the container's: 3.17.1 does
// not, 4.2.1 does.
var CRIUShellJob = Need{"criu-shell-job", sync.OnceValue(func() error {
	out, err := exec.Command(criuName(), "--version").Output()
	var major int
	if err == nil {
		_, err = fmt.Sscanf(string(out), "Version: %d.", &major)
	}
	if err == nil && major < 4 {
		err = fmt.Errorf("version %d is too old", major)
	}
	return err
})}

// largePipes tells why this process can't have pipes as large as those by which CRIU passes memory on: 4 MiB.
func largePipes() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4<<20); err != nil {
		return fmt.Errorf("fcntl F_SETPIPE_SZ: %w", err)
	}
	return nil
}

// CRIUProgram returns the path of the CRIU of the tests, or "" for that in PATH.
func CRIUProgram() string { return os.Getenv(envCRIU) }

func criuName() string { return cmp.Or(CRIUProgram(), "criu") }

func haveCRIU() error {
	program := criuName()
	if os.Geteuid() != 0 {
		return errors.New("it needs root")
	}
	out, err := exec.Command(program, "check").CombinedOutput()
	if err == nil {
		return nil
	}
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("Error (")) {
			return fmt.Errorf("%s check: %s", program, bytes.TrimSpace(line))
		}
	}
	return fmt.Errorf("%s check: %w", program, err)
}
