package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// busybox returns the path of a static one that the machine runs.
func (vm *machine) busybox() (string, error) {
	if vm.arch.native() {
		return exec.LookPath("busybox")
	}
	dir := vm.cached("busybox")
	return dir + "/bin/busybox", keep(dir, func(part string) error {
		deb := filepath.Join(part, "deb")
		if err := os.MkdirAll(deb, 0o755); err != nil {
			return err
		}
		apt, err := vm.apt(deb, rootSuite)
		if err != nil {
			return err
		}
		if _, err := apt("apt-get", "-qq", "download", "busybox-static"); err != nil {
			return err
		}
		return unpack(deb, part)
	})
}

// kernel returns a directory with vmlinuz and the package's lib/modules.
func (vm *machine) kernel() (string, error) {
	dir := vm.cached("kernel-" + vm.suite)
	return dir, keep(dir, func(part string) error {
		deb := filepath.Join(part, "deb")
		if err := os.MkdirAll(deb, 0o755); err != nil {
			return err
		}
		if err := vm.download(deb); err != nil {
			return err
		}
		if err := unpack(deb, part); err != nil {
			return err
		}
		images, err := filepath.Glob(part + "/boot/vmlinuz-*")
		if inModules, _ := filepath.Glob(part + "/usr/lib/modules/*/vmlinuz"); len(images) == 0 {
			images = inModules // where Linux 7 has it in Debian
		}
		if err != nil || len(images) != 1 {
			return fmt.Errorf("%d kernels in what was downloaded, not one: %v", len(images), err)
		}
		return os.Rename(images[0], filepath.Join(part, "vmlinuz"))
	})
}

// unpack unpacks the packages in a directory.
func unpack(dir, to string) error {
	files, err := filepath.Glob(dir + "/*.deb")
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := command("dpkg", "-x", file, to); err != nil {
			return err
		}
	}
	return nil
}

// apt returns a function that runs apt's programs for a suite, with lists and a cache of their own in dir, so that
// neither the machine's lists nor its choice of suites matter.
func (vm *machine) apt(dir, suite string) (func(name string, args ...string) (string, error), error) {
	mirror := vm.mirror
	if mirror == "" {
		out, err := output("", "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Label: Debian")
		if err != nil {
			return nil, err
		}
		var ok bool
		if mirror, _, ok = strings.Cut(out, "\n"); !ok {
			return nil, fmt.Errorf("apt uses no Debian mirror here; give one with -mirror")
		}
	}
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	list := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte(list), 0o644); err != nil {
		return nil, err
	}
	options := []string{
		"-o", "Dir::Etc::SourceList=" + dir + "/list", "-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::State::Lists=" + dir + "/lists", "-o", "Dir::Cache=" + dir + "/cache",
		"-o", "APT::Architecture=" + vm.arch.name, "-o", "Acquire::Languages=none",
		"-o", "APT::Sandbox::User=root", // the lists are in root's directory
	}
	apt := func(name string, args ...string) (string, error) {
		return output(dir, name, append(options[:len(options):len(options)], args...)...)
	}
	_, err := apt("apt-get", "-qq", "update")
	return apt, err
}

// download gets the package of the suite's newest kernel.
func (vm *machine) download(dir string) error {
	apt, err := vm.apt(dir, vm.suite)
	if err != nil {
		return err
	}
	// The package without a version depends on the one with it, and since Linux 7 that on one of the image and one of the
	// modules.
	packages := []string{"linux-image-cloud-" + vm.arch.name}
	for i := 0; i < len(packages); i++ {
		out, err := apt("apt-cache", "depends", packages[i])
		if err != nil {
			return err
		}
		packages = append(packages, kernelParts(out)...)
	}
	_, err = apt("apt-get", append([]string{"-qq", "download"}, packages[1:]...)...)
	return err
}

// kernelParts returns the packages with parts of a kernel from what `apt-cache depends` tells of another.
func kernelParts(depends string) (packages []string) {
	for line := range strings.Lines(depends) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		for _, part := range []string{"linux-image-", "linux-binary-", "linux-modules-"} {
			if ok && strings.HasPrefix(name, part) {
				packages = append(packages, name)
			}
		}
	}
	return packages
}
