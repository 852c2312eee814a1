// Package node puts hull onto a machine of a Kubernetes cluster, out of a container that a DaemonSet runs there, and takes it
// away again.
//
// It is root without capabilities, and sees three directories of the machine: where hull's programs go, containerd's
// configuration, and the socket of systemd, which restarts containerd. The API server is asked to label the node, so that pods
// of a class go where its runtime is. Each step can be ended at any moment, and does nothing when it is done again.
//
//	init container: hull-node install      programs, configuration, restart, labels; fails until all of it is done
//	container:      hull-node wait         until SIGTERM; then, if the DaemonSet is gone, what uninstall does
//	by hand:        hull-node uninstall    labels, configuration, restart, programs
package node

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hull/internal/cgroup/systemd"
)

// Labels of a node, one for each RuntimeClass of hull's: the classes select by them.
const (
	labelNative  = "hull.run/native"
	labelSandbox = "hull.run/sandbox"
)

// limit is how long a step may take that asks another program or server.
const limit = 2 * time.Minute

// Machine is the one that hull is put onto.
type Machine struct {
	From   string // the directory with hull's bin and libexec
	To     string // the same on the machine, by the same path there
	Config string // of containerd
	Unit   string // of systemd, that is containerd's; "" for none: somebody else restarts it
	Log    io.Writer

	Cluster *Cluster // or nil: nothing is labelled, and nothing is known of the DaemonSet

	restart func(ctx context.Context, unit string) error // systemd's, but in tests
}

const usage = `usage: hull-node [options] install | wait | uninstall

Puts hull onto a node of a Kubernetes cluster, out of a container of a DaemonSet; docs/kubernetes.md.

`

// Main is the program. It returns the exit status.
func Main(args []string) int {
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hull-node:", err)
		return 1
	}
	m := &Machine{From: filepath.Join(filepath.Dir(self), "../.."), Log: os.Stdout, restart: restart}
	set := flag.NewFlagSet("hull-node", flag.ContinueOnError)
	set.StringVar(&m.From, "from", m.From, "the `directory` with hull's bin and libexec")
	set.StringVar(&m.To, "to", "/opt/hull", "the `directory` of the machine that these go to; it has to have the same path here")
	set.StringVar(&m.Config, "config", "/etc/containerd/config.toml", "containerd's configuration, a `file`")
	set.StringVar(&m.Unit, "unit", "containerd.service", "the `unit` of systemd that is restarted if the configuration has changed; none if empty")
	name := set.String("node", os.Getenv("NODE_NAME"), "the node's `name`, whose labels are set; none if empty")
	daemonSet := set.String("daemonset", "", "the `namespace/name` of the DaemonSet; when that is gone wait does what uninstall does")
	set.Usage = func() {
		fmt.Fprint(set.Output(), usage)
		set.PrintDefaults()
	}
	switch err := set.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case set.NArg() != 1:
		set.Usage()
		return 2
	}
	verbs := map[string]func(context.Context) error{"install": m.Install, "wait": m.Wait, "uninstall": m.Uninstall}
	verb := verbs[set.Arg(0)]
	if verb == nil {
		fmt.Fprintf(os.Stderr, "hull-node: %q: want install, wait or uninstall\n", set.Arg(0))
		return 2
	}
	if *name != "" {
		if m.Cluster, err = inCluster(*name, *daemonSet); err != nil {
			fmt.Fprintln(os.Stderr, "hull-node:", err)
			return 1
		}
	}
	ctx := context.Background()
	if set.Arg(0) == "wait" {
		// Process 1 of a container gets no signal that it doesn't ask for; the others can be ended at any moment by SIGKILL.
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
		defer stop()
	}
	if err := verb(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "hull-node: %s: %v\n", set.Arg(0), err)
		return 1
	}
	return 0
}

func (m *Machine) say(format string, a ...any) { fmt.Fprintf(m.Log, format+"\n", a...) }

// Install has containerd on the machine know hull's runtimes.
func (m *Machine) Install(ctx context.Context) error {
	changed, err := copyPrograms(m.From, m.To)
	if err != nil {
		return err
	}
	m.say("%s: %d files are new", m.To, changed)
	sandbox := false
	err = m.configure(ctx, func(ctx context.Context) error {
		said, err := m.hull(ctx, m.To, "install")
		sandbox = err == nil && !strings.Contains(said, "without sandboxes")
		return cmp.Or(err, m.noteShim()) // before containerd knows of it
	})
	if err != nil {
		return err
	}
	labels := map[string]any{labelNative: "true", labelSandbox: nil}
	if sandbox {
		labels[labelSandbox] = "true"
	}
	return m.label(ctx, labels)
}

