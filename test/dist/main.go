// Command dist makes what hull is handed out as: a tarball and a Debian package of static programs, manual pages and completions,
// and an image for Kubernetes's nodes, with a list of what they are made of and checksums. The same source and the same Go make the same bytes, wherever and whenever:
//
//	go run ./test/dist             into dist/
//	go run ./test/dist -check      and once more, from another place and without a build cache: the same?
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"hull"
)

func main() {
	var d dist
	flag.StringVar(&d.out, "out", "dist", "where to")
	flag.StringVar(&d.version, "version", "", "of the release; that of the source if empty")
	flag.StringVar(&d.ldflags, "ldflags", "-s -w", "for go build")
	flag.StringVar(&d.arch, "arch", runtime.GOARCH, "amd64 or arm64")
	again := flag.Bool("check", false, "make it again elsewhere, and compare")
	flag.Parse()
	err := d.make(".")
	if err == nil && *again {
		err = d.check()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// dist is one call.
type dist struct {
	out, version, ldflags, arch string
	env                         []string // of go build, beside this program's
}

// make makes all of it from the source in dir.
func (d *dist) make(dir string) error {
	if d.version == "" {
		d.version = hull.Version
	}
	d.version = strings.TrimPrefix(d.version, "v")
	hull.Version = d.version // which the manual has
	when, err := sourceDate(dir)
	if err != nil {
		return err
	}
	bin, err := os.MkdirTemp("", "hull-dist-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	if err := d.build(dir, bin); err != nil {
		return err
	}
	tree, err := d.tree(dir, bin, when)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.out, 0o755); err != nil {
		return err
	}
	name := fmt.Sprintf("hull-%s-linux-%s", d.version, d.arch)
	made := map[string][]byte{name + ".cdx.json": tree.content("share/doc/hull/sbom.cdx.json")}
	if made[fmt.Sprintf("hull-node-%s-linux-%s.oci.tar", d.version, d.arch)], err = d.image(tree, when); err != nil {
		return err
	}
	tree = tree.without(nodeProgram)
	if made[name+".tar.gz"], err = tarball(tree.under(name), when); err != nil {
		return err
	}
	deb := fmt.Sprintf("hull_%s_%s.deb", debianVersion(d.version), d.arch)
	if made[deb], err = debian(tree, d.version, d.arch, when); err != nil {
		return err
	}
	var sums bytes.Buffer
	for _, file := range sorted(made) {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(made[file]), file)
		if err := os.WriteFile(filepath.Join(d.out, file), made[file], 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(d.out, "SHA256SUMS"), sums.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Print(sums.String())
	return nil
}

// sourceDate is when the source is from: what SOURCE_DATE_EPOCH says, else the commit.
func sourceDate(dir string) (time.Time, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		out, err := output(dir, "git", "log", "-1", "--format=%ct")
		if err != nil {
			return time.Time{}, fmt.Errorf("no SOURCE_DATE_EPOCH, and %w", err)
		}
		s = strings.TrimSpace(out)
	}
	seconds, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds since 1970", s)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func (d *dist) build(dir, bin string) error {
	args := []string{"build", "-trimpath", "-buildvcs=auto", "-ldflags", d.ldflags, "-o", bin + "/"}
	for _, p := range programs {
		args = append(args, "./cmd/"+p.name)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+d.arch, "GOFLAGS="), d.env...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if e := (*exec.ExitError)(nil); errors.As(err, &e) {
		err = fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(e.Stderr))
	}
	return string(out), err
}

// check makes it again from a clone of the source, which is elsewhere, with nothing that was compiled before.
func (d *dist) check() error {
	if changed, err := output(".", "git", "status", "--porcelain"); err != nil {
		return err
	} else if changed != "" {
		return errors.New("the source has changes that are not committed: another copy wouldn't have them")
	}
	elsewhere, err := os.MkdirTemp("", "hull-dist-again-")
	if err != nil {
		return err
	}
	defer func() {
		_ = exec.Command("chmod", "-R", "u+w", elsewhere).Run()
		os.RemoveAll(elsewhere)
	}()
	clone := filepath.Join(elsewhere, "a", "clone")
	if _, err := output(".", "git", "clone", "-q", ".", clone); err != nil {
		return err
	}
	again := *d
	again.out = filepath.Join(elsewhere, "dist")
	again.env = []string{"GOCACHE=" + filepath.Join(elsewhere, "cache")}
	if err := again.make(clone); err != nil {
		return err
	}
	first, err := os.ReadFile(filepath.Join(d.out, "SHA256SUMS"))
	if err != nil {
		return err
	}
	second, err := os.ReadFile(filepath.Join(again.out, "SHA256SUMS"))
	if err != nil {
		return err
	}
	if !bytes.Equal(first, second) {
		return errors.New("other bytes the second time")
	}
	fmt.Println("the same bytes twice")
	return nil
}

func sorted[T any](m map[string]T) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
