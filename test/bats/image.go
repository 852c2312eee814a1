package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// image makes the archive that the suite unpacks as a container's root, at the place where the suite would have
// downloaded it to. One that is there already is kept.
func (s *suite) image(name string, fill func(dir string) error) error {
	file := filepath.Join(s.dir, "tests/integration/testdata", fmt.Sprintf("%s-%s.tar.xz", name, runtime.GOARCH))
	if _, err := os.Stat(file); err == nil {
		return nil
	}
	tmp, err := os.MkdirTemp("", "hull-bats-"+name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	root := filepath.Join(tmp, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := fill(root); err != nil {
		return err
	}
	// A rename at the end, so that an archive cut short is never taken for the image.
	part := file + ".part"
	tar := exec.Command("tar", "-C", root, "--create", "--file", part, "--use-compress-program", "xz -1", ".")
	if out, err := tar.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	return os.Rename(part, file)
}

// fillBusybox lays out what the official busybox image has: every applet as a hard link in /bin, and the two
// accounts' files.
func fillBusybox(root string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	for dir, mode := range map[string]fs.FileMode{
		"bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "root": 0o700, "usr": 0o755, "usr/sbin": 0o755,
		"tmp": 0o777 | fs.ModeSticky, "var": 0o755, "var/spool": 0o755, "var/spool/mail": 0o755, "var/www": 0o755,
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
		if err := os.Chmod(filepath.Join(root, dir), mode); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
		"etc/group":  "root:x:0:\ndaemon:x:1:\nnogroup:x:65534:\n",
		"etc/shadow": "root:*:10933:0:99999:7:::\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	bin := filepath.Join(root, "bin")
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		return err
	}
	list, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return err
	}
	for applet := range strings.FieldsSeq(string(list)) {
		if applet == "busybox" {
			continue
		}
		if err := os.Link(filepath.Join(bin, "busybox"), filepath.Join(bin, applet)); err != nil {
			return err
		}
	}
	return nil
}

func fillDebian(root string) error {
	cmd := exec.Command("debootstrap", "--variant=minbase", "bookworm", root)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("debootstrap: %w: %s", err, out)
	}
	return nil
}
