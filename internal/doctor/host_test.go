package doctor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSubIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subuid")
	if err := os.WriteFile(file, []byte("ann:100000:65536\n# ann:1:1\nann:1:many\n1001:300000:10\nbob:1\n\nannie:5:5\n 1000:200000:4 \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		login string
		uid   int
		want  uint64
	}{{"ann", 1000, 65540}, {"eve", 1001, 10}, {"eve", 1002, 0}} {
		if got := subIDs(file, c.login, c.uid); got != c.want {
			t.Errorf("%s has %d, want %d", c.login, got, c.want)
		}
	}
	if got := subIDs(file+"2", "ann", 1000); got != 0 {
		t.Errorf("a file that isn't there gives %d", got)
	}
}

func TestCureOf(t *testing.T) {
	for setting, want := range map[string]string{
		"/proc/sys/user/max_user_namespaces is 0":                     "sysctl user.max_user_namespaces=10000",
		"/proc/sys/kernel/unprivileged_userns_clone is 0":             "sysctl kernel.unprivileged_userns_clone=1",
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns is 1": "a profile of AppArmor that allows userns for hull; or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
	} {
		if got := cureOf(setting); got != want {
			t.Errorf("%s: got %q, want %q", setting, got, want)
		}
	}
}
