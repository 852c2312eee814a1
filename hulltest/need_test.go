package hulltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
)

func TestMissing(t *testing.T) {
	var (
		met = Need{"met", func() error { return nil }}
		a   = Need{"a", func() error { return errors.New("no a") }}
		b   = Need{"b", func() error { return errors.New("no b") }}
	)
	for _, test := range []struct {
		required string
		needs    []Need
		unmet    string
		must     bool
	}{
		{"", nil, "", false},
		{"all", []Need{met}, "", false},
		{"", []Need{a, met, b}, "a (no a), b (no b)", false},
		{"met", []Need{a, met, b}, "a (no a), b (no b)", false},
		{"x,b", []Need{a, b}, "a (no a), b (no b)", true},
		{"x b", []Need{a, b}, "a (no a), b (no b)", true},
		{"all", []Need{a}, "a (no a)", true},
		{"ab", []Need{a, b}, "a (no a), b (no b)", false},
		{",", []Need{a}, "a (no a)", false},
	} {
		unmet, must := missing(test.required, test.needs)
		if unmet != test.unmet || must != test.must {
			t.Errorf("missing(%q, %d needs) = %q, %v, want %q, %v", test.required, len(test.needs), unmet, must, test.unmet, test.must)
		}
	}
}

// recorder is a test whose end is looked at.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.said = "skip: " + fmt.Sprintf(format, args...)
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.said = "fatal: " + fmt.Sprintf(format, args...)
}

func TestRequire(t *testing.T) {
	absent := Need{"moon", func() error { return errors.New("it is day") }}
	for required, want := range map[string]string{
		"":       "skip: needs moon (it is day)",
		"stars":  "skip: needs moon (it is day)",
		"moon":   "fatal: required here by HULL_TEST_REQUIRE, but missing: moon (it is day)",
		"a,moon": "fatal: required here by HULL_TEST_REQUIRE, but missing: moon (it is day)",
	} {
		t.Setenv(envRequire, required)
		r := &recorder{TB: t}
		Require(r, absent)
		if r.said != want {
			t.Errorf("%s=%q: %q, want %q", envRequire, required, r.said, want)
		}
	}
	t.Setenv(envRequire, "all")
	r := &recorder{TB: t}
	Require(r, Need{"sun", func() error { return nil }})
	if r.said != "" {
		t.Errorf("a need that is met: %q", r.said)
	}
}

// Whatever this machine has, a check must come to an answer, and to the same one twice.
func TestNeedsAnswer(t *testing.T) {
	for _, n := range []Need{
		Root, NonRoot, UserNS, TimeNS, CgroupV1, CgroupV2, Systemd, SystemdUser, AppArmor, SELinux, Overlay, IntelRDT, Terminal,
	} {
		first := n.Check()
		t.Logf("%s: %v", n.Name, first)
		if again := n.Check(); (first == nil) != (again == nil) {
			t.Errorf("%s: %v, then %v", n.Name, first, again)
		}
	}
	if (Root.Check() == nil) && (NonRoot.Check() == nil) {
		t.Error("both root and not")
	}
}

func TestUserNSAgreesWithUnshare(t *testing.T) {
	Require(t, Command("unshare"))
	err := exec.Command("unshare", "--user", "--map-root-user", "true").Run()
	if got := UserNS.Check(); (got == nil) != (err == nil) {
		t.Errorf("UserNS: %v; unshare: %v", got, err)
	}
}

func TestNeedsWithArguments(t *testing.T) {
	for _, test := range []struct {
		need Need
		met  bool
	}{
		{Command("go"), true},
		{Command("no-such-program"), false},
		{CPUs(1), true},
		{CPUs(1 << 20), false},
		{Kernel(2, 6), true},
		{Kernel(999, 0), false},
	} {
		if err := test.need.Check(); (err == nil) != test.met {
			t.Errorf("%s: %v", test.need.Name, err)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for release, want := range map[string]bool{
		"5.10.0-1-amd64": true, "5.9.16": false, "6.1": true, "4.19.0": false, "": false, "linux": false,
	} {
		if err := atLeast(release, 5, 10); (err == nil) != want {
			t.Errorf("%q: %v", release, err)
		}
	}
}

func TestHaveMount(t *testing.T) {
	if err := haveMount("/proc", "proc"); err != nil {
		t.Error(err)
	}
	if err := haveMount("/proc", "nosuchfs"); err == nil {
		t.Error("a file system that doesn't exist is mounted")
	}
	if err := haveFS("/proc", 1); err == nil {
		t.Error("procfs is of type 1")
	}
	if err := haveFS("/nonexistent", 1); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
