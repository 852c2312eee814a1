package main

import (
	"fmt"
	"os"
	goruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What stands around the tables in a document.
const (
	beginMark = "<!-- go run ./test/bench -write begins here -->\n"
	endMark   = "<!-- go run ./test/bench -write ends here -->\n"
)

// table is a set of figures: who is measured, and with whom hull is compared.
type table struct {
	heading  string
	columns  []role
	compared []role
}

var (
	runtimes = []role{hull, crun, installed, newest}
	peers    = []role{crun, newest}

	exampleTable = &table{"Time, the configuration of `hull spec`", runtimes, peers}
	engineTable  = &table{"Time, the configuration of a container engine", runtimes, peers}
	otherTable   = &table{"Memory and numbers", runtimes, peers}
	doTable      = &table{"`hull do`", []role{hull, bubblewrap, runsc}, []role{bubblewrap, runsc}}
	sandboxTable = &table{"The sandbox", []role{hull, runsc, newest}, []role{runsc, newest}}
	poolTable    = &table{"The sandbox, from a pool", []role{hull, native, newest}, []role{native, newest}}

	workloadTable = &table{"What programs get done in a sandbox", []role{hull, runsc}, []role{runsc}}

	tables = []*table{exampleTable, engineTable, otherTable, doTable, sandboxTable, poolTable, workloadTable}
)

// report returns the tables and what they were measured on, in Markdown.
func (b *bench) report() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", b.conditions())
	for _, t := range tables {
		b.table(&out, t)
	}
	if len(b.notes) > 0 {
		out.WriteString("\n")
	}
	for _, note := range b.notes {
		fmt.Fprintf(&out, "- %s\n", note)
	}
	return out.String()
}

func (b *bench) table(out *strings.Builder, t *table) {
	var rows []string
	for _, f := range b.figures {
		if f.table == t {
			rows = append(rows, b.row(f))
		}
	}
	if len(rows) == 0 {
		return
	}
	head := []string{""}
	for _, r := range t.columns {
		head = append(head, b.heading(r))
	}
	for _, r := range t.compared {
		head = append(head, "÷ "+r.String())
	}
	head = append(head, "budget")
	fmt.Fprintf(out, "\n### %s\n\n%s\n|%s\n%s\n", t.heading, line(head), strings.Repeat(" --- |", len(head)), strings.Join(rows, "\n"))
}

func (b *bench) row(f *figure) string {
	cells := []string{f.name}
	for _, r := range f.table.columns {
		cells = append(cells, f.cell(r))
	}
	for _, r := range f.table.compared {
		ratio := ""
		if v, ok := f.ratio(r); ok {
			ratio = fmt.Sprintf("%.2f", v)
		}
		cells = append(cells, ratio)
	}
	var verdicts []string
	for _, budget := range f.budgets {
		verdicts = append(verdicts, f.judge(budget).text)
	}
	return line(append(cells, strings.Join(verdicts, "; ")))
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

func (b *bench) heading(r role) string {
	for _, c := range slices.Concat(b.runtimes, b.doers) {
		if c.role == r {
			return c.version
		}
	}
	return r.String()
}

// conditions says what the figures were measured on.
func (b *bench) conditions() string {
	return fmt.Sprintf("%d rounds; %s; %s, %s; %d CPUs (%s); load %s before.",
		b.rounds, kernel(), cgroups(), goruntime.Version(), goruntime.NumCPU(), processor(), b.load)
}

// kernel returns the version without the part that names a build.
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "Linux"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	return "Linux " + version + " " + goruntime.GOARCH
}

func cgroups() string {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return "cgroup v2"
	}
	return "cgroup v1"
}

// processor returns its model, or its architecture where the kernel doesn't tell.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return goruntime.GOARCH
}

// loadAverage is the machine's over the last minute. A busy machine makes all figures worse, and not in proportion.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

// replaceInFile replaces what stands between the marks in a file.
func replaceInFile(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	replaced, err := replace(string(old), text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(replaced), 0o644)
}

func replace(document, text string) (string, error) {
	before, rest, ok := strings.Cut(document, beginMark)
	if !ok {
		return "", fmt.Errorf("no line %q", strings.TrimSpace(beginMark))
	}
	_, after, ok := strings.Cut(rest, endMark)
	if !ok {
		return "", fmt.Errorf("no line %q", strings.TrimSpace(endMark))
	}
	return before + beginMark + "\n" + text + "\n" + endMark + after, nil
}
