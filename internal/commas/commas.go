// Package commas writes lists of addresses and ranges as flags and messages have them.
package commas

import (
	"fmt"
	"strings"
)

// Join returns the values separated by commas, "" for none.
func Join[T fmt.Stringer](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.String()
	}
	return strings.Join(texts, ",")
}
