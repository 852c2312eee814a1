package criu

import (
	"bufio"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
)

// maxLog bounds how much of a log is read, in bytes.
const maxLog = 64 << 20

// Reason returns why CRIU has failed: the first error in its log, which is a file in dir, or "".
func Reason(dir *os.File, name string) string {
	f, err := linux.OpenBeneath(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	return FirstError(f)
}

// FirstError returns the text of the first line of a log that is an error, or "". Of those errors it leaves out what CRIU
// can do without.
func FirstError(log io.Reader) string {
	lines := bufio.NewReader(io.LimitReader(log, maxLog))
	for {
		line, err := lines.ReadString('\n')
		if text := errorText(line); text != "" {
			return text
		}
		if err != nil {
			return ""
		}
	}
}

// errorText returns what a line like
//
//	(00.147440) Error (criu/files-reg.c:1790): Can't lookup mount=24 for fd=0 path=/dev/null
//
// says behind the place in CRIU's source, or "" if it is no error.
func errorText(line string) string {
	_, rest, ok := strings.Cut(line, "Error (")
	if !ok {
		return ""
	}
	_, text, ok := strings.Cut(rest, "): ")
	if !ok {
		return ""
	}
	// It wants more descriptors than its limit, which it may not raise.
	if strings.HasPrefix(text, "rlimit: Can't setup RLIMIT_NOFILE") {
		return ""
	}
	return printable(text)
}

// maxReason bounds what an error quotes, in characters.
const maxReason = 300

// printable returns the text as one line without what could move a terminal's cursor: a container's program can name files
// so that they stand in the log.
func printable(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(s, "")))
	if r := []rune(s); len(r) > maxReason {
		return string(r[:maxReason]) + "…"
	}
	return s
}
