package doctor

import (
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// What a finding tells is what went wrong, not by which command it was tried.
func TestFailedLeavesTheOperationOut(t *testing.T) {
	err := &fault.Error{Op: "do", Step: "network nat: tap", Err: unix.EACCES, Hint: "a cure"}
	f := failed("network", "--network nat doesn't work", err)
	if want := "--network nat doesn't work: network nat: tap: permission denied"; f.Text != want || f.Cure != "a cure" || f.State != Missing {
		t.Errorf("got %+v, want the text %q", f, want)
	}
}
