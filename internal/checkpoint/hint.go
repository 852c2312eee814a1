package checkpoint

import "strings"

// hints are what to do about errors that CRIU makes one read its manual for.
var hints = []struct{ words, hint string }{
	{"Connected TCP socket", "--tcp-established saves and restores connections; "},
	{"--tcp-established", "--tcp-established saves and restores connections; "},
	{"External socket is used", "--ext-unix-sk saves Unix sockets whose other end is outside; "},
	{"--shell-job", "--shell-job is for a terminal that the container shares with processes outside; "},
	{"path=/dev/pts/", "--shell-job is for a terminal that the container shares with processes outside; "},
	{"--file-locks", "--file-locks saves locks; "},
	{"Some file locks are hold", "--file-locks saves locks; "},
	{"Can't lookup mount", "a process has a file open that is in none of the container's mounts; "},
	{"temporary directory: Read-only file system", "CRIU can't restore a container whose root file system is read-only; "},
	{"Unexpected rt vDSO area bounds", "this kernel needs a newer CRIU, which --criu names if it isn't in PATH; "},
	{"doesn't have a proper root mount", "something is mounted that config.json doesn't have; "},
}

func hintOf(why string) string {
	for _, h := range hints {
		if strings.Contains(why, h.words) {
			return h.hint
		}
	}
	return ""
}
