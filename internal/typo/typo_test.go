package typo

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"prestart", "poststart", "poststop", "pid", "uts", "ps", "path", "capabilities", "noNewPrivileges", "CAP_NET_RAW"}
	for _, tt := range []struct{ word, want string }{
		{"prestar", "prestart"},
		{"prestarts", "prestart"},
		{"rpestart", "prestart"},
		{"capabilites", "capabilities"},
		{"noNewPrivilges", "noNewPrivileges"},
		{"nonewprivs", ""},
		{"cap_net_rwa", "CAP_NET_RAW"},
		{"poststp", "poststop"},
		{"pdi", "pid"},
		{"pth", "path"},
		{"px", "ps"},
		{"xy", ""}, // two letters, both wrong
		{"q", ""},
		{"", ""},
		{"foo", ""},
		{strings.Repeat("p", 1<<20), ""},
	} {
		if got := Nearest(tt.word, names); got != tt.want {
			t.Errorf("Nearest(%.20q) = %q, want %q", tt.word, got, tt.want)
		}
	}
	for _, names := range [][]string{{"start", "state"}, {"state", "start"}} {
		if got := Nearest("Stat", names); got != "state" {
			t.Errorf("Nearest of stat in %q is %q, want the one that begins so", names, got)
		}
	}
	if got := Nearest("xx", []string{strings.Repeat("x", longest+1)}); got != "" {
		t.Errorf("a long name is like xx: %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1},
		{"abc", "bca", 2}, {"kitten", "sitting", 3}, {strings.Repeat("a", longest), strings.Repeat("b", longest), longest},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
		if got := distance(tt.b, tt.a); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.want)
		}
	}
}
