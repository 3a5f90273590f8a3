package cmd

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"brink/internal/argsecrets"
	"brink/internal/configfile"
	"brink/internal/host"
	"brink/runtime/images"
)

// secretFlags are the flags whose values are secrets. NAME-file names a file with the
// value instead.
var secretFlags = []string{"token", "datastore-endpoint"}

// forgetSecrets keeps secrets out of the environment of the processes that brink starts.
// It is called once the flags are read.
func forgetSecrets() {
	for _, name := range argsecrets.Variables {
		os.Unsetenv(name)
	}
}

// secretOf returns the value of a flag, or the content of the file that the flag
// NAME-file names. from is the flag that gave it, for errors, without the value.
func secretOf(c *cli.Context, name string) (value, from string, err error) {
	value, from = c.String(name), "--"+name
	fileFlag := name + "-file"
	file := c.String(fileFlag)
	if file == "" {
		return value, from, nil
	}
	if value != "" {
		return "", "", fmt.Errorf("--%s and --%s are both given: leave one out", name, fileFlag)
	}
	from = "--" + fileFlag + "=" + file
	content, err := os.ReadFile(file)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", from, errors.Unwrap(err))
	}
	if value = strings.TrimSpace(string(content)); value == "" {
		return "", "", fmt.Errorf("%s: the file is empty", from)
	}
	return value, from, nil
}

// datastoreEndpoint returns the URL of the datastore, empty for brink's own database.
func datastoreEndpoint(c *cli.Context) (string, error) {
	endpoint, from, err := secretOf(c, "datastore-endpoint")
	if strings.ContainsAny(endpoint, "\n\r") {
		return "", fmt.Errorf("%s: must be one line", from)
	}
	return endpoint, err
}

// checkSecretFiles warns of files with secrets that others than root may read, among
// them the configuration files with these values.
func checkSecretFiles(c *cli.Context, values []configfile.Value) []host.Check {
	holds := map[string]string{} // a file and what is in it
	for _, v := range values {
		if slices.Contains(secretFlags, v.Key) {
			holds[v.File] = v.Key
		}
	}
	for _, name := range secretFlags {
		if file := c.String(name + "-file"); file != "" {
			holds[file] = name
		}
	}
	if file := c.String("private-registry"); images.HasCredentials(file) {
		holds[file] = "passwords of registries"
	}
	var checks []host.Check
	for _, file := range slices.Sorted(maps.Keys(holds)) {
		if isOpen(file) {
			checks = append(checks, host.Check{Name: "secrets", Result: host.Warn, Fix: "chmod 600 " + file,
				Message: fmt.Sprintf("%s has a secret in it (%s) that others may read", file, holds[file])})
		}
	}
	return checks
}

// isOpen reports whether everybody may read a file, or a group that is not root's. A file
// that cannot be examined is not open: reading it returns the error.
func isOpen(file string) bool {
	info, err := os.Stat(file)
	if err != nil {
		return false
	}
	const group, others fs.FileMode = 0o040, 0o004
	stat, known := info.Sys().(*syscall.Stat_t)
	return info.Mode()&others != 0 || info.Mode()&group != 0 && known && stat.Gid != 0
}
