package cgroup

import (
	"path/filepath"
	"strings"

	"hull/internal/fault"
)

const (
	pathField     = "linux.cgroupsPath"
	unitPrefix    = "hull" // of scopes for which linux.cgroupsPath gives none
	systemSlice   = "system.slice"
	userSlice     = "user.slice"
	sliceSuffix   = ".slice"
	scopeSuffix   = ".scope"
	rootSliceName = "-.slice"
)

// cleanPath returns the path of a cgroup below a mount: absolute as given, else relative to the caller's own cgroup. No
// ".." gets out of either.
func cleanPath(path string) string {
	if path == "" {
		return ""
	}
	clean := filepath.Clean("/" + path)
	if strings.HasPrefix(path, "/") {
		return clean
	}
	return strings.TrimPrefix(clean, "/")
}

// cgroupfsPaths returns the directories of a container's cgroups for the cgroupfs driver.
func cgroupfsPaths(m Mode, path, id string) (map[string]string, error) {
	inner := cleanPath(path)
	if inner == "" {
		inner = id
	}
	if m == V2 {
		dir, err := unifiedDir(inner)
		if err != nil {
			return nil, err
		}
		return map[string]string{unified: dir}, nil
	}
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	paths := make(map[string]string, len(hs)+1)
	for _, h := range hs {
		dir, err := hierarchyDir(h, inner)
		if err == errNotMounted {
			continue
		}
		if err != nil {
			return nil, err
		}
		paths[h.controller] = dir
	}
	if m == Hybrid {
		if dir, err := hierarchyDir(hierarchy{unified, hybridRoot}, inner); err == nil {
			paths[unified] = dir
		}
	}
	return paths, nil
}

func hierarchyDir(h hierarchy, inner string) (string, error) {
	if strings.HasPrefix(inner, "/") {
		return filepath.Join(h.mount, inner), nil
	}
	own, err := ownDir(h)
	if err != nil {
		return "", err
	}
	return filepath.Join(own, inner), nil
}

// unifiedDir returns a v2 directory. A relative path is taken from the *parent* of the caller's own cgroup: that one has
// processes in it, so it can't have children with controllers (the "no internal processes" rule of cgroups(7)).
func unifiedDir(inner string) (string, error) {
	if strings.HasPrefix(inner, "/") {
		return filepath.Join(mountRoot, inner), nil
	}
	own, err := ownCgroups()
	if err != nil {
		return "", err
	}
	path, ok := own[unified]
	if !ok {
		return "", errNotMounted
	}
	return filepath.Join(mountRoot, filepath.Dir(filepath.Clean("/"+path)), inner), nil
}

// unit is the systemd unit of a container: a scope, or a slice if it was asked for one.
type unit struct {
	name  string // "hull-web1.scope"
	slice string // "system.slice": its parent
}

func (u unit) isSlice() bool { return strings.HasSuffix(u.name, sliceSuffix) }

// parseUnit returns the unit for linux.cgroupsPath in systemd's form, "slice:prefix:name".
func parseUnit(path, id string, rootless bool) (unit, error) {
	slice, prefix, name := "", unitPrefix, id
	if path != "" {
		parts := strings.Split(path, ":")
		if len(parts) != 3 {
			return unit{}, fault.Spec(pathField, "want slice:prefix:name with the systemd driver, got "+quote(path))
		}
		slice, prefix, name = parts[0], parts[1], parts[2]
	}
	if name == "" || strings.ContainsAny(prefix+name, "/\x00\n") {
		return unit{}, fault.Spec(pathField, "not the name of a unit: "+quote(prefix+"-"+name))
	}
	if slice == "" {
		slice = systemSlice
		if rootless {
			slice = userSlice
		}
	}
	u := unit{name: name, slice: slice}
	if !u.isSlice() {
		u.name = prefix + "-" + name + scopeSuffix
	}
	if _, err := expandSlice(slice); err != nil {
		return unit{}, err
	}
	return u, nil
}

// isUnitPath tells whether a linux.cgroupsPath is in systemd's form. A directory may have such a name, and has with every runtime
// that isn't told of systemd; but who writes one asks for the slice, whose limits the container gets out of.
func isUnitPath(path string) bool {
	slice, rest, _ := strings.Cut(path, ":")
	return (slice == "" || strings.HasSuffix(slice, sliceSuffix)) && strings.Count(rest, ":") == 1 && !strings.Contains(path, "/")
}

// expandSlice returns a slice's path: a "-" in its name stands for a level, so that "a-b.slice" is
// "/a.slice/a-b.slice" (systemd.slice(5)).
func expandSlice(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, sliceSuffix)
	if !ok || name == "" || strings.Contains(slice, "/") {
		return "", fault.Spec(pathField, "not a slice: "+quote(slice))
	}
	if slice == rootSliceName {
		return "/", nil
	}
	var path, prefix strings.Builder
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fault.Spec(pathField, "not a slice: "+quote(slice))
		}
		path.WriteString("/" + prefix.String() + part + sliceSuffix)
		prefix.WriteString(part + "-")
	}
	return path.String(), nil
}

// unitPaths returns the directories that systemd gives to u. base is the cgroup of the user's manager for a unit of
// such a manager, else "".
func unitPaths(m Mode, u unit, base string) (map[string]string, error) {
	slice, err := expandSlice(u.slice)
	if err != nil {
		return nil, err
	}
	inner := filepath.Join("/", base, slice, u.name)
	if m == V2 {
		return map[string]string{unified: filepath.Join(mountRoot, inner)}, nil
	}
	hs, err := hierarchies()
	if err != nil {
		return nil, err
	}
	paths := make(map[string]string, len(hs)+1)
	for _, h := range hs {
		paths[h.controller] = filepath.Join(h.mount, inner)
	}
	if m == Hybrid {
		paths[unified] = filepath.Join(hybridRoot, inner)
	}
	return paths, nil
}
