package doctor

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hull/internal/linux"
	"hull/internal/native"
	"hull/internal/user"
)

// kernel says what the kernel lacks that hull has to do without.
func (e *examination) kernel() Finding {
	const name = "kernel"
	var lacks []string
	for _, f := range []struct {
		has  bool
		lack string
	}{
		{linux.HaveOpenat2(), "openat2 (5.6): paths in containers are walked step by step"},
		{unix.Access("/proc/self/ns/time", unix.F_OK) == nil, "time namespaces (5.6)"},
		{linux.HaveCloexecRange(), "close_range (5.11): descriptors are closed one by one"},
		{linux.HaveMountSetattr(), "mount_setattr (5.12): no sandboxes of users, idmapped mounts, and options for whole trees of mounts"},
		{linux.LandlockVersion() > 0, "Landlock (5.13): hull-net isn't confined by it"},
	} {
		if !f.has {
			lacks = append(lacks, f.lack)
		}
	}
	if len(lacks) == 0 {
		return Finding{Name: name, State: OK, Text: "Linux " + release() + " has all system calls that hull would use"}
	}
	return Finding{Name: name, State: Limited, Text: "Linux " + release() + ", or what filters its system calls, lacks " + strings.Join(lacks, "; "), Cure: "a newer kernel"}
}

// users says whether ordinary users can have containers.
func (e *examination) users() Finding {
	const name = "user namespaces"
	setting := native.UserNamespaceSetting("")
	max := readLine("/proc/sys/user/max_user_namespaces")
	switch {
	case max == "":
		return Finding{Name: name, State: Missing, Text: "this kernel has no user namespaces: other users than root can't have containers", Cure: "a kernel with CONFIG_USER_NS"}
	case setting != "":
		return Finding{Name: name, State: Limited, Text: "other users than root can't have containers: " + setting, Cure: cureOf(setting)}
	}
	return Finding{Name: name, State: OK, Text: "no setting keeps ordinary users from making user namespaces, " + max + " at most"}
}

// cureOf returns the reverse of a setting such as "/proc/sys/a/b is 0".
func cureOf(setting string) string {
	file, value, _ := strings.Cut(setting, " is ")
	name := strings.ReplaceAll(strings.TrimPrefix(file, "/proc/sys/"), "/", ".")
	switch {
	case strings.Contains(file, "apparmor"):
		return "a profile of AppArmor that allows userns for hull; or sysctl " + name + "=0"
	case strings.HasSuffix(file, "max_user_namespaces"):
		return "sysctl " + name + "=10000"
	case value == "0":
		return "sysctl " + name + "=1"
	}
	return "sysctl " + name + "=0"
}

// subIDs says whether the caller has more ids than its own to give to containers.
func (e *examination) subIDs() Finding {
	const name = "sub-ids"
	var missing []string
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	var cure []string
	if len(missing) > 0 {
		cure = append(cure, "install "+strings.Join(missing, " and ")+" (package uidmap or shadow-utils)")
	}
	if e.root {
		if len(missing) > 0 {
			return Finding{Name: name, State: Limited, Text: "containers of ordinary users have one id each: " + strings.Join(missing, " and ") + " can't be found", Cure: strings.Join(cure, "; ")}
		}
		return Finding{Name: name, State: OK, Text: "root needs none; newuidmap and newgidmap are there for others"}
	}
	login := loginName(os.Geteuid())
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if n := subIDs(file, login, os.Geteuid()); n == 0 {
			missing = append(missing, file)
			cure = append(cure, fmt.Sprintf("have root add a line %s:100000:65536 to %s, with numbers that nobody has yet", login, file))
		}
	}
	if len(missing) > 0 {
		return Finding{Name: name, State: Limited, Text: "containers of this user have one id: nothing for it in " + strings.Join(missing, ", "), Cure: strings.Join(cure, "; ")}
	}
	return Finding{Name: name, State: OK, Text: fmt.Sprintf("containers of this user can have %d ids beside its own", subIDs("/etc/subuid", login, os.Geteuid()))}
}

// loginName returns the name of a user, or its number.
func loginName(uid int) string {
	if f, err := os.Open("/etc/passwd"); err == nil {
		defer f.Close()
		users, _ := user.Users(f)
		for _, u := range users {
			if int(u.UID) == uid {
				return u.Name
			}
		}
	}
	return strconv.Itoa(uid)
}

// subIDs returns how many ids a file like subuid(5) gives to a user.
func subIDs(file, login string, uid int) (n uint64) {
	f, err := os.Open(file)
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) == 3 && (fields[0] == login || fields[0] == strconv.Itoa(uid)) {
			count, err := strconv.ParseUint(fields[2], 10, 32)
			if err == nil {
				n += count
			}
		}
	}
	return n
}

// modules says which security modules there are.
func (e *examination) modules() Finding {
	const name = "security modules"
	var has []string
	if native.AppArmorEnabled() {
		has = append(has, "AppArmor: process.apparmorProfile is applied")
	}
	if native.SELinuxEnabled() {
		state := "permissive"
		if readLine("/sys/fs/selinux/enforce") == "1" {
			state = "enforcing"
		}
		has = append(has, "SELinux, "+state+": labels are applied")
	}
	if v := linux.LandlockVersion(); v > 0 {
		has = append(has, fmt.Sprintf("Landlock %d", v))
	}
	if scope := readLine("/proc/sys/kernel/yama/ptrace_scope"); scope != "" {
		has = append(has, "Yama, ptrace_scope "+scope)
	}
	if len(has) == 0 {
		return Finding{Name: name, State: OK, Text: "none that hull knows; containers that name a profile or label are refused"}
	}
	return Finding{Name: name, State: OK, Text: strings.Join(has, "; ")}
}

// readLine returns the first line of a file, or "".
func readLine(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}
