package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
	// One process for all lines: shells take their time to start. A line with = ends the offers for each.
	for shell, ask := range map[string]string{
		"bash": `source "$1"; while IFS= read -r line; do read -ra COMP_WORDS <<<"$line"; [[ $line == *' ' ]] && COMP_WORDS+=('')
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _hull; for w in "${COMPREPLY[@]}"; do echo "$w"; done; echo =; done`,
		"fish": `source $argv[1]; while read -l line; complete -C $line | cut -f1; echo =; end`,
	} {
		t.Run(shell, func(t *testing.T) {
			hulltest.Require(t, hulltest.Command(shell))
			args := []string{"-c", ask, scriptOf(t, shell)}
			if shell == "bash" {
				args = []string{"--norc", "-c", ask, "bash", scriptOf(t, shell)}
			}
			cmd := exec.Command(shell, args...)
			var lines strings.Builder
			for _, c := range completedLines {
				lines.WriteString(c.line + "\n")
			}
			cmd.Stdin = strings.NewReader(lines.String())
			out, err := cmd.CombinedOutput()
			answers := strings.Split(string(out), "=\n")
			if err != nil || len(answers) != len(completedLines)+1 {
				t.Fatalf("%v: %q", err, out)
			}
			for i, c := range completedLines {
				offers := strings.Fields(answers[i])
				for _, word := range c.has {
					if !slices.Contains(offers, word) {
						t.Errorf("%q: %q isn't offered: %q", c.line, word, offers)
					}
				}
				for _, word := range c.not {
					if slices.Contains(offers, word) {
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
	scripts, pages := map[string]string{}, Manual()
	for _, shell := range Shells {
		scripts[shell] = Completion(shell)
	}
	for _, c := range completions() {
		page := "hull.1"
		if c.Name != "" {
			page = "hull-" + c.Name + ".1"
		}
		manual := strings.ReplaceAll(pages[page], `\-`, "-")
		for _, o := range c.options {
			for _, shell := range Shells {
				want := "--" + o.Name
				if shell == "fish" {
					want = "-l " + o.Name
				}
				if !strings.Contains(scripts[shell], want) {
					t.Errorf("%s: hull %s %s is missing", shell, c.Name, want)
				}
			}
			if !strings.Contains(manual, "--"+o.Name+`\fR`) {
				t.Errorf("%s: no --%s", page, o.Name)
			}
		}
	}
	if len(pages) < len(completions()) {
		t.Errorf("%d manual pages", len(pages))
	}
}

// Nothing but what is meant so is a request to a formatter, or an escape.
func TestManualIsText(t *testing.T) {
	requests := []string{".TH", ".nh", ".ad", ".SH", ".PP", ".TP", ".nf", ".fi", ".sp"}
	escapes := regexp.MustCompile(`\\(-|e|&|f[BIR]|\(aq|\(ga|\(ha|\(ti|\(dq)`)
	for name, text := range Manual() {
		for line := range strings.Lines(text) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if strings.HasPrefix(line, ".") && !slices.Contains(requests, word) || strings.HasPrefix(line, "'") {
				t.Errorf("%s: %q is a request", name, line)
			}
			if strings.Contains(escapes.ReplaceAllString(line, ""), `\`) {
				t.Errorf("%s: %q has an escape", name, line)
			}
		}
	}
}

// A formatter takes all of a page for text.
func TestManual(t *testing.T) {
	hulltest.Require(t, hulltest.Command("man"))
	args := []string{"--warnings=w", "-l"}
	dir := t.TempDir()
	pages := Manual()
	for _, name := range []string{"hull.1", "hull-do.1"} { // which have all there is
		text := pages[name]
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, file)
	}
	cmd := exec.Command("man", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80", "MANPAGER=cat")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if n := strings.Count(string(out), "EXIT STATUS"); err != nil || stderr.Len() > 0 || n != 2 {
		t.Errorf("%v: %d of 2 pages: %s", err, n, stderr.String())
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
