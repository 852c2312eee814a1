package hull

import (
	"os"
	"path/filepath"
	"testing"
)

func TestScratch(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "cache", "hull")
	s, err := newScratchIn(parent)
	if err != nil {
		t.Skipf("needs user.* attributes: %v", err)
	}
	// What a killed hull has left: with directories that can't be entered.
	left := filepath.Join(parent, scratchPrefix+"left")
	for _, dir := range []string{left + "/work/1/work", left + "/upper/a/b", parent + "/another's"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	outside := t.TempDir()
	if err := os.Chmod(outside, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, left+"/upper/link"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{left + "/work/1/work", left + "/upper/a/b", left + "/upper/a"} {
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	other, err := newScratchIn(parent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("what was left is still there")
	}
	for _, dir := range []string{s.dir, other.dir, parent + "/another's", outside} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
	if fi, _ := os.Stat(outside); fi.Mode().Perm() != 0o750 {
		t.Errorf("a link was followed: mode %v", fi.Mode())
	}
	for _, s := range []*scratch{s, other} {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	}
	if found, _ := filepath.Glob(parent + "/" + scratchPrefix + "*"); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

// Another user may have made the directory in /var/tmp, or a link there.
func TestScratchOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/open", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/open", 0o777); err != nil {
		t.Fatal(err)
	}
	for _, parent := range []string{dir + "/link", dir + "/open"} {
		if s, err := newScratchIn(parent); err == nil {
			t.Errorf("%s was used: %+v", parent, s)
		}
	}
}
