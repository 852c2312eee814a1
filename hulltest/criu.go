package hulltest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
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
