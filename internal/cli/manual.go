package cli

import (
	"strings"

	"hull"
)

// Manual returns the manual pages of section 1, by the names of their files.
func Manual() map[string]string {
	pages := map[string]string{"hull.1": manualPage(nil)}
	for _, c := range commands() {
		if !c.Hidden {
			pages["hull-"+c.Name+".1"] = manualPage(c)
		}
	}
	return pages
}

// manualPage returns the manual page of a command, or of the program: what --help shows, in the language of man(7).
func manualPage(c *Command) string {
	m := &manual{}
	title := "HULL"
	if c != nil {
		title += "-" + strings.ToUpper(c.Name)
	}
	m.b.WriteString(".TH " + roff(title) + " 1 \"\" \"hull " + roff(hull.Version) + "\" \"User Commands\"\n.nh\n.ad l\n")
	if c == nil {
		fs := newOptions("hull")
		new(globals).register(fs)
		programHelp(m, "hull", fs)
	} else {
		commandHelp(m, "hull", c)
	}
	m.section("SEE ALSO")
	var others []string
	if c != nil {
		others = append(others, `\fBhull\fR(1)`)
	}
	for _, o := range commands() {
		if c == nil && !o.Hidden {
			others = append(others, `\fBhull\-`+roff(o.Name)+`\fR(1)`)
		}
	}
	m.b.WriteString(strings.Join(others, ",\n") + "\n")
	return m.b.String()
}

// manual is a page in the language of man(7).
type manual struct {
	b     strings.Builder
	named bool // the section is the one with the name
	begun bool // the section has a paragraph
}

func (m *manual) section(title string) {
	m.named, m.begun = title == "NAME", false
	if title == "USAGE" {
		title = "SYNOPSIS"
	}
	m.b.WriteString(".SH " + roff(title) + "\n")
}

func (m *manual) phrase(s string) {
	if m.named {
		// makewhatis(8) looks for one word and a dash.
		name, summary, _ := strings.Cut(s, " - ")
		m.b.WriteString(roff(strings.ReplaceAll(name, " ", "-")) + ` \- ` + roff(summary) + "\n")
		return
	}
	m.b.WriteString(roff(s) + "\n")
}

func (m *manual) text(s string) {
	for paragraph := range strings.SplitSeq(s, "\n\n") {
		if strings.HasPrefix(paragraph, " ") {
			m.verbatim(paragraph)
			continue
		}
		m.paragraph()
		m.b.WriteString(roff(strings.Join(strings.Fields(paragraph), " ")) + "\n")
	}
}

func (m *manual) paragraph() {
	if m.begun {
		m.b.WriteString(".PP\n")
	}
	m.begun = true
}

func (m *manual) verbatim(s string) {
	m.paragraph()
	m.b.WriteString(".nf\n")
	for line := range strings.SplitSeq(strings.Trim(s, "\n"), "\n") {
		if line == "" {
			m.b.WriteString(".sp\n")
			continue
		}
		m.b.WriteString(roff(line) + "\n")
	}
	m.b.WriteString(".fi\n")
}

func (m *manual) entry(term string, _ int, meaning string) {
	m.b.WriteString(".TP\n")
	for i, word := range strings.Fields(term) {
		if i > 0 {
			m.b.WriteByte(' ')
		}
		font := `\fB` // an option or a command; else what stands for a value
		if strings.ToUpper(word) == word && !strings.HasPrefix(word, "-") {
			font = `\fI`
		}
		m.b.WriteString(font + roff(word) + `\fR`)
	}
	m.b.WriteString("\n" + roff(meaning) + "\n")
}

var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\(ga", "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`)

// roff makes of s a line, or a word of one, that is text and nothing else to a formatter.
func roff(s string) string {
	s = roffEscapes.Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}
