package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// makeInitrd writes an archive with busybox and the modules that it takes to mount /dev/vda. With the parameter
// hull.install, its init does what debootstrap leaves to the machine when its programs can't run on the host.
func (a *arch) makeInitrd(file, root, busybox string) error {
	dir, err := os.MkdirTemp("", "hull-initrd")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"bin", "proc", "sys", "dev", "root", "modules"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := command("cp", "-L", busybox, dir+"/bin/busybox"); err != nil {
		return err
	}
	modules, err := dependencies(root, "virtio_pci", "virtio_blk", "ext4")
	if err != nil {
		return err
	}
	var load strings.Builder
	for _, m := range modules {
		name, err := copyModule(m, dir+"/modules")
		if err != nil {
			return err
		}
		fmt.Fprintf(&load, "insmod /modules/%s\n", name)
	}
	script := "#!/bin/busybox sh\n" +
		"/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\n" + load.String() +
		"until [ -b /dev/vda ]; do sleep 0.1; done\nmount -t ext4 /dev/vda /root\n" +
		"if grep -q hull.install /proc/cmdline; then\n" +
		"exec >" + a.tests + " 2>&1\necho " + markBegin + "\n" +
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot /root sh -ec '/debootstrap/debootstrap --second-stage; " + addUser + "'\n" +
		"echo \"" + markExit + "$?\"\numount -r /root\nsync\npoweroff -f\nfi\n" +
		"umount /proc\nmount --move /dev /root/dev\n" +
		"exec switch_root /root /sbin/init\n"
	if err := os.WriteFile(dir+"/init", []byte(script), 0o755); err != nil {
		return err
	}
	return command("sh", "-c", `cd "$0" && find . | busybox cpio -o -H newc | gzip -1 >"$1"`, dir, file)
}

// dependencies returns the files of the named modules and of all they depend on, in the order to insert them in. What
// is built into the kernel is left out.
func dependencies(root string, names ...string) ([]string, error) {
	files, err := filepath.Glob(root + "/usr/lib/modules/*/modules.dep")
	if err != nil || len(files) != 1 {
		return nil, fmt.Errorf("%d files modules.dep, not one: %v", len(files), err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		return nil, err
	}
	needs := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		file, deps, _ := strings.Cut(line, ":")
		needs[file] = strings.Fields(deps)
	}
	var order []string
	seen := map[string]bool{}
	var visit func(file string)
	visit = func(file string) {
		if seen[file] {
			return
		}
		seen[file] = true
		for _, dep := range needs[file] {
			visit(dep)
		}
		order = append(order, filepath.Join(filepath.Dir(files[0]), file))
	}
	for _, name := range names {
		for file := range needs {
			if base, _, _ := strings.Cut(filepath.Base(file), "."); base == name {
				visit(file)
			}
		}
	}
	return order, nil
}

// copyModule copies a module, unpacked, for busybox doesn't unpack xz.
func copyModule(file, dir string) (name string, err error) {
	name = filepath.Base(file)
	if plain, ok := strings.CutSuffix(name, ".xz"); ok {
		return plain, command("sh", "-c", `xz -dc "$0" >"$1"`, file, filepath.Join(dir, plain))
	}
	return name, command("cp", file, filepath.Join(dir, name))
}
