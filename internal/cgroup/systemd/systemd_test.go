package systemd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hull/hulltest"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

// manager plays systemd on a bus of the test's own, by another implementation of D-Bus.
type manager struct {
	conn  *dbus.Conn
	calls []string
	props map[string]any
	// result is what jobs end with.
	result string
	exists bool // answer UnitExists until a reset
}

type prop struct {
	Name  string
	Value dbus.Variant
}

type auxUnit struct {
	Name  string
	Props []prop
}

const jobPath = dbus.ObjectPath("/org/freedesktop/systemd1/job/7")

// job ends before its reply is sent.
func (m *manager) job(unit string) (dbus.ObjectPath, *dbus.Error) {
	if err := m.conn.Emit(managerPath, managerIface+".JobRemoved", uint32(6), dbus.ObjectPath("/other"), unit, "failed"); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	if err := m.conn.Emit(managerPath, managerIface+".JobRemoved", uint32(7), jobPath, unit, m.result); err != nil {
		return "", dbus.MakeFailedError(err)
	}
	return jobPath, nil
}

func (m *manager) record(props []prop) {
	for _, p := range props {
		m.props[p.Name] = p.Value.Value()
	}
}

func (m *manager) StartTransientUnit(name, mode string, props []prop, _ []auxUnit) (dbus.ObjectPath, *dbus.Error) {
	m.calls = append(m.calls, "start "+name+" "+mode)
	if m.exists {
		return "", dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit " + name + " already exists."})
	}
	m.record(props)
	return m.job(name)
}

func (m *manager) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	m.calls = append(m.calls, "stop "+name+" "+mode)
	if name == "absent.scope" {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit absent.scope not loaded."})
	}
	return m.job(name)
}

func (m *manager) RestartUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	m.calls = append(m.calls, "restart "+name+" "+mode)
	return m.job(name)
}

const unitPath = dbus.ObjectPath("/org/freedesktop/systemd1/unit/containerd_2eservice")

func (m *manager) GetUnit(name string) (dbus.ObjectPath, *dbus.Error) {
	if name != "containerd.service" {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not loaded."})
	}
	return unitPath, nil
}

func (m *manager) ResetFailedUnit(name string) *dbus.Error {
	m.calls = append(m.calls, "reset "+name)
	m.exists = false
	return nil
}

func (m *manager) SetUnitProperties(name string, runtime bool, props []prop) *dbus.Error {
	if !runtime {
		return dbus.MakeFailedError(errors.New("the change is to last until the unit stops only"))
	}
	m.calls = append(m.calls, "set "+name)
	m.record(props)
	return nil
}

func (m *manager) AttachProcessesToUnit(name, sub string, pids []uint32) *dbus.Error {
	m.calls = append(m.calls, "attach "+name+" "+sub)
	m.props["pids"] = pids
	return nil
}

func (m *manager) Subscribe() *dbus.Error { return nil }

func (m *manager) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	if iface == managerIface && name == "Version" {
		return dbus.MakeVariant("252.39-1~deb12u1"), nil
	}
	if iface == managerName+".Unit" && name == "ActiveState" {
		return dbus.MakeVariant("active"), nil
	}
	return dbus.Variant{}, dbus.MakeFailedError(errors.New("no property " + name))
}

