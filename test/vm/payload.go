package main

import (
	"cmp"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

//go:embed guest.sh apparmor
var scripts embed.FS

// makePayload makes the disk with what is tested.
func (vm *machine) makePayload(work, runtime string, tests selection) (string, error) {
	dir := filepath.Join(work, "hull")
	if err := os.MkdirAll(dir+"/bin", 0o755); err != nil {
		return "", err
	}
	if err := os.CopyFS(dir, scripts); err != nil {
		return "", err
	}
	if err := command("cp", "-L", runtime, dir+"/bin/runtime"); err != nil {
		return "", err
	}
	if err := copyBeside(runtime, dir+"/bin", "hull-sandbox"); err != nil {
		return "", err
	}
	if _, err := os.Stat(dir + "/bin/hull-sandbox"); err != nil {
		fmt.Printf("no hull-sandbox beside %s: tests of sandboxes are left out\n", runtime)
		tests.skip = sandboxTests
	}
	busybox, err := vm.busybox()
	if err != nil {
		return "", err
	}
	if err := makeRootfs(dir+"/rootfs", busybox); err != nil {
		return "", err
	}
	if err := vm.makeTests(dir, tests); err != nil {
		return "", err
	}
	if slices.Contains(tests.packages, enginesPackage) {
		if err := vm.makeEngines(dir+"/engines", runtime, tests); err != nil {
			return "", err
		}
	}
	file := filepath.Join(work, "payload.img")
	return file, command("mkfs.ext4", "-q", "-d", dir, file, "1400M")
}

// makeRootfs makes the root file system of life's containers; guest.sh gives busybox its other names.
func makeRootfs(root, busybox string) error {
	const script = `mkdir -p "$0/bin" "$0/etc" "$0/proc" "$0/sys" "$0/dev" "$0/tmp" "$0/mnt" &&
		cp -L "$1" "$0/bin/busybox" &&
		echo root:x:0:0:root:/root:/bin/sh >"$0/etc/passwd"`
	return command("sh", "-ec", script, root, busybox)
}

// makeTests builds the program that the tests' containers run and the test programs: of life into dir/life, of packages
// into dir/pkg.
func (vm *machine) makeTests(dir string, tests selection) error {
	if err := vm.arch.build("build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/bin/testprog", "./hulltest/testprog"); err != nil {
		return err
	}
	patience := cmp.Or(os.Getenv("HULL_TEST_PATIENCE"), "1")
	if n, err := strconv.Atoi(patience); err != nil || n < 1 {
		return fmt.Errorf("HULL_TEST_PATIENCE=%s: want a whole number from 1 on", patience)
	}
	for name, text := range map[string]string{"suites": tests.suites, "patience": patience} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o644); err != nil {
			return err
		}
	}
	if err := vm.makeTest(dir+"/life", "hull/test/vm/life", "", tests); err != nil {
		return err
	}
	if len(tests.packages) > 0 {
		const format = `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}`
		out, err := output("", "go", append([]string{"list", "-f", format}, tests.packages...)...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			path, src, ok := strings.Cut(strings.TrimSpace(line), " ")
			if !ok || strings.HasPrefix(path, "hull/test/") {
				continue
			}
			if err := vm.makeTest(filepath.Join(dir, "pkg", path), path, src, tests); err != nil {
				return err
			}
		}
	}
	return readableByAll(dir)
}

// makeEngines makes what package engines needs: its tests, and the runtime with the programs that lie beside it.
func (vm *machine) makeEngines(dir, runtime string, tests selection) error {
	if err := os.MkdirAll(dir+"/bin", 0o755); err != nil {
		return err
	}
	if err := command("cp", "-L", runtime, dir+"/bin/"); err != nil {
		return err
	}
	if err := copyBeside(runtime, dir+"/bin", "hull-sandbox", "hull-net", "containerd-shim-hull-v1"); err != nil {
		return err
	}
	if newest := os.Getenv("HULL_TEST_CONTAINERD"); newest != "" {
		if err := os.Mkdir(dir+"/newest", 0o755); err != nil {
			return err
		}
		if err := copyBeside(newest+"/containerd", dir+"/newest", "containerd", "containerd-shim-runc-v2", "ctr", "crictl"); err != nil {
			return err
		}
	}
	if err := os.WriteFile(dir+"/runtime", []byte(filepath.Base(runtime)+"\n"), 0o644); err != nil {
		return err
	}
	if err := vm.makeTest(dir, "hull/test/engines", "", tests); err != nil {
		return err
	}
	return readableByAll(dir)
}

// copyBeside copies of the named programs those that lie beside a file.
func copyBeside(file, to string, names ...string) error {
	for _, name := range names {
		program := filepath.Join(filepath.Dir(file), name)
		if _, err := os.Stat(program); err != nil {
			continue
		}
		if err := command("cp", "-L", program, to+"/"); err != nil {
			return err
		}
	}
	return nil
}

// makeTest builds a package's test program, beside its flags and a copy of its testdata, if src has some.
func (vm *machine) makeTest(dir, pkg, src string, tests selection) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := vm.arch.build("test", "-c", "-ldflags=-s -w", "-o", dir+"/package.test", pkg); err != nil {
		return err
	}
	if flags := tests.flags(pkg); flags != "" {
		if err := os.WriteFile(dir+"/flags", []byte(flags), 0o644); err != nil {
			return err
		}
	}
	if _, err := os.Stat(src + "/testdata"); err != nil {
		return nil
	}
	return os.CopyFS(dir+"/testdata", os.DirFS(src+"/testdata"))
}

func (a *arch) build(args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+a.name)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// readableByAll gives the machine's ordinary user what root has in a tree.
func readableByAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(path, info.Mode()|0o444|info.Mode()&0o100>>3|info.Mode()&0o100>>6)
	})
}
