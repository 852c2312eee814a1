package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestUnified(t *testing.T) {
	const (
		v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n"
		v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	)
	for _, tt := range []struct {
		name, mountinfo string
		want            []string
	}{
		{"v1", v1, nil},
		{"v2", v2, nil},
		{"both", v1 + v2, []string{"/sys/fs/cgroup/unified"}},
		{"both, the other order", v2 + v1, []string{"/sys/fs/cgroup/unified"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mounts, err := parseMounts(tt.mountinfo)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, unified(mounts)); diff != "" {
				t.Errorf("unified (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseMountsRefuses(t *testing.T) {
	for _, text := range []string{"41 31 0:38 / /sys rw\n", "41 31 - cgroup2 cgroup2 rw\n", "41 31 0:38 / /sys rw - \n"} {
		if mounts, err := parseMounts(text); err == nil {
			t.Errorf("parseMounts(%q) = %v", text, mounts)
		}
	}
}

func TestParseRollup(t *testing.T) {
	got, err := parseRollup("5586-7ffd ---p 00000000 00:00 0    [rollup]\nRss:    884 kB\nPss:    385 kB\nPss_Anon:  9 kB\n")
	if want := (memory{resident: 884, share: 385}); err != nil || got != want {
		t.Errorf("parseRollup = %+v, %v; want %+v", got, err, want)
	}
	if got, err := parseRollup("Rss:    884 kB\n"); err == nil {
		t.Errorf("without Pss: %+v", got)
	}
}

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		out, want string
		ok        bool
	}{
		{"crun version 1.8.1\ncommit: f8a\n", "crun 1.8.1", true},
		{"runc version 1.1.5+ds1\n", "runc 1.1.5+ds1", true},
		{"usage: runc\n", "", false},
	} {
		if got, err := parseVersion(tt.out); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("parseVersion(%q) = %q, %v", tt.out, got, err)
		}
	}
}

func TestEach(t *testing.T) {
	got := make([]int, 20)
	each(len(got), 3, func(i int) { got[i]++ })
	for i, n := range got {
		if n != 1 {
			t.Errorf("called %d times for %d", n, i)
		}
	}
}
