package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hull/hulltest"
)

// scriptOf returns the file of a shell's completion.
func scriptOf(t *testing.T, shell string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "_hull")
	if err := os.WriteFile(file, []byte(Completion(shell)), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// completed lines, and what shells offer for the last word: all of these and none of those after "but".
var completedLines = []struct {
	line string
	has  []string
	not  []string
}{
	{"hull cre", []string{"create"}, []string{"run"}},
	{"hull --log-f", []string{"--log-format"}, []string{"--log"}},
	{"hull --isolation ", []string{"native", "sandbox"}, []string{"create"}},
	{"hull --root /tmp de", []string{"delete", "debug"}, nil},
	{"hull do --ne", []string{"--network"}, nil},
	{"hull do --cwd /usr --network ", []string{"none", "host", "nat"}, nil},
	{"hull do --diff --format ", []string{"table", "json"}, nil},
	{"hull list -f ", []string{"table", "json"}, nil},
	{"hull completion ", []string{"bash", "zsh", "fish"}, nil},
	{"hull install --dry-run ", []string{"docker", "podman", "containerd", "crio"}, []string{"zsh"}},
	{"hull help do", []string{"do", "doctor"}, []string{"create"}},
	{"hull create --pid", []string{"--pid-file"}, nil},
	{"hull update --kernel", nil, []string{"--kernel-memory"}}, // hidden
}

func TestCompletion(t *testing.T) {
	for shell, ask := range map[string]string{
		"bash": `source "$1"; read -ra COMP_WORDS <<<"$2"; [[ $2 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _hull; printf '%s\n' "${COMPREPLY[@]}"`,
		"fish": `source $argv[1]; complete -C $argv[2] | cut -f1`,
	} {
		t.Run(shell, func(t *testing.T) {
			hulltest.Require(t, hulltest.Command(shell))
			script := scriptOf(t, shell)
			for _, c := range completedLines {
				args := []string{"-c", ask, script, c.line}
				if shell == "bash" {
					args = []string{"--norc", "-c", ask, "bash", script, c.line}
				}
				out, err := exec.Command(shell, args...).CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", c.line, err, out)
				}
				offers := "\n" + string(out)
				for _, word := range c.has {
					if !strings.Contains(offers, "\n"+word+"\n") {
						t.Errorf("%q: %q isn't offered: %q", c.line, word, out)
					}
				}
				for _, word := range c.not {
					if strings.Contains(offers, "\n"+word+"\n") {
						t.Errorf("%q: %q is offered", c.line, word)
					}
				}
			}
		})
	}
}

// Shells read what is made for them.
func TestCompletionIsAScript(t *testing.T) {
	for _, shell := range Shells {
		t.Run(shell, func(t *testing.T) {
			hulltest.Require(t, hulltest.Command(shell))
			if out, err := exec.Command(shell, "-n", scriptOf(t, shell)).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// Each option and command that help shows is in each script, and in the manual.
func TestCompletionHasAll(t *testing.T) {
	for _, c := range completions() {
		page := "hull.1"
		if c.Name != "" {
			page = "hull-" + c.Name + ".1"
		}
		manual := strings.ReplaceAll(Manual()[page], `\-`, "-")
		for _, o := range c.options {
			for _, shell := range Shells {
				want := "--" + o.Name
				if shell == "fish" {
					want = "-l " + o.Name
				}
				if !strings.Contains(Completion(shell), want) {
					t.Errorf("%s: hull %s %s is missing", shell, c.Name, want)
				}
			}
			if !strings.Contains(manual, "--"+o.Name+`\fR`) {
				t.Errorf("%s: no --%s", page, o.Name)
			}
		}
	}
	if len(Manual()) < len(completions()) {
		t.Errorf("%d manual pages", len(Manual()))
	}
}

// A formatter takes all of a page for text.
func TestManual(t *testing.T) {
	hulltest.Require(t, hulltest.Command("man"))
	for name, text := range Manual() {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("man", "--warnings=w", "-l", file)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || stderr.Len() > 0 || !strings.Contains(string(out), "EXIT STATUS") {
			t.Errorf("%s: %v: %s", name, err, stderr.String())
		}
	}
}

func TestRoff(t *testing.T) {
	for s, want := range map[string]string{
		".hidden":     `\&.hidden`,
		"'quoted' -x": `\(aqquoted\(aq \-x`,
		`a\nb`:        `a\enb`,
	} {
		if got := roff(s); got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
