package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
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
