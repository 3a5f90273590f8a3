package machine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"brink/internal/release"
)

// VersionOf asks a brink for its version.
func VersionOf(program string) (release.Version, error) {
	out, err := exec.Command(program, "version", "-o", "json").Output()
	if err != nil {
		return release.Version{}, err
	}
	var built struct{ Brink string }
	if err := json.Unmarshal(out, &built); err != nil {
		return release.Version{}, err
	}
	return release.ParseVersion(built.Brink)
}

// AsVersion writes a copy of a brink that says everywhere that it is of another version, as
// another build would. Both versions have the same length as text.
func AsVersion(program, to string, other release.Version) error {
	has, err := VersionOf(program)
	if err != nil {
		return err
	}
	before, after := []byte(has.String()), []byte(other.String())
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if len(before) != len(after) || !bytes.Contains(binary, before) {
		return fmt.Errorf("%s cannot become %s", before, after)
	}
	return os.WriteFile(to, bytes.ReplaceAll(binary, before, after), 0o755)
}
