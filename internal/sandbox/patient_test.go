package sandbox

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/engine"
	"hull/internal/sandbox/wire"
)

// Who works is waited for longer than who doesn't, but not for ever; and nobody is when the caller gives up.
func TestPatience(t *testing.T) {
	const timeout = 500 * time.Millisecond
	busy, idle := "while :; do :; done", "exec sleep 60"
	for name, tt := range map[string]struct {
		script      string
		answers     time.Duration // when; or 0 for never
		given       time.Duration // up, when; or 0
		least, most time.Duration
		want        string // the error, or "" for an answer
	}{
		"idle":            {script: idle, least: timeout, most: time.Minute, want: "does not answer within 500ms"},
		"busy":            {script: busy, answers: 4 * timeout, least: 4 * timeout, most: time.Minute},
		"busy for ever":   {script: busy, least: maxPeriods * timeout, most: time.Minute, want: "does not answer within 5s"},
		"busy, in vain":   {script: busy, given: 3 * timeout, least: 3 * timeout, most: time.Minute, want: "deadline"},
		"idle, but quick": {script: idle, answers: timeout / 10, most: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			child := exec.Command("/bin/sh", "-c", tt.script)
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = child.Process.Kill()
				_ = child.Wait()
			}()
			ours, theirs := reportPair(t)
			r := &patientReader{File: ours, pid: child.Process.Pid, timeout: timeout}
			if tt.answers > 0 {
				time.AfterFunc(tt.answers, func() { _, _ = theirs.WriteString("x") })
			}
			begin := time.Now()
			if tt.given > 0 {
				ctx, cancel := context.WithTimeout(t.Context(), tt.given)
				defer cancel()
				defer context.AfterFunc(ctx, r.giveUp)()
			}
			_, err := io.ReadFull(r, make([]byte, 1))
			took := time.Since(begin)
			if tt.want == "" && err != nil || tt.want != "" && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("after %v: %v", took, err)
			}
			if took < tt.least || took > tt.most {
				t.Errorf("took %v, want %v to %v", took, tt.least, tt.most)
			}
			if tt.want != "" && tt.given == 0 && !strings.Contains(r.late().Error(), tt.want) {
				t.Errorf("%v, want %q", r.late(), tt.want)
			}
		})
	}
}

// A sandbox that waits for a container is waited for as one that has one: for as long as it works.
func TestPatienceWithParked(t *testing.T) {
	const timeout = 500 * time.Millisecond
	for name, tt := range map[string]struct {
		script, says, want string
	}{
		"ready":       {"while :; do :; done", wire.Ready, ""},
		"refuses":     {"while :; do :; done", `{"Message":"no room"}`, "no room"},
		"idle":        {"exec sleep 60", "", "does not answer within 500ms"},
		"has ended":   {"while :; do :; done", "-", errLost.Error()},
		"was stopped": {"while :; do :; done", "cancel", context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			child := exec.Command("/bin/sh", "-c", tt.script)
			if err := child.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = child.Process.Kill()
				_ = child.Wait()
			}()
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			ours, theirs := os.NewFile(uintptr(fds[0]), "pool"), os.NewFile(uintptr(fds[1]), "theirs")
			defer ours.Close()
			defer theirs.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			time.AfterFunc(3*timeout, func() {
				switch tt.says {
				case "":
				case "-":
					theirs.Close()
				case "cancel":
					cancel()
				default:
					_, _ = theirs.WriteString(tt.says)
				}
			})
			c := &creation{CreateRequest: &engine.CreateRequest{Container: engine.Container{Dir: t.TempDir(), Spec: parkedSpec()}}}
			err = c.hear(ctx, &patientReader{File: ours, pid: child.Process.Pid, timeout: timeout}, readPacket)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// reportPair returns both ends of a socket like that of a report.
func reportPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "report"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() {
		ours.Close()
		theirs.Close()
	})
	return ours, theirs
}
