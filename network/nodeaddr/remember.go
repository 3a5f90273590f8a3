package nodeaddr

import (
	"encoding/json"
	"os"

	"brink/internal/atomicfile"
)

// Remember writes down what Find found, for the next start. It writes nothing when the
// file has the same content already.
func Remember(file string, addrs []Address) error {
	text, err := json.Marshal(addrs)
	if err != nil {
		return err
	}
	return atomicfile.Keep(file, text, 0o600)
}

// remembered returns what Remember has written, nothing when it cannot be read.
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

func lastOf(addrs []Address, v4 bool) Address {
	for _, a := range addrs {
		if a.IP.IsValid() && a.IP.Is4() == v4 {
			return a
		}
	}
	return Address{}
}