// byRunc is a file that tells that containerd has had runc's shim run hull. Its containers run nothing of hull's that could be found,
// but the shim needs it to end them.
const byRunc = ".by-runc"

// noteShim makes that file if it is so. It stays then: containers do, when the configuration is another one.
func (m *Machine) noteShim() error {
	text, err := os.ReadFile(m.Config)
	if err != nil || !bytes.Contains(text, fmt.Appendf(nil, "BinaryName = %q", filepath.Join(m.To, "bin/hull"))) {
		return err
	}
	return os.WriteFile(filepath.Join(m.To, byRunc), nil, 0o644)
}

// Uninstall takes all of it away. Programs that run stay, and those that they call: the containers of pods go on.
func (m *Machine) Uninstall(ctx context.Context) error {
	if err := m.label(ctx, map[string]any{labelNative: nil, labelSandbox: nil}); err != nil {
		// Who removes all may have removed the right to do this, or the node, first.
		m.say("labels of the node stay: %v", err)
	}
	err := m.configure(ctx, func(ctx context.Context) error {
		_, err := m.hull(ctx, m.From, "uninstall")
		return err
	})
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(m.To, byRunc)); err == nil {
		m.say("%s stays: runc's shim ends containers by it, and nobody here sees whether there are some", m.To)
		return nil
	}
	switch busy, err := removePrograms(m.To); {
	case err != nil:
		return err
	case busy != "":
		m.say("%s stays: %s runs, so there are containers of hull's", m.To, busy)
	default:
		m.say("%s is removed", m.To)
	}
	return nil
}

// Wait waits until ctx ends, as the pod is to, and looks why.
func (m *Machine) Wait(ctx context.Context) error {
	<-ctx.Done()
	ctx = context.WithoutCancel(ctx)
	if m.Cluster == nil || m.Cluster.daemonSet == "" {
		return nil
	}
	gone, err := m.Cluster.gone(ctx)
	if err != nil {
		m.say("hull stays: whether the DaemonSet is gone can't be found out: %v", err)
		return nil
	}
	if !gone {
		m.say("hull stays: the DaemonSet is there")
		return nil
	}
	return m.Uninstall(ctx)
}

func (m *Machine) label(ctx context.Context, labels map[string]any) error {
	if m.Cluster == nil {
		return nil
	}
	return m.Cluster.label(ctx, labels)
}

// configure changes containerd's configuration, and has containerd read it. A file tells that it has not done so yet, for who
// comes after one that was killed.
func (m *Machine) configure(ctx context.Context, change func(context.Context) error) error {
	pending := filepath.Join(m.To, ".restart")
	before, err := os.ReadFile(m.Config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(m.To, 0o755); err != nil {
		return err
	}
	_, err = os.Lstat(pending)
	due := err == nil
	if err := os.WriteFile(pending, nil, 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := change(ctx); err != nil {
		return err
	}
	after, err := os.ReadFile(m.Config)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch {
	case !due && bytes.Equal(before, after):
	case m.Unit == "":
		m.say("containerd has to be restarted")
	default:
		if err := m.restart(ctx, m.Unit); err != nil {
			return fmt.Errorf("restart of %s: %w", m.Unit, err)
		}
		m.say("%s is restarted", m.Unit)
	}
	return os.Remove(pending)
}

// hull runs the hull of a directory for containerd, and returns what it says.
func (m *Machine) hull(ctx context.Context, dir, verb string) (string, error) {
	var out, errs bytes.Buffer // two: each has a goroutine that copies to it
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "bin/hull"), verb, "--config", m.Config, "containerd")
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, m.Log), &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("hull %s: %w: %s", verb, err, bytes.TrimSpace(append(out.Bytes(), errs.Bytes()...)))
	}
	return out.String(), nil
}

// restart has systemd restart a unit that runs. One that doesn't is not containerd, which runs this.
func restart(ctx context.Context, unit string) error {
	c, err := systemd.Dial(ctx, false)
	if err != nil {
		return err
	}
	defer c.Close()
	state, err := c.UnitProperty(ctx, unit, "ActiveState")
	if err != nil {
		return err
	}
	if state != "active" {
		return fmt.Errorf("it is %v: containerd runs as another unit, --unit names it", state)
	}
	return c.Restart(ctx, unit)
}
