package hull

import (
	"bufio"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/overlay"
)

// sharedPlaces are where more than one user's or one program's files are: none of them is a working tree.
var sharedPlaces = []string{"/home", "/tmp", "/var/tmp", "/mnt", "/media", "/srv", "/run", "/dev/shm", "/var", "/var/lib"}

// workingTree returns the git repository that dir is in, with what it has elsewhere; or dir. It is nothing where that
// would be a home directory, or what homes and others' files are in.
func workingTree(dir, home string) []string {
	tooMuch := func(d string) bool {
		return d == "/" || slices.Contains(sharedPlaces, d) || home != "" && below(home, d)
	}
	for d := dir; !tooMuch(d); d = path.Dir(d) {
		var st unix.Stat_t
		if unix.Lstat(path.Join(d, ".git"), &st) != nil {
			continue
		}
		tree := []string{d}
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			if git := gitDir(d); git != "" && !tooMuch(git) {
				tree = append(tree, git)
			}
		}
		return tree
	}
	if tooMuch(dir) {
		return nil
	}
	return []string{dir}
}

// gitDir returns the directory with the repository of a linked worktree or a submodule, whose .git is a file that names
// it (gitrepository-layout(5)); or "".
//
// The file came with the tree, so that it may say anything, such as where the user's keys are. It is believed if what it
// names points back: to this tree as one of its worktrees, or as the work tree of its own.
func gitDir(tree string) string {
	target := line(path.Join(tree, ".git"), "gitdir: ")
	git, err := overlay.Real(relative(target, tree))
	if target == "" || err != nil {
		return ""
	}
	if back, err := overlay.Real(line(path.Join(git, "gitdir"), "")); err == nil && back == path.Join(tree, ".git") {
		common, err := overlay.Real(relative(line(path.Join(git, "commondir"), ""), git))
		if err != nil || !below(git, path.Join(common, "worktrees")) {
			return ""
		}
		return common
	}
	worktree := line(path.Join(git, "config"), "worktree = ")
	if back, err := overlay.Real(relative(worktree, git)); worktree != "" && err == nil && back == tree {
		return git
	}
	return ""
}

func relative(name, dir string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(dir, name)
}

// line returns the rest of the first line of a file that begins with prefix, after blanks; or "".
func line(file, prefix string) string {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), prefix); ok {
			return rest
		}
	}
	return ""
}
