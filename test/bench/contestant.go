package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// role is what a program is measured as.
type role int

const (
	nobody     role = iota
	hull            // the runtime whose budgets are checked
	crun            // as it is installed
	installed       // runc, as it is installed
	newest          // runc, as the module proxy has it
	empty           // a static Go program that does nothing
	bubblewrap      // as it is installed
	runsc           // as the module proxy has it
	native          // hull without a sandbox, where hull is with one
)

func (r role) String() string {
	return [...]string{"nobody", "hull", "crun", "installed runc", "newest runc", "an empty Go program", "bubblewrap", "newest runsc", "hull without a sandbox"}[r]
}

// contestant is a runtime with a state directory of its own.
type contestant struct {
	role    role
	path    string
	flags   []string // before each command
	version string   // "crun 1.8.1"
	root    string

	mu     sync.Mutex
	next   int
	live   []string // ids of containers that may exist
	made   string   // id of the container that was created last
	stands string   // id of the container that exec and state are for
}

// command returns the command line of one of the runtime's commands. All of them understand the same ones.
func (c *contestant) command(args ...string) []string {
	return slices.Concat([]string{c.path, "--root", c.root}, c.flags, args)
}

// name returns an id that no container had, and remembers it until forget.
func (c *contestant) name(prefix string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	id := fmt.Sprintf("%s-%d-%d", prefix, c.role, c.next)
	c.live = append(c.live, id)
	return id
}

func (c *contestant) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.live = slices.DeleteFunc(c.live, func(s string) bool { return s == id })
}

// remove deletes a container in whatever state.
func (c *contestant) remove(ctx context.Context, id string) error {
	_, err := spend(ctx, c.command("delete", "--force", id))
	if err == nil {
		c.forget(id)
	}
	return err
}

