package hull_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hull"
)

// A program in a container of its own, with a root file system that has it.
func ExampleCommand() {
	cmd := hull.Command("tr", "a-z", "A-Z")
	cmd.Rootfs = "/srv/busybox"
	cmd.Stdin = strings.NewReader("some input")
	out, err := cmd.Output()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", out)
}

// A snippet of Python that nobody has read, over the host's files: what can go wrong with it is told apart.
func ExampleCmd_limits() {
	cmd := hull.Command("python3", "-c", "print(sum(range(1001)))")
	cmd.Dir = "/usr"
	cmd.Limits = hull.Limits{Memory: 256 << 20, CPUs: 1.5, Pids: 20, Files: 100, Time: 20 * time.Second}
	out, err := cmd.Output()
	var failed *hull.ExitError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		fmt.Println("it took too long")
	case cmd.Result.OOMKilled > 0:
		fmt.Println("it wanted too much memory")
	case errors.As(err, &failed):
		fmt.Printf("%v: %s", failed, failed.Stderr)
	case err != nil:
		log.Fatalf("%v\n%s", err, hull.Hint(err))
	default:
		fmt.Printf("it said %s", out)
	}
}

// A program that may not run for longer than a second.
func ExampleCommandContext() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	cmd := hull.CommandContext(ctx, "sleep", "60")
	cmd.Rootfs = "/srv/busybox"
	fmt.Println(cmd.Run())
}

// A program over the host's files that reaches one server and nothing else.
func ExampleCommand_network() {
	cmd := hull.Command("curl", "-s", "https://example.org/")
	cmd.Network = hull.NetworkNAT
	cmd.Allow = []string{"example.org:443"}
	err := cmd.Run()
	for _, r := range cmd.Result.Refused {
		log.Print("refused: ", r)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// The whole life of a container that is described by a bundle.
func ExampleRuntime_Create() {
	ctx := context.Background()
	r := hull.Runtime{Warn: func(line string) { log.Print(line) }}
	c, err := r.Create(ctx, "web1", hull.CreateOptions{Bundle: "/srv/web1"})
	if err != nil {
		log.Fatalf("%v\n%s", err, hull.Hint(err))
	}
	defer func() {
		if err := c.Delete(ctx, hull.DeleteOptions{Force: true}); err != nil {
			log.Print(err)
		}
	}()
	if err := c.Start(ctx); err != nil {
		log.Print(err)
		return
	}
	status, err := c.Init().Wait()
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(status.ExitStatus())
}

// A container that there isn't, in a directory of the program's own for the state.
func ExampleRuntime_Container() {
	root, err := os.MkdirTemp("", "state")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(root)
	r := hull.Runtime{Root: root}
	_, err = r.Container("web1")
	fmt.Println(err)
	fmt.Println(errors.Is(err, hull.ErrNotExist))
	// Output:
	// web1: container does not exist
	// true
}

// All mistakes of a config.json come at once, each with its field.
func ExampleError() {
	bundle, err := os.MkdirTemp("", "bundle")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(bundle)
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte(`{"ociVersion": "1.2.0", "root": {}, "process": {"cwd": "here"}}`), 0o600); err != nil {
		log.Fatal(err)
	}
	r := hull.Runtime{Root: filepath.Join(bundle, "state")}
	_, err = r.Create(context.Background(), "web1", hull.CreateOptions{Bundle: bundle})
	fmt.Println(err)
	fmt.Println(errors.Is(err, hull.ErrBadSpec))
	// Output:
	// create web1: process.args: empty: there is nothing to run
	// process.cwd: got "here", want an absolute path
	// root.path: missing, want the directory of the root file system
	// true
}

// Another process in a container that runs.
func ExampleContainer_Exec() {
	ctx := context.Background()
	r := hull.Runtime{}
	c, err := r.Container("web1")
	if err != nil {
		log.Fatal(err)
	}
	p := c.ProcessSpec()
	p.Args = []string{"cat", "/proc/loadavg"}
	process, err := c.Exec(ctx, hull.ExecOptions{Process: p})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := process.Wait(); err != nil {
		log.Fatal(err)
	}
}

// What hull does for a container, line by line.
func ExampleRuntime_trace() {
	var trace bytes.Buffer
	r := hull.Runtime{Trace: func(line string) { fmt.Fprintln(&trace, line) }}
	if _, err := r.Create(context.Background(), "web1", hull.CreateOptions{Bundle: "/srv/web1"}); err != nil {
		log.Fatalf("%v after\n%s", err, trace.String())
	}
}
