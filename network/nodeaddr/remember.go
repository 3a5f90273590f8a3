package nodeaddr

import (
	"encoding/json"
	"os"

	"brink/internal/atomicfile"
)

// remember writes down what was found, for the next start. It writes nothing when the
// file has the same content already.
func remember(file string, addrs []Address) error {
	text, err := json.Marshal(addrs)
	if err != nil {
		return err
	}
	return atomicfile.Keep(file, text, 0o600)
}

// remembered returns what remember has written, nothing when it cannot be read.
func remembered(file string) []Address {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var out []Address
	if json.Unmarshal(text, &out) != nil {
		return nil
	}
	return out
}
