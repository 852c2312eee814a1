package native

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hull/internal/fault"
)

// A host says in different files that ordinary users can't have user namespaces.
func TestUserNamespaceHint(t *testing.T) {
	for _, c := range []struct {
		file, value string
		userNS      bool
		want        string
	}{
		{"proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n", true, "apparmor_restrict_unprivileged_userns is 1"},
		{"proc/sys/kernel/unprivileged_userns_clone", "0\n", true, "unprivileged_userns_clone is 0"},
		{"proc/sys/user/max_user_namespaces", "0\n", true, "max_user_namespaces is 0"},
		{"proc/sys/user/max_user_namespaces", "1000\n", true, "seccomp profile or security module"},
		{"proc/sys/user/max_user_namespaces", "1000\n", false, "hull spec --rootless"},
	} {
		root := t.TempDir() + "/"
		file := filepath.Join(root, c.file)
		_ = os.MkdirAll(filepath.Dir(file), 0o755)
		if err := os.WriteFile(file, []byte(c.value), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := userNamespaceHint(root, c.userNS); !strings.Contains(got, c.want) {
			t.Errorf("%s %q: %q, want %q", c.file, c.value, got, c.want)
		}
	}
}

func TestExplainNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("what is told to root")
	}
	e := &fault.Error{Step: "unshare", Err: unix.ENOSPC}
	if hint := fault.Hint(explainNamespaces(e, false)); !strings.Contains(hint, "/proc/sys/user") {
		t.Error(hint)
	}
}
