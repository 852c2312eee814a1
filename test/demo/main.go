// Command demo builds hull and runs a container with it: no image, no registry, no daemon. It needs Go and nothing else.
//
//	go run ./test/demo
//	go run ./test/demo -- ls -l /
//
// The container's root file system is busybox, if there is a static one at hand, and otherwise the small program in
// guest. As an ordinary user it runs in a user namespace.
package main

import (
	"cmp"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

func main() {
	flag.Usage = func() { fmt.Fprintln(os.Stderr, "usage: demo [-- PROGRAM [ARGUMENT...]]") }
	flag.Parse()
	err := demo(os.Getenv("RUNTIME"), flag.Args())
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(runtime string, args []string) error {
	if runtime == "" {
		runtime = "bin/hull"
		if err := build(runtime, "./cmd/hull"); err != nil {
			return err
		}
	}
	runtime, err := exec.LookPath(runtime)
	if err != nil {
		return err
	}
	if runtime, err = filepath.Abs(runtime); err != nil {
		return err
	}
	bundle, err := os.MkdirTemp("", "hull-demo")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bundle)
	hello, err := makeRoot(filepath.Join(bundle, "rootfs"))
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = hello
	}
	if err := makeConfig(runtime, bundle, args); err != nil {
		return err
	}
	// An ordinary user has a directory for the state in a session only.
	run := []string{"--root", filepath.Join(bundle, "state"), "run", "--bundle", bundle, "demo-" + strconv.Itoa(os.Getpid())}
	fmt.Printf("$ %s spec && %[1]s run demo\n", cmp.Or(os.Getenv("RUNTIME"), "hull"))
	cmd := exec.Command(runtime, run...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// build builds a static program.
func build(file, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w", pkg, err)
	}
	return nil
}

// makeRoot makes the root file system and returns the command that shows something in it.
func makeRoot(root string) (hello []string, err error) {
	for _, dir := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil || !static(busybox) {
		return []string{"/bin/hello"}, build(filepath.Join(root, "bin/hello"), "./test/demo/guest")
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), data, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"cat", "echo", "hostname", "id", "ls", "mount", "ps", "sh"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", name)); err != nil {
			return nil, err
		}
	}
	return []string{"sh", "-c", `echo "Hello from $(hostname), process $$."; id; ps`}, nil
}

// static reports whether a program needs no dynamic linker, which the container hasn't.
func static(file string) bool {
	f, err := elf.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// makeConfig has the runtime write its example and changes the process in it.
func makeConfig(runtime, bundle string, args []string) error {
	spec := []string{"spec", "--bundle", bundle}
	if os.Geteuid() != 0 {
		spec = append(spec, "--rootless")
	}
	cmd := exec.Command(runtime, spec...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s spec: %w", runtime, err)
	}
	file := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s has no process", file)
	}
	process["args"] = args
	process["terminal"] = false
	if data, err = json.MarshalIndent(config, "", "\t"); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}
