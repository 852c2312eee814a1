package cli

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/rogpeppe/go-internal/testscript"

	"hull/hulltest"
)

// TestMain makes of the test program a hull, too, which tests find by PATH.
func TestMain(m *testing.M) {
	testscript.Main(withoutLeaks{m}, map[string]func(){
		"hull":     func() { os.Exit(Main(os.Args)) },
		"hull-s":   func() { os.Exit(Main(os.Args)) },
		"notifier": notifier,
		"killer":   killer,
	})
}

type withoutLeaks struct{ *testing.M }

func (m withoutLeaks) Run() int { return hulltest.NoLeaks(m.M) }

// TestScripts runs what users type. Comments in a script's head say more: "needs: root, ps" names what it can't do without;
// "isolation: any" has it run a second time, in sandboxes.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txtar")
		t.Run(name, func(t *testing.T) { runScript(t, script, setup) })
		if slices.Contains(head(t, script, "isolation"), "any") {
			t.Run(name+"_sandbox", func(t *testing.T) {
				hulltest.Require(t, hulltest.MountSetattr)
				link := sandboxLink(t)
				if err := os.Symlink(hulltest.SandboxBinary(t), link); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.Remove(link) }) // the scripts run in parallel subtests
				runScript(t, script, func(env *testscript.Env) error {
					env.Setenv("HULL_ISOLATION", "sandbox")
					return setup(env)
				})
			})
		}
	}
}

func runScript(t *testing.T, script string, setup func(*testscript.Env) error) {
	t.Helper()
	hulltest.Require(t, needs(t, script)...)
	testscript.Run(t, testscript.Params{
		Files:               []string{script},
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"bundle":   bundle(t),
			"detached": detached,
			"json":     jsonHas,
			"sandbox":  sandbox(t),
			"status":   status,
		},
	})
}

var headLine = regexp.MustCompile(`(?m)^# ([a-z]+): (.*)$`)

// head returns what a comment in a script's head says of something.
func head(t *testing.T, script, what string) []string {
	t.Helper()
	text, err := os.ReadFile(script)
	if err != nil {
		t.Fatal(err)
	}
	for _, match := range headLine.FindAllSubmatch(text, -1) {
		if string(match[1]) == what {
			return strings.Split(string(match[2]), ", ")
		}
	}
	return nil
}

func needs(t *testing.T, script string) []hulltest.Need {
	t.Helper()
	var needs []hulltest.Need
	for _, name := range head(t, script, "needs") {
		switch name {
		case "root":
			needs = append(needs, hulltest.Root)
		case "userns":
			needs = append(needs, hulltest.UserNS)
		case "mount_setattr":
			needs = append(needs, hulltest.MountSetattr)
		default:
			needs = append(needs, hulltest.Command(name))
		}
	}
	return needs
}

// setup gives each script states of its own, in $ROOT; what it leaves there is deleted.
func setup(env *testscript.Env) error {
	root := filepath.Join(env.WorkDir, ".root")
	env.Setenv("ROOT", root)
	env.Setenv("GORACE", os.Getenv("GORACE")) // the programs of a test under the race detector are, too
	env.Defer(func() { deleteAll(root) })
	return nil
}

func deleteAll(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, entry := range entries {
		// Not Main: a command of its own catches signals to its end.
		_ = exec.Command("hull", "--root", root, "delete", "--force", entry.Name()).Run() // what it leaves is found as a leak
	}
}

// bundle is a command of scripts: bundle DIR [-tty] VERB [ARGUMENT...] makes a bundle that runs a verb of testprog.
func bundle(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: bundle DIR [-tty] VERB [ARGUMENT...]")
		}
		name, args := args[0], args[1:]
		tty := args[0] == "-tty"
		if tty {
			args = args[1:]
		}
		dir := hulltest.Bundle(t, func(s *specs.Spec) {
			s.Process.Args = hulltest.Args(args[0], args[1:]...)
			s.Process.Terminal = tty
		})
		ts.Check(os.Symlink(dir, ts.MkAbs(name)))
	}
}

// sandboxLink is where the hull of scripts looks for hull-sandbox.
func sandboxLink(t *testing.T) string {
	t.Helper()
	hull, err := exec.LookPath("hull")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(filepath.Dir(hull), "hull-sandbox")
}

// sandbox is a command of scripts: it builds hull-sandbox and puts it where hull looks for it; sandbox -none takes it away.
func sandbox(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		link := sandboxLink(t)
		switch {
		case !neg && len(args) == 0:
			ts.Check(os.Symlink(hulltest.SandboxBinary(t), link))
			ts.Defer(func() { os.Remove(link) }) // the next script makes its own
		case !neg && slices.Equal(args, []string{"-none"}):
			ts.Check(os.Remove(link))
		default:
			ts.Fatalf("usage: sandbox [-none]")
		}
	}
}

// detached is a command of scripts: detached PROGRAM [ARGUMENT...] is exec of a program that leaves others behind, which
// have its output still open. exec would wait for them.
func detached(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: detached PROGRAM [ARGUMENT...]")
	}
	out, err := os.Create(ts.MkAbs(".detached"))
	ts.Check(err)
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), out, out
	cmd.Env = append(os.Environ(), "HULL_ISOLATION="+ts.Getenv("HULL_ISOLATION"))
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(out.Name())
		ts.Fatalf("%v: %v\n%s", args, err, text)
	}
}

// status is a command of scripts: status N PROGRAM [ARGUMENT...] is exec of a program whose exit status is N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N PROGRAM [ARGUMENT...]")
	}
	got := "0"
	if failed := (*exec.ExitError)(nil); errors.As(ts.Exec(args[1], args[2:]...), &failed) {
		got = strconv.Itoa(failed.ExitCode())
	}
	if got != args[0] {
		ts.Fatalf("%v: exit status %s, want %s", args[1:], got, args[0])
	}
}

// jsonHas is a command of scripts: json FILE OBJECT tells whether the object in the file has the members of another, and
// not those that are null there.
func jsonHas(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: json FILE OBJECT")
	}
	var got, want map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &got))
	ts.Check(json.Unmarshal([]byte(args[1]), &want))
	for name, value := range want {
		if !reflect.DeepEqual(got[name], value) {
			ts.Fatalf("%s: %s is %v, want %v", args[0], name, got[name], value)
		}
	}
}

func TestEveryCommandHasAScript(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if !slices.ContainsFunc(scripts, func(s string) bool { return strings.HasPrefix(filepath.Base(s), c.Name+"_") }) {
			t.Errorf("no testdata/%s_*.txtar", c.Name)
		}
	}
}
