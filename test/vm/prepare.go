package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// rootSuite is the Debian of the root file system.
const rootSuite = "bookworm"

// rootPackages are those of the root file system beside the minimal ones.
const rootPackages = "systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap,kmod,udev,iproute2,procps,apparmor,criu,iptables"

// enginePackages are those of the engines that package engines has, on the architecture that they are tested on.
const enginePackages = ",podman,conmon,netavark,aardvark-dns,catatonit,slirp4netns,docker.io,containerd,containernetworking-plugins,busybox-static"

// engineUnits are the units of these packages that would start by themselves.
var engineUnits = []string{"docker.service", "docker.socket", "containerd.service", "podman.service", "podman.socket", "podman-restart.service", "podman-auto-update.timer"}

// packages are those of the root file system beside the minimal ones.
func (a *arch) packages() string {
	if a.native() {
		return rootPackages + enginePackages
	}
	return rootPackages
}

//go:embed guest.sh apparmor
var scripts embed.FS

// setup returns the machine's files: one unit that runs the tests and powers off, an ordinary user who has a systemd of
// its own without being logged in, and all controllers delegated to it.
func (a *arch) setup() map[string]string {
	return map[string]string{
		"etc/fstab":    "",
		"etc/hostname": "hull-vm\n",
		"etc/systemd/system/hull-test.service": `[Unit]
After=basic.target dbus.service systemd-logind.service systemd-user-sessions.service
[Service]
Type=oneshot
Delegate=yes
ExecStartPre=/bin/mount /dev/vdb /hull
ExecStart=/bin/sh /hull/guest.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=tty
StandardError=tty
TTYPath=` + a.tests + `
TimeoutStartSec=infinity
`,
		"etc/systemd/system/user@.service.d/delegate.conf": "[Service]\nDelegate=cpu cpuset io memory pids\n",
		"var/lib/systemd/linger/user":                      "",
	}
}

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

// fingerprint names what is in the root file system: an image in the cache that was made of other files is not used.
func (a *arch) fingerprint() string {
	h := sha256.New()
	setup := a.setup()
	fmt.Fprintln(h, rootSuite, a.packages(), engineUnits)
	for _, name := range slices.Sorted(maps.Keys(setup)) {
		fmt.Fprintf(h, "%s\n%s", name, setup[name])
	}
	return hex.EncodeToString(h.Sum(nil)[:4])
}

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

// root returns a tree with the kernel's modules in it.
func (vm *machine) root(kernel string) (string, error) {
	packages := sha256.Sum256([]byte(vm.arch.packages()))
	base := vm.cached("root-" + rootSuite + "-" + hex.EncodeToString(packages[:4])) // as debootstrap leaves it
	err := keep(base, func(part string) error {
		args := []string{"--variant=minbase", "--include=" + vm.arch.packages(), "--arch=" + vm.arch.name, rootSuite, part}
		if !vm.arch.native() {
			args = append([]string{"--foreign"}, args...)
		}
		if vm.mirror != "" {
			args = append(args, vm.mirror)
		}
		return command("debootstrap", args...)
	})
	if err != nil {
		return "", err
	}
	root := filepath.Join(kernel, "root-"+vm.arch.fingerprint())
	return root, keep(root, func(part string) error {
		if err := command("cp", "-a", base, part); err != nil {
			return err
		}
		modules, err := filepath.Glob(kernel + "/lib/modules/*")
		if usr, _ := filepath.Glob(kernel + "/usr/lib/modules/*"); len(modules) == 0 {
			modules = usr // Debian 13 moved them
		}
		if err != nil || len(modules) != 1 {
			return fmt.Errorf("%d directories of modules, not one: %v", len(modules), err)
		}
		if err := os.MkdirAll(part+"/usr/lib/modules", 0o755); err != nil {
			return err
		}
		if err := command("cp", "-a", modules[0], part+"/usr/lib/modules/"); err != nil {
			return err
		}
		if err := command("depmod", "-a", "-b", part, filepath.Base(modules[0])); err != nil {
			return err
		}
		if err := vm.arch.configure(part); err != nil || !vm.arch.native() {
			return err
		}
		return command("chroot", part, "sh", "-ec", addUser)
	})
}

// addUser makes the ordinary user, with ranges in subuid and subgid.
const addUser = "useradd --create-home --shell /bin/sh --uid 1000 user"

// configure makes of Debian's tree the machine that setup describes.
func (a *arch) configure(root string) error {
	for name, text := range a.setup() {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(root, "hull"), 0o755); err != nil {
		return err
	}
	wants := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	for _, unit := range engineUnits {
		if err := os.RemoveAll(filepath.Join(root, "etc/systemd/system", unit)); err != nil {
			return err
		}
		if err := os.Symlink("/dev/null", filepath.Join(root, "etc/systemd/system", unit)); err != nil {
			return err
		}
	}
	return os.Symlink("../hull-test.service", filepath.Join(wants, "hull-test.service"))
}

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
