package main

import (
	"strings"
	"testing"
)

func TestFollow(t *testing.T) {
	for _, tt := range []struct {
		name, console, out string
		status             int
		fails              bool
	}{
		{"passes", "boot\r\n[ 1.0] HULL-VM-BEGIN\r\n--- PASS: a\r\nHULL-VM-EXIT 0\r\nbye\r\n", "--- PASS: a\n", 0, false},
		{"fails", "HULL-VM-BEGIN\nx\nHULL-VM-EXIT 1\n", "x\n", 1, false},
		{"panics", "HULL-VM-BEGIN\nx\n", "x\n", -1, true},
		{"never begins", "Kernel panic\n", "", -1, true},
		{"garbled", "HULL-VM-BEGIN\nHULL-VM-EXIT 1x\n", "", -1, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			status, err := follow(&out, strings.NewReader(tt.console))
			if status != tt.status || (err != nil) != tt.fails || out.String() != tt.out {
				t.Errorf("follow = %d, %v and %q; want %d and %q", status, err, out.String(), tt.status, tt.out)
			}
		})
	}
}