// startManager starts a bus daemon with a manager on it; Dial finds it by the environment.
func startManager(t *testing.T) *manager {
	t.Helper()
	hulltest.Require(t, hulltest.Command("dbus-daemon"))
	address := "unix:path=" + filepath.Join(t.TempDir(), "bus")
	c := exec.Command("dbus-daemon", "--session", "--nofork", "--nosyslog", "--print-address", "--address="+address)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &manager{conn: conn, props: make(map[string]any), result: "done"}
	for iface, v := range map[string]any{managerIface: m, "org.freedesktop.DBus.Properties": m} {
		if err := conn.Export(v, managerPath, iface); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Export(m, unitPath, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(managerName, 0); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", address)
	return m
}

func dialTest(t *testing.T) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestMain(m *testing.M) { os.Exit(hulltest.NoLeaks(m)) }

func TestUnit(t *testing.T) {
	m := startManager(t)
	c := dialTest(t)
	m.exists = true // left over from a run that failed
	err := c.Start(t.Context(), "hull-a.scope", []Property{
		{"Slice", "system.slice"}, {"Delegate", true}, {"PIDs", []uint32{42}}, {"MemoryMax", uint64(1 << 40)},
		{"AllowedCPUs", []byte{3, 128}}, {"DeviceAllow", []DeviceAllow{{"/dev/char/1:3", "rw"}, {"char-*", "m"}}},
		{"After", []string{"a.service", "b.service"}}, {"Nice", int32(-5)}, {"Factor", 1.5}, {"Small", byte(7)},
		{"Long", int64(-1)}, {"Short", int16(-2)}, {"Word", uint16(65535)}, {"Empty", []DeviceAllow{}},
		{"Path", ObjectPath("/a/b")}, {"Numbers", []uint64{1, 1 << 60}}, {"Odd", "é"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "hull-a.scope", []Property{{"TasksMax", uint64(9)}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Attach(t.Context(), "hull-a.scope", "", 43, 44); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Version(t.Context()); err != nil || v != 252 {
		t.Errorf("Version = %d, %v", v, err)
	}
	if err := c.Stop(t.Context(), "hull-a.scope"); err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context(), "absent.scope"); err != nil {
		t.Errorf("stopping a unit that isn't there: %v", err)
	}
	wantCalls := []string{
		"start hull-a.scope replace", "reset hull-a.scope", "start hull-a.scope replace", "set hull-a.scope",
		"attach hull-a.scope /", "stop hull-a.scope replace", "reset hull-a.scope",
		"stop absent.scope replace", "reset absent.scope",
	}
	if diff := cmp.Diff(wantCalls, m.calls); diff != "" {
		t.Error(diff)
	}
	wantProps := map[string]any{
		"Slice": "system.slice", "Delegate": true, "PIDs": []uint32{42}, "MemoryMax": uint64(1 << 40),
		"AllowedCPUs": []byte{3, 128}, "DeviceAllow": [][]any{{"/dev/char/1:3", "rw"}, {"char-*", "m"}},
		"After": []string{"a.service", "b.service"}, "Nice": int32(-5), "Factor": 1.5, "Small": byte(7),
		"Long": int64(-1), "Short": int16(-2), "Word": uint16(65535), "Empty": [][]any{},
		"Path": dbus.ObjectPath("/a/b"), "Numbers": []uint64{1, 1 << 60}, "Odd": "é",
		"TasksMax": uint64(9), "pids": []uint32{43, 44},
	}
	if diff := cmp.Diff(wantProps, m.props); diff != "" {
		t.Error(diff)
	}
}

func TestService(t *testing.T) {
	m := startManager(t)
	c := dialTest(t)
	if v, err := c.UnitProperty(t.Context(), "containerd.service", "ActiveState"); err != nil || v != "active" {
		t.Errorf("ActiveState = %v, %v", v, err)
	}
	if _, err := c.UnitProperty(t.Context(), "absent.service", "ActiveState"); !IsCall(err, "NoSuchUnit") {
		t.Errorf("of a unit that isn't there: %v", err)
	}
	if err := c.Restart(t.Context(), "containerd.service"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"restart containerd.service replace"}, m.calls); diff != "" {
		t.Error(diff)
	}
	m.result = "failed"
	if err := c.Restart(t.Context(), "containerd.service"); err == nil || !strings.Contains(err.Error(), "the job of containerd.service: failed") {
		t.Errorf("a restart that fails: %v", err)
	}
}

func TestFailures(t *testing.T) {
	m := startManager(t)
	c := dialTest(t)
	m.result = "failed"
	if err := c.Start(t.Context(), "x.scope", nil); err == nil || !strings.Contains(err.Error(), "the job of x.scope: failed") {
		t.Errorf("a job that fails: %v", err)
	}
	_, err := c.ManagerProperty(t.Context(), "Nothing")
	var call *CallError
	if !errors.As(err, &call) || call.Message != "no property Nothing" {
		t.Errorf("a property that isn't there: %v", err)
	}
	// No answer ever: the context ends the wait.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.wait(ctx, "/no/job"); err == nil {
		t.Error("a job that never ends is waited for without an end")
	}
}

func TestNoManager(t *testing.T) {
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	t.Setenv("XDG_RUNTIME_DIR", "")
	_, dialed := Dial(t.Context(), true)
	for _, err := range []error{dialed, Expect(true)} {
		if !errors.Is(err, ErrNoManager) || !strings.Contains(err.Error(), "none: ") {
			t.Errorf("without a bus: %v; want a line that names the socket", err)
		}
	}
}

func TestSocketPaths(t *testing.T) {
	got := socketPaths("tcp:host=x;unix:path=/run/a%20b,guid=1;unix:abstract=/tmp/c;unix:runtime=yes")
	if diff := cmp.Diff([]string{"/run/a b", "@/tmp/c"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseProperty(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Property
	}{
		{"TimeoutStopUSec", "uint64 123456789", Property{"TimeoutStopUSec", uint64(123456789)}},
		{"TimeoutStopSec", "uint64 1234", Property{"TimeoutStopUSec", uint64(1234000000)}},
		{"TimeoutStopSec", "1.5", Property{"TimeoutStopUSec", uint64(1500000)}},
		{"CollectMode", "'inactive-or-failed'", Property{"CollectMode", "inactive-or-failed"}},
		{"Description", `"it's \"a\" unit"`, Property{"Description", `it's "a" unit`}},
		{"SendSIGKILL", "true", Property{"SendSIGKILL", true}},
		{"Nice", "-5", Property{"Nice", int32(-5)}},
		{"Small", "byte 0x1f", Property{"Small", byte(0x1f)}},
		{"After", "['a.service', 'b.service']", Property{"After", []string{"a.service", "b.service"}}},
		{"After", "@as []", Property{"After", []string{}}},
		{"AllowedCPUs", "@ay [0x03, 1]", Property{"AllowedCPUs", []byte{3, 1}}},
		{"CPUQuotaPerSecUSec", "uint64 100", Property{"CPUQuotaPerSecUSec", uint64(100)}},
	} {
		got, err := ParseProperty(tt.name, tt.text)
		if err != nil {
			t.Errorf("%s=%s: %v", tt.name, tt.text, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s=%s: %s", tt.name, tt.text, diff)
		}
	}
	for _, bad := range [][2]string{
		{"ab", "1"}, {"A1b", "1"}, {"Name", ""}, {"Name", "uint64 -1"}, {"Name", "byte 256"}, {"Name", "'open"},
		{"Name", "'a' b"}, {"Name", "[1, 2]"}, {"Name", "['a' 'b']"}, {"Name", "{'a': 1}"}, {"RunSec", "'x'"},
		{"RunSec", "-1"}, {"RunSec", "uint64 18446744073709551615"}, {"Name", "@as ['a'"}, {"Name", "word"},
	} {
		if p, err := ParseProperty(bad[0], bad[1]); err == nil {
			t.Errorf("%s=%s is accepted: %#v", bad[0], bad[1], p)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for s, want := range map[string]int{"252.39-1~deb12u1": 252, "v245.4-1.fc32": 245, `"241"`: 241} {
		if got, err := parseVersion(s); err != nil || got != want {
			t.Errorf("parseVersion(%q) = %d, %v", s, got, err)
		}
	}
	if _, err := parseVersion("systemd"); err == nil {
		t.Error("a version without a number is accepted")
	}
}

func FuzzParseProperty(f *testing.F) {
	for _, s := range []string{"uint64 1", "'a'", "['a', \"b\"]", "@au [1,2]", "1.5", "true", `'\'`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProperty("Name", text)
		if err != nil {
			return
		}
		encodeCall(1, "", managerPath, managerIface, "Set", []Property{p}) // whatever is accepted can be sent
	})
}

func FuzzReadMessage(f *testing.F) {
	f.Add(encodeCall(1, managerName, managerPath, managerIface, "StopUnit", "a.scope", "replace"))
	f.Add([]byte("l\x04\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &Conn{r: bufio.NewReader(bytes.NewReader(data)), removed: make(map[ObjectPath]string)}
		for {
			m, err := c.receive()
			if err != nil {
				return
			}
			(&decoder{buf: m.body}).variant()
		}
	})
}
