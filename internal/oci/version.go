package oci

import (
	"strconv"
	"strings"
)

// The versions of the runtime-spec that hull reads, for messages and features.
const (
	VersionMin = "1.0.0"
	VersionMax = "1.3.0"
)

const newestMinor = 3

// version takes every 1.x.y up to the newest x that hull knows, release candidates and development versions included:
// patch releases of the specification add no properties.
func (k *checker) version(v string) {
	if v == "" {
		k.mistake("ociVersion", "missing, want a version from %s to 1.%d.x", VersionMin, newestMinor)
		return
	}
	major, minor, ok := parseVersion(v)
	switch {
	case !ok:
		k.mistake("ociVersion", "got %s, want a version as of semver.org from %s to 1.%d.x", quote(v), VersionMin, newestMinor)
	case major != 1 || minor > newestMinor:
		k.mistake("ociVersion", "%s is not a version hull knows, want one from %s to 1.%d.x", clip(v), VersionMin, newestMinor)
	}
}

// parseVersion reads MAJOR.MINOR.PATCH, with -PRERELEASE and +BUILD where they are.
func parseVersion(v string) (major, minor uint64, ok bool) {
	core, build, hasBuild := strings.Cut(v, "+")
	core, pre, hasPre := strings.Cut(core, "-")
	if hasBuild && !identifiers(build) || hasPre && !identifiers(pre) {
		return 0, 0, false
	}
	parts := strings.Split(core, ".")
	if len(parts) != 3 {
		return 0, 0, false
	}
	var n [3]uint64
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 31)
		if err != nil || strconv.FormatUint(v, 10) != p {
			return 0, 0, false
		}
		n[i] = v
	}
	return n[0], n[1], true
}

// identifiers says whether s is one or more dot-separated words of letters, digits and hyphens.
func identifiers(s string) bool {
	for word := range strings.SplitSeq(s, ".") {
		if word == "" {
			return false
		}
		for _, c := range []byte(word) {
			if c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}
