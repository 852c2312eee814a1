package engines

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// critestSkip are the specs of critest that want a registry, other images than busybox, or what no container may do here.
const critestSkip = `[Ii]mage|AppArmor|SELinux|[Pp]rivileged|multi-arch|web|hello|benchmark|Windows`

// critestImages are the images of critest's specs: there is no registry, so all are the one that is there.
const critestImages = `defaultTestContainerImage: ` + imageName + `
webServerTestImage: ` + imageName + `
`

// TestCritest runs Kubernetes's validation of CRI with RUNTIME in both isolations and the installed runc, and tells the
// summaries. It is run by hand: HULL_TEST_CRITEST says how long each may take.
func TestCritest(t *testing.T) {
	lasts, err := time.ParseDuration(os.Getenv("HULL_TEST_CRITEST"))
	if err != nil {
		t.Skip("HULL_TEST_CRITEST has no duration")
	}
	need(t, "containerd", "ctr", "containerd-shim-runc-v2")
	all := append(contestants(t), peersOf(contestants(t))...)
	d := startContainerdWith(t, newestRelease(), "/run/containerd-critest", all)
	defer d.end(t, os.Interrupt)
	crictlOf(t, d)
	images := filepath.Join(t.TempDir(), "images")
	if err := os.WriteFile(images, []byte(critestImages), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.name == "crun" {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), lasts+time.Minute)
		defer cancel()
		socket := "unix://" + d.dir + "/socket"
		cmd := exec.CommandContext(ctx, filepath.Join(os.Getenv(containerdDir), "critest"), "--runtime-endpoint", socket, "--image-endpoint", socket,
			"--runtime-handler", c.name, "--test-images-file", images, "--ginkgo.skip", critestSkip, "--ginkgo.no-color", "--ginkgo.timeout", lasts.String())
		out, err := cmd.CombinedOutput() // whether all pass isn't the question
		ran := false
		for line := range strings.Lines(string(out)) {
			line = strings.TrimSpace(line)
			ran = ran || strings.HasPrefix(line, "Ran ") && !strings.HasPrefix(line, "Ran 0 ")
			if strings.HasPrefix(line, "Ran ") || strings.Contains(line, " Passed | ") || strings.HasPrefix(line, "[FAIL]") || strings.HasPrefix(line, "[TIMEDOUT]") {
				t.Logf("%s: %s", c.name, line)
			}
		}
		if !ran {
			t.Errorf("%s: critest has run nothing: %v\n%s", c.name, err, out)
		}
	}
}
