package cli

import (
	"io"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// helpOf returns what hull prints with those arguments, called by that name.
func helpOf(t *testing.T, name string, args ...string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	env := &Env{Name: name, Stdout: w, Stderr: os.Stderr, log: &logger{}}
	done := make(chan error, 1)
	go func() {
		done <- env.run(args)
		w.Close()
	}()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestHelpOfEveryCommand(t *testing.T) {
	for _, c := range commands() {
		t.Run(c.Name, func(t *testing.T) {
			text := helpOf(t, "hull", c.Name, "--help")
			if !strings.HasPrefix(text, "NAME:\n   hull "+c.Name+" - "+c.Summary+"\n") {
				t.Errorf("begins with %.80q", text)
			}
			for _, section := range []string{"USAGE", "OPTIONS", "EXIT STATUS"} {
				if !strings.Contains(text, "\n"+section+":\n") {
					t.Errorf("no section %s", section)
				}
			}
			checkWidth(t, text)
			if again := helpOf(t, "hull", "help", c.Name); again != text {
				t.Errorf("help %s shows another text:\n%s", c.Name, cmp.Diff(text, again))
			}
		})
	}
}

func TestHelpOfProgram(t *testing.T) {
	text := helpOf(t, "runc", "--help")
	if want := "NAME:\n   runc - Open Container Initiative runtime\n"; !strings.HasPrefix(text, want) {
		t.Errorf("called runc, it begins with %.80q", text)
	}
	checkWidth(t, text)
	for _, c := range commands() {
		if !strings.Contains(text, "\n   "+c.Name) {
			t.Errorf("no command %s", c.Name)
		}
	}
}

func checkWidth(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if utf8.RuneCountInString(line) > width {
			t.Errorf("too long: %s", line)
		}
		if strings.TrimRight(line, " ") != line {
			t.Errorf("ends in spaces: %q", line)
		}
	}
}

// TestOptionsHaveArguments finds options whose description doesn't say what their argument is.
func TestOptionsHaveArguments(t *testing.T) {
	for _, c := range commands() {
		for line := range strings.Lines(helpOf(t, "hull", c.Name, "--help")) {
			for _, typeName := range []string{" string", " stringArray", " int ", " duration", " strings"} {
				term, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
				if strings.HasPrefix(term, "-") && strings.HasSuffix(term+" ", typeName+" ") {
					t.Errorf("%s: %s", c.Name, term)
				}
			}
		}
	}
}
