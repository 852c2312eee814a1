package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// prepare makes everything that doesn't depend on what is tested, or finds it in the cache.
func (vm *machine) prepare() (*boot, error) {
	kernel, err := vm.kernel()
	if err != nil {
		return nil, fmt.Errorf("kernel of %s: %w", vm.suite, err)
	}
	root, err := vm.root(kernel)
	if err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	b := &boot{
		arch:   vm.arch,
		kernel: filepath.Join(kernel, "vmlinuz"),
		initrd: filepath.Join(kernel, "initrd"),
		disk:   filepath.Join(kernel, "disk-"+vm.arch.fingerprint()+".img"),
	}
	return b, keep(b.disk, func(part string) error {
		busybox, err := vm.busybox()
		if err != nil {
			return err
		}
		if err := vm.arch.makeInitrd(b.initrd, root, busybox); err != nil {
			return fmt.Errorf("initrd: %w", err)
		}
		if err := command("mkfs.ext4", "-q", "-d", root, part, "2400M"); err != nil || vm.arch.native() {
			return err
		}
		install := *b
		install.disk = part
		return install.install(os.Stdout, vm.console(), vm.timeout)
	})
}

// cached returns the path of something in the cache that is the architecture's.
func (vm *machine) cached(name string) string {
	if vm.arch.name != "amd64" {
		name += "-" + vm.arch.name
	}
	return filepath.Join(vm.cache, name)
}

func (vm *machine) console() string { return vm.cached("console-"+vm.suite) + ".log" }

// keep makes path with fill, which is given a name beside it that becomes path at the end, unless there is one.
func keep(path string, fill func(part string) error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	part := path + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	fmt.Println("making", path)
	if err := fill(part); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// command runs a program, with its output in the error.
func command(name string, args ...string) error {
	_, err := output("", name, args...)
	return err
}

func output(dir, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", name, err, out, stderr.Bytes())
	}
	return string(out), nil
}
