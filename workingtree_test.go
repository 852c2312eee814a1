package hull

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hull/internal/overlay"
)

// lay writes files below a new directory, whose path without links is returned; ROOT in a text stands for it.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestWorkingTree(t *testing.T) {
	root := lay(t, map[string]string{
		"home/main/.git/HEAD":                     "ref: refs/heads/main\n",
		"home/main/.git/worktrees/side/commondir": "../..\n",
		"home/main/sub/.git":                      "gitdir: ../.git/modules/sub\n",
		"home/main/.git/modules/sub/config":       "[core]\n\tbare = false\n\tworktree = ../../../sub\n",
		"home/main/deep/er/file":                  "",
		"home/plain/file":                         "",
		"home/.ssh/id":                            "a secret",
		"home/evil/.git":                          "gitdir: ../.ssh\n",
		"home/evil/sub/.git":                      "gitdir: ../../main/.git/modules/sub\n",
		"home/fifo/.git":                          "",
		"dots/.git/HEAD":                          "",
		"dots/main/file":                          "",
	})
	home := root + "/home"
	for name, text := range map[string]string{
		"side/.git":                       "gitdir: " + home + "/main/.git/worktrees/side\n",
		"main/.git/worktrees/side/gitdir": home + "/side/.git\n",
		// As it would be for a worktree; but commondir leads out of where worktrees are.
		"liar/.git":           "gitdir: " + home + "/liar/fake\n",
		"liar/fake/gitdir":    home + "/liar/.git\n",
		"liar/fake/commondir": home + "/.ssh\n",
	} {
		file := filepath.Join(home, name)
		_ = os.MkdirAll(filepath.Dir(file), 0o755)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, dir, home string
		want            []string
	}{
		{"repository", home + "/main/deep/er", home, []string{home + "/main"}},
		{"directory", home + "/plain", home, []string{home + "/plain"}},
		{"worktree", home + "/side", home, []string{home + "/side", home + "/main/.git"}},
		{"submodule", home + "/main/sub", home, []string{home + "/main/sub", home + "/main/.git/modules/sub"}},
		// A tree that came from elsewhere says that its repository is where keys are.
		{"lie", home + "/evil", home, []string{home + "/evil"}},
		{"another's submodule", home + "/evil/sub", home, []string{home + "/evil/sub"}},
		{"lie of a worktree", home + "/liar", home, []string{home + "/liar"}},
		{"home", home, home, nil},
		{"above homes", root, home, nil},
		{"home is a repository", root + "/dots/main", root + "/dots", []string{root + "/dots/main"}},
		{"root", "/", home, nil},
		{"shared", "/tmp", home, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, workingTree(c.dir, c.home)); diff != "" {
				t.Error("-want +got:\n" + diff)
			}
		})
	}
}

func TestSetEnv(t *testing.T) {
	env := setEnv([]string{"A=1", "AB=2"}, "A", "3")
	if diff := cmp.Diff([]string{"AB=2", "A=3"}, env); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"A=3"}, setEnv(env, "AB", "")); diff != "" {
		t.Error(diff)
	}
}

// What the host has of the secrets with a wildcard is found whatever else is in their directories.
func TestSecretsWithAWildcard(t *testing.T) {
	v := &view{HostFiles: new(HostFiles)}
	for _, pattern := range overlay.Secrets {
		want, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(pattern, "*") {
			continue
		}
		if got := v.glob(pattern); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", pattern, got, want)
		}
	}
	if got := v.glob("/pro*"); !slices.Contains(got, "/proc") {
		t.Errorf("/pro*: %q", got)
	}
}
