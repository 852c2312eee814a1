package kubernetes

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"hull/hulltest/machine"
)

// A worker is a node of a cluster: a machine below the tests' own, of which the files below disk outlive its end, and which ends as
// if somebody had pulled the plug.
type worker struct {
	name   string // with the number, of one digit, at its end
	number int
	disk   string
	cmd    *exec.Cmd // the process outside of its namespaces, with which all in them ends
	init   int       // the first process in them
}

// envWorker is the name of the worker that a process of the test program is to be.
const envWorker = "HULL_TEST_WORKER"

// Addresses of a cluster: of its machines, of services, and of pods, which have a network by the worker.
const (
	controlIP = "10.99.0.1"
	serviceIP = "10.96.0.1" // of the API server
	services  = "10.96.0.0/16"
)

func (w *worker) ip() string   { return fmt.Sprintf("10.99.0.%d", 10+w.number) }
func (w *worker) pods() string { return fmt.Sprintf("10.244.%d.0/24", w.number) }

// path is that of a file of the worker's, for who is outside.
func (w *worker) path(name string) string { return fmt.Sprintf("/proc/%d/root%s", w.init, name) }

// sharedDir is what the tests give to all workers.
const sharedDir = "/run/shared"

// newWorker makes a disk for a worker.
func newWorker(t *testing.T, number int) *worker {
	t.Helper()
	w := &worker{name: fmt.Sprintf("worker%d", number), number: number, disk: fmt.Sprintf("/var/lib/workers/%d", number)}
	for _, dir := range []string{"opt", "lib", "log", "etc", "work"} {
		if err := os.MkdirAll(filepath.Join(w.disk, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// boot starts the machine and connects it with the others.
func (w *worker) boot(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(w.disk, "log/console"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	w.cmd = exec.Command("/proc/self/exe")
	w.cmd.Env = append(os.Environ(), machine.EnvStage+"=", envWorker+"="+w.name)
	w.cmd.Stdout, w.cmd.Stderr = log, log
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	become(t, w.name+" begins", func() (err error) {
		w.init, err = childOf(w.cmd.Process.Pid)
		return err
	})
	run(t, "ip", "link", "add", w.name, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(w.init))
	run(t, "ip", "link", "set", w.name, "master", "lan", "up")
	run(t, "ip", "route", "replace", w.pods(), "via", w.ip())
}

// kill ends the machine with all that runs on it, at once.
func (w *worker) kill(t *testing.T) {
	t.Helper()
	if w.cmd == nil {
		return
	}
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	become(t, w.name+" has ended", func() error {
		if err := syscall.Kill(w.init, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("its first process is there, %w", err)
		}
		return nil
	})
	w.cmd = nil
}

// childOf is the child of a process that has a network of its own. It may have another for a moment: Go starts one to see whether
// it can have a pidfd of it.
func childOf(pid int) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		status, err := os.ReadFile(filepath.Join("/proc", e.Name(), "status"))
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", pid)) {
			continue
		}
		if network, err := os.Readlink(filepath.Join("/proc", e.Name(), "ns/net")); err == nil && network != own {
			return strconv.Atoi(e.Name())
		}
	}
	return 0, fmt.Errorf("process %d has no child", pid)
}

// runWorker is the program that a worker is.
func runWorker(name string) {
	w := &worker{name: name, number: int(name[len(name)-1] - '0')}
	disk := fmt.Sprintf("/var/lib/workers/%d", w.number)
	machine.Run(machine.Config{
		Name:    "hull-" + name,
		Private: []string{"/run", "/tmp", "/var/tmp"},
		Bind: map[string]string{
			distDir: distDir, enginesDir: enginesDir, kubeDir: kubeDir, sharedDir: sharedDir, "/run/disk": disk,
			"/opt": disk + "/opt", "/var/lib": disk + "/lib", "/var/log": disk + "/log",
		},
		Files: sysctls,
		Env:   map[string]string{"TMPDIR": "/tmp", "HOME": "/run"},
	}, func() int {
		if err := w.work(); err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	})
}

// workerContainerd is the configuration that the worker has before hull comes.
const workerContainerd = `version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:latest"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/run/cni"
`

// workerCNI is a bridge for its pods; the other workers' are reached by routes.
const workerCNI = `{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`

// workerKubelet has an open door, as in the tests of a kubelet by itself. That a node is gone is to be found soon.
const workerKubelet = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
volumePluginDir: /run/plugins
syncFrequency: 1s
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 12
evictionHard: {memory.available: 1Mi, nodefs.available: 0%, imagefs.available: 0%, nodefs.inodesFree: 0%, imagefs.inodesFree: 0%}
localStorageCapacityIsolation: false
resolvConf: /run/resolv.conf
`

// work is what a worker does from its start on: its network, what systemd would start, and systemd's part for who wants to restart that.
func (w *worker) work() error {
	// What is installed is written below /etc.
	if err := syscall.Mount("etc", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=/run/disk/etc,workdir=/run/disk/work"); err != nil {
		return fmt.Errorf("mount over /etc: %w", err)
	}
	err := os.Mkdir("/etc/containerd", 0o755)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	// It outlives the machine, with what has been added.
	if _, err := os.Stat("/run/disk/etc/containerd/config.toml"); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile("/etc/containerd/config.toml", []byte(workerContainerd), 0o644); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/cni", "/run/plugins", "/run/systemd"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for file, text := range map[string]string{
		"/run/cni/10-pods.conflist": fmt.Sprintf(workerCNI, w.pods()),
		"/run/kubelet.yaml":         workerKubelet,
		"/run/resolv.conf":          "nameserver 192.0.2.53\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := w.connect(); err != nil {
		return err
	}
	s := &manager{units: map[string]*unit{
		"containerd.service": {argv: []string{filepath.Join(enginesDir, "containerd"), "--log-level=warn"}},
		"kubelet.service": {argv: []string{filepath.Join(kubeDir, "kubelet"), "--config=/run/kubelet.yaml", "--kubeconfig=" + filepath.Join(sharedDir, w.name+".kubeconfig"),
			"--cert-dir=/run/pki", "--hostname-override=" + w.name, "--node-ip=" + w.ip(), "--v=2"}},
	}}
	l, err := net.Listen("unix", "/run/systemd/private")
	if err != nil {
		return err
	}
	if err := s.start("containerd.service"); err != nil {
		return err
	}
	// Nodes have their images by hand: there is no registry.
	images, err := filepath.Glob(filepath.Join(sharedDir, "*.tar"))
	if err != nil {
		return err
	}
	for end := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		if err := exec.Command(filepath.Join(enginesDir, "ctr"), "version").Run(); err == nil {
			break
		} else if time.Now().After(end) {
			return fmt.Errorf("containerd doesn't answer: %w", err)
		}
	}
	for _, i := range images {
		if out, err := exec.Command(filepath.Join(enginesDir, "ctr"), "-n", "k8s.io", "images", "import", i).CombinedOutput(); err != nil {
			return fmt.Errorf("import of %s: %w: %s", i, err, out)
		}
	}
	if err := s.start("kubelet.service"); err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := s.serve(c); err != nil && !errors.Is(err, io.EOF) {
				fmt.Println("systemd:", err)
			}
		}()
	}
}

// connect waits for the cable, and sets the network up. Without a proxy of services there is the API server's alone.
func (w *worker) connect() error {
	for end := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		if _, err := net.InterfaceByName("eth0"); err == nil {
			break
		} else if time.Now().After(end) {
			return err
		}
	}
	commands := []string{
		"ip addr add " + w.ip() + "/24 dev eth0", "ip link set eth0 up", "ip route add default via " + controlIP,
		"iptables -t nat -A PREROUTING -d " + serviceIP + " -p tcp --dport 443 -j DNAT --to-destination " + controlIP + ":6443",
		"iptables -t nat -A OUTPUT -d " + serviceIP + " -p tcp --dport 443 -j DNAT --to-destination " + controlIP + ":6443",
	}
	for n := 1; n <= workers; n++ {
		if other := (&worker{number: n}); n != w.number {
			commands = append(commands, "ip route add "+other.pods()+" via "+other.ip())
		}
	}
	for _, c := range commands {
		f := strings.Fields(c)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c, err, out)
		}
	}
	return nil
}

// A manager is as much of systemd as a node needs: it starts units, and restarts them for who asks at its private socket.
type manager struct {
	mu    sync.Mutex
	units map[string]*unit
}

type unit struct {
	argv []string
	cmd  *exec.Cmd
}

func (m *manager) start(name string) error {
	u := m.units[name]
	log, err := os.OpenFile(filepath.Join("/var/log", name+".log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	u.cmd = exec.Command(u.argv[0], u.argv[1:]...)
	u.cmd.Stdout, u.cmd.Stderr = log, log
	u.cmd.Env = append(os.Environ(), "GRPC_ENFORCE_ALPN_ENABLED=true", "PATH="+enginesDir+":"+os.Getenv("PATH"))
	return u.cmd.Start()
}

// restarted begins a line of the console.
const restarted = "systemd: restart of "

// restart ends the unit's first process alone, as containerd's unit has it (KillMode=process).
func (m *manager) restart(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.units[name].cmd.Process.Signal(syscall.SIGTERM)
	_ = m.units[name].cmd.Wait()
	fmt.Println(restarted + name)
	return m.start(name)
}

// serve speaks D-Bus with one caller: the authentication of lines, then messages (dbus-specification).
func (m *manager) serve(c net.Conn) error {
	in := bufio.NewReader(c)
	for begun := false; !begun; {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		answer := ""
		switch word := strings.Fields(strings.TrimLeft(line, "\x00")); word[0] {
		case "AUTH":
			answer = "DATA\r\n"
		case "DATA":
			answer = "OK 00000000000000000000000000000000\r\n"
		case "BEGIN":
			begun = true
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return err
		}
	}
	const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/1")
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return err
		}
		send := func(kind dbus.Type, headers map[dbus.HeaderField]dbus.Variant, body ...any) error {
			if len(body) > 0 {
				headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
			}
			return (&dbus.Message{Type: kind, Headers: headers, Body: body}).EncodeTo(c, binary.LittleEndian)
		}
		reply := func(body ...any) error {
			return send(dbus.TypeMethodReply, map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial())}, body...)
		}
		refuse := func(name, text string) error {
			return send(dbus.TypeError, map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()), dbus.FieldErrorName: dbus.MakeVariant(name)}, text)
		}
		name := ""
		if len(call.Body) > 0 {
			name, _ = call.Body[0].(string)
		}
		switch member := call.Headers[dbus.FieldMember].Value(); {
		case member == "Subscribe":
			err = reply()
		case member == "Get":
			err = reply(dbus.MakeVariant("active"))
		case m.units[name] == nil:
			err = refuse("org.freedesktop.systemd1.NoSuchUnit", "Unit "+name+" not loaded.")
		case member == "GetUnit":
			err = reply(dbus.ObjectPath("/org/freedesktop/systemd1/unit/one"))
		case member == "RestartUnit":
			if err = reply(job); err == nil {
				err = m.restart(name)
			}
			if err == nil {
				err = send(dbus.TypeSignal, map[dbus.HeaderField]dbus.Variant{
					dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")), dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"), dbus.FieldMember: dbus.MakeVariant("JobRemoved"),
				}, uint32(1), job, name, "done")
			}
		default:
			err = refuse("org.freedesktop.DBus.Error.UnknownMethod", fmt.Sprint("no method ", member))
		}
		if err != nil {
			return err
		}
	}
}