// clear removes the containers that still exist.
func (c *contestant) clear() error {
	var errs []error
	for _, id := range slices.Clone(c.live) {
		// It runs after an interrupt too. Not every id in live came to be a container.
		if err := c.remove(context.Background(), id); err != nil && c.has(id) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c *contestant) has(id string) bool {
	_, err := os.Lstat(filepath.Join(c.root, id))
	return err == nil
}

// pidFile returns where the pid of a container's init is to be written.
func (c *contestant) pidFile(id string) string { return filepath.Join(c.root+"-pids", id) }

func (c *contestant) pid(id string) (int, error) {
	text, err := os.ReadFile(c.pidFile(id))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// run runs a container to its end.
func (c *contestant) run(ctx context.Context, prefix, bundle string) (time.Duration, error) {
	id := c.name(prefix)
	took, err := spend(ctx, c.command("run", "--bundle", bundle, id))
	if err == nil {
		c.forget(id)
	}
	return took, err
}

// create makes a container.
func (c *contestant) create(ctx context.Context, prefix, bundle string) (id string, took time.Duration, err error) {
	id = c.name(prefix)
	took, err = spend(ctx, c.command("create", "--bundle", bundle, "--pid-file", c.pidFile(id), id))
	return id, took, err
}

// detach runs a container that stays.
func (c *contestant) detach(ctx context.Context, prefix, bundle string) (id string, err error) {
	id = c.name(prefix)
	_, err = spend(ctx, c.command("run", "--detach", "--bundle", bundle, "--pid-file", c.pidFile(id), id))
	return id, err
}

// contestants finds or makes the runtimes. A peer that isn't installed is left out.
func contestants(o options, dir string) ([]*contestant, error) {
	path, err := exec.LookPath(o.runtime)
	if err != nil {
		return nil, err
	}
	found := []*contestant{{role: hull, path: path}}
	for _, peer := range []struct {
		role    role
		program string
	}{{crun, "crun"}, {installed, "runc"}} {
		path, err := exec.LookPath(peer.program)
		if errors.Is(err, exec.ErrNotFound) {
			fmt.Fprintf(os.Stderr, "bench: no %s here\n", peer.program)
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, &contestant{role: peer.role, path: path})
	}
	if o.newest == "" {
		if o.newest, err = newestRunc.build(o.cache); err != nil {
			return nil, err
		}
	}
	found = append(found, &contestant{role: newest, path: o.newest})
	for _, c := range found {
		if err := c.enter(dir); err != nil {
			return nil, fmt.Errorf("%v: %w", c.role, err)
		}
	}
	return found, nil
}

// enter makes the state directory and asks for the version.
func (c *contestant) enter(dir string) (err error) {
	if c.path, err = filepath.Abs(c.path); err != nil {
		return err
	}
	c.root = filepath.Join(dir, fmt.Sprintf("root-%d", c.role)+strings.Join(c.flags, ""))
	for _, d := range []string{c.root, c.root + "-pids"} {
		if err := os.Mkdir(d, 0o711); err != nil {
			return err
		}
	}
	out, err := exec.Command(c.path, "--version").Output()
	if err != nil {
		return fmt.Errorf("%s --version: %w", c.path, err)
	}
	c.version, err = parseVersion(string(out))
	if strings.HasSuffix(c.version, "VERSION_MISSING") { // runsc, as the module proxy has it
		c.version = filepath.Base(filepath.Dir(c.path))
	}
	if err == nil {
		c.path, err = copyAnew(c.path, filepath.Join(dir, "programs"))
	}
	return err
}

// copyAnew copies a program below dir, with those beside it whose names begin with its own, unless it is there: where the page
// cache has a file in small pieces, as the linker writes it, its program starts up to a tenth later than the same one in another file.
func copyAnew(program, dir string) (string, error) {
	if strings.HasPrefix(program, dir+"/") {
		return program, nil
	}
	beside, err := filepath.Glob(program + "-*")
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, strings.ReplaceAll(filepath.Dir(program), "/", "_"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, from := range append(beside, program) {
		if err := writeAnew(filepath.Join(dir, filepath.Base(from)), from); err != nil && !errors.Is(err, os.ErrExist) {
			return "", err
		}
	}
	return filepath.Join(dir, filepath.Base(program)), nil
}

// writeAnew copies a program, in pieces as large as those in which the kernel would read it from a disk: what is written at once is in
// one piece in the page cache, and of two megabytes the processor makes one page, by which a program of 60 starts in half the time.
func writeAnew(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	const readahead = 128 << 10
	for piece := range slices.Chunk(data, readahead) {
		if _, err := f.Write(piece); err != nil {
			f.Close()
			return err
		}
	}
	return f.Close()
}

// parseVersion makes "crun 1.8.1" of what crun --version prints, and what runc and hull print.
func parseVersion(out string) (string, error) {
	line, _, _ := strings.Cut(out, "\n")
	name, version, ok := strings.Cut(line, " version ")
	if !ok {
		return "", fmt.Errorf("--version printed %q", line)
	}
	return name + " " + version, nil
}

// goProgram is a program of the module proxy.
type goProgram struct {
	name   string
	module string
	pkg    string // its main package
	cgo    string // CGO_ENABLED
	wants  string // what it can't be built without
	flags  []string
}

var (
	// runc is linked statically, as its releases are: that starts faster.
	newestRunc = goProgram{"runc", "github.com/opencontainers/runc", "github.com/opencontainers/runc", "1", ", which wants a C compiler and libseccomp's headers",
		[]string{"-tags=seccomp,netgo,osusergo,urfave_cli_no_docs", "-ldflags=-s -w -extldflags -static"}}
	newestRunsc = goProgram{"runsc", "gvisor.dev/gvisor", "gvisor.dev/gvisor/runsc", "0", "", []string{"-ldflags=-s -w"}}
)

// build returns the newest release, which it builds unless the cache has it.
func (p goProgram) build(cache string) (string, error) {
	version, err := p.newestVersion()
	if err != nil {
		return "", fmt.Errorf("newest %s: %w", p.name, err)
	}
	dir := filepath.Join(cache, p.name+"-"+version)
	file := filepath.Join(dir, p.name)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	fmt.Fprintf(os.Stderr, "bench: building %s %s\n", p.name, version)
	cmd := exec.Command("go", slices.Concat([]string{"install", "-trimpath"}, p.flags, []string{p.pkg + "@" + version})...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+p.cgo, "GOFLAGS=", "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("newest %s%s: %w\n%s", p.name, p.wants, err, out)
	}
	return file, nil
}

func (p goProgram) newestVersion() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-json", p.module+"@latest").Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return "", err
	}
	var module struct{ Version string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	return module.Version, nil
}

// buildEmpty builds a program that does nothing, in the way hull is built.
func buildEmpty(dir string) (string, error) {
	source, file := filepath.Join(dir, "empty.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("an empty program: %w\n%s", err, out)
	}
	return file, nil
}
