package sandbox

import (
	"bytes"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"hull/internal/sandbox/wire"
)

// CPUFeatures asks hull-sandbox, which knows their names.
func (e Engine) CPUFeatures() ([]string, error) {
	program, err := e.open()
	if err != nil {
		return nil, err
	}
	defer program.Close()
	cmd := exec.Command("/proc/self/fd/"+strconv.Itoa(int(program.Fd())), wire.CPUFeatures)
	cmd.Args[0] = "hull-sandbox"
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("hull-sandbox %s: %w %s", wire.CPUFeatures, err, wire.Printable(strings.TrimSpace(complaint.String())))
	}
	return strings.Fields(string(out)), nil
}
