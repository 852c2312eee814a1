package rootfs

import (
	"path"
	"strings"
)

func parent(p string) string { return path.Dir(p) }
func base(p string) string   { return path.Base(p) }

// below tells whether path is dir or in it. Both are clean.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

// prefixes returns the directories on the way to a clean absolute path, the path last: "/a", "/a/b".
func prefixes(p string) (out []string) {
	for i := 1; i < len(p); i++ {
		if p[i] == '/' {
			out = append(out, p[:i])
		}
	}
	if p != "/" {
		out = append(out, p)
	}
	return out
}
