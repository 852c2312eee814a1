package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFollow(t *testing.T) {
	for _, tt := range []struct {
		name, line, out string
		status          int
		fails           bool
	}{
		{"passes", "boot\r\n[ 1.0] HULL-VM-BEGIN\r\n--- PASS: a\r\nHULL-VM-EXIT 0\r\nbye\r\n", "--- PASS: a\n", 0, false},
		{"fails", "HULL-VM-BEGIN\nx\nHULL-VM-EXIT 1\n", "x\n", 1, false},
		{"panics", "HULL-VM-BEGIN\nx\n", "x\n", -1, true},
		{"never begins", "Kernel panic\n", "", -1, true},
		{"garbled", "HULL-VM-BEGIN\nHULL-VM-EXIT 1x\n", "", -1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			begun := 0
			status, err := follow(&out, strings.NewReader(tt.line), func() { begun++ })
			if want := strings.Count(tt.line, markBegin); begun != want {
				t.Errorf("begun %d times, want %d", begun, want)
			}
			if status != tt.status || (err != nil) != tt.fails || out.String() != tt.out {
				t.Errorf("follow = %d, %v and %q; want %d and %q", status, err, out.String(), tt.status, tt.out)
			}
		})
	}
}

func TestLastLines(t *testing.T) {
	file := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(file, []byte("a\r\nb\r\nc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := lastLines(file, 2); got != "b\nc" {
		t.Errorf("lastLines = %q", got)
	}
	if got := lastLines(file, 9); got != "a\nb\nc" {
		t.Errorf("lastLines of more than there are = %q", got)
	}
}
