package engines

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The ordinary user that Podman is tested as.
const (
	userID  = 1000
	userRun = "/run/user/1000"
)

var userHome = "/run/user-home"

// rootless is the Podman of an ordinary user, with ids of the user's own and the image in the user's store.
func rootless(t testing.TB, c contestant) client {
	t.Helper()
	need(t, "podman", "conmon", "catatonit", "newuidmap", "slirp4netns")
	user(t, "user", userID)
	subordinate(t, "user:400000:65536")
	for _, dir := range []string{userHome, userRun} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, userID, userID); err != nil {
			t.Fatal(err)
		}
	}
	p := client{
		argv: []string{"podman", "--runtime", c.path},
		env:  []string{"HOME=" + userHome, "XDG_RUNTIME_DIR=" + userRun, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + userRun + "/bus", "USER=user", "TMPDIR=" + userHome},
		attr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: userID, Gid: userID}},
	}
	configurePodman(t, userHome+"/.config/containers", "overlay")
	if err := filepath.Walk(userHome+"/.config", func(path string, _ os.FileInfo, err error) error {
		if err == nil {
			err = os.Chown(path, userID, userID)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if r := p.run(t, "image", "exists", imageName); r.code != 0 {
		p.ok(t, "import", rootfs(t), imageName)
	}
	return p
}

func TestPodmanRootless(t *testing.T) {
	each(t, func(t *testing.T, c contestant) {
		if c.sandbox() {
			long(t)
		}
		p := rootless(t, c)
		clean(t)
		t.Cleanup(func() { p.run(t, "system", "migrate") }) // ends the process that holds the user's namespaces
		podmanRun(t, p)
		podmanLife(t, p, c)
		podmanStatus(t, p)
		if emulated {
			podmanLimits(t, p)
		}
		t.Run("terminal", func(t *testing.T) {
			p.terminal(t, "run", "--rm", "-it", "--network=none", imageName, "sh").shell(t, 5)
		})
		t.Run("build", func(t *testing.T) {
			podmanBuild(t, p)
		})
		t.Run("pod", func(t *testing.T) { podmanPod(t, p, c) })
		t.Run("userns", func(t *testing.T) {
			if c.sandbox() {
				p.says(t, "1000", "run", "--rm", "--network=none", "--userns=keep-id", imageName, "id", "-u")
				return
			}
			out := p.ok(t, "run", "--rm", "--network=none", "--userns=keep-id", imageName, "sh", "-c", "id -u; cat /proc/self/uid_map")
			if f := strings.Fields(out); f[0] != "1000" || len(f) != 10 {
				t.Errorf("keep-id: %s", out)
			}
			dir, err := os.MkdirTemp(userHome, "volume-")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(dir, userID, userID); err != nil {
				t.Fatal(err)
			}
			p.ok(t, "run", "--rm", "--network=none", "--userns=keep-id", "-v", dir+":/v", imageName, "touch", "/v/f")
			st, err := os.Stat(dir + "/f")
			if err != nil || st.Sys().(*syscall.Stat_t).Uid != userID {
				t.Errorf("the file of keep-id: %v, %v", st, err)
			}
		})
	})
}
